"""`bench gpu` checks and measures everything on a GPU; `bench memory` counts without one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(bench: Commands) -> None:
    """Adds the commands."""
    gpu = bench.add_parser(
        "gpu",
        help="check and measure everything on a GPU, in sections with gates; needs torch and "
        "transformers alone",
        description="Status 0 only if all gates hold. gpu.json and gpu.md are written after each "
        "section. With --device cpu everything is tiny, and speeds are no gates.",
    )
    gpu.add_argument(
        "--budget", type=float, default=440.0, help="seconds for all sections, default 440"
    )
    gpu.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    gpu.add_argument("--device", default="auto")
    gpu.add_argument("--sections", default="", help="some of them, with commas; default: all")
    gpu.set_defaults(handle=_gpu)
    memory = bench.add_parser(
        "memory",
        help="count, without a GPU, how many samples of each recipe fit into GPUs of some sizes",
    )
    memory.add_argument("recipes", nargs="*", help="default: those for GPUs")
    memory.add_argument("--out", type=Path, help="write the page there")
    memory.set_defaults(handle=_memory)


def _memory(options: argparse.Namespace) -> int:
    from simvtp.bench.memory_table import RECIPES, count_recipe, memory_page
    from simvtp.runs.atomic_files import write_atomically

    counted = []
    for recipe in options.recipes or RECIPES:
        print(f"counting {recipe}", file=sys.stderr)
        counted.append(count_recipe(recipe))
    page = memory_page(counted)
    print(page)
    if options.out:
        write_atomically(options.out, page)
    return 0


def _gpu(options: argparse.Namespace) -> int:
    from simvtp.bench.gpu.gpu_check import GpuCheckOptions, check_gpu, sections_named

    names = tuple(name for name in options.sections.split(",") if name)
    sections = sections_named(names)
    settings = GpuCheckOptions(options.out, options.budget, options.device, sections)
    passed = check_gpu(settings)
    print(f"{'passed' if passed else 'NOT PASSED'}: {options.out / 'gpu.md'}")
    return 0 if passed else 1
