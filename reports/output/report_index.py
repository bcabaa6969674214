"""The front page of a folder of reports: links to all of them, and to the comparisons of two runs
that lie beside them.
"""

from __future__ import annotations

from pathlib import Path

from reports.output.html_page import index_page
from reports.study.archive import read_comparisons, read_records
from simvtp.runs.atomic_files import write_atomically


def write_front(out: Path) -> None:
    """`out/index.html`, of what lies under `out`."""
    write_atomically(out / "index.html", index_page(read_records(out), read_comparisons(out)))
