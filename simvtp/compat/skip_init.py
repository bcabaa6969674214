"""Modules without initial values.

On the device "meta" there is no memory to fill, and torch would import its compiler to find that
out. `torch.nn.utils.skip_init` does the same for one module, not for a model that builds many.

Remove when constructing modules on the device "meta" no longer imports torch._dynamo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

# those in torch.nn.init that announce themselves to a mode
_INITIALIZERS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class SkipInit(TorchFunctionMode):
    """Leaves parameters as they are allocated while modules are constructed."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _INITIALIZERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
