"""A grid whose seeds are added until each comparison is decided."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ablations.design import Ablation, Point, sweep_id
from ablations.evidence.stopping_rule import Decision, SeedOutcome, StoppingRule, judge, make_rule
from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError
from simvtp.runs.metric_names import MetricName


@dataclass(frozen=True)
class UntilDecided:
    """A grid with a stopping rule; nothing is run here.

    Attributes:
        grid: with all seeds that may be run, in their order.
        margin: half-width of the range of equivalence, in points of the grid's metric.
        first: number of seeds at the first look.
        block: seeds that are added between two looks.
    """

    grid: Ablation
    margin: float
    first: int
    block: int = 1

    @property
    def base(self) -> Experiment:
        """The experiment that every point starts from."""
        return self.grid.base

    @cached_property
    def cells(self) -> dict[str, tuple[Point, ...]]:
        """The points of each cell in the order of the seeds, by `cell_key`.

        Cells that are the same experiment are one.

        Raises:
            ConfigError: there are fewer than two, or a cell shares the runs of some seeds only.
        """
        found: dict[str, list[Point]] = {}
        for point in self.grid.points():
            found.setdefault(cell_key(point.cell), []).append(point)
        seeds = len(dict.fromkeys(self.grid.seeds))
        if len(found) < 2:
            raise ConfigError(
                f"--until-decided: the ablation '{self.grid.name}' has one cell here: there is "
                "nothing to decide."
            )
        for points in found.values():
            if len(points) < seeds:
                raise ConfigError(
                    f"--until-decided: the cell of '{points[0].name}' shares runs with another "
                    "cell, so seeds cannot be added to one alone."
                )
        return {key: tuple(points) for key, points in found.items()}

    @cached_property
    def rule(self) -> StoppingRule:
        """The stopping rule, the same on any machine."""
        baseline = self.cells[self._baseline][0].cell
        comparisons = len(self.cells) - 1
        seeds = tuple(dict.fromkeys(self.grid.seeds))
        return make_rule(self.margin, seeds, self.first, self.block, comparisons, baseline)

    @cached_property
    def _baseline(self) -> str:
        """Key of the cell that the others are compared with, chosen as the reports choose it."""
        plan = self.grid.plan()
        wanted = [plan["baseline"], plan["published_optimum"]]
        keys = [cell_key(cell) for cell in wanted if cell is not None]
        first_axis = self.grid.axes[0].key
        controls = [
            key
            for name in self.grid.controls
            for key, points in self.cells.items()
            if points[0].cell[first_axis] == name
        ]
        return next(key for key in (*keys, *controls, *self.cells) if key in self.cells)

    @cached_property
    def sweep_id(self) -> str:
        """Id of the grid with its rule: another margin or maximum is another sweep."""
        rule = json.dumps(self.rule.to_dict(), sort_keys=True)
        fingerprints = [point.fingerprint for point in self.grid.points()]
        return sweep_id(self.grid.name, [*fingerprints, hashlib.sha256(rule.encode()).hexdigest()])

    def plan(self, points: Sequence[Point]) -> dict[str, Any]:
        """Returns plan.json with these points of the grid, and the rule."""
        seeds = [seed for seed in self.rule.seeds if any(point.seed == seed for point in points)]
        return self.grid.plan() | {
            "sweep_id": self.sweep_id,
            "seeds": seeds,
            "points": [point.plan() for point in points],
            "until_decided": self.rule.to_dict(),
        }

    def decisions(self, outcome: Callable[[Point], SeedOutcome]) -> dict[str, Decision]:
        """Returns the state of each comparison by the key of its cell.

        Args:
            outcome: reads the outcome of a point.
        """
        higher = not MetricName.parse(self.grid.metric).lower_is_better
        baseline = [outcome(point) for point in self.cells[self._baseline]]
        return {
            key: judge(self.rule, [outcome(point) for point in points], baseline, higher)
            for key, points in self.cells.items()
            if key != self._baseline
        }

    def wanted(self, decisions: Mapping[str, Decision]) -> tuple[Point, ...]:
        """Returns the points that the comparisons need, by seed, then by cell.

        The baseline has the seeds of the comparison that needs most.
        """
        counts = {key: decision.wanted for key, decision in decisions.items()}
        counts[self._baseline] = max(counts.values())
        return tuple(
            points[number]
            for number in range(len(self.rule.seeds))
            for key, points in self.cells.items()
            if number < counts[key]
        )


def cell_key(cell: Mapping[str, Any]) -> str:
    """Returns the text by which equal cells are recognised, also those that were read from JSON."""
    return json.dumps(dict(cell), sort_keys=True)
