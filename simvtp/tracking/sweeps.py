"""The parent run of a sweep: found again by its sweep_id, with figures of the whole sweep so that its charts are not empty."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.config import RuntimeConfig
from simvtp.errors import UserError
from simvtp.journal import read_json
from simvtp.results import Result
from simvtp.tracking.address import metric_name, resolve_uri
from simvtp.tracking.mirror import Mirror, SyncReport, run_status
from simvtp.tracking.store import Point, Store, StoredRun, finite, is_news

log = logging.getLogger(__name__)

LOWER_IS_BETTER = ("MdR", "MnR")


@dataclass(frozen=True)
class PointSummary:
    """How one point of a sweep stands. `value`: the plan's metric, None unless finished; `finished_at`: seconds since 1970."""

    fingerprint: str
    state: str  # queued | running | finished | failed | stopped
    value: float | None = None
    finished_at: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0


def start_sweep(plan: Mapping[str, Any], runtime: RuntimeConfig) -> str | None:
    """Create the parent run, or find it again by its sweep_id; returns its id. None if tracking is off or, with a warning, fails."""
    uri = resolve_uri(runtime)
    if uri is None:
        return None
    try:
        return _parent(Store(uri), plan, runtime).run_id
    except UserError as error:
        log.warning("the sweep %s starts without the tracker: %s", plan["sweep_id"], error)
        return None


def finish_sweep(
    plan: Mapping[str, Any], runtime: RuntimeConfig, summaries: Iterable[PointSummary] | None = None, *, final: bool = True
) -> None:
    """Log what the sweep has shown so far to its parent run; may be called after each point (`final=False`) and at the end.

    `summaries` default to what the run directories say. The parent ends as FINISHED if all points did, FAILED if one failed, else
    KILLED (it goes on when the sweep is started again). Calling it again with the same state adds nothing. An unreachable tracker
    costs a warning.
    """
    uri = resolve_uri(runtime)
    if uri is None:
        return
    points = list(summarise(plan, Path(runtime.root)) if summaries is None else summaries)
    try:
        store = Store(uri)
        parent = _parent(store, plan, runtime)
        last = dict(parent.metrics)
        news = []
        for point in aggregates(plan, points):
            if is_news(point, last.get(point.key)):
                news.append(point)
                last[point.key] = point
        for _ in store.log_points(parent.run_id, news):
            pass
        tags = {"best_cell": json.dumps(best_cell(plan, points)), "state": _state(points) if final else "running"}
        store.set_tags(parent.run_id, {key: value for key, value in tags.items() if parent.tags.get(key) != value})
        status = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[_state(points)] if final else "RUNNING"
        if status != parent.status:
            store.set_status(parent.run_id, status, int(max([p.finished_at for p in points if p.finished_at] or [time.time()]) * 1000))
    except UserError as error:
        log.warning("the figures of the sweep %s are not tracked: %s", plan["sweep_id"], error)


def summarise(plan: Mapping[str, Any], root: Path) -> list[PointSummary]:
    """The state of each planned point, from the run directories under `root`."""
    return [_summary(root / point["fingerprint"][:12], point["fingerprint"], plan["metric"]) for point in plan["points"]]


