"""What the reports read: sweeps with their plans, and runs with their results. Here the tracker is
required.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from simvtp.runs.results import Result
from simvtp.tracking.address import absolute_uri, shown
from simvtp.tracking.store import Store, StoredRun
from simvtp.tracking.sweep_parent import STATES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as it is tracked; `start_time` in seconds since 1970. `states`: {fingerprint: state}
    of points that were ended early.
    """

    sweep_id: str
    ablation: str
    plan: dict[str, Any]
    run_id: str
    start_time: float
    states: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackedRun:
    """A tracked experiment. `status` is MLflow's (FINISHED ...), `state` ours (finished ...);
    params are text; times in seconds. `steps`: the last step of each training stage."""

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
    """A run that is RUNNING in the tracker: of an experiment (`fingerprint`) or of a whole sweep
    (`sweep_id` alone).
    """

    run_id: str
    fingerprint: str
    sweep_id: str


def list_sweeps(uri: str, ablation: str | None = None) -> list[SweepRecord]:
    """All tracked sweeps, the newest first; raises TrackerError with what to do if the tracker
    cannot be reached.
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
    """The tracked runs of these experiments (all of them, should one be tracked twice); raises
    TrackerError as `list_sweeps`.
    """
    store = Store(absolute_uri(uri), create=False)
    return [
        _tracked(store, run)
        for fingerprint in dict.fromkeys(fingerprints)
        for run in store.find({"run_key": fingerprint})
    ]


def running_runs(uri: str) -> list[RunningRun]:
    """All experiments and sweeps that the tracker takes to be running; raises TrackerError as
    `list_sweeps`.
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
    """The page with the runs of this MLflow experiment, once the UI runs as started by `command`
    (see `ui_command`).

    The UI's own start page is about language-model applications, and its charts lie a few clicks
    away.
    """
    base = (
        shown(uri).rstrip("/")
        if uri.startswith(("http://", "https://"))
        else f"http://127.0.0.1:{command.rpartition('--port ')[2]}"
    )
    return f"{base}/#/experiments/{Store(absolute_uri(uri), create=False).experiment(experiment)}/runs?workflowType=machine_learning"


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
