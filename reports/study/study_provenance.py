"""The provenance file: the values of each cell, and the runs, code, data and cost behind them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from reports.analysis.comparisons import as_numbers, compare
from reports.analysis.seed_statistics import is_number
from reports.analysis.sweep_model import baseline_of
from reports.study.protocols import IGNORED_FIELDS, protocol_text
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import ExcludedRun, MeasuredRun, SweepResults
from simvtp.runs.results import Result

NAME = "provenance.json"
NUMBERS = re.compile(r"\[\s+(?:-?\d[\d.eE+-]*,?\s+)+\]")


def provenance_record(
    sweep: SweepResults, verdict: Sequence[str], figures: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the record as plain JSON values.

    It holds no time and no path of the build: the same runs give the same file.

    Args:
        sweep: the results.
        verdict: sentences of the report.
        figures: names of the figure files of the report.
    """
    plan = sweep.plan
    baseline = None if plan.kind == SEARCH else baseline_of(sweep)
    optimum = plan.published_optimum
    return {
        "sweep_id": plan.sweep_id,
        "ablation": plan.ablation,
        "title": plan.title,
        "question": plan.question,
        "verdict": list(verdict),
        "dataset": plan.dataset,
        "recipe": plan.recipe,
        "metric": plan.metric,
        "metric_label": plan.metric_label,
        "paper_says": plan.paper_says,
        "axes": [
            {"key": axis.key, "label": axis.label, "values": list(axis.values)}
            for axis in plan.axes
        ],
        "controls": list(plan.controls),
        **_search(sweep),
        "seeds": list(plan.seeds),
        "published_optimum": plan.settings(optimum) if optimum else None,
        "protocols": {key: _protocol(sweep, key) for key in sweep.keys},
        "planned_points": len(plan.points),
        "states": sweep.states,
        "baseline": plan.settings(baseline) if baseline else None,
        "comparisons": [
            {"cell": plan.settings(one.cell), **as_numbers(one)} for one in compare(sweep)
        ],
        **({"until_decided": plan.until_decided.to_dict()} if plan.until_decided else {}),
        "cells": [_cell(sweep, cell) for cell in plan.cells],
        "cost": cost(sweep.runs),
        "not_in_the_table_or_with_reservation": [_excluded(sweep, run) for run in sweep.excluded],
        "notices": list(sweep.notices),
        "figures": list(figures),
    }


def to_json(values: dict[str, Any]) -> str:
    """Returns the text of the file, with each list of numbers in one line."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    return NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n"


def cost(runs: Sequence[MeasuredRun]) -> dict[str, float]:
    """Returns the hours of these runs, over all restarts."""
    return {
        "cpu_hours": round(sum(run.cpu_hours for run in runs), 4),
        "gpu_hours": round(sum(run.gpu_hours for run in runs), 4),
    }


def _search(sweep: SweepResults) -> dict[str, Any]:
    """Returns how the points of a search were proposed; nothing for a grid."""
    plan = sweep.plan
    if plan.kind != SEARCH:
        return {}
    directions = {True: "maximize", False: "minimize"}
    objectives = [
        {"metric": o.metric, "label": o.label, "direction": directions[o.maximise]}
        for o in plan.objectives
    ]
    return {
        "kind": SEARCH,
        "objectives": objectives,
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "trials_asked_for": plan.trials,
    }


def _protocol(sweep: SweepResults, key: str) -> dict[str, Any]:
    result = sweep.example(key)
    fields = {
        name: value
        for name, value in dataclasses.asdict(result.protocol).items()
        if name not in IGNORED_FIELDS
    }
    return fields | {
        "queries": result.queries,
        "gallery": result.gallery,
        "chance": result.chance,
        "text": protocol_text(result),
    }


def _cell(sweep: SweepResults, cell: CellValues) -> dict[str, Any]:
    key, name = sweep.plan.column
    summary = sweep.summary(cell, key, name)
    return {
        "cell": sweep.plan.settings(cell),
        "text": sweep.plan.describe(cell),
        "mean": summary.mean if summary else None,
        "std": summary.std if summary else None,
        "interval": list(summary.interval) if summary and summary.interval else None,
        "n": summary.n if summary else 0,
        "planned": sweep.planned(cell),
        "values": {str(seed): value for seed, value in sweep.values(cell, key, name).items()},
        "cost": cost(sweep.by_cell[cell]),
        "runs": [_run(sweep, run) for run in sweep.by_cell[cell]],
    }


def _run(sweep: SweepResults, run: MeasuredRun) -> dict[str, Any]:
    cell, seed = run.point.cell, run.point.seed
    results: dict[str, dict[str, Any]] = {}
    for key, result in run.results.items():
        values = {name: sweep.values(cell, key, name).get(seed) for name in result.metrics}
        results[key] = {"metrics": values, "checkpoint": result.protocol.checkpoint}
        if other := _own_protocol(sweep, key, result):
            results[key]["protocol"] = other
        if result.intervals:
            results[key]["intervals"] = {n: list(ends) for n, ends in result.intervals.items()}
        if result.baselines:
            results[key]["baselines"] = {
                name: {metric: _finite(value) for metric, value in metrics.items()}
                for name, metrics in result.baselines.items()
            }
    return {
        "run_id": run.run_id,
        "seed": seed,
        "fingerprint": run.point.fingerprint,
        "cell_fingerprint": run.point.cell_fingerprint,
        "commit": run.commit,
        "dirty": run.dirty,
        "hardware": run.hardware,
        **cost([run]),
        "samples": dict(run.samples),
        "steps": dict(run.steps),
        "curves": {
            name: {"steps": [s for s, _ in curve], "values": [v for _, v in curve]}
            for name, curve in sorted(run.curves.items())
            if "/val/" in name
        },
        "parameters": run.parameters,
        "forward_flops": run.forward_flops,
        "scores": {name: _finite(value) for name, value in run.scores.items()},
        "results": results,
    }


def _own_protocol(sweep: SweepResults, key: str, result: Result) -> dict[str, Any]:
    """Returns what differs from the protocol of the column: fields that the sweep itself varies."""
    common = vars(sweep.example(key).protocol)
    return {
        name: value
        for name, value in vars(result.protocol).items()
        if name not in IGNORED_FIELDS and value != common[name]
    }


def _finite(value: float) -> float | None:
    return value if is_number(value) else None


def _excluded(sweep: SweepResults, run: ExcludedRun) -> dict[str, Any]:
    return {
        "cell": sweep.plan.settings(run.point.cell),
        "seed": run.point.seed,
        "fingerprint": run.point.fingerprint,
        "run_id": run.run_id,
        "state": run.state,
        "remark": run.remark,
    }
