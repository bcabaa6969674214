"""The parent run of a sweep: found again by its sweep_id, with figures of the whole sweep so that
its charts are not empty.
"""

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
from simvtp.runs.atomic_files import read_json
from simvtp.runs.scores import read_metric
from simvtp.tracking.address import resolve_uri
from simvtp.tracking.aggregates import SEARCH, PointSummary, aggregates, best_cell
from simvtp.tracking.background import patiently
from simvtp.tracking.mirror import Mirror, SyncReport
from simvtp.tracking.store import Store, StoredRun, is_news
from simvtp.tracking.tracked_state import ENDED_EARLY, run_status

log = logging.getLogger(__name__)

NOTE = "mlflow.note.content"  # the tag that the tracker's page shows as description
STATES = "states.json"  # artifact of the parent: what became of points that have no figure
PAGE = "report/index.html"  # artifact of the parent: the page of its report
REPORT_DIGEST = "report_digest"  # tag of a parent that has this page


def start_sweep(plan: Mapping[str, Any], runtime: RuntimeConfig) -> str | None:
    """Create the parent run, or find it again by its sweep_id; returns its id. None if tracking is
    off or, with a warning, fails.

    A server that does not answer costs seconds: see `patiently`.
    """
    uri = resolve_uri(runtime)
    if uri is None:
        return None
    try:
        store = Store(uri)
        return patiently(store, lambda: _parent(store, plan, runtime).run_id)
    except UserError as error:
        log.warning("the sweep %s starts without the tracker: %s", plan["sweep_id"], error)
        return None


def finish_sweep(
    plan: Mapping[str, Any],
    runtime: RuntimeConfig,
    summaries: Iterable[PointSummary] | None = None,
    *,
    final: bool = True,
) -> None:
    """Log what the sweep has shown so far to its parent run; may be called after each point
    (`final=False`) and at the end.

    `summaries` default to what the run directories say. The parent ends as FINISHED if all points
    did (a pruned point of a search is done), FAILED if one failed, else KILLED (it goes on when the
    sweep is started again). At the end, children whose job went away without a word get the state
    that their run directory has. Calling it again with the same state adds nothing. An unreachable
    tracker costs a warning.
    """
    uri = resolve_uri(runtime)
    if uri is None:
        return
    points = list(summarise(plan, Path(runtime.root)) if summaries is None else summaries)
    try:
        store = Store(uri)
        patiently(store, lambda: _finish(store, plan, runtime, points, final))
    except UserError as error:
        log.warning("the figures of the sweep %s are not tracked: %s", plan["sweep_id"], error)


def log_report(uri: str, run_id: str, plan: Mapping[str, Any], page: str) -> None:
    """Put the page of a report to the parent run of its sweep, and a link to it into the
    description.

    `page` is HTML that loads nothing and links to nothing: the tracker shows it in a frame that
    cannot leave it.

    A page that is there already is not stored again. Raises TrackerError if the tracker cannot be
    reached or refuses.
    """
    store = Store(uri, create=False)
    digest = hashlib.sha256(page.encode()).hexdigest()

    def put() -> None:
        parent = next(
            run
            for run in store.find({"sweep_id": plan["sweep_id"], "role": "sweep"})
            if run.run_id == run_id
        )
        if parent.tags.get(REPORT_DIGEST) != digest:
            store.upload_text(run_id, page, PAGE)
            store.set_tags(
                run_id, {REPORT_DIGEST: digest, NOTE: description(plan, _page_of(parent))}
            )

    patiently(store, put)


def summarise(plan: Mapping[str, Any], root: Path) -> list[PointSummary]:
    """The state of each planned point, from the run directories under `root`."""
    return [
        _summary(root / point["fingerprint"][:12], point["fingerprint"], plan)
        for point in plan["points"]
    ]


