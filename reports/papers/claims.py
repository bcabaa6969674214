"""Each claim of the papers (`ablations/claims.toml`), what was measured here, and what that says,
by one rule.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, metric_of
from reports.statistics.seed_statistics import difference, holm
from reports.study.archive import Record
from reports.study.report_plan import ReportError
from simvtp.runs.atomic_files import read_json
from simvtp.runs.metric_names import MetricName

FILE = Path(__file__).resolve().parents[2] / "ablations" / "claims.toml"
BENCHMARKS = Path(__file__).resolve().parents[2] / "results" / "benchmarks.json"
SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable at this scale"
LEAST_SEEDS, CLEAR_OF_CHANCE, CEILING, LEVEL = 3, 2.0, 95.0, 0.05
TESTS = {
    "better": ("ablation", "cell", "than"),
    "best": ("ablation", "cell"),
    "benchmark": ("unit",),
    "scale": ("needs",),
}
RULE = (
    f"A cell is better than another if both have at least {LEAST_SEEDS} seeds, the better of the two lies above {CLEAR_OF_CHANCE:g} times "
    f"chance and, of figures in per cent, the worse below {CEILING:g} %, and Welch's test over the seeds (corrected by Holm's method where "
    f"there are several others) gives p < {LEVEL:g} in the claim's direction: then the claim is supported. If the cells were measured so "
    "and that is not the outcome, it is not supported, which is less than refuted. In all other cases it is not testable at this scale. "
    "Supported means: at this scale, on this data; the papers speak of far larger models and data."
)


@dataclass(frozen=True)
class Finding:
    """A claim with what came out: `verdict` is SUPPORTED, NOT_SUPPORTED or NOT_TESTABLE; `scale`:
    on what it was measured.
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
    """The claims as the file has them; ReportError for one that lacks what its test needs."""
    claims: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    for claim in claims:
        needed = ("id", "paper", "claim", "source", "test", *TESTS.get(claim.get("test", ""), ()))
        missing = [name for name in needed if name not in claim]
        if missing or claim["test"] not in TESTS:
            raise ReportError(
                f"{path}: the claim {claim.get('id', '?')} lacks {', '.join(missing) or 'a known test'}."
            )
    return claims


def judge(
    records: Sequence[Record],
    claims: Sequence[Mapping[str, Any]] | None = None,
    benchmarks: Path = BENCHMARKS,
) -> list[Finding]:
    """All claims, in the order of the file."""
    by_ablation = {record["ablation"]: record for record in records}
    measured = read_json(benchmarks) if benchmarks.exists() else {}
    found = []
    for claim in read_claims() if claims is None else claims:
        if claim["test"] == "scale":
            found.append(
                _finding(
                    claim,
                    "a figure on data that is not at hand",
                    MISSING,
                    f"needs {claim['needs']}",
                    NOT_TESTABLE,
                )
            )
        elif claim["test"] == "benchmark":
            found.append(_benchmark(claim, measured.get(claim["id"])))
        else:
            found.append(_cells(claim, by_ablation.get(claim["ablation"])))
    return found


def _finding(
    claim: Mapping[str, Any], how: str, measured: str, scale: str, verdict: str
) -> Finding:
    return Finding(
        claim["id"], claim["paper"], claim["claim"], claim["source"], how, measured, scale, verdict
    )


def _benchmark(claim: Mapping[str, Any], found: Mapping[str, Any] | None) -> Finding:
    """`found`: {"value": number, "command": text, "hardware": text, "commit": text} or None."""
    bound = (
        f"at most {claim['at_most']:g}" if "at_most" in claim else f"at least {claim['at_least']:g}"
    )
    how = f"benchmark: {bound} {claim['unit']}"
    if not found:
        return _finding(claim, how, MISSING, "not measured here yet", NOT_TESTABLE)
    value = float(found["value"])
    holds = value <= claim["at_most"] if "at_most" in claim else value >= claim["at_least"]
    scale = "; ".join(
        str(found[name]) for name in ("command", "hardware", "commit") if found.get(name)
    )
    return _finding(
        claim, how, f"{value:.2f} {claim['unit']}", scale, SUPPORTED if holds else NOT_SUPPORTED
    )


# ---- cells of a sweep ----------------------------------------------------------------------------


