"""Measures the stopping rule: `python -m ablations.evidence.sequential_simulation`.

Simulates sweeps whose runs have known means, and judges them as a sweep does, run by run. Prints,
and writes with --write, the rates of false verdicts, of decisions, and the runs that are needed
compared with a sweep that gives every cell the maximum of seeds.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ablations.evidence.power import ManyAgainstOne
from ablations.evidence.stopping_rule import (
    FIRST_SEEDS,
    SeedOutcome,
    StoppingRule,
    Verdict,
    judge,
    make_rule,
)
from simvtp.runs import provenance
from simvtp.runs.atomic_files import write_atomically

Floats = NDArray[np.float64]
T = TypeVar("T")

SIGMA = 2.2  # of one run's error, and of the effect of a seed on all cells
MARGIN = 2.0
ITEM = 100 / 256  # points of one test item of 256


@dataclass(frozen=True)
class Scenario:
    """Sweeps of one kind.

    Attributes:
        name: in the table.
        effects: true differences of the cells to the baseline, in points.
        most: the maximum of seeds.
        margin: of the rule.
        spreads: factors of the error's deviation, the baseline's first; empty: all 1.
        degrees: of freedom of Student's t errors, scaled to the same deviation; 0: normal.
        rounded: values are multiples of one test item of 256.
    """

    name: str
    effects: tuple[float, ...]
    most: int = 20
    margin: float = MARGIN
    spreads: tuple[float, ...] = ()
    degrees: int = 0
    rounded: bool = False


@dataclass(frozen=True)
class Rates:
    """Rates over simulated sweeps.

    Attributes:
        false_different: sweeps with any comparison without a difference that is called different.
        false_equivalent: sweeps with any comparison at the margin or beyond that is called
            equivalent.
        wrong_direction: sweeps with any difference of the wrong sign.
        verdicts: of each comparison the rates of different and equivalent.
        seeds: of each comparison the mean number of seeds when it ended.
        excess: of each comparison the mean of the difference at its end minus the true one.
        runs: mean fraction of the runs of the fixed sweep.
        fixed: rates of different and equivalent of the fixed sweep with the maximum of seeds.
        unadjusted: sweeps in which a t interval of 95 % at any look calls equal cells different.
    """

    false_different: float
    false_equivalent: float
    wrong_direction: float
    verdicts: tuple[tuple[float, float], ...]
    seeds: tuple[float, ...]
    excess: tuple[float, ...]
    runs: float
    fixed: tuple[tuple[float, float], ...]
    unadjusted: float


def scenarios() -> tuple[Scenario, ...]:
    """Returns the rows of the table."""
    null = Scenario("no differences, 5 cells", (0.0,) * 4)
    mixed = (0.0, 2.0, 4.0, 8.0)
    noisy_baseline, noisy_cell = (3.0, 1.0, 1.0, 1.0, 1.0), (1.0, 3.0, 1.0, 1.0, 1.0)
    return (
        null,
        Scenario("no differences, 2 cells", (0.0,)),
        Scenario("no differences, 9 cells", (0.0,) * 8),
        Scenario("no differences, at most 8 seeds", null.effects, most=8),
        Scenario("no differences, baseline's deviation x 3", null.effects, spreads=noisy_baseline),
        Scenario("no differences, one cell's deviation x 3", null.effects, spreads=noisy_cell),
        Scenario("no differences, t errors with 5 degrees", null.effects, degrees=5),
        Scenario("no differences, values of 256 test items", null.effects, rounded=True),
        Scenario("no differences, margin 4", null.effects, margin=4.0),
        Scenario("differences of the margin 2", (2.0, -2.0, 2.0, -2.0)),
        Scenario("differences of the margin 4", (4.0, -4.0, 4.0, -4.0), margin=4.0),
        Scenario("differences 0, 2, 4, 8", mixed),
        Scenario("differences 0, 2, 4, 8, margin 4", mixed, margin=4.0),
        Scenario("differences 4, 4, 8, 8", (4.0, 4.0, 8.0, 8.0)),
        Scenario("differences 4, 8, at most 10 seeds", (4.0, 8.0), most=10),
    )


def simulate(scenario: Scenario, sweeps: int, seed: int = 0) -> Rates:
    """Simulates sweeps and judges them by the rule.

    Args:
        scenario: of the runs.
        sweeps: how many.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    comparisons = len(scenario.effects)
    rule = make_rule(
        scenario.margin, range(scenario.most), FIRST_SEEDS, 1, comparisons, {"cell": 0}
    )
    verdicts = np.empty((sweeps, comparisons), dtype=object)
    seeds, excess = np.zeros((sweeps, comparisons)), np.zeros((sweeps, comparisons))
    unadjusted = np.zeros(sweeps, dtype=bool)
    fixed = np.zeros((sweeps, comparisons, 2), dtype=bool)
    for number in range(sweeps):
        values = draw(scenario, random)
        runs = [[SeedOutcome(float(value)) for value in row] for row in values]
        for cell in range(comparisons):
            found = judge(rule, runs[cell + 1], runs[0])
            verdicts[number, cell], seeds[number, cell] = found.verdict, found.seeds
            excess[number, cell] = (found.difference or 0.0) - scenario.effects[cell]
        unadjusted[number] = _any_naive(values, scenario)
        fixed[number] = _fixed(values, scenario.margin)
    return _rates(scenario, rule, verdicts, seeds, excess, unadjusted, fixed)


