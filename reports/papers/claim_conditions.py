"""Conditions under which a claim can be tested at all: what must be learnt, what must be varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.analysis.seed_statistics import summarise
from reports.study.archive import CellRecord
from reports.study.report_plan import ReportError
from simvtp.runs.metric_names import MetricName
from simvtp.runs.results import USE

SIDES = ("both", "cell", "than")


@dataclass(frozen=True)
class ClaimNeed:
    """One entry of a claim's `needs`: a figure that must be above a level in the compared cells.

    Attributes:
        metric: `use/<masks>/<metric>`: see docs/modality_use.md.
        above: the mean over the seeds must be larger, and the interval must lie above 0.
        what: the figure in words.
        of: both: all compared cells; cell, than: that side alone.
    """

    metric: str
    above: float
    what: str
    of: str = "both"

    @staticmethod
    def read(claim: Mapping[str, Any]) -> tuple[ClaimNeed, ...]:
        """Returns the needs of a claim of the file.

        Raises:
            ReportError: an entry has other keys, another metric or another side.
        """
        found = []
        for entry in claim.get("needs", ()):
            try:
                need = ClaimNeed(**entry)
            except TypeError:
                need = None
            if need is None or need.of not in SIDES or not need.metric.startswith(f"{USE}/"):
                raise ReportError(
                    f"the claim {claim.get('id', '?')} needs {entry}: write metric = "
                    f'"{USE}/<masks>/<metric>", above, what, and of = {" or ".join(SIDES)}.'
                )
            found.append(need)
        return tuple(found)


def unmet_need(needs: Sequence[ClaimNeed], ours: CellRecord, others: Sequence[CellRecord]) -> str:
    """Returns the first need that is not met, with its figure; empty if all are met."""
    sides = {"both": [ours, *others], "cell": [ours], "than": list(others)}
    for need in needs:
        for cell in sides[need.of]:
            found = _obstacle(need, cell)
            if found:
                return found
    return ""


def _obstacle(need: ClaimNeed, cell: CellRecord) -> str:
    name = MetricName.parse(need.metric)
    values, intervals = [], []
    for run in cell.runs:
        key = next((key for key in run.results if key.endswith(f"/{name.key}")), None)
        value = None if key is None else run.results[key].get(name.metric)
        if key is not None and value is not None:
            values.append(value)
            intervals.append(run.intervals.get(key, {}).get(name.metric))
    if not values or len(values) < len(cell.runs):
        return f"{need.what} was not measured ({cell.text})"
    summary = summarise(values)
    assert summary is not None
    # of one seed the interval over the clips; equal values of several seeds have none
    ends = summary.interval or (intervals[0] if len(values) == 1 else None)
    text = f"{summary.mean:.3f}" + (f", 95 % CI [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")
    if summary.mean > need.above and ends is not None and ends[0] > 0:
        return ""
    needed = f"above {need.above:g} with an interval above 0 is needed"
    return f"{need.what} is {text} ({cell.text}), and {needed}".replace("-", "−")


def missing_neighbours(ours: CellRecord, cells: Sequence[CellRecord]) -> str:
    """Returns which axis has no measured neighbour of a cell on one side; empty if all have both.

    A cell can only be the best choice of a setting if smaller and larger values were tried, with
    all other settings equal.
    """
    for axis, value in ours.settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        along = [
            cell.settings[axis]
            for cell in cells
            if cell.n
            and isinstance(cell.settings.get(axis), int | float)
            and _others(cell, axis) == _others(ours, axis)
        ]
        for side, there in (
            ("below", any(other < value for other in along)),
            ("above", any(other > value for other in along)),
        ):
            if not there:
                return f"no cell with {axis} {side} {value:g} and all else equal was measured"
    return ""


def is_control(cell: CellRecord, ours: CellRecord) -> bool:
    """Returns True for a cell outside the grid, such as no pre-training: no numbers on its axes."""
    return any(
        isinstance(value, int | float) and not isinstance(cell.settings.get(axis), int | float)
        for axis, value in ours.settings.items()
    )


def _others(cell: CellRecord, axis: str) -> dict[str, Any]:
    return {key: value for key, value in cell.settings.items() if key != axis}