def aggregates(plan: Mapping[str, Any], summaries: Sequence[PointSummary]) -> list[Point]:
    """The figures of the parent run.

    Series over the number of finished points, in the order of their end: `progress/finished`, `progress/value`, `progress/best`.
    Single figures: `points/*`, `cost/*`, `best/<metric>` and `best/<axis>` (cell with the best mean over seeds), `cell/<cell>` (mean
    over seeds), `mean by <axis>/<value>` (mean over the cells that share this value).
    """
    better = min if plan["metric"].rpartition("/")[2] in LOWER_IS_BETTER else max
    finished = sorted((s for s in summaries if s.value is not None), key=lambda s: (s.finished_at, s.fingerprint))
    values = [finite(s.value) for s in finished]
    points = []
    for number, summary in enumerate(finished, start=1):
        moment = int(summary.finished_at * 1000)
        points.append(Point("progress/finished", number, number, moment))
        points.append(Point("progress/value", values[number - 1], number, moment))
        points.append(Point("progress/best", better(values[:number]), number, moment))
    now = int(time.time() * 1000)
    figures: dict[str, float] = {
        "points/planned": len(plan["points"]),
        "points/finished": len(finished),
        "points/failed": sum(s.state == "failed" for s in summaries),
        "cost/cpu_hours": sum(s.cpu_hours for s in summaries),
        "cost/gpu_hours": sum(s.gpu_hours for s in summaries),
    }
    names = _axis_names(plan)
    means = _cell_means(plan, summaries)
    for cell, mean in means.items():
        figures["cell/" + " ".join(f"{names[key]} {value}" for key, value in json.loads(cell).items())] = mean
    for key, name in names.items():
        by_value: dict[str, list[float]] = {}
        for cell, mean in means.items():
            by_value.setdefault(str(json.loads(cell)[key]), []).append(mean)
        figures |= {f"mean by {name}/{value}": statistics.fmean(some) for value, some in by_value.items()}
    best = best_cell(plan, summaries)
    if best:
        figures[f"best/{plan['metric']}"] = means[_cell_key(plan, best)]
        figures |= {f"best/{names[key]}": value for key, value in best.items() if isinstance(value, int | float)}
    return points + [Point(metric_name(key), float(value), 0, now, single=True) for key, value in figures.items()]


def best_cell(plan: Mapping[str, Any], summaries: Sequence[PointSummary]) -> dict[str, Any]:
    """The cell with the best mean over seeds; empty as long as there is none."""
    means = _cell_means(plan, summaries)
    if not means:
        return {}
    better = min if plan["metric"].rpartition("/")[2] in LOWER_IS_BETTER else max
    found: dict[str, Any] = json.loads(better(means, key=lambda cell: means[cell]))
    return found


def sync_all(root: Path, uri: str | None = None) -> list[SyncReport]:
    """Replay all run directories and sweeps under `root`; raises TrackerError if the tracker cannot be reached.

    The tracker is `uri`, else what each run was told (`runtime.tracking_uri`), else $MLFLOW_TRACKING_URI or sqlite under `root`.
    """
    root = Path(root)
    plans = [read_json(path) for path in sorted(root.glob("sweeps/*/plan.json"))]
    run_dirs = sorted(path.parent for path in root.glob("*/experiment.json"))
    runtimes = {run_dir: _runtime(run_dir, root, uri) for run_dir in run_dirs}
    for address in {resolve_uri(runtime) for runtime in runtimes.values()}:
        if address is not None:
            Store(address)
    tracked_plans = [(plan, runtime) for plan in plans if (runtime := _first_runtime(plan, runtimes))]
    for plan, runtime in tracked_plans:
        start_sweep(plan, runtime)
    reports = [_sync_one(run_dir, runtime) for run_dir, runtime in runtimes.items()]
    for plan, runtime in tracked_plans:
        summaries = summarise(plan, root)
        finish_sweep(plan, runtime, summaries, final=all(s.state != "running" for s in summaries))
    return reports


def _sync_one(run_dir: Path, runtime: RuntimeConfig) -> SyncReport:
    try:
        return Mirror(run_dir, runtime, abandoned=True).sync()
    except UserError as error:  # one damaged directory must not keep the others from being replayed
        return SyncReport(run_dir, warnings=(str(error),))


def _first_runtime(plan: Mapping[str, Any], runtimes: Mapping[Path, RuntimeConfig]) -> RuntimeConfig | None:
    """The settings of the sweep's first point that has a run directory."""
    by_name = {run_dir.name: runtime for run_dir, runtime in runtimes.items()}
    return next((by_name[name] for point in plan["points"] if (name := point["fingerprint"][:12]) in by_name), None)


