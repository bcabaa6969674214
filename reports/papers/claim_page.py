"""Writes the page of claims: each judged by all committed studies, and by others that are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reports.kinds.registry import report_type_of
from reports.output.render import markdown
from reports.papers.claim_evidence import ClaimVerdict
from reports.papers.claims import ClaimFinding, claim_table, evidence_table, judge
from reports.study.report_plan import ReportError
from reports.study.stored_study import is_report, read_record, stored_study
from reports.study.sweep_results import SweepResults
from simvtp.runs.atomic_files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "results" / "claims.md"
COMMAND = "python reports/build.py --claims results/claims.md"


def committed_files() -> list[Path]:
    """Returns the provenance files of the committed studies, the oldest first."""
    files = sorted((ROOT / "results" / "studies").glob("*/*provenance.json"))
    return [file for file in files if is_report(file)]


def read_sweeps(files: Iterable[Path]) -> list[SweepResults]:
    """Returns the results in the provenance files of reports.

    Raises:
        ReportError: a file is none of a grid's report.
    """
    records = [read_record(file) for file in files]
    return [stored_study(record, report_type_of(record).make_axis) for record in records]


def write_claims(page: Path, more: Sequence[SweepResults] = ()) -> list[ClaimFinding]:
    """Writes the page; `more` are studies that count with the committed ones.

    Raises:
        ReportError: the folder of the page does not exist.
    """
    if not page.parent.is_dir():
        raise ReportError(f"{page.parent} is no folder: make it, or name another file.")
    files = committed_files()
    committed = read_sweeps(files)
    findings = judge([*committed, *more])
    names = [sweep.plan.sweep_id for sweep in committed]
    write_atomically(page, claims_page(findings, dict(zip(names, files, strict=True)), len(more)))
    return findings


def claims_page(
    findings: Sequence[ClaimFinding], committed: Mapping[str, Path], more: int = 0
) -> str:
    """Returns the page in Markdown.

    Args:
        findings: of all claims.
        committed: {id of the sweep: its file} of the committed studies.
        more: number of other studies.
    """
    with_more = f" and {more} other{'s' if more > 1 else ''}" if more else ""
    studies = [
        f"* `{name}`: [{file.relative_to(PAGE.parent)}]({file.relative_to(PAGE.parent)})"
        for name, file in committed.items()
    ]
    return "\n".join(
        [
            "# Claims of the two papers, judged",
            "",
            f"Made by `{COMMAND}` from `ablations/claims.toml`, `results/benchmarks.json` and the "
            f"committed studies (`results/studies/*/*provenance.json`){with_more}; not written by "
            "hand.",
            "",
            f"{counts(findings)}.",
            "",
            markdown([claim_table(findings), evidence_table(findings)]),
            "The committed studies:",
            "",
            *studies,
            "",
        ]
    )


def counts(findings: Sequence[ClaimFinding]) -> str:
    """Returns `24 claims: 1 supported, 2 undecided, ...`."""
    found = Counter(one.verdict for one in findings)
    parts = ", ".join(f"{found[verdict]} {verdict}" for verdict in ClaimVerdict if found[verdict])
    return f"{len(findings)} claims: {parts}"
