"""The parent run of a sweep: found by its sweep_id, with metrics of the whole sweep."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import DamagedFile, UserError
from simvtp.runs.run_records import RunState
from simvtp.runs.rundir import RESULTS_FILE
from simvtp.runs.scores import read_metric
from simvtp.runs.sweep_plan import PLAN_FILE, SweepPlan
from simvtp.tracking.address import resolve_uri
from simvtp.tracking.aggregates import PointSummary, aggregates, best_cell
from simvtp.tracking.background import with_timeout
from simvtp.tracking.mirror import NOTE, Mirror, SyncReport
from simvtp.tracking.run_contents import sweep_tags
from simvtp.tracking.store import Store, StoredRun, is_news
from simvtp.tracking.tracked_state import ENDED_EARLY, MLFLOW_STATUS, run_status

log = logging.getLogger(__name__)

STATES = "states.json"  # artifact of the parent: states of points that have no result
PAGE = "report/index.html"  # artifact of the parent: the page of its report
REPORT_DIGEST = "report_digest"  # tag of a parent that has this page


def start_sweep(plan: Mapping[str, Any], runtime: RuntimeConfig) -> str | None:
    """Creates the parent run, or finds it by its sweep_id; returns its id.

    A server that does not answer costs seconds: see `with_timeout`.

    Args:
        plan: content of plan.json.
        runtime: address of the tracker and name of the MLflow experiment.

    Returns None if tracking is off or, with a warning, fails.
    """
    uri = resolve_uri(runtime)
    if uri is None:
        return None
    sweep = SweepPlan.from_dict(plan)
    try:
        store = Store(uri)
        return with_timeout(store, lambda: _parent(store, sweep, runtime).run_id)
    except UserError as error:
        log.warning("the sweep %s starts without the tracker: %s", sweep.sweep_id, error)
        return None


def finish_sweep(
    plan: Mapping[str, Any],
    runtime: RuntimeConfig,
    summaries: Iterable[PointSummary] | None = None,
    *,
    final: bool = True,
) -> None:
    """Logs the results of the sweep so far to its parent run.

    May be called after each point (`final=False`) and at the end. The parent ends as FINISHED if
    all points did (a pruned point of a search is done), FAILED if one failed, else KILLED (it
    continues when the sweep is started again). At the end, children whose job ended without writing
    so get the state of their run directory. Calling it again with the same state adds nothing. An
    unreachable tracker costs a warning.

    Args:
        plan: content of plan.json.
        runtime: address of the tracker, and root of the run directories.
        summaries: states of the points; by default those of their run directories.
        final: the sweep has ended.
    """
    uri = resolve_uri(runtime)
    if uri is None:
        return
    sweep = SweepPlan.from_dict(plan)
    points = list(summarise(plan, Path(runtime.root)) if summaries is None else summaries)
    try:
        store = Store(uri)
        with_timeout(store, lambda: _finish(store, sweep, runtime, points, final))
    except UserError as error:
        log.warning("the results of the sweep %s are not tracked: %s", sweep.sweep_id, error)


def log_report(uri: str, run_id: str, plan: Mapping[str, Any], page: str) -> None:
    """Stores the page of a report with the parent run of its sweep, and links to it.

    A page that is there already is not stored again.

    Args:
        uri: address of the tracker.
        run_id: the parent run.
        plan: content of plan.json.
        page: HTML that loads nothing and links to nothing: the tracker shows it in a frame that
            cannot leave it.

    Raises TrackerError if the tracker cannot be reached or refuses.
    """
    store, sweep = Store(uri, create=False), SweepPlan.from_dict(plan)
    digest = hashlib.sha256(page.encode()).hexdigest()

    def put() -> None:
        runs = store.find({"sweep_id": sweep.sweep_id, "role": "sweep"})
        parent = next(run for run in runs if run.run_id == run_id)
        if parent.tags.get(REPORT_DIGEST) != digest:
            store.upload_text(run_id, page, PAGE)
            note = description(sweep, _page_of(parent))
            store.set_tags(run_id, {REPORT_DIGEST: digest, NOTE: note})

    with_timeout(store, put)


def summarise(plan: Mapping[str, Any], root: Path) -> list[PointSummary]:
    """Returns the state of each planned point, from the run directories under `root`."""
    sweep = SweepPlan.from_dict(plan)
    return [_summary(root / point.run_name, point.fingerprint, sweep) for point in sweep.points]


def sync_run(run_dir: Path, runtime: RuntimeConfig, store: Store | None = None) -> SyncReport:
    """Mirrors one run directory; what goes wrong is a warning of the report.

    One damaged directory must not keep the others from being mirrored.
    """
    heartbeat = store.heartbeat if store else lambda: None
    try:
        return Mirror(run_dir, runtime, heartbeat=heartbeat, abandoned=True).sync()
    except (UserError, OSError) as error:
        return SyncReport(run_dir, warnings=(str(error),))


def description(plan: SweepPlan, page: str = "") -> str:
    """Returns the text above the charts of a sweep in the tracker (Markdown).

    Args:
        plan: of the sweep.
        page: address of the report within the tracker's pages, once it is there. A browser follows
            no link from them to a file on disk.
    """
    axes = "; ".join(f"{axis.label} ({', '.join(map(str, axis.values))})" for axis in plan.axes)
    build = f"python reports/build.py {plan.ablation} --sweep {plan.sweep_id}"
    # the link comes first: only the first lines can be clicked before "Show more"
    link = f"**[Report]({page})** · " if page else ""
    parts = [
        link + f"**{plan.title or plan.ablation}**: {plan.question}".strip(": "),
        f"Paper: {plan.paper_says}" if plan.paper_says else "",
        f"Varied: {axes}." if axes else "",
        f"Compared by `{plan.metric}` ({plan.metric_label}).",
        "Runs of one cell share the tag `cell_fingerprint`; each axis is a tag `cell.NAME`; "
        f"filter: `tags.sweep_id = '{plan.sweep_id}'`.",
        "The report with its tables, figures and provenance: "
        f"`reports/out/{plan.ablation}/index.html`, written by `{build}`.",
    ]
    return "\n\n".join(filter(None, parts))


def _parent(store: Store, plan: SweepPlan, runtime: RuntimeConfig) -> StoredRun:
    experiment_id = store.experiment(runtime.tracking_experiment)
    text = json.dumps(plan.to_dict(), indent=1)
    found = store.find({"sweep_id": plan.sweep_id, "role": "sweep"}, experiment_id)
    if found:
        parent = found[0]
    else:
        tags = {
            "sweep_id": plan.sweep_id,
            "role": "sweep",
            "ablation": plan.ablation,
            "state": "running",
        }
        now = int(time.time() * 1000)
        parent = store.create(experiment_id, f"sweep {plan.sweep_id}", now, tags)
    params = _params(plan).items()
    store.log_params(
        parent.run_id, {key: value for key, value in params if key not in parent.params}
    )
    _upload_text(store, parent, PLAN_FILE, text, "plan_digest")
    note = description(plan, _page_of(parent) if REPORT_DIGEST in parent.tags else "")
    if parent.tags.get(NOTE) != note:
        store.set_tags(parent.run_id, {NOTE: note})
    return parent


def _page_of(parent: StoredRun) -> str:
    """Returns where the tracker shows the report's page.

    The address is relative, so that it holds for any address and port under which the UI runs.
    """
    return f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}/artifacts/{PAGE}"


def _params(plan: SweepPlan) -> dict[str, Any]:
    """Returns what never changes while the sweep goes on: params of a run are constant."""
    values = plan.to_dict()
    names = ("ablation", "metric", "dataset", "recipe", "seeds")
    params = {key: values[key] for key in names if key in values}
    if not plan.is_search:
        return params | {f"axis.{axis.key}": json.dumps(list(axis.values)) for axis in plan.axes}
    for key in ("objectives", "sampler", "pruner"):
        if key in values:
            params[key] = json.dumps(values[key])
    for parameter in values.get("space", ()):
        scale = ":log" if parameter.get("log") else ""
        ends = f"{parameter.get('low')}:{parameter.get('high')}{scale}"
        choices = parameter.get("choices")
        params[f"space.{parameter['key']}"] = json.dumps(choices) if choices else ends
    return params


def _upload_text(store: Store, parent: StoredRun, name: str, text: str, tag: str) -> None:
    """Stores a text if it differs from the last one; the tag with its digest is set afterwards."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if parent.tags.get(tag) != digest:
        store.upload_text(parent.run_id, text, name)
        store.set_tags(parent.run_id, {tag: digest})


