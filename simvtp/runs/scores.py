"""Reads one metric of a run by its name: for sweeps, searches and pruners.

    test/finetuned/t2v/R1            a result: `<Result.key>/<metric>`, from results.json
    val/t2v/R1                       of the fine-tuning step that was selected, from the journal
    cost/gpu_hours, cost/cpu_hours   over all stages and all attempts of the run, from status.json

Only the run directory is read, without torch, so that it is cheap to ask often.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

from simvtp.runs.atomic_files import read_json_or_none
from simvtp.runs.metric_names import MetricName
from simvtp.runs.results import Result
from simvtp.runs.run_records import STATUS_FILE

# retrieval selects its step by this metric: the first one with the highest value
SELECTION_METRIC = "val/mean_recall"
COSTS = ("cost/gpu_hours", "cost/cpu_hours")


def read_metric(run_dir: Path, metric: str) -> tuple[float, float] | None:
    """Returns (value, chance level) of a metric; None if the run has not measured it.

    The chance level is NaN where it is not known.
    """
    name = MetricName.parse(metric)
    if metric in COSTS:
        value = (read_json_or_none(run_dir / STATUS_FILE, dict) or {}).get(name.metric)
        return None if value is None else (float(value), math.nan)
    found = _result(run_dir, name)
    if found is None and name.split == "val":
        return _selected(run_dir, metric)
    return found


def read_curve(run_dir: Path, metric: str) -> list[tuple[int, float]]:
    """Returns (step, value) of a metric that is written during training, by step.

    Steps of one stage only: a metric that several stages write, such as a loss, is not a curve.
    """
    return [(step, metrics[metric]) for step, metrics in _evaluations(run_dir, metric)]


def read_results_or_none(run_dir: Path) -> list[Result] | None:
    """Returns the results of a run; None if results.json is missing or damaged."""
    records = read_json_or_none(run_dir / "results.json", list)
    try:
        return None if records is None else [Result.from_dict(values) for values in records]
    except (KeyError, TypeError, AttributeError):  # of another version: not measured either
        return None


def _result(run_dir: Path, name: MetricName) -> tuple[float, float] | None:
    for result in read_results_or_none(run_dir) or ():
        if result.key == name.key and name.metric in result.metrics:
            chance = result.chance.get(name.metric, math.nan)
            return float(result.metrics[name.metric]), float(chance)
    return None


def _selected(run_dir: Path, metric: str) -> tuple[float, float] | None:
    evaluations = _evaluations(run_dir, metric)
    # the end of the fine-tuning names the selected step, whatever the task
    ended = read_json_or_none(run_dir / "checkpoints" / "finetune.json", dict) or {}
    found = dict(evaluations).get(int(ended.get("selected_step") or 0))
    if found is not None:
        return found[metric], math.nan
    scored = [metrics for _, metrics in evaluations if SELECTION_METRIC in metrics]
    if not scored:
        return None
    first = _first_highest([metrics[SELECTION_METRIC] for metrics in scored])
    return scored[first][metric], math.nan


def _first_highest(values: list[float]) -> int:
    return max(range(len(values)), key=lambda number: (values[number], -number))


def _evaluations(run_dir: Path, metric: str) -> list[tuple[int, dict[str, float]]]:
    """Returns (step, all metrics) of the complete journal lines that hold `metric`, by step."""
    needle, found = json.dumps(metric).encode(), {}
    try:
        with open(run_dir / "journal.jsonl", "rb") as file:
            for raw in file:
                # most lines are no evaluations: not worth parsing
                if needle not in raw or not raw.endswith(b"\n"):
                    continue
                with contextlib.suppress(ValueError):  # a damaged line: the doctor reports it
                    line = json.loads(raw)
                    if line.get("kind") == "metrics" and metric in line["metrics"]:
                        found[int(line["step"])] = line["metrics"]
    except OSError:
        return []
    return sorted(found.items())
