"""`python -m ablations`: the comparisons that exist, with the size of their grids. Running them is the work of `sweeps`."""

from __future__ import annotations

import sys

from ablations import ABLATIONS
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
        ablation = build(base)
        sizes = " x ".join(f"{axis.label} ({', '.join(map(str, axis.values))})" for axis in ablation.axes)
        print(f"{name}: {ablation.title}\n  {ablation.question}\n  grid for recipe {base.name}: {sizes}, seeds {list(ablation.seeds)}")
        print(f"  run it: python sweeps/{name}.py --recipe {base.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
