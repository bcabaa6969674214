"""Makes the HTML pages. Each page is one file that loads nothing: images are embedded."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.output.layout import Column, Table
from reports.output.tables import states_text
from reports.study.archive import ComparisonRecord, ReportRecord
from reports.study.study_provenance import cost
from reports.study.sweep_results import SweepResults

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


SECTION_TITLES = {  # of `ReportContent.sections`, in the order of the page
    "comparisons": "Differences to the baseline",
    "effects": "Effects",
    "crossings": "Equal compute",
    "use": "What each model uses",
    "published": "Published and measured",
    "costs": "Cost",
    "signal": "Signal and noise of each metric",
}


class PageImage(Protocol):
    """Fields that are read of an image (`reports.figures.style.ReportFigure`)."""

    @property
    def png(self) -> Path: ...
    @property
    def pdf(self) -> Path: ...
    @property
    def caption(self) -> str: ...
    @property
    def alt(self) -> str: ...


@dataclass(frozen=True)
class ReportContent:
    """The content of a report's page.

    Attributes:
        tables: at the top.
        sections: by the names of `SECTION_TITLES`.
        more_tables: all metrics, below.
        reconstructions: sheets of reconstructed clips.
        files: names of the files of the report, which the page links to.
    """

    verdict: Sequence[str]
    tables: Sequence[Table]
    sections: Mapping[str, Sequence[Table]]
    more_tables: Sequence[Table]
    figures: Sequence[PageImage]
    reconstructions: Sequence[PageImage]
    files: Sequence[str]


def report_page(sweep: SweepResults, content: ReportContent, folder: Path) -> str:
    """Returns the page of one ablation; it links to files in `folder`."""
    template = _environment().get_template("ablation.html")
    return template.render(
        sweep=sweep,
        plan=sweep.plan,
        content=content,
        section_titles=SECTION_TITLES,
        states=states_text(sweep),
        figures=_embedded(content.figures, folder),
        reconstructions=_embedded(content.reconstructions, folder),
        cost=cost(sweep.runs),
        hardware=sorted({run.hardware for run in sweep.runs if run.hardware}),
        runs=[run for cell in sweep.plan.cells for run in sweep.by_cell[cell]],
    )


def papers_page(
    tables: Sequence[Table],
    claims: Sequence[Table],
    figures: Sequence[PageImage],
    folder: Path,
    files: Sequence[str],
) -> str:
    """Returns the page of the papers' tables and claims; it links to files in `folder`."""
    template = _environment().get_template("papers.html")
    return template.render(
        tables=tables, claims=claims, figures=_embedded(figures, folder), files=files
    )


def measured_page(tables: Sequence[Table], files: Sequence[str]) -> str:
    """Returns the page of the rows measured here, next to that of the papers."""
    return _environment().get_template("measured.html").render(tables=tables, files=files)


def compare_page(
    a: Any,
    b: Any,
    verdict: str,
    sections: Sequence[Any],
    scores: Sequence[Any],
    wins: Sequence[Any],
    figures: Sequence[PageImage],
    folder: Path,
) -> str:
    """Returns the page of two runs (`reports.run_diff`); it links to files in `folder`."""
    template = _environment().get_template("compare.html")
    return template.render(
        a=a,
        b=b,
        verdict=verdict,
        sections=sections,
        scores=scores,
        wins=wins,
        figures=_embedded(figures, folder),
    )


def index_page(
    records: Sequence[ReportRecord], comparisons: Sequence[ComparisonRecord] = ()
) -> str:
    """Returns the page with links to these reports and comparisons, in the given order."""
    template = _environment().get_template("index.html")
    return template.render(records=records, comparisons=comparisons)


def without_links(page: str) -> str:
    """Returns a page whose links are plain words, for a location without the linked files."""
    return re.sub(r"<a href=[^>]*>(.*?)</a>", r"\1", page, flags=re.DOTALL)


def _embedded(images: Sequence[PageImage], folder: Path) -> list[dict[str, str]]:
    """Returns images as a page holds them: the bytes inside, the PDF as a link."""
    return [
        {
            "data": base64.b64encode(image.png.read_bytes()).decode(),
            "pdf": image.pdf.relative_to(folder).as_posix(),
            "label": image.pdf.suffix[1:].upper(),
            "caption": image.caption,
            "alt": image.alt,
        }
        for image in images
    ]


def head_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Returns the upper line of a table's head: (common head, number of columns).

    It is empty if no column has a common head.
    """
    if not any(column.group for column in columns):
        return []
    return [
        (group, len(list(members)))
        for group, members in groupby(columns, key=lambda column: column.group)
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["head_groups"] = head_groups
    return environment
