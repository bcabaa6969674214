"""Compares two cells on the same test items.

The values of the items come from the run directory (`simvtp.evaluation.items`), or, if that is
gone, from the ranks and overlaps that the tracked result holds. They are used only if their mean is
the value that the run reported, and if both cells were tested on the same items. Otherwise there is
no paired test, and the table says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reports.analysis.seed_statistics import Difference, paired_bootstrap
from reports.study.report_plan import CellValues
from reports.study.sweep_results import MeasuredRun, SweepResults
from simvtp.errors import DamagedFile, DataError
from simvtp.evaluation.items import Items, find_items, run_items
from simvtp.runs.results import Result

TOLERANCE = 1e-6  # relative; the values are sums of a few thousand numbers


@dataclass(frozen=True)
class ItemValues:
    """A metric of each test item of one run; `values` is float [items], in the order of `ids`."""

    ids: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def clips(self) -> tuple[str, ...]:
        """The clip of each item: its name up to `#`, after which captions are numbered."""
        return tuple(name.partition("#")[0] for name in self.ids)


def item_values(run: MeasuredRun, key: str, metric: str) -> ItemValues | None:
    """Returns the items behind one value of a run.

    Returns:
        None if the run did not store them, or if the value is not their mean (a median is not).
    """
    result = run.results.get(key)
    items = None if result is None else _stored(run, result) or _from_result(result)
    if result is None or items is None:
        return None
    try:
        values = items.outcomes(metric)
    except DataError:
        return None
    rated = ~np.isnan(values)
    reported = result.metrics.get(metric, np.nan)
    if not rated.any() or not np.isclose(
        values[rated].mean(), reported, rtol=TOLERANCE, atol=TOLERANCE
    ):
        return None
    ids = tuple(name for name, there in zip(items.ids, rated, strict=True) if there)
    return ItemValues(ids, values[rated])


def paired(
    sweep: SweepResults, a: CellValues, b: CellValues, key: str, metric: str
) -> Difference | None:
    """Returns mean of cell a minus mean of cell b over the test items; None if not comparable."""
    sides = [cell_items(sweep, cell, key, metric) for cell in (a, b)]
    if not sides[0] or not sides[1]:
        return None
    tested = {(found.ids, run.test_set) for side in sides for run, found in side}
    if len(tested) != 1:
        return None
    first, second = (np.stack([found.values for _, found in side]) for side in sides)
    return paired_bootstrap(first, second, sides[0][0][1].clips)


def cell_items(
    sweep: SweepResults, cell: CellValues, key: str, metric: str
) -> list[tuple[MeasuredRun, ItemValues]]:
    """Returns each run of a cell with its items; an empty list if one of them has none."""
    found = []
    for run in sweep.by_cell.get(cell, ()):
        if key in run.results:
            items = item_values(run, key, metric)
            if items is None:
                return []
            found.append((run, items))
    return found


def why_unpaired(sweep: SweepResults, key: str, metric: str, cells: Sequence[CellValues]) -> str:
    """Returns the reason why these cells have no paired test, for a note."""
    runs = [run for cell in cells for run in sweep.by_cell.get(cell, ()) if key in run.results]
    without = sum(item_values(run, key, metric) is None for run in runs)
    if without:
        return (
            f"{without} of {len(runs)} runs kept no value of each test item "
            "that averages to this metric"
        )
    return "the cells were not tested on the same items"


def _stored(run: MeasuredRun, result: Result) -> Items | None:
    if not run.run_dir or not Path(run.run_dir).is_dir():
        return None
    try:
        return find_items(run_items(Path(run.run_dir)), result.protocol)
    except DamagedFile as error:
        warnings.warn(f"{error} Until then the tracked ranks are used.", stacklevel=2)
        return None


def _from_result(result: Result) -> Items | None:
    """Makes items of the ranks and overlaps that every result holds, named by their number."""
    columns: dict[str, Sequence[float]] = {}
    if result.ranks:
        columns = {"rank": result.ranks}
    elif "mIoU" in result.metrics:
        columns = {"IoU-top1": result.scores}
    if not columns or any(len(column) != result.queries for column in columns.values()):
        return None
    ids = tuple(map(str, range(result.queries)))
    values = {name: tuple(map(float, column)) for name, column in columns.items()}
    return Items(result.protocol, ids, values)