def draw(scenario: Scenario, random: np.random.Generator) -> Floats:
    """Returns the values of one sweep [cells, seeds], the baseline first."""
    shape = (len(scenario.effects) + 1, scenario.most)
    if scenario.degrees:
        spread = np.sqrt(scenario.degrees / (scenario.degrees - 2))
        errors = random.standard_t(scenario.degrees, shape) / spread
    else:
        errors = random.normal(0, 1, shape)
    factors = np.array(scenario.spreads or (1.0,) * shape[0])[:, None]
    means = 20 + np.array((0.0, *scenario.effects))[:, None]
    values = means + SIGMA * (factors * errors + random.normal(0, 1, shape[1]))
    return np.round(values / ITEM) * ITEM if scenario.rounded else values


def _any_naive(values: Floats, scenario: Scenario) -> bool:
    """Returns whether unadjusted tests after every seed call equal cells different."""
    equal = [cell + 1 for cell, effect in enumerate(scenario.effects) if effect == 0]
    rule = StoppingRule(
        scenario.margin,
        tuple(range(scenario.most)),
        tuple(range(FIRST_SEEDS, scenario.most + 1)),
        1,
        (0.05,) * (scenario.most - FIRST_SEEDS + 1),
        {},
    )
    gaps = values[equal] - values[0]
    for look, critical in zip(rule.looks, rule.critical_values, strict=True):
        seen = gaps[:, :look]
        error = seen.std(axis=1, ddof=1) / np.sqrt(look)
        if (np.abs(seen.mean(axis=1)) > critical * error).any():
            return True
    return False


def _fixed(values: Floats, margin: float) -> NDArray[np.bool_]:
    """Returns (different, equivalent) of each comparison by the test of a fixed sweep."""
    cells, seeds = values.shape
    design = ManyAgainstOne(cells - 1)
    rest = values - values.mean(axis=1, keepdims=True)
    rest = rest - rest.mean(axis=0, keepdims=True)
    sigma = np.sqrt((rest**2).sum() / design.error_df(seeds))
    half = design.critical_value(seeds) * sigma * np.sqrt(2 / seeds)
    gap = np.abs(values[1:].mean(axis=1) - values[0].mean())
    return np.stack([gap > half, gap + half < margin], axis=1)


def _rates(
    scenario: Scenario,
    rule: StoppingRule,
    verdicts: NDArray[np.object_],
    seeds: Floats,
    excess: Floats,
    unadjusted: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
) -> Rates:
    effects = np.array(scenario.effects)
    better, worse = verdicts == Verdict.BETTER, verdicts == Verdict.WORSE
    equivalent = verdicts == Verdict.EQUIVALENT
    wrong = (better & (effects < 0)) | (worse & (effects > 0))
    runs = (seeds.max(axis=1) + seeds.sum(axis=1)) / ((len(effects) + 1) * len(rule.seeds))
    shares = np.stack([(better | worse).mean(axis=0), equivalent.mean(axis=0)], axis=1)
    return Rates(
        false_different=float(((better | worse) & (effects == 0)).any(axis=1).mean()),
        false_equivalent=float(
            (equivalent & (np.abs(effects) >= scenario.margin)).any(axis=1).mean()
        ),
        wrong_direction=float(wrong.any(axis=1).mean()),
        verdicts=tuple((float(a), float(b)) for a, b in shares),
        seeds=tuple(map(float, seeds.mean(axis=0))),
        excess=tuple(map(float, excess.mean(axis=0))),
        runs=float(runs.mean()),
        fixed=tuple((float(a), float(b)) for a, b in fixed.mean(axis=0)),
        unadjusted=float(unadjusted.mean()),
    )


