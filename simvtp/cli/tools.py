"""Commands for weights and trackers: parity, conversion of weights, replay into the tracker."""

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
        "released-style or VideoMAE weights to a folder of this project (safetensors + config)",
    )
    command.add_argument("source", help="a .safetensors or .pth file, or a folder")
    command.add_argument("target", type=Path)
    command.add_argument(
        "--recipe", default="released", help="the recipe whose model has these sizes"
    )
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.set_defaults(handle=_convert)

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


def _parity(options: argparse.Namespace) -> int:
    from simvtp.experiment.parity import main as parity

    return parity(options.file)


def _convert(options: argparse.Namespace) -> int:
    from simvtp.config.model_config import SimVTPConfig
    from simvtp.config.overrides import override
    from simvtp.config.recipes import get_recipe
    from simvtp.config.tree import narrow
    from simvtp.methods.exported_model import save_pretrained
    from simvtp.models.simvtp.simvtp_model import SimVTP
    from simvtp.models.weights.pretrained import import_weights

    config = override(get_recipe(options.recipe), options.overrides).model
    model = SimVTP(narrow(config, SimVTPConfig))
    model.initialise(seed=0)
    print(import_weights(model, options.source))
    save_pretrained(model, options.target)
    print(f"written to {options.target} (safetensors and config)")
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
