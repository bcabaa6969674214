"""Judges each claim of the papers (`ablations/claims.toml`) by one rule."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.analysis.seed_statistics import Difference, difference, holm
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, metric_of
from reports.papers.claim_conditions import (
    ClaimNeed,
    is_control,
    missing_neighbours,
    unmet_need,
)
from reports.study.archive import CellRecord, ReportRecord
from reports.study.report_plan import ReportError
from simvtp.runs.atomic_files import read_json

FILE = Path(__file__).resolve().parents[2] / "ablations" / "claims.toml"
BENCHMARKS = Path(__file__).resolve().parents[2] / "results" / "benchmarks.json"
SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable here"
BY_CONSTRUCTION = "by construction"
LEAST_SEEDS = 3
CLEAR_OF_CHANCE = 2.0  # multiple of chance
CEILING = 95.0  # per cent
LEVEL = 0.05
TESTS = {  # kind of test -> keys that a claim needs
    "better": ("ablation", "cell", "than"),
    "best": ("ablation", "cell"),
    "benchmark": ("unit",),
    "scale": ("lacks",),
}
RULE = (
    f"A cell is better than another if both have at least {LEAST_SEEDS} seeds, the better of the "
    f"two lies above {CLEAR_OF_CHANCE:g} times chance and, of figures in per cent, the worse below "
    f"{CEILING:g} %, and Welch's test over the seeds (corrected by Holm's method where there are "
    f"several others) gives p < {LEVEL:g} in the claim's direction: then the claim is supported. "
    "If the cells were measured so and that is not the outcome, it is not supported, which is less "
    "than refuted. A cell is the best of a sweep only if values on both sides of each of its "
    "settings were measured. A claim that rests on something learnt names figures that the "
    "compared cells must reach (a level, with a 95 % interval above 0) before their scores are "
    "compared. A figure that follows from how the experiment was set up is by construction. In "
    "all other cases the claim is not testable here. "
    "Supported means: at this scale, on this data; the papers speak of far larger models and data."
)


@dataclass(frozen=True)
class ClaimFinding:
    """A claim with its verdict.

    Attributes:
        how: the test in words.
        scale: recipe, data and sweep that it was measured with.
        verdict: SUPPORTED, NOT_SUPPORTED, BY_CONSTRUCTION or NOT_TESTABLE.
    """

    id: str
    paper: str
    claim: str
    source: str
    how: str
    measured: str
    scale: str
    verdict: str


def read_claims(path: Path = FILE) -> list[dict[str, Any]]:
    """Returns the claims of the file.

    Raises:
        ReportError: a claim lacks a key that its test needs, or its test is unknown.
    """
    claims: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    for claim in claims:
        needed = ("id", "paper", "claim", "source", "test", *TESTS.get(claim.get("test", ""), ()))
        missing = [name for name in needed if name not in claim]
        if missing or claim["test"] not in TESTS:
            problem = ", ".join(missing) or "a known test"
            raise ReportError(f"{path}: the claim {claim.get('id', '?')} lacks {problem}.")
        ClaimNeed.read(claim)
    return claims


def judge(
    records: Sequence[ReportRecord],
    claims: Sequence[Mapping[str, Any]] | None = None,
    benchmarks: Path = BENCHMARKS,
) -> list[ClaimFinding]:
    """Returns the verdict on each claim, in the order of the file.

    Args:
        records: finished reports.
        claims: default: those of `FILE`.
        benchmarks: measured benchmarks, {claim id: {value, command, hardware, commit}}.
    """
    by_ablation = {record.ablation: record for record in records}
    measured = read_json(benchmarks) if benchmarks.exists() else {}
    found = []
    for claim in read_claims() if claims is None else claims:
        if claim["test"] == "scale":
            how = "a figure on data that is not at hand"
            found.append(_finding(claim, how, MISSING, f"lacks {claim['lacks']}", NOT_TESTABLE))
        elif claim["test"] == "benchmark":
            found.append(_benchmark(claim, measured.get(claim["id"])))
        else:
            found.append(_cells(claim, by_ablation.get(claim["ablation"])))
    return found


def _finding(
    claim: Mapping[str, Any], how: str, measured: str, scale: str, verdict: str
) -> ClaimFinding:
    return ClaimFinding(
        claim["id"], claim["paper"], claim["claim"], claim["source"], how, measured, scale, verdict
    )


def _benchmark(claim: Mapping[str, Any], found: Mapping[str, Any] | None) -> ClaimFinding:
    """Judges a claim on a measured number."""
    at_most = "at_most" in claim
    bound = f"at most {claim['at_most']:g}" if at_most else f"at least {claim['at_least']:g}"
    how = f"benchmark: {bound} {claim['unit']}"
    if not found:
        return _finding(claim, how, MISSING, "not measured here yet", NOT_TESTABLE)
    value = float(found["value"])
    holds = value <= claim["at_most"] if at_most else value >= claim["at_least"]
    known = (str(found[name]) for name in ("command", "hardware", "commit") if found.get(name))
    text, scale = f"{value:.2f} {claim['unit']}", "; ".join(known)
    device = claim.get("device", "")
    if device and found.get("device") != device:
        measured = found.get("device") or "a device that is not recorded"
        text = f"{text}; measured on {measured}, and the claim is about {device}"
        return _finding(claim, how, text, scale, NOT_TESTABLE)
    if holds and "construction" in claim:
        return _finding(claim, how, f"{text}; {claim['construction']}", scale, BY_CONSTRUCTION)
    return _finding(claim, how, text, scale, SUPPORTED if holds else NOT_SUPPORTED)


# ---- cells of a sweep ----------------------------------------------------------------------------


def _cells(claim: Mapping[str, Any], record: ReportRecord | None) -> ClaimFinding:
    """Judges a claim on the cells of a sweep."""
    how = f"ablation {claim['ablation']}"
    if record is None:
        return _finding(claim, how, MISSING, "no report of this ablation", NOT_TESTABLE)
    recipe = record.recipe or "no recipe"
    scale = f"{recipe} on {record.dataset}, {record.metric}, sweep {record.sweep_id}"
    by_name = {_name(cell.settings): cell for cell in record.cells}
    ours = by_name.get(_name(claim["cell"]))
    others = [cell for cell in by_name.values() if cell is not ours]
    if claim["test"] == "better":
        than = by_name.get(_name(claim["than"]))
        others = [than] if than else []
    if ours is None or not others:
        absent = "the cells of the claim are not in this sweep"
        return _finding(claim, how, absent, scale, NOT_TESTABLE)
    metric = metric_of(record.column[1])
    words = _words(metric, ours, others)
    obstacle = _obstacle(record, metric, ours, others)
    if not obstacle and claim["test"] == "best":
        obstacle = missing_neighbours(ours, record.cells)
    if not obstacle:
        arms = [cell for cell in others if not is_control(cell, ours)]
        obstacle = unmet_need(ClaimNeed.read(claim), ours, arms)
    if obstacle:
        return _finding(claim, how, f"{words}{obstacle}", scale, NOT_TESTABLE)
    gaps = [difference(_values(record, ours), _values(record, cell)) for cell in others]
    p_values = holm([gap.p_value for gap in gaps])
    sign = 1 if metric.higher_is_better else -1
    holds = all(
        p is not None and p < LEVEL and sign * gap.mean > 0
        for p, gap in zip(p_values, gaps, strict=True)
    )
    least = min(gaps, key=lambda gap: sign * gap.mean)
    seeds = f"{len(_values(record, ours))} seeds"
    text = f"{words}{_gap_text(metric, least, len(gaps))}, {seeds}".replace("-", "−")
    return _finding(claim, how, text, scale, SUPPORTED if holds else NOT_SUPPORTED)


def _gap_text(metric: Metric, gap: Difference, of: int) -> str:
    """Returns the difference, the least of several, with its interval."""
    interval = f", 95 % CI {metric.interval(gap.interval)}" if gap.interval else ""
    return f"{'least ' if of > 1 else ''}difference {gap.mean:+.{metric.decimals}f}{interval}"


def _name(cell: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((key, str(value)) for key, value in cell.items()))


def _values(record: ReportRecord, cell: CellRecord) -> list[float]:
    """Returns the values that a test with a fixed number of seeds may use."""
    first = record.first_seeds
    return [value for seed, value in cell.values.items() if not first or int(seed) in first]


def _words(metric: Metric, ours: CellRecord, others: Sequence[CellRecord]) -> str:
    """Returns `R@1 12.1 against 9.8; `; of several others the best."""
    if ours.mean is None:
        return ""
    means = [cell.mean for cell in others if cell.mean is not None]
    value = f"{metric.label} {metric.text(ours.mean)}"
    if not means:
        return f"{value}; "
    best = max(means) if metric.higher_is_better else min(means)
    of = f" (the best of {len(means)} others)" if len(others) > 1 else ""
    return f"{value} against {metric.text(best)}{of}; "


def _obstacle(
    record: ReportRecord, metric: Metric, ours: CellRecord, others: Sequence[CellRecord]
) -> str:
    """Returns the reason why these cells cannot be compared; empty if they can."""
    cells = [ours, *others]
    means = [cell.mean for cell in cells if cell.mean is not None]
    missing = sum(cell.n == 0 for cell in cells)
    if missing:
        return f"{missing} of {len(cells)} cells have no figure"
    fewest = min(cell.n for cell in cells)
    if fewest < LEAST_SEEDS:
        return f"{fewest} seed{'s' if fewest > 1 else ''}, and at least {LEAST_SEEDS} are needed"
    key, name = record.column
    chance = record.protocols[key].chance.get(name) if key in record.protocols else None
    if metric.unit == "%" and metric.higher_is_better:
        if chance and max(means) < CLEAR_OF_CHANCE * chance:
            return f"no cell reaches {CLEAR_OF_CHANCE:g} times chance ({chance:.2f} %)"
        if min(means) > CEILING:
            return f"all cells lie above {CEILING:g} %, where there is no room"
    return ""


# ---- table ---------------------------------------------------------------------------------------


def claim_table(findings: Sequence[ClaimFinding]) -> Table:
    """Lays out a row for each claim."""
    widths = {
        "paper": 0.0,
        "claim": 0.32,
        "how it is tested": 0.22,
        "measured here": 0.27,
        "at which scale": 0.27,
        "verdict": 0.16,
    }
    columns = tuple(Column(head, is_label=True, width=width) for head, width in widths.items())
    rows = tuple(
        (
            Cell(f.paper),
            Cell(f.claim),
            Cell(f.how),
            Cell(f.measured),
            Cell(f.scale),
            Cell(f.verdict),
        )
        for f in findings
    )
    sources = "; ".join(f"{f.id}: {f.source}" for f in findings)
    caption = "The papers' claims, and what was measured here."
    notes = (f"Rule. {RULE}", f"Sources. {sources}.")
    return Table("claims", caption, columns, rows, notes)
