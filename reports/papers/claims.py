"""Judges each claim of the papers (`ablations/claims.toml`) by one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.analysis.seed_statistics import holm
from reports.output.layout import MISSING, Cell, Column, Table
from reports.papers.claim_conditions import CEILING, CLEAR_OF_CHANCE, LEAST_SEEDS
from reports.papers.claim_evidence import ClaimEvidence, ClaimVerdict, evidence_of
from reports.papers.claim_file import Claim, ClaimTest, read_claims
from reports.study.sweep_results import SweepResults
from simvtp.runs.atomic_files import read_json

BENCHMARKS = Path(__file__).resolve().parents[2] / "results" / "benchmarks.json"
LEVEL = 0.05
RULES = (
    "Rule. Cells are compared in the model of their sweep (seeds as blocks, pooled error, "
    f"simultaneous 95 % intervals: the test of all reports), with at least {LEAST_SEEDS} seeds "
    f"each, the better above {CLEAR_OF_CHANCE:g} times chance and the worse below {CEILING:g} %.",
    "Supported: the interval lies on the side of the claim. Contradicted here: it lies on the "
    "other side. Equivalent: it contains 0 and lies within the margin (2 points for per cent). "
    "Undecided: otherwise. A claim that a value is the best one is supported if every interval "
    "lies on its side, and contradicted if any lies on the other one.",
    "Not testable here: the cells were not measured or say nothing. A claim that rests on "
    "something learnt names figures that the cells must reach (a level, with a 95 % interval above "
    "0). The best value of a setting needs measured values on both sides. Where a claim names a "
    "row without pre-training, the better side must exceed it. The same runs count once.",
    "By construction: the figure follows from how the experiment was set up.",
    "Over several comparisons the p-values are corrected by Holm's method, and a claim is "
    f"supported or contradicted if one of them remains below {LEVEL:g} and none says the opposite; "
    "it is equivalent if all are. Claims are not corrected for one another.",
    "Every verdict is about these models and data; the papers speak of far larger ones.",
)


@dataclass(frozen=True)
class ClaimFinding:
    """A claim with its verdict.

    Attributes:
        how: the test in words.
        scale: recipe, data and sweep that it was measured with.
        evidence: what each comparison of each study says.
    """

    id: str
    paper: str
    claim: str
    source: str
    how: str
    measured: str
    scale: str
    verdict: ClaimVerdict
    evidence: tuple[ClaimEvidence, ...] = ()

    def as_row(self) -> dict[str, str]:
        """Returns the finding as plain values, the verdict last."""
        row = {name: str(value) for name, value in vars(self).items() if name != "evidence"}
        return row | {"verdict": row.pop("verdict")}


def judge(
    sweeps: Sequence[SweepResults],
    claims: Sequence[Claim] | None = None,
    benchmarks: Path = BENCHMARKS,
) -> list[ClaimFinding]:
    """Returns the verdict on each claim, in the order of the file.

    Args:
        sweeps: studies; of two with one sweep id the first counts.
        claims: default: those of the file.
        benchmarks: measured benchmarks, {claim id: {value, command, hardware, commit}}.
    """
    by_id: dict[tuple[str, str], SweepResults] = {}
    for sweep in sweeps:
        by_id.setdefault((sweep.plan.ablation, sweep.plan.sweep_id), sweep)
    measured = read_json(benchmarks) if benchmarks.exists() else {}
    found = []
    for claim in read_claims() if claims is None else claims:
        if claim.test == ClaimTest.SCALE:
            how = "a figure on data that is not at hand"
            scale = f"lacks {claim.lacks}"
            found.append(_finding(claim, how, MISSING, scale, ClaimVerdict.NOT_TESTABLE))
        elif claim.test == ClaimTest.BENCHMARK:
            found.append(_benchmark(claim, measured.get(claim.id)))
        else:
            found.append(_studies(claim, list(by_id.values())))
    return found


def _finding(
    claim: Claim,
    how: str,
    measured: str,
    scale: str,
    verdict: ClaimVerdict,
    evidence: Sequence[ClaimEvidence] = (),
) -> ClaimFinding:
    return ClaimFinding(
        id=claim.id,
        paper=claim.paper,
        claim=claim.claim,
        source=claim.source,
        how=how,
        measured=measured,
        scale=scale,
        verdict=verdict,
        evidence=tuple(evidence),
    )


def _benchmark(claim: Claim, found: Mapping[str, Any] | None) -> ClaimFinding:
    """Judges a claim on a measured number."""
    most = claim.at_most is not None
    bound = f"at most {claim.at_most:g}" if most else f"at least {claim.at_least:g}"
    how = f"benchmark: {bound} {claim.unit}"
    if not found:
        unmeasured = "not measured here yet"
        return _finding(claim, how, MISSING, unmeasured, ClaimVerdict.NOT_TESTABLE)
    value = float(found["value"])
    holds = value <= (claim.at_most or 0.0) if most else value >= (claim.at_least or 0.0)
    known = (str(found[name]) for name in ("command", "hardware", "commit") if found.get(name))
    text, scale = f"{value:.2f} {claim.unit}", "; ".join(known)
    if claim.device and found.get("device") != claim.device:
        device = found.get("device") or "a device that is not recorded"
        text = f"{text}; measured on {device}, and the claim is about {claim.device}"
        return _finding(claim, how, text, scale, ClaimVerdict.NOT_TESTABLE)
    if holds and claim.construction:
        text = f"{text}; {claim.construction}"
        return _finding(claim, how, text, scale, ClaimVerdict.BY_CONSTRUCTION)
    verdict = ClaimVerdict.SUPPORTED if holds else ClaimVerdict.CONTRADICTED
    return _finding(claim, how, text, scale, verdict)


# ---- studies -------------------------------------------------------------------------------------


def _studies(claim: Claim, sweeps: Sequence[SweepResults]) -> ClaimFinding:
    """Judges a claim on the cells of all studies that have measured them."""
    names = list(dict.fromkeys(one.ablation for one in claim.cells))
    how = f"ablation {' and '.join(names)}"
    found: list[ClaimEvidence] = []
    for sweep in sweeps:
        for one in evidence_of(sweep, claim):
            if not any(_same(one, other) for other in found):
                found.append(one)
    if not found:
        absent = "no study of this ablation"
        return _finding(claim, how, MISSING, absent, ClaimVerdict.NOT_TESTABLE)
    verdict = over_studies(found)
    shown = [one for one in found if one.verdict == verdict] or found
    measured = "; ".join(dict.fromkeys(one.measured for one in shown))
    scale = "; ".join(dict.fromkeys(one.scale for one in shown))
    return _finding(claim, how, measured, scale, verdict, found)


def _same(one: ClaimEvidence, other: ClaimEvidence) -> bool:
    """Returns True for one comparison of the same runs in two sweeps."""
    return bool(one.runs) and one.runs == other.runs and one.compared == other.compared


def over_studies(evidence: Sequence[ClaimEvidence]) -> ClaimVerdict:
    """Returns the verdict on several comparisons, with p-values corrected by Holm's method."""
    tested = [one for one in evidence if one.p_value is not None]
    if not tested:
        return ClaimVerdict.NOT_TESTABLE
    corrected = holm([one.p_value for one in tested])
    sides = (ClaimVerdict.SUPPORTED, ClaimVerdict.CONTRADICTED)
    said = {one.verdict for one in tested if one.verdict in sides}
    shown = {
        one.verdict
        for one, p_value in zip(tested, corrected, strict=True)
        if one.verdict in sides and p_value is not None and p_value < LEVEL
    }
    if len(said) == 1 and shown == said:
        return shown.pop()
    if all(one.verdict == ClaimVerdict.EQUIVALENT for one in tested):
        return ClaimVerdict.EQUIVALENT
    return ClaimVerdict.UNDECIDED