# ---- page ----------------------------------------------------------------------------------------


def page(command: str, sweeps: int, found: Sequence[tuple[Scenario, Rates]]) -> str:
    """Returns the tables as Markdown, with the command, the commit and the machine."""
    where = provenance.capture()
    changed = " with changes" if where.dirty else ""
    lines = [
        "# Error rates of the stopping rule",
        "",
        f"Command: `{command}`  ",
        f"Commit: {where.commit[:12]}{changed}  ",
        f"Machine: {where.cpu}, Python {platform.python_version()}, numpy {np.__version__}",
        "",
        f"{sweeps} simulated sweeps a row: 5 cells, margin {MARGIN:g}, at most 20 seeds, looks "
        f"after 3, 4, ... seeds, unless the row says otherwise. Deviation of one run {SIGMA} "
        "points, and as much between the seeds, shared by all cells. "
        f"Standard error of a rate of 5 %: {100 * np.sqrt(0.05 * 0.95 / sweeps):.1f} %.",
        "",
        "## False verdicts, in per cent of the sweeps",
        "",
        "| sweeps | different, though equal | equivalent, at the margin or beyond "
        "| wrong direction | 95 % t interval after every seed: different, though equal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for scenario, rates in found:
        equal, beyond = 0.0 in scenario.effects, max(map(abs, scenario.effects)) >= scenario.margin
        shown = (
            (rates.false_different, equal),
            (rates.false_equivalent, beyond),
            (rates.wrong_direction, any(scenario.effects)),
            (rates.unadjusted, equal),
        )
        cells = [f"{100 * rate:.1f}" if possible else "—" for rate, possible in shown]
        lines.append(f"| {scenario.name} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Decisions and runs",
        "",
        "Of each comparison, in the order of the differences: the rate of the verdicts different / "
        "equivalent, the mean seeds at its end, and how much too large its difference is then on "
        "average. Fixed: the rates of a sweep that gives every cell the maximum (Dunnett's test of "
        "the reports). Runs: of the fixed sweep's, in per cent.",
        "",
        "| sweeps | different / equivalent, % | seeds | difference too large by "
        "| fixed: different / equivalent, % | runs, % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for scenario, rates in found:
        signs = [-1 if effect < 0 else 1 for effect in scenario.effects]
        excess = [sign * value for sign, value in zip(signs, rates.excess, strict=True)]
        cells = [
            _joined(rates.verdicts, _pair),
            _joined(rates.seeds, lambda value: f"{value:.1f}"),
            _joined(excess, lambda value: f"{value:.1f}") if any(scenario.effects) else "—",
            _joined(rates.fixed, _pair),
            f"{100 * rates.runs:.0f}",
        ]
        lines.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _pair(rates: tuple[float, float]) -> str:
    return f"{100 * rates[0]:.0f} / {100 * rates[1]:.0f}"


def _joined(values: Sequence[T], text: Callable[[T], str]) -> str:
    return ", ".join(map(text, values))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ablations.evidence.sequential_simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweeps", type=int, default=2000, help="of each row (default: 2000)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the page there")
    args = parser.parse_args(arguments)
    found = []
    for number, scenario in enumerate(scenarios()):
        found.append((scenario, simulate(scenario, args.sweeps, seed=number)))
        print(f"{scenario.name}: done", file=sys.stderr, flush=True)
    command = f"{parser.prog} --sweeps {args.sweeps}"
    text = page(command, args.sweeps, found)
    print(text)
    if args.write:
        write_atomically(args.write, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
