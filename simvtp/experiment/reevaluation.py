"""Scores a finished run in another way: other views, another split, re-ranking, dual-softmax.

The weights, the settings and the results of the run stay unchanged. What is measured is printed and
written to `RUN_DIR/evaluations/<digest>.json`, each metric with its protocol; the digest is the
fingerprint that a run with these settings would have.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from simvtp.config.experiment_config import Experiment, differences
from simvtp.config.overrides import override
from simvtp.config.tree import to_dict
from simvtp.config.validation import check
from simvtp.data.progress import LogFn
from simvtp.errors import ConfigError, UserError
from simvtp.experiment.context import ExperimentContext, open_experiment, until_signal
from simvtp.experiment.final_weights import load_final_weights
from simvtp.experiment.measuring import score_finetuned, score_zero_shot
from simvtp.experiment.measuring_use import score_use
from simvtp.experiment.training import load_initial_weights
from simvtp.methods import build_model
from simvtp.resolve import finalise
from simvtp.runs import provenance
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.results import Result
from simvtp.runs.run_records import RunState, read_status
from simvtp.runs.rundir import StatusWriter, load_experiment
from simvtp.training.checkpointing.checkpoint import always_owned
from simvtp.training.parallel.distributed import Launch, choose_device, threads_per_rank

FOLDER = "evaluations"


def reevaluate(
    run_dir: Path, overrides: Sequence[str], say: LogFn = print
) -> tuple[list[Result], Path]:
    """Scores the weights of a finished run under changed `evaluate.*` settings.

    Args:
        run_dir: the run directory.
        overrides: `key=value` of `evaluate.*`, or of `runtime.*` (which changes no metric).
        say: gets a line now and then.

    Returns:
        The results, and the file that holds them.

    Raises:
        ConfigError: a setting that is not known, or that would need another training.
        UserError: the run has not finished, or its data or initial weights have changed since.
        CheckpointError: its weights are gone or damaged.
    """
    stored = load_experiment(run_dir)
    status = read_status(run_dir)
    if (
        status is None
        or status.state != RunState.FINISHED
        or not (run_dir / "results.json").exists()
    ):
        raise UserError(
            f"{run_dir} has not finished, so there are no final weights to score: "
            f"`evaluate {run_dir}` without settings finishes it."
        )
    experiment = changed_evaluation(stored, overrides)
    threads = threads_per_rank(experiment.runtime.threads, Launch())
    if threads:
        torch.set_num_threads(threads)
    device = choose_device(experiment.runtime.device, Launch())
    with until_signal() as stop:
        launch = dataclasses.replace(Launch(), rank=1)  # a rank that writes nothing into the run
        writer = StatusWriter(run_dir, writes=False)
        context = open_experiment(
            experiment, run_dir, device, launch, say, stop, writer, always_owned
        )
        _load_models(context)
        pretrained = context.outcomes["pretrain"].sha256
        scored = [*score_use(context, pretrained), *score_zero_shot(context, pretrained)]
        if context.tasks:
            scored += score_finetuned(context, context.outcomes["finetune"].sha256)
    results = [one.result for one in scored]
    checkpoints = {name: outcome.sha256 for name, outcome in context.outcomes.items()}
    path = run_dir / FOLDER / f"{experiment.fingerprint[:12]}.json"
    write_atomically(path, json.dumps(_record(stored, experiment, checkpoints, results), indent=1))
    return results, path


def _load_models(context: ExperimentContext) -> None:
    """Loads the final models of all trainings of the run."""
    experiment, device = context.experiment, context.device
    unified = build_model(experiment.model, experiment.losses.wanted, experiment.seed)
    if experiment.finetune.init:
        load_initial_weights(context, unified)
    else:
        outcome = load_final_weights(unified, context.directory, "pretrain")
        context.outcomes["pretrain"] = outcome
        context.models["pretrain"] = unified.to(device).eval()
    for name, task in context.tasks.items():
        model = task.build(context.models["pretrain"])
        context.outcomes[name] = load_final_weights(model, context.directory, name)
        context.models[name] = model.to(device).eval()


def changed_evaluation(stored: Experiment, overrides: Sequence[str]) -> Experiment:
    """Returns the experiment of a run with the changed settings; raises as `reevaluate`."""
    now = finalise(stored)
    if now.fingerprint != stored.fingerprint:
        changed = ", ".join(differences(stored, now))
        raise UserError(
            f"the run's data or initial weights have changed since ({changed}): "
            "it cannot be scored as it was."
        )
    experiment = override(now, overrides)
    trained = [
        f"{key}={new}"
        for key, (_, new) in differences(now, experiment).items()
        if not key.startswith("evaluate.")
    ]
    if trained:
        raise ConfigError(
            f"{', '.join(trained)} belongs to the training of a run, which is finished: "
            "`evaluate` changes evaluate.* only."
        )
    check(experiment)
    return experiment


def _record(
    stored: Experiment, experiment: Experiment, checkpoints: dict[str, str], results: list[Result]
) -> dict[str, Any]:
    code = provenance.capture()
    return {
        "run": stored.fingerprint,
        "fingerprint": experiment.fingerprint,
        "changed": {
            key: new
            for key, (_, new) in differences(stored, experiment).items()
            if key.startswith("evaluate.")
        },
        "evaluate": to_dict(experiment.evaluate),
        "checkpoints": checkpoints,
        "commit": code.commit,
        "dirty": code.dirty,
        "time": time.time(),
        "results": [result.to_dict() for result in results],
    }
