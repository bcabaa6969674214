"""The provenance file: for each cell of the table what was measured, by which runs, from which
code, on what and at which cost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from reports.statistics.comparisons import as_numbers, baseline_of, compare
from reports.statistics.seed_statistics import is_number
from reports.study.collect import Aside, Run, Study, protocol_text
from reports.study.report_plan import SEARCH, Values

NAME = "provenance.json"


def record(study: Study, verdict: Sequence[str], figures: Sequence[str] = ()) -> dict[str, Any]:
    """All of it as plain JSON values. No time and no place of building: the same runs give the same
    file.

    `figures`: names of the figures' files beside it.
    """
    plan = study.plan
    baseline = None if plan.kind == SEARCH else baseline_of(study)
    return {
        "sweep_id": plan.sweep_id,
        "ablation": plan.ablation,
        "title": plan.title,
        "question": plan.question,
        "verdict": list(verdict),
        "dataset": plan.dataset,
        "recipe": plan.recipe,
        "metric": plan.metric,
        **_search(study),
        "seeds": list(plan.seeds),
        "published_optimum": _cell(study, plan.published_optimum)
        if plan.published_optimum
        else None,
        "protocols": {key: _protocol(study, key) for key in study.keys},
        "planned_points": len(plan.points),
        "states": study.states,
        "baseline": _cell(study, baseline) if baseline else None,
        "comparisons": [
            {"cell": _cell(study, one.cell), **as_numbers(one)} for one in compare(study)
        ],
        "cells": [_cell_record(study, cell) for cell in plan.cells],
        "cost": cost(study.runs),
        "not_in_the_table_or_with_reservation": [_aside(study, aside) for aside in study.asides],
        "notices": list(study.notices),
        "figures": list(figures),
    }


def to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def cost(runs: Sequence[Run]) -> dict[str, float]:
    """Hours over all restarts of these runs."""
    return {
        "cpu_hours": round(sum(run.cpu_hours for run in runs), 4),
        "gpu_hours": round(sum(run.gpu_hours for run in runs), 4),
    }


def _search(study: Study) -> dict[str, Any]:
    """How the points of a search were chosen; nothing for a grid."""
    plan = study.plan
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


def _cell(study: Study, cell: Values) -> dict[str, Any]:
    return {axis.key: value for axis, value in zip(study.plan.axes, cell, strict=True)}


def _protocol(study: Study, key: str) -> dict[str, Any]:
    result = study.example(key)
    assert result is not None, "keys are those of measured results"
    fields = {
        name: value
        for name, value in dataclasses.asdict(result.protocol).items()
        if name not in ("seed", "checkpoint")
    }
    return fields | {
        "queries": result.queries,
        "gallery": result.gallery,
        "chance": result.chance,
        "text": protocol_text(result),
    }


def _cell_record(study: Study, cell: Values) -> dict[str, Any]:
    key, name = study.plan.column
    summary = study.summary(cell, key, name)
    return {
        "cell": _cell(study, cell),
        "text": study.plan.describe(cell),
        "mean": summary.mean if summary else None,
        "std": summary.std if summary else None,
        "interval": list(summary.interval) if summary and summary.interval else None,
        "n": summary.n if summary else 0,
        "planned": study.planned(cell),
        "values": {str(seed): value for seed, value in study.values(cell, key, name).items()},
        "cost": cost(study.by_cell[cell]),
        "runs": [_run(study, run) for run in study.by_cell[cell]],
    }


def _run(study: Study, run: Run) -> dict[str, Any]:
    cell, seed = run.point.cell, run.point.seed
    results = {}
    for key, result in run.results.items():
        figures = {
            name: study.values(cell, key, name).get(seed) for name in result.metrics
        }  # None = no number
        results[key] = {"metrics": figures, "checkpoint": result.protocol.checkpoint}
        if result.baselines:
            numbers = {
                name: {k: v if is_number(v) else None for k, v in values.items()}
                for name, values in result.baselines.items()
            }
            results[key]["baselines"] = numbers
    return {
        "run_id": run.run_id,
        "seed": seed,
        "fingerprint": run.point.fingerprint,
        "cell_fingerprint": run.point.cell_fingerprint,
        "commit": run.commit,
        "dirty": run.dirty,
        "hardware": run.hardware,
        **cost([run]),
        "scores": {name: value if is_number(value) else None for name, value in run.scores.items()},
        "results": results,
    }


def _aside(study: Study, aside: Aside) -> dict[str, Any]:
    return {
        "cell": _cell(study, aside.point.cell),
        "seed": aside.point.seed,
        "fingerprint": aside.point.fingerprint,
        "run_id": aside.run_id,
        "state": aside.state,
        "remark": aside.remark,
    }