# ---- tables --------------------------------------------------------------------------------------


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
    rows = tuple(_cells(f.paper, f.claim, f.how, f.measured, f.scale, f.verdict) for f in findings)
    sources = "; ".join(f"{f.id}: {f.source}" for f in findings)
    caption = "The papers' claims, and what was measured here."
    return Table("claims", caption, columns, rows, (*RULES, f"Sources. {sources}."))


def _cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(text) for text in texts)


def evidence_table(findings: Sequence[ClaimFinding]) -> Table:
    """Lays out a row for each comparison of each study, the studies in the order given."""
    widths = {
        "claim": 0.0,
        "compared": 0.24,
        "measured": 0.36,
        "study": 0.36,
        "verdict": 0.16,
    }
    columns = tuple(Column(head, is_label=True, width=width) for head, width in widths.items())
    rows = tuple(
        _cells(f.id, one.compared, one.measured, one.scale, one.verdict)
        for f in findings
        for one in f.evidence
    )
    tested = sum(one.p_value is not None for f in findings for one in f.evidence)
    comparisons = "comparison has" if tested == 1 else "comparisons have"
    note = (
        f"{tested} {comparisons} a test. Each is wrong with probability {LEVEL:g} at most where "
        "there is no difference."
    )
    caption = "What each study says of each claim."
    return Table("claim_evidence", caption, columns, rows, (note,))
