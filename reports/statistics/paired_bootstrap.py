"""Two cells on the same test items: the figure of each item, and a bootstrap over the items.

The figures of the items come from the run directory (`simvtp.evaluation.items`), or, where that is
away, from the ranks and overlaps that the tracked result holds. They are used only if their mean is
the figure that the run reported, and if both cells were tested on the same items: otherwise there
is no paired test, and the table says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reports.statistics.seed_statistics import Difference, paired_bootstrap
from reports.study.collect import Run, Study
from reports.study.report_plan import Values
from simvtp.errors import DataError
from simvtp.evaluation.items import Items, find_items, run_items
from simvtp.runs.results import Result

_CLOSE = 1e-6  # relative; figures are sums of a few thousand numbers


def item_values(run: Run, key: str, metric: str) -> tuple[tuple[str, ...], np.ndarray] | None:
    """(names, values) of the items behind one figure of a run, in their order; None if the run did
    not keep them, or if the figure is not their mean (a median is not)."""
    result = run.results.get(key)
    items = None if result is None else _stored(run, result) or _from_result(result)
    if result is None or items is None:
        return None
    try:
        values = items.outcomes(metric)
    except DataError:
        return None
    spoken = ~np.isnan(values)
    if not spoken.any() or not np.isclose(
        values[spoken].mean(), result.metrics.get(metric, np.nan), rtol=_CLOSE, atol=_CLOSE
    ):
        return None
    return tuple(name for name, there in zip(items.ids, spoken, strict=True) if there), values[
        spoken
    ]


def paired(study: Study, a: Values, b: Values, key: str, metric: str) -> Difference | None:
    """Mean of cell a minus mean of cell b over the test items that both share; None where that
    cannot be had.
    """
    sides = [
        [
            (run, item_values(run, key, metric))
            for run in study.by_cell.get(cell, ())
            if run.results.get(key)
        ]
        for cell in (a, b)
    ]
    if not all(sides) or any(found is None for side in sides for _, found in side):
        return None
    tested = {
        (found[0], run.test_set) for side in sides for run, found in side if found is not None
    }
    if len(tested) != 1:
        return None
    first, second = (
        np.stack([found[1] for _, found in side if found is not None]) for side in sides
    )
    return paired_bootstrap(first, second)


def why_unpaired(study: Study, key: str, metric: str, cells: Sequence[Values]) -> str:
    """Why cells have no paired test, for a note."""
    runs = [run for cell in cells for run in study.by_cell.get(cell, ()) if key in run.results]
    kept = [run for run in runs if item_values(run, key, metric) is not None]
    if len(kept) < len(runs):
        return f"{len(runs) - len(kept)} of {len(runs)} runs kept no figure of each test item that averages to this metric"
    return "the cells were not tested on the same items"


def _stored(run: Run, result: Result) -> Items | None:
    if not run.run_dir or not Path(run.run_dir).is_dir():
        return None
    try:
        return find_items(run_items(Path(run.run_dir)), result.protocol)
    except DataError:  # a damaged file: the tracked ranks are still there
        return None


def _from_result(result: Result) -> Items | None:
    """As if the items had been written: the ranks and overlaps that every result keeps, by number."""
    columns = (
        {"rank": result.ranks}
        if result.ranks
        else {"IoU-top1": result.scores}
        if "mIoU" in result.metrics
        else {}
    )
    if not columns or any(len(column) != result.queries for column in columns.values()):
        return None
    ids = tuple(map(str, range(result.queries)))
    return Items(
        result.protocol, ids, {name: tuple(map(float, column)) for name, column in columns.items()}
    )
