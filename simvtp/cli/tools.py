"""Commands for weights and trackers: parity, conversion, export, replay into the tracker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.cli import add
from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(commands: Commands) -> None:
    """Adds the commands of this group."""
    command = add(
        commands,
        "parity",
        "compare this implementation with a reference file of the released behaviour",
    )
    command.add_argument("file", type=Path)
    command.set_defaults(handle=_parity)

    command = add(
        commands,
        "convert",
        "foreign weights, or those of a run, to a folder of this project (safetensors + config)",
    )
    command.add_argument(
        "source", help="a file or a folder of weights, a name on the hub, or a run directory"
    )
    command.add_argument("target", type=Path)
    command.add_argument(
        "--recipe",
        default="",
        help="of foreign weights: the recipe whose model has these sizes (default: released)",
    )
    command.add_argument(
        "--training",
        default="",
        help="of a run: pretrain, finetune or finetune_blind (default: the last that has ended)",
    )
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.set_defaults(handle=_convert)

    _register_export(commands)

    command = add(
        commands,
        "sync",
        "replay the journals of all runs into the tracker; a second time adds nothing",
    )
    command.add_argument("root", type=Path, nargs="?", default=Path("runs"))
    command.add_argument(
        "--tracking-uri", default="", help="default: $MLFLOW_TRACKING_URI, or the store under ROOT"
    )
    command.set_defaults(handle=_sync)


def _register_export(commands: Commands) -> None:
    command = add(
        commands,
        "export",
        "the model of a run as a folder that needs nothing of the run, with a model card",
    )
    command.add_argument("source", metavar="RUN", help="a run directory, or the name of one")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument(
        "--training",
        default="",
        choices=("", "pretrain", "finetune"),
        help="default: the fine-tuned model if there is one",
    )
    command.add_argument(
        "--push", default="", metavar="USER/NAME", help="also upload it to the hub"
    )
    command.add_argument("--private", action="store_true", help="of a new repository of the hub")
    command.set_defaults(handle=_export)


def _parity(options: argparse.Namespace) -> int:
    from simvtp.experiment.parity import main as parity

    return parity(options.file)


def _convert(options: argparse.Namespace) -> int:
    from simvtp.config.overrides import override
    from simvtp.config.recipes import get_recipe
    from simvtp.methods.exported_model import (
        convert_foreign,
        from_pretrained,
        is_own,
        save_pretrained,
    )

    if is_own(options.source):
        if options.recipe or options.overrides:
            raise UserError(
                f"{options.source} has settings of its own: leave --recipe and key=value out."
            )
        model = from_pretrained(options.source, options.training)
    else:
        if options.training:
            raise UserError(f"--training is for run directories, and {options.source} is none.")
        recipe = get_recipe(options.recipe or "released")
        model, report = convert_foreign(options.source, override(recipe, options.overrides).model)
        print(report)
    save_pretrained(model, options.target)
    print(f"written to {options.target} (safetensors and config)")
    return 0


def _export(options: argparse.Namespace) -> int:
    from simvtp.library.export.export_model import push_to_hub
    from simvtp.library.export.export_run import export

    if options.private and not options.push:
        raise UserError("--private is for --push USER/NAME: leave it out.")
    folder = export(options.source, options.folder, training=options.training)
    print(f"written to {folder}; open it with simvtp.load or simvtp.load_predictor")
    if options.push:
        print(f"uploaded: {push_to_hub(folder, options.push, private=options.private)}")
    return 0


def _sync(options: argparse.Namespace) -> int:
    """Replays all runs; the exit status is 1 if one of them could not be stored."""
    from simvtp.tracking import sync_all

    if not options.root.is_dir():
        raise UserError(f"there is no folder '{options.root}': give the one of runtime.root.")
    reports = sync_all(options.root, options.tracking_uri or None)
    for report in reports:
        print(report)
    failed = [report for report in reports if not report.run_id and not report.is_busy]
    if failed:
        print(f"{len(failed)} of {len(reports)} could not be stored: see the warnings above.")
    return 1 if failed else 0