def _finish(
    store: Store,
    plan: SweepPlan,
    runtime: RuntimeConfig,
    points: Sequence[PointSummary],
    final: bool,
) -> None:
    parent = _parent(store, plan, runtime)
    last = dict(parent.metrics)
    news = []
    for point in aggregates(plan, points):
        if is_news(point, last.get(point.key)):
            news.append(point)
            last[point.key] = point
    for _ in store.log_points(parent.run_id, news):
        store.heartbeat()
    if final:
        _update_children(store, plan, runtime, points)
    _add_shared(store, plan, runtime, points, parent)
    states = {point.fingerprint: point.state for point in points if point.state in ENDED_EARLY}
    if states or "states_digest" in parent.tags:
        _upload_text(store, parent, STATES, json.dumps(states, indent=1), "states_digest")
    state = _sweep_state(points) if final else RunState.RUNNING
    tags = {"best_cell": json.dumps(best_cell(plan, points)), "state": str(state)}
    changed = {key: value for key, value in tags.items() if parent.tags.get(key) != value}
    store.set_tags(parent.run_id, changed)
    status = MLFLOW_STATUS.get(state, "RUNNING")
    if status != parent.status:
        ends = [point.finished_at for point in points if point.finished_at]
        store.set_status(parent.run_id, status, int(max(ends or [time.time()]) * 1000))


