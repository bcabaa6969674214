"""Commands that run, score and visualize one experiment."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.cli import add
from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.cli import Commands
    from simvtp.config.experiment_config import Experiment
    from simvtp.data.progress import LogFn
    from simvtp.runs.results import Result

OVERRIDES = "any setting, for example masks.video_ratio=0.75"
SOURCE = "a recipe, a file of settings (.yaml), or a run directory; a wrong name prints the recipes"


def register(commands: Commands) -> None:
    """Adds the commands of this group."""
    from_recipe = (
        ("run", _run, "one experiment from its settings to its results"),
        ("pretrain", _run, "the same, but stop after pre-training"),
        (
            "settings",
            _settings,
            "print all settings of an experiment with the overrides applied, and its fingerprint",
        ),
        ("describe", _describe, "parameters and forward FLOPs of the model, part by part"),
    )
    for name, handle, help in from_recipe:
        command = add(commands, name, help)
        command.add_argument("source", metavar="EXPERIMENT", help=SOURCE)
        command.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
        command.set_defaults(handle=handle)
        if name == "settings":
            command.add_argument(
                "--yaml", action="store_true", help="as a file that `run` reads, with all of them"
            )
        if name != "describe":
            _add_json(command)
    _register_finetune(commands)

    command = add(
        commands,
        "evaluate",
        "score a run on its test split, after finishing what is missing of it; with settings, "
        "score the weights of a finished run again",
    )
    command.add_argument("run_dir", type=Path)
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="evaluate.* only, for example evaluate.rerank=16",
    )
    _add_json(command)
    command.set_defaults(handle=_evaluate)

    command = add(
        commands,
        "visualize",
        "reconstructions of a pre-training (PNG, GIF), and example pages of each test (HTML)",
    )
    command.add_argument("run_dir", type=Path)
    command.add_argument(
        "--samples",
        type=int,
        default=0,
        help="clips that are reconstructed (default 4), items on each example page (default 8)",
    )
    command.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="split of the clips"
    )
    command.set_defaults(handle=_visualize)


def _register_finetune(commands: Commands) -> None:
    command = add(
        commands,
        "finetune",
        "fine-tune pre-trained weights on a task and test them; or run a recipe up to the end of "
        "its fine-tuning",
    )
    command.add_argument(
        "task", help="retrieval, qa, choice, action, ... (without --init: the name of a recipe)"
    )
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="any setting, for example finetune.train.epochs=2",
    )
    command.add_argument(
        "--init",
        default="",
        help="a run directory, a weights file, an exported model, or 'initial' for no pre-training",
    )
    command.add_argument(
        "--recipe",
        default="",
        help="fine-tuning settings; default: a recipe of this task that fits, else the run's",
    )
    command.add_argument(
        "--data",
        default="",
        help="a manifest, or the name of a data set; default: that of the run or recipe",
    )
    _add_json(command)
    command.set_defaults(handle=_finetune)


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json", action="store_true", help="print one JSON document; progress goes to stderr"
    )


def _run(options: argparse.Namespace) -> int:
    until = {"run": "evaluate", "pretrain": "pretrain"}[options.command]
    return _carry_out(_named_experiment(options.source, options.overrides), until, options.json)


def _named_experiment(source: str, overrides: Sequence[str]) -> Experiment:
    from simvtp.config.overrides import override
    from simvtp.sources.experiment_source import experiment_of

    return override(experiment_of(source), overrides)


def _finetune(options: argparse.Namespace) -> int:
    from simvtp.config.overrides import override
    from simvtp.config.recipes import RECIPES, get_recipe
    from simvtp.experiment.finetune_command import downstream

    if not options.init:
        if options.task not in RECIPES:
            raise UserError(
                f"finetune {options.task}: name the run or weights to start from with --init "
                "(`initial` for none)."
            )
        recipe = override(get_recipe(options.task), options.overrides)
        return _carry_out(recipe, "finetune", options.json)
    return _carry_out(
        downstream(
            options.task,
            options.init,
            recipe=options.recipe,
            data=options.data,
            overrides=options.overrides,
        ),
        "evaluate",
        options.json,
    )


def _evaluate(options: argparse.Namespace) -> int:
    from simvtp.experiment.reevaluation import reevaluate
    from simvtp.runs.rundir import load_experiment

    if not options.overrides:
        return _carry_out(load_experiment(options.run_dir), "evaluate", options.json)

    def again(say: LogFn) -> tuple[list[Result], Path]:
        results, path = reevaluate(options.run_dir, options.overrides, say=say)
        say(f"written to {path}; the run itself is unchanged")
        return results, options.run_dir

    return _printed(again, options.json)


def _carry_out(experiment: Experiment, until: str, as_json: bool) -> int:
    from simvtp.experiment import run
    from simvtp.resolve import finalise

    def measure(say: LogFn) -> tuple[list[Result], Path]:
        return run(experiment, say=say, until=until), finalise(experiment).run_dir

    return _printed(measure, as_json)


def _printed(measure: Callable[[LogFn], tuple[list[Result], Path]], as_json: bool) -> int:
    """Prints the results of `measure`, which also returns the run directory.

    Returns the exit status.
    """
    from simvtp.errors import Stopped
    from simvtp.experiment import baseline_text

    try:
        results, run_dir = measure(_to_stderr if as_json else print)
    except Stopped as stopped:
        print(f"{stopped}", file=sys.stderr)
        return 3
    if as_json:
        values = [{"name": result.key} | result.to_dict() for result in results]
        print(json.dumps({"run_dir": str(run_dir), "results": values}, indent=1))
        return 0
    for result in results:
        candidates = f", {result.gallery} candidates" if result.gallery else ""
        print(f"{result.line}  ({baseline_text(result)}; {result.queries} queries{candidates})")
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _settings(options: argparse.Namespace) -> int:
    from simvtp.config.tree import documentation, flatten, to_dict
    from simvtp.resolve import finalise
    from simvtp.sources.settings_file import to_yaml

    experiment = _named_experiment(options.source, options.overrides)
    if experiment.data.dataset == "shapes" or experiment.data.manifest or experiment.data.root:
        experiment = finalise(experiment)
    if options.yaml:
        print(to_yaml(experiment, (f"fingerprint {experiment.fingerprint}",)), end="")
        return 0
    if options.json:
        values = {"fingerprint": experiment.fingerprint, "settings": to_dict(experiment)}
        print(json.dumps(values, indent=1))
        return 0
    meaning = documentation(experiment)
    for key, value in flatten(experiment).items():
        print(f"{f'{key} = {value}':<44} # {meaning[key]}")
    print(f"# fingerprint {experiment.fingerprint}")
    return 0


def _describe(options: argparse.Namespace) -> int:
    from simvtp.config.validation import check
    from simvtp.experiment import with_vocabulary
    from simvtp.models.flops.simvtp_flops import describe

    experiment = _named_experiment(options.source, options.overrides)
    check(experiment)
    if not experiment.model.vocab_size:
        from simvtp.data.text.tokenizer import load_tokenizer

        experiment = with_vocabulary(experiment, load_tokenizer(experiment.data.tokenizer))
    print(describe(experiment.model, experiment.masks, experiment.losses.wanted))
    return 0


def _visualize(options: argparse.Namespace) -> int:
    from simvtp.experiment import visualize

    if options.samples < 0:
        raise UserError(
            f"--samples {options.samples}: give a number of clips and items, at least 1."
        )
    clips = max(2, options.samples or 4)  # matching (VTM) needs another clip for each
    for path in visualize(
        options.run_dir, samples=clips, split=options.split, examples=options.samples or 8
    ):
        print(path)
    return 0
