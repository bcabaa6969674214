"""Reads the results of a sweep back from the provenance file of its report.

So a committed study is analysed and drawn again without the tracker and the run directories. Files
from before the plan was stored in them have no labels of axes, which are then read off the names of
the cells, no samples, sizes and curves, and one protocol for rows that were tested with different
frames. No file has the values of test items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.output.metric_formats import metric_of
from reports.study.report_plan import SEARCH, MakeAxis, ReportError, StudyPlan, hashable
from reports.study.study_provenance import NAME
from reports.study.sweep_results import ExcludedRun, MeasuredRun, SweepResults
from simvtp.errors import DamagedFile
from simvtp.runs.atomic_files import read_json
from simvtp.runs.metric_names import MetricName
from simvtp.runs.results import Protocol, Result, direction_name

PLAN_KEYS = ("sweep_id", "ablation", "title", "question", "dataset", "recipe", "seeds", "metric")


def read_record(path: Path) -> dict[str, Any]:
    """Returns the content of a provenance file.

    Raises:
        ReportError: there is no such file, or it is none of a grid's report.
    """
    file = path / NAME if path.is_dir() else path
    try:
        record: Any = read_json(file)
    except (OSError, DamagedFile) as error:
        raise ReportError(f"{file} cannot be read: {error}") from None
    if not isinstance(record, dict) or not {*PLAN_KEYS, "cells", "protocols"} <= set(record):
        raise ReportError(
            f"{file} is no provenance file of a report: name a {NAME} that reports/build.py wrote, "
            "or its folder."
        )
    if record.get("kind") == SEARCH:
        raise ReportError(
            f"{file} is of a search, whose file does not hold the course of its trials: "
            "build its report from the tracker."
        )
    return record


def is_report(path: Path) -> bool:
    """Returns True for the provenance file of a grid's report, False for those of single runs.

    Files of searches do not hold the course of their trials: False as well.

    Raises:
        OSError, DamagedFile: the file cannot be read.
    """
    values: Any = read_json(path)
    return isinstance(values, dict) and "ablation" in values and values.get("kind") != SEARCH


def stored_study(record: Mapping[str, Any], make_axis: MakeAxis | None = None) -> SweepResults:
    """Returns the results that a provenance file holds.

    Args:
        record: its content.
        make_axis: makes the axes of this kind of sweep; default: those of a grid.
    """
    plan = StudyPlan.from_dict(plan_of(record), make_axis)
    by_fingerprint = {point.fingerprint: point for point in plan.points}
    runs = [
        _measured(record, run, by_fingerprint) for cell in record["cells"] for run in cell["runs"]
    ]
    excluded = [
        ExcludedRun(by_fingerprint[e["fingerprint"]], e["run_id"], e["state"], e["remark"])
        for e in record["not_in_the_table_or_with_reservation"]
    ]
    return SweepResults(plan, tuple(runs), tuple(excluded), tuple(record["notices"]))


def plan_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the plan, as plan.json has it."""
    excluded = record["not_in_the_table_or_with_reservation"]
    points = [
        {name: one[name] for name in ("seed", "fingerprint", "cell_fingerprint")}
        | {"cell": cell["cell"]}
        for cell in record["cells"]
        for one in cell["runs"]
    ]
    known = {point["fingerprint"] for point in points}
    for one in excluded:
        if one["fingerprint"] not in known:
            known.add(one["fingerprint"])
            points.append({"cell": one["cell"], "seed": one["seed"]} | _names(one["fingerprint"]))
    optional = ("kind", "controls", "paper_says", "until_decided")
    return {
        **{name: record[name] for name in PLAN_KEYS},
        **{name: record[name] for name in optional if name in record},
        "published_optimum": record["published_optimum"],
        "baseline": record["baseline"],
        "metric_label": record.get("metric_label") or _metric_label(record["metric"]),
        "axes": record.get("axes") or _axes(record["cells"]),
        "points": points,
    }


def _names(fingerprint: str) -> dict[str, str]:
    return {"fingerprint": fingerprint, "cell_fingerprint": ""}


def _metric_label(metric: str) -> str:
    name = MetricName.parse(metric)
    found = metric_of(name.metric)
    unit = f" ({found.unit})" if found.unit == "%" else ""
    return f"{direction_name(name.direction).replace(' ', '-')} {found.label}{unit}"


def _axes(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the axes of a file that has none; labels are the names of cells without values."""
    keys = list(cells[0]["cell"])
    words = cells[0]["text"].split(", ") if len(keys) > 1 else [cells[0]["text"]]
    axes = []
    for key, text in zip(keys, words, strict=True):
        values = list(dict.fromkeys(hashable(cell["cell"][key]) for cell in cells))
        axes.append({"key": key, "label": _label(text, values[0]), "values": values})
    return axes


def _label(text: str, value: Any) -> str:
    """Returns `video mask ratio` of `video mask ratio 0.50`."""
    if isinstance(value, str):
        return text.removesuffix(value).strip()
    return text.removesuffix("%").strip().rpartition(" ")[0]


def _measured(
    record: Mapping[str, Any], run: Mapping[str, Any], points: Mapping[str, Any]
) -> MeasuredRun:
    results = {
        key: _result(record["protocols"][key], found, run["seed"])
        for key, found in run["results"].items()
    }
    return MeasuredRun(
        point=points[run["fingerprint"]],
        run_id=run["run_id"],
        results=results,
        commit=run["commit"],
        dirty=run["dirty"],
        hardware=run["hardware"],
        cpu_hours=run["cpu_hours"],
        gpu_hours=run["gpu_hours"],
        scores={name: value for name, value in run["scores"].items() if value is not None},
        samples=run.get("samples", {}),
        parameters=run.get("parameters"),
        forward_flops=run.get("forward_flops"),
        steps=run.get("steps", {}),
        curves={
            name: tuple(zip(curve["steps"], curve["values"], strict=True))
            for name, curve in run.get("curves", {}).items()
        },
    )


def _result(protocol: Mapping[str, Any], found: Mapping[str, Any], seed: int) -> Result:
    """Returns a result; metrics that were not finite are left out."""
    fields = {name: protocol[name] for name in Protocol.__dataclass_fields__ if name in protocol}
    fields |= found.get("protocol", {})
    how = Protocol(**fields, seed=seed, checkpoint=found["checkpoint"])
    intervals = {name: tuple(ends) for name, ends in found.get("intervals", {}).items()}
    return Result(
        protocol=how,
        metrics={name: value for name, value in found["metrics"].items() if value is not None},
        chance=protocol["chance"],
        queries=protocol["queries"],
        gallery=protocol["gallery"],
        baselines=found.get("baselines", {}),
        intervals=intervals,
    )
