"""`python -m simvtp COMMAND`: one experiment, its data, its pictures, its checks.

Each command is a few lines over the library; what can go wrong for reasons outside the code ends in one sentence and status 2.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.config import Experiment

EXAMPLES = """\
examples:
  python -m simvtp run tiny                                        the whole experiment on the embedded data set
  python -m simvtp run tiny masks.video_ratio=0.75 seed=1          any setting can be changed by its name
  python -m simvtp run tiny data.dataset=manifest data.manifest=clips.csv
  python -m simvtp finetune qa --init runs/0123456789ab            question answering with the encoder that a run has pre-trained
  python -m simvtp settings tiny                                   all settings of a recipe
  python -m simvtp describe base                                   parameters and FLOPs, part by part
  python -m simvtp visualize runs/0123456789ab                     pictures of what a model rebuilds
  python -m simvtp data list                                       the benchmarks that can be read from their own files
  python -m simvtp data check clips.csv                            decode every clip and say what is wrong
  python -m simvtp data check msrvtt --root DIR --decode           the same for a benchmark, and which protocols its files allow
  python -m simvtp data shard clips.csv shards --size 256          the same clips, small, in tar shards
  python -m simvtp bench loader clips.csv shards                   how fast batches come from files and from shards
  python -m simvtp parity tests/fixtures/simvtp_released_a.safetensors
  python -m simvtp sync runs                                       replay journals into the tracker
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m simvtp", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help)

    for name, help in (
        ("run", "one experiment from its settings to its results"),
        ("pretrain", "the same, but stop after pre-training"),
        ("settings", "print all settings of a recipe with the overrides applied, and its fingerprint"),
        ("describe", "parameters and forward FLOPs of the model, part by part"),
    ):
        command = add(name, help)
        command.add_argument(
            "recipe", help="name of a recipe: tiny, tiny_action, tiny_choice, tiny_qa, tiny_grounding, base, released, large, huge"
        )
        command.add_argument("overrides", nargs="*", metavar="key=value", help="any setting, for example masks.video_ratio=0.75")

    command = add("finetune", "fine-tune pre-trained weights on a task and test it; or a recipe, up to the end of its fine-tuning")
    command.add_argument("task", help="retrieval, qa, choice, action, ... (without --init: the name of a recipe)")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="any setting, for example finetune.train.epochs=2")
    command.add_argument("--init", default="", help="a run directory, a weights file, an exported model, or 'initial' for no pre-training")
    command.add_argument(
        "--recipe", default="", help="fine-tuning settings; default: <recipe of the run>_<task> if there is one, else the run's"
    )
    command.add_argument("--data", default="", help="a manifest, or the name of a data set; default: that of the run or recipe")

    command = add("evaluate", "the figures of a run on its test split; what is missing of the run is done first")
    command.add_argument("run_dir", type=Path)

    command = add("visualize", "original, masked and rebuilt frames and captions of a finished pre-training, as PNG and GIF")
    command.add_argument("run_dir", type=Path)
    command.add_argument("--samples", type=int, default=4)
    command.add_argument("--split", default="test", choices=("train", "val", "test"))

    command = add("data", "look at data before training on it")
    data = command.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    data.add_parser("list", help="the benchmarks that are read from their own annotation files, with tasks and protocols")
    check = data.add_parser("check", help="say which videos of a manifest or benchmark are missing, corrupt, too short or uncaptioned")
    check.add_argument("what", help="a manifest (every clip is decoded), or the name of a benchmark as `data list` has it")
    check.add_argument("--root", type=Path, help="of a benchmark: the folder with its annotation files and videos")
    check.add_argument("--protocol", default="", help="of a benchmark: whose videos are looked for; default: the first that is possible")
    check.add_argument("--decode", action="store_true", help="of a benchmark: also decode every frame of every video")
    check.add_argument("--reader", default="decord", choices=("decord", "pyav"))
    check.add_argument("--timeout", type=float, default=30.0, help="seconds after which a decode counts as hanging")
    check.add_argument("--workers", type=int, default=2)
    check.add_argument("--frames", type=int, default=16, help="clips with fewer frames are reported as too short")

    shard = data.add_parser(
        "shard", help="clips of a manifest, cut and encoded at the training size, into tar shards; goes on after a kill"
    )
    shard.add_argument("manifest", type=Path)
    shard.add_argument("out", type=Path, help="folder of the shards; train on it with data.dataset=shards data.manifest=OUT")
    shard.add_argument("--size", default="256", help="short side in pixels (never enlarged), or WIDTHxHEIGHT (cut to fit); default 256")
    shard.add_argument("--fps", type=float, default=0.0, help="frames per second; default: those of each source, 60 at most")
    shard.add_argument("--crf", type=int, default=18, help="x264 quality, lower is better and larger")
    shard.add_argument("--max-per-shard", type=int, default=1000)
    shard.add_argument("--workers", type=int, default=2)
    shard.add_argument("--timeout", type=float, default=60.0, help="seconds after which 32 frames that are not there count as hanging")

    command = add("bench", "measure how fast parts of the machinery are on this machine")
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

    command = add("parity", "compare this implementation with a reference file of the released behaviour")
    command.add_argument("file", type=Path)

    command = add("convert", "released-style or VideoMAE weights to a folder of this project (safetensors + config)")
    command.add_argument("source", help="a .safetensors or .pth file, or a folder")
    command.add_argument("target", type=Path)
    command.add_argument("--recipe", default="released", help="the recipe whose model has these sizes")
    command.add_argument("overrides", nargs="*", metavar="key=value")

    command = add("sync", "replay the journals of all runs into the tracker; a second time adds nothing")
    command.add_argument("root", type=Path, nargs="?", default=Path("runs"))
    command.add_argument("--tracking-uri", default="", help="default: $MLFLOW_TRACKING_URI, or the store under ROOT")
    return top


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """As argparse does, but settings may also stand behind options: `finetune qa --init RUN key=value`."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest:
        if not hasattr(options, "overrides") or any(text.startswith("-") or "=" not in text for text in rest):
            top.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides = [*options.overrides, *rest]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        return COMMANDS[options.command](options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint.", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    from simvtp.recipes import get_recipe
    from simvtp.settings import override

    until = {"run": "evaluate", "pretrain": "pretrain"}[options.command]
    return _carry_out(override(get_recipe(options.recipe), options.overrides), until)


def _finetune(options: argparse.Namespace) -> int:
    from simvtp.commands import downstream
    from simvtp.recipes import RECIPES, get_recipe
    from simvtp.settings import override

    if not options.init:
        if options.task not in RECIPES:
            raise UserError(f"finetune {options.task}: say with --init which run or weights to start from (`initial` for none).")
        return _carry_out(override(get_recipe(options.task), options.overrides), "finetune")
    return _carry_out(
        downstream(options.task, options.init, recipe=options.recipe, data=options.data, overrides=options.overrides), "evaluate"
    )


def _evaluate(options: argparse.Namespace) -> int:
    from simvtp.rundir import load_experiment

    return _carry_out(load_experiment(options.run_dir), "evaluate")


def _carry_out(experiment: Experiment, until: str) -> int:
    from simvtp.errors import Stopped
    from simvtp.experiment import beside, run

    try:
        results = run(experiment, until=until)
    except Stopped as stopped:
        print(f"{stopped}", file=sys.stderr)
        return 3
    for result in results:
        candidates = f", {result.gallery} candidates" if result.gallery else ""
        print(f"{result.line}  ({beside(result)}; {result.queries} queries{candidates})")
    return 0


def _settings(options: argparse.Namespace) -> int:
    from simvtp.config import flatten
    from simvtp.recipes import get_recipe
    from simvtp.settings import finalise, override

    experiment = override(get_recipe(options.recipe), options.overrides)
    if experiment.data.dataset == "shapes" or experiment.data.manifest or experiment.data.root:
        experiment = finalise(experiment)
    for key, value in flatten(experiment).items():
        print(f"{key} = {value}")
    print(f"# fingerprint {experiment.fingerprint}")
    return 0


def _describe(options: argparse.Namespace) -> int:
    from simvtp.experiment import with_vocabulary
    from simvtp.models.flops import describe
    from simvtp.recipes import get_recipe
    from simvtp.settings import check, override

    experiment = override(get_recipe(options.recipe), options.overrides)
    check(experiment)
    if not experiment.model.vocab_size:
        from simvtp.data.text import load_tokenizer

        experiment = with_vocabulary(experiment, load_tokenizer(experiment.data.tokenizer))
    print(describe(experiment.model, experiment.masks, experiment.losses.wanted))
    return 0


def _visualize(options: argparse.Namespace) -> int:
    from simvtp.experiment import visualize

    for path in visualize(options.run_dir, samples=options.samples, split=options.split):
        print(path)
    return 0


def _data(options: argparse.Namespace) -> int:
    from simvtp.data.benchmarks import BENCHMARKS
    from simvtp.data.benchmarks.check import check_benchmark, table
    from simvtp.data.inspect import check_manifest

    if options.data_command == "shard":
        return _shard(options)
    if options.data_command == "list":
        print("\n".join(table()))
        return 0
    decoding = {"reader": options.reader, "timeout": options.timeout, "workers": options.workers}
    if options.what in BENCHMARKS:
        if options.root is None:
            raise UserError(f"data check {options.what} needs --root DIR, the folder with its annotation files and videos.")
        return 0 if check_benchmark(options.what, options.root, options.protocol, options.decode, **decoding).ok else 1
    if options.root is not None or options.protocol:
        raise UserError(f"there is no benchmark '{options.what}'; choose one of {', '.join(BENCHMARKS)}.")
    return 0 if check_manifest(options.what, frames=options.frames, **decoding).ok else 1


def _shard(options: argparse.Namespace) -> int:
    from simvtp.data.sharding import parse_target, write_shards

    target = parse_target(options.size, options.fps, options.crf)
    outcome = write_shards(options.manifest, options.out, target, options.max_per_shard, options.workers, options.timeout)
    return 0 if outcome.written else 1


def _bench(options: argparse.Namespace) -> int:
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


def _parity(options: argparse.Namespace) -> int:
    from simvtp.parity import main as parity

    return parity(options.file)


def _convert(options: argparse.Namespace) -> int:
    from simvtp.models import SimVTP
    from simvtp.models.pretrained import import_weights, save_pretrained
    from simvtp.recipes import get_recipe
    from simvtp.settings import override

    model = SimVTP(override(get_recipe(options.recipe), options.overrides).model)
    model.initialise(seed=0)
    print(import_weights(model, options.source))
    save_pretrained(model, options.target)
    print(f"written to {options.target} (safetensors and config)")
    return 0


def _sync(options: argparse.Namespace) -> int:
    from simvtp.tracking import sync_all

    if not options.root.is_dir():
        raise UserError(f"there is no folder '{options.root}' with runs: give the folder as in runtime.root.")
    reports = sync_all(options.root, options.tracking_uri or None)
    for report in reports:
        print(report)
    return 0


COMMANDS = {
    "run": _run,
    "pretrain": _run,
    "finetune": _finetune,
    "evaluate": _evaluate,
    "settings": _settings,
    "describe": _describe,
    "visualize": _visualize,
    "data": _data,
    "bench": _bench,
    "parity": _parity,
    "convert": _convert,
    "sync": _sync,
}

if __name__ == "__main__":
    sys.exit(main())
