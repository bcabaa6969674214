"""Stopping rule of a sweep whose seeds are added until its comparisons are decided.

Each cell is compared with one baseline by the differences of their runs with equal seeds, which
share initial weights, order of the data and masks. At each look the mean difference has an interval
of Student's t, of a level at which all intervals of all comparisons at all looks hold together with
probability `CONFIDENCE` (`sequential_levels` for the looks, Bonferroni for the comparisons). So the
error rate holds whenever a comparison stops, also if the sweep is stopped by hand. A comparison is
judged by its own two cells alone; nothing is assumed of the spread of the others.

A decision is a function of the outcomes of the runs and of the rule, which the plan of the sweep
records before anything is run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

from ablations.evidence.sequential_levels import nominal_levels, sequential_p_value
from simvtp.errors import ConfigError

CONFIDENCE = 0.95
FIRST_SEEDS = 3  # at the first look, if fewer are asked for
MOST_SEEDS = 200


class Verdict(StrEnum):
    """Outcome of a comparison, as the reports word it."""

    BETTER = "different: better"
    WORSE = "different: worse"
    EQUIVALENT = "equivalent"
    IDENTICAL = "identical runs"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class SeedOutcome:
    """Outcome of a run, as far as it is known.

    Attributes:
        value: of the metric; None if there is none (yet).
        failure: why the run will have no value; empty while it may get one.
        results: all its results in any comparable form; None if they are not known.
    """

    value: float | None = None
    failure: str = ""
    results: object = None


@dataclass(frozen=True)
class Decision:
    """State of one comparison.

    Attributes:
        verdict: UNDECIDED while it is open, and if it ended without a decision.
        seeds: number of seeds that it rests on: those of the last look that was made; 0 for none.
        difference, interval: cell minus baseline at that look; None if it has no interval.
        wanted: number of seeds that both cells are to have.
        is_open: the wanted seeds are not finished, so it may still be decided.
        reason: why it ended without a decision; empty otherwise.
    """

    verdict: Verdict
    seeds: int
    difference: float | None
    interval: tuple[float, float] | None
    wanted: int
    is_open: bool = False
    reason: str = ""

    @property
    def text(self) -> str:
        """`different: better after 5 seeds: +4.20 [1.10, 7.30]`."""
        size = ""
        if self.difference is not None and self.interval is not None:
            low, high = self.interval
            size = f": {self.difference:+.2f} [{low:.2f}, {high:.2f}]"
        after = f" after {self.seeds} seeds{size}" if self.seeds else ""
        waits = f"; waits for {self.wanted} seeds" if self.is_open else ""
        why = f"; {self.reason}" if self.reason else ""
        return f"{self.verdict}{after}{waits}{why}"


@dataclass(frozen=True)
class StoppingRule:
    """The rule that a sweep records before it runs.

    Attributes:
        margin: half-width of the range of equivalence, in points of the metric.
        seeds: in the order in which they are run; the last look uses all.
        looks: numbers of seeds after which comparisons are judged.
        comparisons: number of cells that are compared with the baseline.
        levels: two-sided level of the interval of one comparison at each look.
        baseline: the cell that the others are compared with.
    """

    margin: float
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    comparisons: int
    levels: tuple[float, ...]
    baseline: Mapping[str, Any]

    def __post_init__(self) -> None:
        if len(self.looks) != len(self.levels) or self.looks[-1] != len(self.seeds):
            raise ValueError(f"a stopping rule has a level for each look: {self}")

    @cached_property
    def critical_values(self) -> tuple[float, ...]:
        """Quantiles of Student's t at the looks."""
        return tuple(
            float(-special.stdtrit(look - 1, level / 2))
            for look, level in zip(self.looks, self.levels, strict=True)
        )

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """Seeds of the first look, which every cell gets."""
        return self.seeds[: self.looks[0]]

    @property
    def sentence(self) -> str:
        """The rule in words."""
        others = ", ".join(map(str, self.looks[1:3]))
        more = f", {others}{', ...' if len(self.looks) > 4 else ''}" if others else ""
        last = f" and {self.looks[-1]}" if len(self.looks) > 3 else ""
        return (
            f"margin ±{self.margin:g}, judged after {self.looks[0]}{more}{last} seeds, at most "
            f"{len(self.seeds)}; paired t intervals that hold together for all "
            f"{self.comparisons} comparisons and looks with {100 * CONFIDENCE:.0f} %"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry of plan.json."""
        return {
            "margin": self.margin,
            "seeds": list(self.seeds),
            "looks": list(self.looks),
            "comparisons": self.comparisons,
            "levels": list(self.levels),
            "baseline": dict(self.baseline),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> StoppingRule:
        """Reads the entry of plan.json; raises KeyError, TypeError or ValueError if it is none."""
        return StoppingRule(
            margin=float(values["margin"]),
            seeds=tuple(int(seed) for seed in values["seeds"]),
            looks=tuple(int(look) for look in values["looks"]),
            comparisons=int(values["comparisons"]),
            levels=tuple(float(level) for level in values["levels"]),
            baseline=dict(values["baseline"]),
        )


def seeds_of_rule(first: Sequence[int], most: int) -> tuple[int, ...]:
    """Returns the seeds that a sweep may run: the first ones, then the numbers after the largest.

    Raises:
        ConfigError: `most` is too small or too large.
    """
    given = tuple(dict.fromkeys(first))
    least = max(len(given), FIRST_SEEDS)
    if not least <= most <= MOST_SEEDS:
        raise ConfigError(
            f"--max-seeds {most}: give {least} (the seeds of the first look) to {MOST_SEEDS}."
        )
    return (*given, *range(max(given) + 1, max(given) + 1 + most - len(given)))


def make_rule(
    margin: float,
    seeds: Sequence[int],
    first: int,
    block: int,
    comparisons: int,
    baseline: Mapping[str, Any],
) -> StoppingRule:
    """Makes a rule.

    Args:
        margin: half-width of the range of equivalence.
        seeds: all that may be run.
        first: number of seeds at the first look; at least FIRST_SEEDS are used.
        block: seeds that are added between two looks.
        comparisons: number of cells that are compared with the baseline.
        baseline: that cell.
    """
    begin = max(first, FIRST_SEEDS)
    looks = tuple(dict.fromkeys((*range(begin, len(seeds), block), len(seeds))))
    levels = nominal_levels(looks, (1 - CONFIDENCE) / comparisons)
    return StoppingRule(margin, tuple(seeds), looks, comparisons, levels, baseline)


def judge(
    rule: StoppingRule,
    cell: Sequence[SeedOutcome],
    baseline: Sequence[SeedOutcome],
    higher_is_better: bool = True,
) -> Decision:
    """Judges a cell by its runs and those of the baseline.

    Looks are made in their order; the first that decides is final, and later runs change nothing.

    Args:
        rule: the rule.
        cell, baseline: an outcome for each seed of the rule, in its order.
        higher_is_better: of the metric.
    """
    made, gap, interval = 0, None, None
    for number, look in enumerate(rule.looks):
        pairs = list(zip(cell[:look], baseline[:look], strict=True))
        values = [
            (a.value, b.value) for a, b in pairs if a.value is not None and b.value is not None
        ]
        if len(values) < look:
            failures = [run.failure for pair in pairs for run in pair if run.failure]
            return Decision(
                Verdict.UNDECIDED, made, gap, interval, look, not failures, "".join(failures[:1])
            )
        if all(a.results is not None and a.results == b.results for a, b in pairs):
            return Decision(Verdict.IDENTICAL, look, 0.0, None, look)
        made = look
        gap, interval = _interval([a - b for a, b in values], rule.critical_values[number])
        verdict = _verdict(gap, interval, rule.margin, higher_is_better)
        if verdict is not Verdict.UNDECIDED:
            return Decision(verdict, look, gap, interval, look)
    reason = f"the maximum of {len(rule.seeds)} seeds is reached"
    return Decision(Verdict.UNDECIDED, made, gap, interval, made, reason=reason)


def _interval(gaps: Sequence[float], critical: float) -> tuple[float, tuple[float, float] | None]:
    mean, spread = float(np.mean(gaps)), float(np.std(gaps, ddof=1))
    if spread <= 1e-9 * max(1.0, abs(mean)):  # equal differences give no error
        return mean, None
    half = critical * spread / math.sqrt(len(gaps))
    return mean, (mean - half, mean + half)


def _verdict(
    gap: float, interval: tuple[float, float] | None, margin: float, higher_is_better: bool
) -> Verdict:
    if interval is None:
        return Verdict.UNDECIDED
    low, high = interval
    if low > 0 or high < 0:
        return Verdict.BETTER if (gap > 0) == higher_is_better else Verdict.WORSE
    return Verdict.EQUIVALENT if -margin < low and high < margin else Verdict.UNDECIDED


def adjusted_p_value(
    rule: StoppingRule, cell: Sequence[float], baseline: Sequence[float]
) -> float | None:
    """Returns the p-value of "no difference", valid for all looks and comparisons together.

    Args:
        rule: the rule.
        cell, baseline: values for the first seeds of the rule, up to the look that is reported.

    Returns:
        None if no look has an interval.
    """
    gaps = np.subtract(cell, baseline)
    p_values = []
    for look in (look for look in rule.looks if look <= len(gaps)):
        seen = gaps[:look]
        error = float(seen.std(ddof=1)) / math.sqrt(look)
        p_values.append(
            float(2 * special.stdtr(look - 1, -abs(seen.mean()) / error)) if error > 0 else 1.0
        )
    if not p_values:
        return None
    return min(1.0, rule.comparisons * sequential_p_value(rule.looks, p_values))
