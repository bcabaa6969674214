"""Made-up searches: the plan as ablations/search.py writes it, and its trials."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from reports.kinds.registry import report_type_of
from reports.study.collect import gather
from reports.study.sweep_results import SweepResults
from tests.reports.made_up import VIDEO, all_results, digest, plan, run

RATE, DEPTH, TARGET = "pretrain.lr", "model.decoder_depth", "losses.mvm_target"
VAL, HOURS = "val/t2v/R1", "cost/cpu_hours"
SPACE = [
    {
        "key": VIDEO,
        "label": "video mask ratio",
        "kind": "float",
        "low": 0.5,
        "high": 0.95,
        "log": False,
        "choices": None,
    },
    {
        "key": RATE,
        "label": "learning rate",
        "kind": "float",
        "low": 1e-5,
        "high": 1e-2,
        "log": True,
        "choices": None,
    },
    {
        "key": DEPTH,
        "label": "decoder depth",
        "kind": "int",
        "low": 1,
        "high": 4,
        "log": False,
        "choices": None,
    },
    {
        "key": TARGET,
        "label": "MVM target",
        "kind": "choice",
        "low": None,
        "high": None,
        "log": False,
        "choices": ["pixels", "normed"],
    },
]
QUALITY = {"metric": VAL, "label": "val R@1 (%)", "direction": "maximize"}
COST = {"metric": HOURS, "label": "CPU-hours", "direction": "minimize"}


def search_cells(count: int) -> list[dict[str, Any]]:
    """Settings all over the space, the same each time."""
    shares = [
        [int(digest(number, key)[:6], 16) / 16**6 for key in (VIDEO, RATE, DEPTH, TARGET)]
        for number in range(count)
    ]
    return [
        {
            VIDEO: round(0.5 + 0.45 * a, 3),
            RATE: float(f"{10 ** (-5 + 3 * b):.3g}"),
            DEPTH: 1 + int(4 * c),
            TARGET: ("pixels", "normed")[d > 0.5],
        }
        for a, b, c, d in shares
    ]


def search_plan(
    cells: Sequence[dict[str, Any]],
    *,
    objectives: Sequence[dict[str, str]] = (QUALITY,),
    **changes: Any,
) -> dict[str, Any]:
    """The plan.json of a search that has asked for these trials."""
    axes = [
        {
            "key": p["key"],
            "label": p["label"],
            "values": list(dict.fromkeys(cell[p["key"]] for cell in cells)),
        }
        for p in SPACE
    ]
    made = plan(axes=axes, cells=cells, published_optimum=None)
    made |= {
        "kind": "search",
        "sweep_id": "search-0123abcd",
        "ablation": "search",
        "title": "Search",
        "question": "Which settings?",
        "metric": VAL,
        "metric_label": "val R@1 (%)",
        "space": SPACE,
        "objectives": list(objectives),
        "trials": len(cells),
        "sampler": {"name": "tpe", "seed": 0, "startup": 10},
        "pruner": {"name": "none", "evaluations": 0},
    }
    del made["paper_says"]
    return made | changes


def search_results(
    made: dict[str, Any], value: Callable[[dict[str, Any], int], tuple[float, float] | str]
) -> SweepResults:
    """Makes a search; `value(cell, number)`: (val R@1, hours) of a finished trial, or its state."""
    runs = []
    for number, point in enumerate(made["points"]):
        found = value(point["cell"], number)
        if isinstance(found, str):
            runs.append(
                run(
                    point,
                    state=found,
                    metrics={VAL: 98.7654, HOURS: 0.0},
                    message=f"{found} at step 7",
                )
            )
        else:
            quality, hours = found
            runs.append(
                run(
                    point,
                    *all_results(quality * 0.9),
                    metrics={VAL: quality, HOURS: hours},
                    hours=hours,
                )
            )
    return gather(made, runs, report_type_of(made).make_axis)


def bumpy(cell: dict[str, Any], number: int) -> tuple[float, float] | str:
    """Returns a value with a bump at ratio 0.85 and rate 1e-3; some trials have none."""
    if number % 9 == 5:
        return "pruned"
    if number % 23 == 7:
        return "failed"
    quality = (
        14
        - 40 * (cell[VIDEO] - 0.85) ** 2
        - 1.5 * (math.log10(cell[RATE]) + 3) ** 2
        + cell[DEPTH] * 0.7
        + (cell[TARGET] == "normed")
    )
    return max(quality, 0.5), 0.05 * cell[DEPTH] ** 1.5 * (0.8 + 1.6 * (1 - cell[VIDEO]))
