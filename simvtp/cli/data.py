"""Commands that check data before training, and prepare it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.cli import add
from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(commands: Commands) -> None:
    """Adds the commands of this group."""
    command = add(commands, "data", "check and prepare data before training")
    data = command.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    listing = data.add_parser(
        "list",
        help="list the benchmarks that are supported, with tasks and protocols",
    )
    listing.set_defaults(handle=_list)
    describing = data.add_parser(
        "describe",
        help="what each level of the embedded data set asks: R@1 of oracles, redundancy",
    )
    describing.add_argument("what", choices=("shapes",))
    describing.add_argument("--test", type=int, default=256, help="test clips of a level")
    describing.add_argument(
        "--size", type=int, default=64, help="side of a frame, in pixels; a patch is an eighth"
    )
    describing.add_argument("--levels", default="", help="with commas; default: all")
    describing.set_defaults(handle=_describe)
    check = data.add_parser(
        "check",
        help="report videos of a manifest or benchmark that are missing, corrupt, too short or "
        "without caption",
    )
    check.add_argument(
        "what",
        help="a manifest (every clip is decoded), or the name of a benchmark as `data list` has it",
    )
    check.add_argument(
        "--root", type=Path, help="of a benchmark: the folder with its annotation files and videos"
    )
    check.add_argument(
        "--protocol",
        default="",
        help="of a benchmark: which videos are checked; default: the first possible protocol",
    )
    check.add_argument(
        "--decode",
        action="store_true",
        help="of a benchmark: also decode every frame of every video",
    )
    check.add_argument("--reader", default="fast", choices=("fast", "decord", "pyav", "torchcodec"))
    check.add_argument(
        "--timeout", type=float, default=30.0, help="seconds after which a decode counts as hanging"
    )
    check.add_argument("--workers", type=int, default=2)
    check.add_argument(
        "--frames", type=int, default=16, help="clips with fewer frames are reported as too short"
    )
    check.set_defaults(handle=_check)
    _register_shard(data)


def _register_shard(data: Commands) -> None:
    shard = data.add_parser(
        "shard",
        help="write clips of a manifest or benchmark, cropped and encoded at the training size, "
        "into tar shards; continues after a kill",
    )
    shard.add_argument(
        "what", help="a manifest, or the name of a benchmark with captions as `data list` has it"
    )
    shard.add_argument("folder", type=Path, nargs="?", help="the same as --out")
    shard.add_argument(
        "--out",
        type=Path,
        help="folder of the shards; train on it with data.dataset=shards data.manifest=OUT",
    )
    shard.add_argument(
        "--root", type=Path, help="of a benchmark: the folder with its annotation files and videos"
    )
    shard.add_argument(
        "--protocol", default="", help="of a benchmark: which videos and splits; default: its first"
    )
    shard.add_argument(
        "--store",
        default="h264",
        choices=("h264", "raw"),
        help="raw: uncompressed frames, large and fast; default h264",
    )
    shard.add_argument(
        "--size",
        default="256",
        help="short side in pixels (never enlarged), or WIDTHxHEIGHT (cropped to fit); default 256",
    )
    shard.add_argument(
        "--fps",
        type=float,
        default=0.0,
        help="frames per second; default: those of each source, 60 at most",
    )
    shard.add_argument(
        "--crf", type=int, default=18, help="x264 quality, lower is better and larger"
    )
    shard.add_argument("--max-per-shard", type=int, default=1000)
    shard.add_argument("--workers", type=int, default=2)
    shard.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        help="seconds for 32 frames after which a decode counts as hanging",
    )
    shard.set_defaults(handle=_shard)


def _list(options: argparse.Namespace) -> int:
    from simvtp.data.prepare.check_benchmark import table

    print("\n".join(table()))
    return 0


def _describe(options: argparse.Namespace) -> int:
    """Prints what the levels of the embedded data set ask."""
    from simvtp.config.data_config import ShapesConfig
    from simvtp.data.shapes.description.describe_levels import (
        describe_level,
        description_lines,
        level_names,
    )

    asked = tuple(filter(None, options.levels.split(",")))
    for name in asked:
        if name not in level_names():
            raise UserError(f"--levels={name}: must be one of {', '.join(level_names())}.")
    if options.test < 1 or options.size < 32 or options.size % 8:
        raise UserError("--test must be at least 1, --size a multiple of 8 and at least 32.")
    found = []
    for level in (name for name in level_names() if not asked or name in asked):
        config = ShapesConfig(level=level, test=options.test, image_size=options.size)
        found.append(describe_level(config))
        print(f"measured {level}", file=sys.stderr)
    print("\n".join(description_lines(found, options.test)))
    return 0


def _check(options: argparse.Namespace) -> int:
    from simvtp.data.benchmarks import BENCHMARKS
    from simvtp.data.prepare.check_benchmark import check_benchmark
    from simvtp.data.prepare.check_manifest import check_manifest

    decoding = {"reader": options.reader, "timeout": options.timeout, "workers": options.workers}
    if options.what in BENCHMARKS:
        if options.root is None:
            raise UserError(
                f"data check {options.what} needs --root DIR, "
                "the folder with its annotation files and videos."
            )
        return (
            0
            if check_benchmark(
                options.what, options.root, options.protocol, options.decode, **decoding
            ).ok
            else 1
        )
    if options.root is not None or options.protocol:
        raise UserError(
            f"there is no benchmark '{options.what}'; choose from {', '.join(BENCHMARKS)}."
        )
    return 0 if check_manifest(options.what, frames=options.frames, **decoding).ok else 1


def _shard(options: argparse.Namespace) -> int:
    from simvtp.data.benchmarks import BENCHMARKS
    from simvtp.data.prepare.write_shards import of_benchmark, parse_target, write_shards

    if (options.out is None) == (options.folder is None):
        raise UserError("data shard needs one folder to write to: --out DIR.")
    target = parse_target(options.size, options.fps, options.crf, options.store)
    source = options.what
    if source in BENCHMARKS:
        if options.root is None:
            raise UserError(
                f"data shard {source} needs --root DIR, "
                "the folder with its annotation files and videos."
            )
        source = of_benchmark(source, options.root, options.protocol)
    elif options.root is not None or options.protocol:
        raise UserError(f"there is no benchmark '{source}'; choose from {', '.join(BENCHMARKS)}.")
    out = options.out or options.folder
    outcome = write_shards(
        source, out, target, options.max_per_shard, options.workers, options.timeout
    )
    return 0 if outcome.written else 1