def sync_all(root: Path, uri: str | None = None) -> list[SyncReport]:
    """Replay all run directories and sweeps under `root`; raises TrackerError if the tracker cannot
    be reached.

    The tracker is `uri`, else what each run was told (`runtime.tracking_uri`), else
    $MLFLOW_TRACKING_URI or sqlite under `root`.
    """
    root = Path(root)
    plans = [read_json(path) for path in sorted(root.glob("sweeps/*/plan.json"))]
    run_dirs = sorted(path.parent for path in root.glob("*/experiment.json"))
    runtimes = {run_dir: _runtime(run_dir, root, uri) for run_dir in run_dirs}
    for address in {resolve_uri(runtime) for runtime in runtimes.values()}:
        if address is not None:
            Store(address)
    tracked_plans = [
        (plan, runtime) for plan in plans if (runtime := _first_runtime(plan, runtimes))
    ]
    for plan, runtime in tracked_plans:
        start_sweep(plan, runtime)
    reports = [_sync_one(run_dir, runtime) for run_dir, runtime in runtimes.items()]
    for plan, runtime in tracked_plans:
        summaries = summarise(plan, root)
        finish_sweep(plan, runtime, summaries, final=all(s.state != "running" for s in summaries))
    return reports


def _sync_one(run_dir: Path, runtime: RuntimeConfig, store: Store | None = None) -> SyncReport:
    try:
        return Mirror(
            run_dir, runtime, beat=store.beat if store else lambda: None, abandoned=True
        ).sync()
    except UserError as error:  # one damaged directory must not keep the others from being replayed
        return SyncReport(run_dir, warnings=(str(error),))


def _first_runtime(
    plan: Mapping[str, Any], runtimes: Mapping[Path, RuntimeConfig]
) -> RuntimeConfig | None:
    """The settings of the sweep's first point that has a run directory."""
    by_name = {run_dir.name: runtime for run_dir, runtime in runtimes.items()}
    return next(
        (
            by_name[name]
            for point in plan["points"]
            if (name := point["fingerprint"][:12]) in by_name
        ),
        None,
    )


def _runtime(run_dir: Path, root: Path, uri: str | None) -> RuntimeConfig:
    try:
        stored = read_json(run_dir / "experiment.json")["experiment"]["runtime"]
    except (DamagedFile, KeyError, TypeError):
        stored = {}  # `Mirror` says what is wrong with the file
    named = stored.get("tracking_uri", "")
    experiment = stored.get("tracking_experiment", RuntimeConfig.tracking_experiment)
    return RuntimeConfig(
        root=str(root),
        tracking_uri=uri or ("" if named == "off" else named),
        tracking_experiment=experiment,
    )


def _parent(store: Store, plan: Mapping[str, Any], runtime: RuntimeConfig) -> StoredRun:
    experiment_id = store.experiment(runtime.tracking_experiment)
    text = json.dumps(plan, indent=1)
    found = store.find({"sweep_id": plan["sweep_id"], "role": "sweep"}, experiment_id)
    if found:
        parent = found[0]
    else:
        tags = {
            "sweep_id": plan["sweep_id"],
            "role": "sweep",
            "ablation": plan["ablation"],
            "state": "running",
        }
        parent = store.create(
            experiment_id, f"sweep {plan['sweep_id']}", int(time.time() * 1000), tags
        )
    params = _params(plan)
    store.log_params(
        parent.run_id, {key: value for key, value in params.items() if key not in parent.params}
    )
    _upload_text(store, parent, "plan.json", text, "plan_digest")
    note = description(plan, _page_of(parent) if REPORT_DIGEST in parent.tags else "")
    if parent.tags.get(NOTE) != note:
        store.set_tags(parent.run_id, {NOTE: note})
    return parent


def description(plan: Mapping[str, Any], page: str = "") -> str:
    """What the tracker's page of a sweep says above its charts (Markdown): the question, the paper,
    how to compare, where the report is.

    `page`: address of the report within the tracker's pages, once it is there. A browser follows no
    link from them to a file on disk.
    """
    axes = "; ".join(
        f"{axis['label']} ({', '.join(map(str, axis['values']))})" for axis in plan["axes"]
    )
    build = f"python reports/build.py {plan['ablation']} --sweep {plan['sweep_id']}"
    link = (
        f"**[Report]({page})** · " if page else ""
    )  # first of all: only the first lines can be clicked before "Show more"
    told = [
        link + f"**{plan.get('title', plan['ablation'])}**: {plan.get('question', '')}".strip(": "),
        f"Paper: {plan['paper_says']}" if plan.get("paper_says") else "",
        f"Varied: {axes}." if axes else "",
        f"Compared by `{plan['metric']}` ({plan.get('metric_label', '')}).",
        f"Runs of one cell share the tag `cell_fingerprint`; each axis is a tag `cell.NAME`; filter: `tags.sweep_id = '{plan['sweep_id']}'`.",
        f"The report with its tables, figures and provenance: `reports/out/{plan['ablation']}/index.html`, written by `{build}`.",
    ]
    return "\n\n".join(filter(None, told))


