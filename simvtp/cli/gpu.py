"""`bench gpu`: one command that checks and measures everything on a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(bench: Commands) -> None:
    """Adds the command."""
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


def _gpu(options: argparse.Namespace) -> int:
    from simvtp.bench.gpu.gpu_check import GpuCheckOptions, check_gpu, sections_named

    names = tuple(name for name in options.sections.split(",") if name)
    sections = sections_named(names)
    settings = GpuCheckOptions(options.out, options.budget, options.device, sections)
    passed = check_gpu(settings)
    print(f"{'passed' if passed else 'NOT PASSED'}: {options.out / 'gpu.md'}")
    return 0 if passed else 1
