"""`bench scaling` and `bench guard`: the training step over its sizes, and against regressions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(bench: Commands) -> None:
    """Adds the commands of this group."""
    scaling = bench.add_parser(
        "scaling",
        help="time and memory of the training step over batch, frames, resolution, masks, depth",
    )
    scaling.add_argument("--size", default="tiny", choices=("tiny", "base"))
    scaling.add_argument(
        "--axes",
        default="batch,frames,image_size,video_ratio,text_ratio,depth",
        help="with commas; also decoder_keep_ratio, token_merge_ratio",
    )
    scaling.add_argument(
        "--batch",
        type=int,
        default=0,
        help="samples a step on the other axes; default: 32 (tiny), 4 (base)",
    )
    scaling.add_argument("--precision", default="fp32")
    scaling.add_argument("--rounds", type=int, default=3)
    scaling.add_argument("--device", default="auto")
    scaling.add_argument(
        "--out",
        type=Path,
        default=Path("results/scaling"),
        help="folder for scaling.csv, scaling.png, scaling.md",
    )
    scaling.set_defaults(handle=_scaling)
    guard = bench.add_parser(
        "guard",
        help="speed-ups over other implementations against the committed ones; drops in red",
    )
    guard.add_argument("--strict", action="store_true", help="end with status 1 after such a drop")
    guard.add_argument(
        "--write", action="store_true", help="commit these ratios for later comparisons"
    )
    guard.add_argument("--device", default="auto")
    guard.add_argument("--committed", type=Path, default=None, help="default: results/bench.json")
    guard.set_defaults(handle=_guard)


def _scaling(options: argparse.Namespace) -> int:
    from simvtp.bench.scaling import measure_scaling, write_scaling
    from simvtp.bench.step.step_page import conditions
    from simvtp.runs.atomic_files import write_atomically
    from simvtp.training.parallel.distributed import choose_device

    device = choose_device(options.device)
    points = measure_scaling(
        options.size,
        options.axes.split(","),
        options.batch,
        options.precision,
        options.rounds,
        device,
    )
    about = (
        f"Our training step, all four losses, {options.size}, {options.precision}, {device.type}"
    )
    write_atomically(
        options.out / "scaling.md", "\n".join([f"# {about}", "", *conditions(device)]) + "\n"
    )
    for path in write_scaling(points, options.out, about):
        print(path)
    return 0


def _guard(options: argparse.Namespace) -> int:
    from simvtp.bench.regression_gate import (
        COMMITTED,
        compare,
        measure_ratios,
        read_committed,
        write_committed,
    )
    from simvtp.bench.step.step_page import conditions
    from simvtp.training.parallel.distributed import choose_device

    device, path = choose_device(options.device), options.committed or COMMITTED
    committed = read_committed(path)
    ratios = measure_ratios(device)
    held = compare(ratios, committed)
    if options.write:
        rows = dict(line.strip("| ").split(" | ", 1) for line in conditions(device)[2:])
        write_committed(path, ratios, rows)
    return 0 if held or not options.strict else 1
