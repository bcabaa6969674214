"""Reads sweeps with their plans and runs with their results, for the reports.

Here the tracker is required.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from simvtp.runs.results import Result
from simvtp.tracking.address import absolute_uri, display_uri
from simvtp.tracking.store import Store, StoredRun
from simvtp.tracking.sweep_parent import STATES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as it is tracked.

    Attributes:
        sweep_id: of the sweep.
        ablation: name of the ablation.
        plan: content of plan.json.
        run_id: MLflow's id of the parent run.
        start_time: seconds since 1970.
        states: {fingerprint: state} of points that were ended early.
    """

    sweep_id: str
    ablation: str
    plan: dict[str, Any]
    run_id: str
    start_time: float
    states: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackedRun:
    """A tracked experiment.

    Attributes:
        run_id: MLflow's id.
        status: MLflow's status, such as FINISHED.
        state: our state, such as finished.
        fingerprint: of the experiment.
        cell_fingerprint: fingerprint without the seed.
        seed: its seed.
        params: settings, as text.
        metrics: last value of each metric.
        tags: its tags.
        results: of results.json.
        cpu_hours: CPU-hours over all attempts.
        gpu_hours: GPU-hours over all attempts.
        start_time: seconds since 1970.
        steps: last step of each training stage.
    """

    run_id: str
    status: str
    state: str
    fingerprint: str
    cell_fingerprint: str
    seed: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    results: list[Result]
    cpu_hours: float
    gpu_hours: float
    start_time: float
    steps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningRun:
    """A run that is RUNNING in the tracker.

    Attributes:
        run_id: MLflow's id.
        fingerprint: of the experiment; empty for the parent run of a sweep.
        sweep_id: of the sweep, for its parent run.
    """

    run_id: str
    fingerprint: str
    sweep_id: str


def list_sweeps(uri: str, ablation: str | None = None) -> list[SweepRecord]:
    """Returns all tracked sweeps, the newest first.

    Raises TrackerError with what to do if the tracker cannot be reached.
    """
    store = Store(absolute_uri(uri), create=False)
    tags = {"role": "sweep"} | ({"ablation": ablation} if ablation else {})
    records = []
    for run in store.find(tags):
        if "plan_digest" not in run.tags:  # set after the plan was stored
            log.warning(
                "the sweep %s is left out: its plan was never stored; start the sweep again.",
                run.tags["sweep_id"],
            )
            continue
        plan = store.artifact_json(run.run_id, "plan.json")
        states = store.artifact_json(run.run_id, STATES) if "states_digest" in run.tags else {}
        records.append(
            SweepRecord(
                run.tags["sweep_id"],
                run.tags["ablation"],
                plan,
                run.run_id,
                run.start_time / 1000,
                states,
            )
        )
    return sorted(records, key=lambda record: -record.start_time)


def read_runs(uri: str, fingerprints: Iterable[str]) -> list[TrackedRun]:
    """Returns the tracked runs of these experiments; all of them if one is tracked twice.

    Raises TrackerError as `list_sweeps`.
    """
    store = Store(absolute_uri(uri), create=False)
    return [
        _tracked(store, run)
        for fingerprint in dict.fromkeys(fingerprints)
        for run in store.find({"run_key": fingerprint})
    ]


def running_runs(uri: str) -> list[RunningRun]:
    """Returns all experiments and sweeps that are RUNNING in the tracker.

    Raises TrackerError as `list_sweeps`.
    """
    store = Store(absolute_uri(uri), create=False)
    found = [
        run
        for role in ("experiment", "sweep")
        for run in store.find({"role": role})
        if run.status == "RUNNING"
    ]
    return [
        RunningRun(
            run.run_id,
            run.tags.get("run_key", ""),
            "" if "run_key" in run.tags else run.tags.get("sweep_id", ""),
        )
        for run in found
    ]


def ui_page(uri: str, experiment: str, command: str) -> str:
    """Returns the page with the runs of an MLflow experiment.

    The UI's own start page is about language-model applications, and its charts are a few clicks
    away.

    Args:
        uri: address of the tracker.
        experiment: name of the MLflow experiment.
        command: the command that starts the UI (see `ui_command`).
    """
    base = (
        display_uri(uri).rstrip("/")
        if uri.startswith(("http://", "https://"))
        else f"http://127.0.0.1:{command.rpartition('--port ')[2]}"
    )
    experiment_id = Store(absolute_uri(uri), create=False).experiment(experiment)
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def _tracked(store: Store, run: StoredRun) -> TrackedRun:
    tags, metrics = run.tags, {key: point.value for key, point in run.metrics.items()}
    stored = store.artifact_json(run.run_id, tags["results"]) if tags.get("results") else []
    return TrackedRun(
        run_id=run.run_id,
        status=run.status,
        state=tags.get("state", ""),
        fingerprint=tags["run_key"],
        cell_fingerprint=tags.get("cell_fingerprint", ""),
        seed=int(run.params.get("seed", tags.get("seed", 0))),
        params=run.params,
        metrics=metrics,
        tags=tags,
        results=[Result.from_dict(values) for values in stored],
        cpu_hours=metrics.get("cost/cpu_hours", 0.0),
        gpu_hours=metrics.get("cost/gpu_hours", 0.0),
        start_time=run.start_time / 1000,
        steps={
            stage: run.metrics[f"{stage}/lr"].step
            for stage in ("pretrain", "finetune")
            if f"{stage}/lr" in run.metrics
        },
    )
