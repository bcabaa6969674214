"""`python -m ablations`: the comparisons that exist, with the size of their grids. Running them is the work of `sweeps`."""

from __future__ import annotations

import sys

from ablations import ABLATIONS
from ablations.design import Ablation
from ablations.search import Search
from simvtp.errors import UserError
from simvtp.recipes import get_recipe


def main(arguments: list[str]) -> int:
    """Print each ablation for the recipe named first on the command line (default: tiny)."""
    try:
        base = get_recipe(arguments[0] if arguments else "tiny")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for name, build in ABLATIONS.items():
        comparison = build(base)
        print(f"{name}: {comparison.title}\n  {comparison.question}")
        print(f"  {'space' if isinstance(comparison, Search) else 'grid'} for recipe {base.name}: {_size(comparison)}")
        print(f"  run it: python sweeps/{name}.py --recipe {base.name}")
    return 0


def _size(comparison: Ablation | Search) -> str:
    if isinstance(comparison, Search):
        return "; ".join(f"{parameter.label} {parameter.words}" for parameter in comparison.space)
    sizes = " x ".join(f"{axis.label} ({', '.join(map(str, axis.values))})" for axis in comparison.axes)
    return f"{sizes}, seeds {list(comparison.seeds)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
