"""One figure of a run, by its name: what a sweep compares, a search maximises and a pruner looks
at.

    test/finetuned/t2v/R1            a result: `<Result.key>/<metric>`, from results.json
    val/t2v/R1                       of the fine-tuning step that was selected, from the journal
    cost/gpu_hours, cost/cpu_hours   over all stages and all attempts of the run, from status.json

Read from the run directory alone, without torch, so that it may be asked often.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from simvtp.runs.journal import read_json
from simvtp.runs.results import Result

SELECTION_METRIC = (
    "val/mean_recall"  # by which retrieval selects its step: the first one with the highest value
)
COSTS = ("cost/gpu_hours", "cost/cpu_hours")


def read_metric(run_dir: Path, metric: str) -> tuple[float, float] | None:
    """(value, what guessing would give) of a metric; None if the run has not measured it. Guessing
    is NaN where it is not known.
    """
    if metric in COSTS:
        value = _status(run_dir).get(metric.partition("/")[2])
        return None if value is None else (float(value), math.nan)
    found = _result(run_dir, metric)
    if found is None and metric.startswith("val/"):
        return _selected(run_dir, metric)
    return found


def read_curve(run_dir: Path, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric that is written during training, by step; empty if there is none.
    Steps of one stage only: a metric that several stages write, such as a loss, is not a curve."""
    return [(step, metrics[metric]) for step, metrics in _evaluations(run_dir, metric)]


def _result(run_dir: Path, metric: str) -> tuple[float, float] | None:
    key, _, name = metric.rpartition("/")
    try:
        results = [Result.from_dict(values) for values in read_json(run_dir / "results.json")]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # not there, or half of another version: not measured either way
        return None
    for result in results:
        if result.key == key and name in result.metrics:
            return float(result.metrics[name]), float(result.chance.get(name, math.nan))
    return None


def _selected(run_dir: Path, metric: str) -> tuple[float, float] | None:
    evaluations = _evaluations(run_dir, metric)
    try:  # the end of the fine-tuning says which step it was, whatever the task
        step = int(read_json(run_dir / "checkpoints" / "finetune.json")["selected_step"])
    except (OSError, ValueError, KeyError, TypeError):
        step = 0
    found = dict(evaluations).get(step)
    if found is not None:
        return found[metric], math.nan
    scored = [metrics for _, metrics in evaluations if SELECTION_METRIC in metrics]
    if not scored:
        return None
    return scored[_first_highest([metrics[SELECTION_METRIC] for metrics in scored])][
        metric
    ], math.nan


def _first_highest(values: list[float]) -> int:
    return max(range(len(values)), key=lambda number: (values[number], -number))


def _evaluations(run_dir: Path, metric: str) -> list[tuple[int, dict[str, float]]]:
    """(step, all metrics) of the whole journal lines that hold `metric`, by step."""
    needle, found = json.dumps(metric).encode(), {}
    try:
        with open(run_dir / "journal.jsonl", "rb") as file:
            for raw in file:
                if needle not in raw or not raw.endswith(
                    b"\n"
                ):  # most lines are no evaluations: not worth parsing
                    continue
                line = json.loads(raw)
                if line.get("kind") == "metrics" and metric in line["metrics"]:
                    found[int(line["step"])] = line["metrics"]
    except OSError:
        return []
    return sorted(found.items())


def _status(run_dir: Path) -> dict[str, Any]:
    try:
        content = read_json(run_dir / "status.json")
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