def _page_of(parent: StoredRun) -> str:
    """Where the tracker shows the report's page: relative, so that it holds for any address and
    port under which the UI runs.
    """
    return f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}/artifacts/{PAGE}"


def _params(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What does not change while the sweep goes on: params of a run cannot be changed."""
    params = {
        key: plan[key]
        for key in ("ablation", "metric", "dataset", "recipe", "seeds")
        if key in plan
    }
    if plan.get("kind") != SEARCH:
        return params | {f"axis.{axis['key']}": json.dumps(axis["values"]) for axis in plan["axes"]}
    params |= {
        key: json.dumps(plan[key]) for key in ("objectives", "sampler", "pruner") if key in plan
    }
    for parameter in plan.get("space", ()):
        scale = ":log" if parameter.get("log") else ""
        ends = f"{parameter.get('low')}:{parameter.get('high')}{scale}"
        params[f"space.{parameter['key']}"] = (
            json.dumps(parameter["choices"]) if parameter.get("choices") else ends
        )
    return params


def _upload_text(store: Store, parent: StoredRun, name: str, text: str, tag: str) -> None:
    """Upload if it differs from what was uploaded last; the tag with its digest is set afterwards."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if parent.tags.get(tag) != digest:
        store.upload_text(parent.run_id, text, name)
        store.set_tags(parent.run_id, {tag: digest})


def _finish(
    store: Store,
    plan: Mapping[str, Any],
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
        store.beat()
    if final:
        _settle(store, plan, runtime, points)
    states = {point.fingerprint: point.state for point in points if point.state in ENDED_EARLY}
    if states or "states_digest" in parent.tags:
        _upload_text(store, parent, STATES, json.dumps(states, indent=1), "states_digest")
    tags = {
        "best_cell": json.dumps(best_cell(plan, points)),
        "state": _state(points) if final else "running",
    }
    store.set_tags(
        parent.run_id, {key: value for key, value in tags.items() if parent.tags.get(key) != value}
    )
    status = (
        {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[_state(points)]
        if final
        else "RUNNING"
    )
    if status != parent.status:
        store.set_status(
            parent.run_id,
            status,
            int(max([p.finished_at for p in points if p.finished_at] or [time.time()]) * 1000),
        )


def _settle(
    store: Store, plan: Mapping[str, Any], runtime: RuntimeConfig, points: Sequence[PointSummary]
) -> None:
    """Bring children up to date that are shown in another state than they ended in: their job could
    not tell the tracker.
    """
    ended = {
        point.fingerprint: point.state
        for point in points
        if point.state in (*ENDED_EARLY, "finished", "failed", "stopped")
    }
    for child in store.find({"sweep_id": plan["sweep_id"], "role": "experiment"}):
        fingerprint = child.tags["run_key"]
        if ended.get(fingerprint, child.tags.get("state")) != child.tags.get("state"):
            run_dir = Path(runtime.root) / fingerprint[:12]
            for text in _sync_one(run_dir, runtime, store).warnings:
                log.warning("%s", text)
            store.beat()


def _summary(run_dir: Path, fingerprint: str, plan: Mapping[str, Any]) -> PointSummary:
    status = run_status(run_dir, abandoned=True)
    cpu, gpu = (float(status.get(name) or 0.0) for name in ("cpu_hours", "gpu_hours"))
    if status["state"] != "finished" or not (run_dir / "results.json").exists():
        return PointSummary(fingerprint, status["state"], cpu_hours=cpu, gpu_hours=gpu)
    value = _value(run_dir, plan["metric"])
    at = float(status.get("updated") or 0.0) if value is not None else 0.0
    values = tuple(_value(run_dir, objective["metric"]) for objective in plan.get("objectives", ()))
    return PointSummary(fingerprint, "finished", value, at, cpu, gpu, values)


def _value(run_dir: Path, metric: str) -> float | None:
    found = read_metric(run_dir, metric)
    return None if found is None else found[0]


def _state(summaries: Sequence[PointSummary]) -> str:
    states = {summary.state for summary in summaries}
    if states <= {"finished", "pruned"}:
        return "finished"
    return "failed" if "failed" in states else "stopped"
