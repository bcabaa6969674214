"""Scoring a finished run again in another way: other views, another split, re-ranking,
dual-softmax.

The weights, the settings and the results of the run stay what they are. What is measured is printed
and written to `RUN_DIR/evaluations/<digest>.json`, each figure with its protocol; the digest is the
fingerprint that a run with these settings would have.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from simvtp.config.overrides import override
from simvtp.config.schema import Experiment, differences, to_dict
from simvtp.config.validation import check
from simvtp.errors import CheckpointError, ConfigError, UserError
from simvtp.experiment.context import Say, open_experiment, until_signal
from simvtp.experiment.measuring import finetuned_figures, zero_shot_figures
from simvtp.experiment.training import take_weights
from simvtp.methods import build_model
from simvtp.resolve import finalise
from simvtp.runs import provenance
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.results import Result
from simvtp.runs.run_records import RunState, read_status
from simvtp.runs.rundir import StatusWriter, load_experiment
from simvtp.training.checkpointing.checkpoint import sha256_of, unguarded
from simvtp.training.parallel.distributed import Launch, choose_device, threads_per_rank
from simvtp.training.stage import Outcome

FOLDER = "evaluations"


def reevaluate(
    run_dir: Path, overrides: Sequence[str], say: Say = print
) -> tuple[list[Result], Path]:
    """Score the weights of a finished run under changed `evaluate.*` settings: (results, the file
    that holds them).

    `runtime.*` may be changed too (it changes no figure).

    Raises:
        ConfigError: a setting that is not known, or that would need another training.
        UserError: the run has not finished; its data or the weights it started from are not those
            of then.
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
            f"{run_dir} has not finished, so there are no final weights to score: `evaluate {run_dir}` without settings ends it."
        )
    experiment = changed_evaluation(stored, overrides)
    launch = dataclasses.replace(Launch(), rank=1)  # as one that writes nothing into the run
    threads = threads_per_rank(experiment.runtime.threads, Launch())
    if threads:
        torch.set_num_threads(threads)
    device = choose_device(experiment.runtime.device, Launch())
    with until_signal() as stop:
        running = open_experiment(
            experiment,
            run_dir,
            device,
            launch,
            say,
            stop,
            StatusWriter(run_dir, writes=False),
            unguarded,
        )
        unified = build_model(running.experiment.model, experiment.losses.wanted, experiment.seed)
        if experiment.finetune.init:
            take_weights(running, unified)
        else:
            running.outcomes["pretrain"] = _load(unified, run_dir, "pretrain")
            running.models["pretrain"] = unified.to(device).eval()
        scored = zero_shot_figures(running, running.outcomes["pretrain"].sha256)
        for name, task in running.tasks.items():
            model = task.build(running.models["pretrain"])
            running.outcomes[name] = _load(model, run_dir, name)
            running.models[name] = model.to(device).eval()
        if running.tasks:
            scored += finetuned_figures(running, running.outcomes["finetune"].sha256)
    results = [one.result for one in scored]
    checkpoints = {name: outcome.sha256 for name, outcome in running.outcomes.items()}
    path = run_dir / FOLDER / f"{experiment.fingerprint[:12]}.json"
    write_atomically(path, json.dumps(_record(stored, experiment, checkpoints, results), indent=1))
    return results, path


def changed_evaluation(stored: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment of a run with the changed settings, checked; raises as `reevaluate`."""
    now = finalise(stored)
    if now.fingerprint != stored.fingerprint:
        changed = ", ".join(differences(stored, now))
        raise UserError(
            f"the run's data or the weights that it began with have changed since ({changed}): it cannot be scored as it was."
        )
    experiment = override(now, overrides)
    trained = [
        f"{key}={new}"
        for key, (_, new) in differences(now, experiment).items()
        if not key.startswith("evaluate.")
    ]
    if trained:
        raise ConfigError(
            f"{', '.join(trained)} belongs to the training of a run, which is finished: `evaluate` changes evaluate.* only."
        )
    check(experiment)
    return experiment


def _load(model: nn.Module, run_dir: Path, name: str) -> Outcome:
    """Load the final weights of a training into `model`; how it ended."""
    weights, ended = (
        run_dir / "checkpoints" / f"{name}.{ending}" for ending in ("safetensors", "json")
    )
    if not weights.exists() or not ended.exists():
        raise CheckpointError(
            f"{weights}: the final weights of the run are not there any more, so it cannot be scored again."
        )
    values: dict[str, Any] = read_json(ended)
    values.pop("fingerprint")
    outcome = Outcome(**values)
    if sha256_of(weights) != outcome.sha256:
        raise CheckpointError(
            f"{weights} does not have the sha256 it was written with: the file is damaged or was replaced."
        )
    model.load_state_dict(safetensors.torch.load_file(weights))
    return outcome


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