def _runtime(run_dir: Path, root: Path, uri: str | None) -> RuntimeConfig:
    try:
        stored = read_json(run_dir / "experiment.json")["experiment"]["runtime"]
    except (ValueError, KeyError, TypeError):
        stored = {}  # `Mirror` says what is wrong with the file
    named = stored.get("tracking_uri", "")
    experiment = stored.get("tracking_experiment", RuntimeConfig.tracking_experiment)
    return RuntimeConfig(root=str(root), tracking_uri=uri or ("" if named == "off" else named), tracking_experiment=experiment)


def _parent(store: Store, plan: Mapping[str, Any], runtime: RuntimeConfig) -> StoredRun:
    experiment_id = store.experiment(runtime.tracking_experiment)
    text = json.dumps(plan, indent=1)
    found = store.find({"sweep_id": plan["sweep_id"], "role": "sweep"}, experiment_id)
    if found:
        parent = found[0]
    else:
        tags = {"sweep_id": plan["sweep_id"], "role": "sweep", "ablation": plan["ablation"], "state": "running"}
        parent = store.create(experiment_id, f"sweep {plan['sweep_id']}", int(time.time() * 1000), tags)
    params = {f"axis.{axis['key']}": json.dumps(axis["values"]) for axis in plan["axes"]}
    params |= {key: plan[key] for key in ("ablation", "metric", "dataset", "recipe", "seeds") if key in plan}
    store.log_params(parent.run_id, {key: value for key, value in params.items() if key not in parent.params})
    digest = hashlib.sha256(text.encode()).hexdigest()
    if parent.tags.get("plan_digest") != digest:
        store.upload_text(parent.run_id, text, "plan.json")
        store.set_tags(parent.run_id, {"plan_digest": digest})
    return parent


def _summary(run_dir: Path, fingerprint: str, metric: str) -> PointSummary:
    status = run_status(run_dir, abandoned=True)
    value = None
    if status["state"] == "finished" and (run_dir / "results.json").exists():
        value = _value(run_dir / "results.json", metric)
    hours = {name: float(status.get(name) or 0.0) for name in ("cpu_hours", "gpu_hours")}
    return PointSummary(fingerprint, status["state"], value, float(status.get("updated") or 0.0) if value is not None else 0.0, **hours)


def _value(path: Path, metric: str) -> float | None:
    key, _, name = metric.rpartition("/")
    results = [Result.from_dict(values) for values in read_json(path)]
    return next((r.metrics[name] for r in results if r.key == key and name in r.metrics), None)


def _cell_key(plan: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """The cell as text, in the order of the plan's axes."""
    return json.dumps({axis["key"]: cell[axis["key"]] for axis in plan["axes"]})


def _cell_means(plan: Mapping[str, Any], summaries: Sequence[PointSummary]) -> dict[str, float]:
    """Mean over the finished seeds of each cell, in the order of the plan; values that are no numbers are left out."""
    values = {s.fingerprint: finite(s.value) for s in summaries if s.value is not None}
    cells: dict[str, list[float]] = {}
    for point in plan["points"]:
        value = values.get(point["fingerprint"])
        if value is not None and value == value:  # not NaN
            cells.setdefault(_cell_key(plan, point["cell"]), []).append(value)
    return {cell: statistics.fmean(some) for cell, some in cells.items()}


def _axis_names(plan: Mapping[str, Any]) -> dict[str, str]:
    """`masks.video_ratio` as `video_ratio`, as long as that is unambiguous."""
    keys = [axis["key"] for axis in plan["axes"]]
    short = [key.rpartition(".")[2] for key in keys]
    return dict(zip(keys, short if len(set(short)) == len(short) else keys, strict=True))


def _state(summaries: Sequence[PointSummary]) -> str:
    states = {summary.state for summary in summaries}
    if states <= {"finished"}:
        return "finished"
    return "failed" if "failed" in states else "stopped"