def _update_children(
    store: Store, plan: SweepPlan, runtime: RuntimeConfig, points: Sequence[PointSummary]
) -> None:
    """Mirrors children that are shown in another state than they ended in.

    Their job ended without telling the tracker.
    """
    ended = {point.fingerprint: point.state for point in points if point.state in MLFLOW_STATUS}
    for child in store.find({"sweep_id": plan.sweep_id, "role": "experiment"}):
        fingerprint = child.tags["run_key"]
        if ended.get(fingerprint, child.tags.get("state")) != child.tags.get("state"):
            run_dir = Path(runtime.root) / fingerprint[:12]
            for text in sync_run(run_dir, runtime, store).warnings:
                log.warning("%s", text)
            store.heartbeat()


def _add_shared(
    store: Store,
    plan: SweepPlan,
    runtime: RuntimeConfig,
    points: Sequence[PointSummary],
    parent: StoredRun,
) -> None:
    """Gives the parent a child for each finished point that is tracked as another sweep's run."""
    children = store.find({"sweep_id": plan.sweep_id}, parent.experiment_id or None)
    known = {run.tags.get("run_key") or run.tags.get("shared_key") for run in children}
    cells = {planned.fingerprint: planned.cell for planned in plan.points}
    for point in points:
        if point.state != RunState.FINISHED or point.fingerprint in known:
            continue
        if not store.find({"run_key": point.fingerprint}):
            continue  # its own mirror comes first, and may make it a child
        run_dir = Path(runtime.root) / point.fingerprint[:12]
        mirror = Mirror(
            run_dir,
            runtime,
            heartbeat=store.heartbeat,
            shared_by=sweep_tags(plan.sweep_id, plan.ablation, cells[point.fingerprint]),
            parent=parent.run_id,
        )
        try:
            warnings = mirror.sync().warnings
        except (UserError, OSError) as error:
            warnings = (str(error),)
        for text in warnings:
            log.warning("%s", text)


def _summary(run_dir: Path, fingerprint: str, plan: SweepPlan) -> PointSummary:
    try:
        status = run_status(run_dir, abandoned=True)
    except DamagedFile as error:
        log.warning("%s", error)
        return PointSummary(fingerprint, RunState.STOPPED)
    cpu, gpu = status.cpu_hours, status.gpu_hours
    if status.state != RunState.FINISHED or not (run_dir / RESULTS_FILE).exists():
        return PointSummary(fingerprint, status.state, cpu_hours=cpu, gpu_hours=gpu)
    value = _value(run_dir, plan.metric)
    at = status.updated if value is not None else 0.0
    values = tuple(_value(run_dir, objective.metric) for objective in plan.objectives)
    return PointSummary(fingerprint, RunState.FINISHED, value, at, cpu, gpu, values)


def _value(run_dir: Path, metric: str) -> float | None:
    found = read_metric(run_dir, metric)
    return None if found is None else found[0]


def _sweep_state(summaries: Sequence[PointSummary]) -> RunState:
    states = {summary.state for summary in summaries}
    if states <= {RunState.FINISHED, RunState.PRUNED}:
        return RunState.FINISHED
    return RunState.FAILED if RunState.FAILED in states else RunState.STOPPED