def _cells(claim: Mapping[str, Any], record: Record | None) -> Finding:
    how = f"ablation {claim['ablation']}"
    if record is None:
        return _finding(claim, how, MISSING, "no report of this ablation", NOT_TESTABLE)
    metric = metric_of(MetricName.parse(record["metric"]).metric)
    scale = f"{record['recipe'] or 'no recipe'} on {record['dataset']}, {record['metric']}, sweep {record['sweep_id']}"
    cells = {_name(cell["cell"]): cell for cell in record["cells"]}
    ours = cells.get(_name(claim["cell"]))
    others = (
        [cells.get(_name(claim["than"]))]
        if claim["test"] == "better"
        else [c for c in cells.values() if c is not ours]
    )
    if ours is None or None in others or not others:
        return _finding(
            claim, how, "the cells of the claim are not in this sweep", scale, NOT_TESTABLE
        )
    against = [cell for cell in others if cell]
    obstacle = _obstacle(record, metric, ours, against)
    gaps = [
        difference(_values(ours), _values(cell))
        for cell in against
        if _values(ours) and _values(cell)
    ]
    words = _words(metric, ours, against)
    if obstacle:
        return _finding(claim, how, f"{words}{obstacle}", scale, NOT_TESTABLE)
    p_values = holm([gap.p_value for gap in gaps])
    sign = 1 if metric.higher_is_better else -1
    holds = all(
        p is not None and p < LEVEL and sign * gap.mean > 0
        for p, gap in zip(p_values, gaps, strict=True)
    )
    worst = min(range(len(gaps)), key=lambda number: sign * gaps[number].mean)
    interval = gaps[worst].interval
    least = f"{'least ' if len(gaps) > 1 else ''}difference {gaps[worst].mean:+.{metric.decimals}f}"
    ends = f", 95 % CI {metric.interval(interval)}" if interval else ""
    text = f"{words}{least}{ends}, {ours['n']} seeds".replace("-", "−")
    return _finding(claim, how, text, scale, SUPPORTED if holds else NOT_SUPPORTED)


def _name(cell: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((key, str(value)) for key, value in cell.items()))


def _values(cell: Mapping[str, Any]) -> list[float]:
    return list(cell["values"].values())


def _words(metric: Metric, ours: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """`R@1 12.1 against 9.8; `, or against the best of several."""
    if ours["mean"] is None:
        return ""
    means = [cell["mean"] for cell in others if cell["mean"] is not None]
    if not means:
        return f"{metric.label} {metric.text(ours['mean'])}; "
    best = max(means) if metric.higher_is_better else min(means)
    of = f" (the best of {len(means)} others)" if len(others) > 1 else ""
    return f"{metric.label} {metric.text(ours['mean'])} against {metric.text(best)}{of}; "


def _obstacle(
    record: Record, metric: Metric, ours: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> str:
    """Why these cells cannot be compared; empty if they can."""
    cells = [ours, *others]
    missing = sum(cell["n"] == 0 for cell in cells)
    if missing:
        return f"{missing} of {len(cells)} cells have no figure"
    fewest = min(cell["n"] for cell in cells)
    if fewest < LEAST_SEEDS:
        return f"{fewest} seed{'s' if fewest > 1 else ''}, and at least {LEAST_SEEDS} are needed"
    named = MetricName.parse(record["metric"])
    chance = record["protocols"].get(named.key, {}).get("chance", {}).get(named.metric)
    means = [cell["mean"] for cell in cells]
    if metric.unit == "%" and metric.higher_is_better:
        if chance and max(means) < CLEAR_OF_CHANCE * chance:
            return f"no cell reaches {CLEAR_OF_CHANCE:g} times chance ({chance:.2f} %)"
        if min(means) > CEILING:
            return f"all cells lie above {CEILING:g} %, where there is no room"
    return ""


# ---- table ---------------------------------------------------------------------------------------


def claim_table(findings: Sequence[Finding]) -> Table:
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
        tuple(map(Cell, (f.paper, f.claim, f.how, f.measured, f.scale, f.verdict)))
        for f in findings
    )
    sources = "; ".join(f"{f.id}: {f.source}" for f in findings)
    return Table(
        "claims",
        "The papers' claims, and what was measured here.",
        columns,
        rows,
        (f"Rule. {RULE}", f"Sources. {sources}."),
    )
