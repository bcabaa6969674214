"""Writes the index page of a folder of reports and of comparisons of two runs."""

from __future__ import annotations

from pathlib import Path

from reports.output.html_page import index_page
from reports.study.archive import read_comparisons, read_records
from simvtp.runs.atomic_files import write_atomically


def write_report_index(out: Path) -> None:
    """Writes `out/index.html`, which links to everything under `out`."""
    write_atomically(out / "index.html", index_page(read_records(out), read_comparisons(out)))
