"""Prints the seeds that a sweep needs, before anything is run: `--plan-power MARGIN`.

The error's standard deviation is given by `--pilot-sd`, or estimated from finished runs of the same
recipe, data and metric under the root: of any sweep, because the spread over seeds is that of the
recipe and not of one grid.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ablations.evidence.power import MAX_SEEDS, ManyAgainstOne
from simvtp.errors import ConfigError
from simvtp.runs.run_records import RunState
from sweeps.cli.script_parser import columns
from sweeps.monitor.overview import SweepFolder, find_sweeps
from sweeps.monitor.point_state import read_state, read_value
from sweeps.study import SweepComparison

POWERS = (0.8, 0.9)
UPPER = 0.8  # confidence of the largest standard deviation that the pilot leaves possible
MISSING = "—"

CellRuns = Mapping[str, Mapping[int, float]]  # {cell: {seed: value}}


@dataclass(frozen=True)
class PilotVariance:
    """Standard deviation of the error of one run.

    Attributes:
        sigma: the estimate, without the effect that a seed has on all cells where that is known.
        df: its degrees of freedom; 0 if it was given.
        source: where it comes from, in words.
    """

    sigma: float
    df: int
    source: str

    @property
    def upper(self) -> float | None:
        """Upper confidence limit of `sigma`; None if it was given."""
        if not self.df:
            return None
        return self.sigma * math.sqrt(self.df / float(stats.chi2.ppf(1 - UPPER, self.df)))


def pilot_variance(cells: CellRuns, source: str) -> PilotVariance | None:
    """Estimates the error from finished runs.

    Cells with the same seeds form a complete table, from which the effect of each seed is removed.
    If there is no such table, the spread over the seeds of each cell is pooled, which is larger.

    Returns:
        None if no cell has two seeds, or the values do not differ.
    """
    tables: dict[frozenset[int], list[Mapping[int, float]]] = {}
    for runs in cells.values():
        if len(runs) > 1:
            tables.setdefault(frozenset(runs), []).append(runs)
    complete = [made for made in tables.values() if len(made) > 1]
    squares, df = 0.0, 0
    for made in complete or list(tables.values()):
        rows = [[value for _, value in sorted(runs.items())] for runs in made]
        values = np.array(rows)
        rest = values - values.mean(axis=1, keepdims=True)
        if complete:
            rest = rest - rest.mean(axis=0, keepdims=True)
        squares += float((rest**2).sum())
        df += (len(made) - bool(complete)) * (values.shape[1] - 1)
    if not df or squares <= 0:
        return None
    return PilotVariance(math.sqrt(squares / df), df, source)


def find_pilot(comparison: SweepComparison) -> PilotVariance | None:
    """Estimates the error from the finished runs under the root; None if there are too few."""
    root = Path(comparison.base.runtime.root)
    if not (root / "sweeps").is_dir():
        return None
    dataset = comparison.recorded_plan()["dataset"]
    used: list[str] = []
    cells: dict[str, dict[int, float]] = {}
    for sweep in find_sweeps(root):
        plan = sweep.plan
        fits = (plan.recipe, plan.dataset, plan.metric) == (
            *(comparison.base.name, dataset),
            comparison.metric,
        )
        found = _finished(sweep) if fits and not plan.is_search else {}
        if found:
            used.append(sweep.sweep_id)
        for cell, runs in found.items():
            cells.setdefault(cell, {}).update(runs)
    count = sum(map(len, cells.values()))
    return pilot_variance(cells, f"{count} finished runs of {', '.join(used)}")


def _finished(sweep: SweepFolder) -> dict[str, dict[int, float]]:
    """Returns {fingerprint of the cell: {seed: value}} of the finished points of a sweep."""
    found: dict[str, dict[int, float]] = {}
    for point in sweep.plan.points:
        run_dir = sweep.root / point.run_name
        if read_state(run_dir, alive=False).state != RunState.FINISHED:
            continue
        measured = read_value(run_dir, sweep.plan.metric)
        if measured is not None and math.isfinite(measured[0]):
            cell = point.cell_fingerprint or str(point.cell)
            found.setdefault(cell, {})[point.seed] = measured[0]
    return found


def plan_power(comparison: SweepComparison, args: argparse.Namespace) -> int:
    """Prints the seeds that the sweep needs and what the planned ones find; the exit status is 0.

    Raises:
        ConfigError: the sweep has one cell, or no variance is known.
    """
    points = comparison.known_points()
    cells = len({str(sorted(point.cell.items(), key=str)) for point in points})
    if cells < 2:
        raise ConfigError(
            f"--plan-power: {comparison.sweep_id} has one cell: there is nothing to compare."
        )
    pilot = _given(args) or find_pilot(comparison)
    if pilot is None:
        raise ConfigError(
            f"--plan-power: no cell of recipe {comparison.base.name} has two finished seeds under "
            f"{comparison.base.runtime.root}: give the standard deviation between seeds by "
            "--pilot-sd, or run two cells with three seeds first."
        )
    seeds = len({point.seed for point in points})
    print("\n".join(power_lines(comparison, cells, seeds, pilot, args.plan_power)))
    return 0


def _given(args: argparse.Namespace) -> PilotVariance | None:
    return None if args.pilot_sd is None else PilotVariance(args.pilot_sd, 0, "--pilot-sd")


def power_lines(
    comparison: SweepComparison, cells: int, seeds: int, pilot: PilotVariance, margin: float
) -> list[str]:
    """Returns what `plan_power` prints."""
    design = ManyAgainstOne(cells - 1)
    sigmas = [pilot.sigma] if pilot.upper is None else [pilot.sigma, pilot.upper]
    heads = ["", *(f"seeds a cell, sd {sigma:.2f}" for sigma in sigmas), "runs in all"]
    rows: list[Sequence[str]] = [heads]
    for power in POWERS:
        needed = [design.seeds_to_find(sigma, margin, power) for sigma in sigmas]
        rows.append(
            (f"find a difference of {margin:g} in {100 * power:.0f} %", *_counts(needed, cells))
        )
    for power in POWERS:
        needed = [design.seeds_to_equate(sigma, margin, power) for sigma in sigmas]
        name = f"find equal cells equivalent within ±{margin:g} in {100 * power:.0f} %"
        rows.append((name, *_counts(needed, cells)))
    spread = f"Standard deviation of one run: {pilot.sigma:.2f} points, from {pilot.source}"
    if pilot.upper is not None:
        spread += (
            f" ({pilot.df} degrees of freedom; with {100 * UPPER:.0f} % confidence at most "
            f"{pilot.upper:.2f})"
        )
    return [
        f"{comparison.sweep_id}: {cells} cells, {cells - 1} compared with one, seeds as blocks "
        "(Dunnett, 5 % for all comparisons together)",
        f"Metric: {comparison.metric_label}",
        f"{spread}.",
        "",
        columns(rows, right=range(1, len(heads))),
        "",
        _planned(design, pilot.sigma, seeds),
        "Nothing was run.",
    ]


def _counts(needed: Sequence[int | None], cells: int) -> list[str]:
    texts = [f"> {MAX_SEEDS}" if count is None else str(count) for count in needed]
    return [*texts, MISSING if needed[0] is None else str(cells * needed[0])]


def _planned(design: ManyAgainstOne, sigma: float, seeds: int) -> str:
    if seeds < 2:
        return "Planned: one seed a cell, with which no difference can be tested."
    sizes = [
        f"{design.detectable(sigma, seeds, power):.1f} points in {100 * power:.0f} %"
        for power in POWERS
    ]
    return f"Planned: {seeds} seeds a cell, which find a difference of {' and '.join(sizes)}."
