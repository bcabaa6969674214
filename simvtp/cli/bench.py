"""Commands that measure speed and memory on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.cli import add, gpu, launch, manifest_speed, speed
from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(commands: Commands) -> None:
    """Adds the commands of this group."""
    command = add(commands, "bench", "measure speed and memory on this machine")
    bench = command.add_subparsers(dest="bench_command", required=True, metavar="COMMAND")
    loader = bench.add_parser(
        "loader",
        help="clips a second and time waiting, of manifests and folders of shards in turns",
    )
    loader.add_argument(
        "sources",
        nargs="*",
        type=Path,
        help="manifests or folders of shards; the others are compared with the first. Without any, "
        "videos are made, and all readers and stores are compared",
    )
    loader.add_argument(
        "--rounds", type=int, default=8, help="without sources: turns of each reader on each video"
    )
    loader.add_argument(
        "--opens",
        type=int,
        default=2000,
        help="without sources: opens over which memory is watched",
    )
    loader.add_argument(
        "--folder",
        type=Path,
        help="without sources: folder of videos and stores, which are kept; default: temporary",
    )
    loader.add_argument(
        "--out", type=Path, help="without sources: write the page there, a file or a folder"
    )
    loader.add_argument("--workers", type=int, default=2)
    loader.add_argument("--seconds", type=float, default=20.0, help="for each source")
    loader.add_argument("--batch-size", type=int, default=8)
    loader.add_argument(
        "--step-ms",
        type=float,
        default=0.0,
        help="duration of a training step, in which the loaders continue",
    )
    loader.add_argument("--size", type=int, default=224)
    loader.add_argument("--frames", type=int, default=16)
    loader.add_argument("--stride", type=int, default=4)
    loader.add_argument(
        "--reader", default="fast", choices=("fast", "decord", "pyav", "torchcodec")
    )
    loader.set_defaults(handle=_loader)
    _register_step(bench)
    speed.register(bench)
    launch.register(bench)
    manifest_speed.register(bench)
    gpu.register(bench)
    _register_mac(bench)


def _register_step(bench: Commands) -> None:
    step = bench.add_parser(
        "step",
        help="the training step against transformers' VideoMAE (MVM) or the released structure",
    )
    step.add_argument("--size", default="tiny", choices=("tiny", "base"))
    step.add_argument(
        "--what",
        default="all",
        choices=("mvm", "all"),
        help="MVM alone against transformers, or all losses against released",
    )
    step.add_argument(
        "--batch", type=int, default=0, help="samples a step; default: 32 (tiny), 4 (base)"
    )
    step.add_argument("--device", default="auto")
    step.add_argument(
        "--precision", default="fp32", help="one or more of fp32, bf16, fp16, with commas"
    )
    step.add_argument("--compile", default="off", choices=("off", "on", "both"))
    step.add_argument("--rounds", type=int, default=6, help="turns of each")
    step.add_argument("--seconds", type=float, default=1.0, help="of a turn, at least one step")
    step.add_argument(
        "--give-back",
        action="store_true",
        help="on a CPU, return freed memory as other programs do (runtime.keep_memory=false)",
    )
    step.add_argument(
        "--largest", action="store_true", help="also find the largest batch that fits (GPU)"
    )
    step.add_argument(
        "--profile",
        action="store_true",
        help="also profile the operations of a step",
    )
    step.add_argument("--out", type=Path, default=None, help="write the page there")
    step.set_defaults(handle=_step)


def _step(options: argparse.Namespace) -> int:
    from simvtp.bench.step.step_page import step_page
    from simvtp.bench.step.step_speed import StepSpeedOptions, measure_step
    from simvtp.runs.atomic_files import write_atomically
    from simvtp.training.parallel.distributed import choose_device

    device = choose_device(options.device)
    settings = StepSpeedOptions(
        size=options.size,
        what=options.what,
        batch=options.batch,
        precisions=tuple(options.precision.split(",")),
        compiled={"off": (False,), "on": (True,), "both": (False, True)}[options.compile],
        rounds=options.rounds,
        seconds=options.seconds,
        largest=options.largest,
        profile=options.profile,
        keep_memory=not options.give_back,
    )
    page = step_page(
        f"The training step, {options.what}, {options.size}",
        settings,
        measure_step(settings, device),
        device,
    )
    print(page)
    if options.out:
        write_atomically(options.out, page)
    return 0


def _register_mac(bench: Commands) -> None:
    mac = bench.add_parser(
        "mac",
        help="savings of masking in MAC: operations, time, memory and largest batch, in turns",
    )
    mac.add_argument("--size", default="tiny", choices=("tiny", "base"))
    mac.add_argument(
        "--ratios",
        default="0,0.6,0.7,0.75,0.8,0.9",
        help="with commas; the others are compared with the first",
    )
    mac.add_argument(
        "--batch", type=int, default=0, help="samples a step; default: 32 (tiny), 4 (base)"
    )
    mac.add_argument("--device", default="auto")
    mac.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    mac.add_argument("--rounds", type=int, default=6, help="turns of each")
    mac.add_argument("--seconds", type=float, default=1.0, help="of a turn, at least one step")
    mac.add_argument(
        "--memory", type=float, default=16.0, help="GiB for which the largest batch is computed"
    )
    mac.add_argument("--out", type=Path, default=None, help="write the page there")
    mac.set_defaults(handle=_mac)


def _mac(options: argparse.Namespace) -> int:
    from simvtp.bench.step.mac_speed import MacSpeedOptions, mac_page, measure_mac
    from simvtp.errors import ConfigError
    from simvtp.runs.atomic_files import write_atomically
    from simvtp.training.parallel.distributed import choose_device

    try:
        ratios = tuple(float(text) for text in options.ratios.split(","))
    except ValueError:
        raise ConfigError(
            f"--ratios {options.ratios}: write numbers with commas between."
        ) from None
    device = choose_device(options.device)
    settings = MacSpeedOptions(
        options.size,
        ratios,
        options.batch,
        options.precision,
        options.rounds,
        options.seconds,
        options.memory,
    )
    page = mac_page(settings, measure_mac(settings, device), device)
    print(page)
    if options.out:
        write_atomically(options.out, page)
    return 0


def _loader(options: argparse.Namespace) -> int:
    from simvtp.bench.data_path.batch_speed import bench_loader
    from simvtp.config.data_config import DataConfig
    from simvtp.config.model_config import ModelConfig

    if not options.sources:
        return _readers_and_stores(options)
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


def _readers_and_stores(options: argparse.Namespace) -> int:
    import tempfile
    import time

    from simvtp.bench.data_path.loader_page import loader_page
    from simvtp.bench.data_path.loader_speed import LoaderSpeedOptions, measure_loader
    from simvtp.runs.atomic_files import write_atomically

    if options.rounds < 1 or options.opens < 2:
        raise UserError("bench loader needs --rounds of at least 1 and --opens of at least 2.")
    with tempfile.TemporaryDirectory() as temporary:
        settings = LoaderSpeedOptions(
            folder=options.folder or Path(temporary),
            rounds=options.rounds,
            opens=options.opens,
            seconds=options.seconds,
            workers=options.workers,
            batch_size=options.batch_size,
            step_s=options.step_ms / 1000,
        )
        page = loader_page(measure_loader(settings), settings)
    print(page)
    if options.out:
        place = (
            options.out / f"{time.strftime('%Y-%m-%d', time.gmtime())}-loader.md"
            if options.out.suffix != ".md"
            else options.out
        )
        write_atomically(place, page)
    return 0
