"""Commands that measure how fast parts of the machinery are on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.cli import add

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(commands: Commands) -> None:
    command = add(commands, "bench", "measure how fast parts of the machinery are on this machine")
    bench = command.add_subparsers(dest="bench_command", required=True, metavar="COMMAND")
    loader = bench.add_parser("loader", help="clips a second and share of time waiting, of manifests and folders of shards in turns")
    loader.add_argument("sources", nargs="+", type=Path, help="manifests or folders of shards; the others are compared with the first")
    loader.add_argument("--workers", type=int, default=2)
    loader.add_argument("--seconds", type=float, default=20.0, help="for each source")
    loader.add_argument("--batch-size", type=int, default=16)
    loader.add_argument("--step-ms", type=float, default=0.0, help="what a training step takes; the loaders work on meanwhile")
    loader.add_argument("--size", type=int, default=224)
    loader.add_argument("--frames", type=int, default=16)
    loader.add_argument("--stride", type=int, default=4)
    loader.add_argument("--reader", default="decord", choices=("decord", "pyav"))
    loader.set_defaults(handle=_loader)


def _loader(options: argparse.Namespace) -> int:
    from simvtp.config import DataConfig, ModelConfig
    from simvtp.data.bench import bench_loader

    bench_loader(
        options.sources,
        ModelConfig(image_size=options.size, frames=options.frames),
        DataConfig(stride=options.stride, reader=options.reader),
        workers=options.workers,
        batch_size=options.batch_size,
        seconds=options.seconds,
        step_s=options.step_ms / 1000,
    )
    return 0
