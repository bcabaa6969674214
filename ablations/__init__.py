"""Ablations: what is compared. One module a paper table, and one for the search.

Every module of this package that has a function `build` is an ablation; `ABLATIONS` maps its name
to that function.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module

from ablations.design import Ablation
from ablations.search import Search
from ablations.variants import Variants
from simvtp.plugins import extensions


def _discover() -> dict[str, Callable[..., Ablation | Search]]:
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            build = getattr(import_module(f"{__name__}.{module.name}"), "build", None)
            if build is not None:
                found[module.name] = build
    return found


ABLATIONS = _discover()


def all_ablations() -> dict[str, Callable[..., Ablation | Search]]:
    """Returns the builders of this package and of plugins, by name.

    A plugin may declare a `Variants` in place of a function.

    Raises:
        ConfigError: two plugins declare the same name.
    """
    own = {
        name: value.build if isinstance(value, Variants) else value
        for name, value in extensions("ABLATIONS").items()
    }
    return {**ABLATIONS, **own}
