"""The HTML page of one ablation and the index of all. Each page is one file that loads nothing:
pictures are embedded.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.output.layout import Column, Table
from reports.output.tables import states_text
from reports.study.collect import Study
from reports.study.study_provenance import cost

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


class Picture(Protocol):
    """What is read of a figure (`reports.figures.style.Picture`)."""

    name: str
    png: Path
    pdf: Path
    caption: str
    alt: str


def ablation_page(
    study: Study,
    verdict: Sequence[str],
    tables: Sequence[Table],
    sections: Mapping[str, Sequence[Table]],
    more_tables: Sequence[Table],
    pictures: Sequence[Picture],
    rebuilt: Sequence[Picture],
    folder: Path,
    files: Sequence[str],
) -> str:
    """The page that lies in `folder`, beside the `files` that it links to. `sections`: comparisons,
    published, costs.
    """
    template = _environment().get_template("ablation.html")
    return template.render(
        study=study,
        plan=study.plan,
        verdict=verdict,
        states=states_text(study),
        tables=tables,
        sections=sections,
        more_tables=more_tables,
        pictures=_shown(pictures, folder),
        rebuilt=_shown(rebuilt, folder),
        files=files,
        cost=cost(study.runs),
        hardware=sorted({run.hardware for run in study.runs if run.hardware}),
        runs=[run for cell in study.plan.cells for run in study.by_cell[cell]],
    )


def papers_page(
    tables: Sequence[Table],
    claims: Table,
    pictures: Sequence[Picture],
    folder: Path,
    files: Sequence[str],
) -> str:
    """The page of the papers' tables and claims; it lies in `folder`."""
    template = _environment().get_template("papers.html")
    return template.render(
        tables=tables, claims=claims, pictures=_shown(pictures, folder), files=files
    )


def compare_page(
    a: Any,
    b: Any,
    verdict: str,
    parts: Sequence[Any],
    scores: Sequence[Any],
    wins: Sequence[Any],
    pictures: Sequence[Picture],
    folder: Path,
) -> str:
    """The page of two runs (`reports.run_diff`); it lies in `folder`."""
    template = _environment().get_template("compare.html")
    return template.render(
        a=a,
        b=b,
        verdict=verdict,
        parts=parts,
        scores=scores,
        wins=wins,
        pictures=_shown(pictures, folder),
    )


def without_links(page: str) -> str:
    """A page for a place where nothing lies beside it: links become their words."""
    return re.sub(r"<a href=[^>]*>(.*?)</a>", r"\1", page, flags=re.DOTALL)


def _shown(pictures: Sequence[Picture], folder: Path) -> list[dict[str, str]]:
    """Pictures as a page holds them: the bytes inside, the PDF as a link."""
    return [
        {
            "data": base64.b64encode(picture.png.read_bytes()).decode(),
            "pdf": picture.pdf.relative_to(folder).as_posix(),
            "label": picture.pdf.suffix[1:].upper(),
            "caption": picture.caption,
            "alt": picture.alt,
        }
        for picture in pictures
    ]


def index_page(
    records: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Links to the pages of these ablations (provenance records) and of comparisons of two runs, in
    the order given.
    """
    return (
        _environment().get_template("index.html").render(records=records, comparisons=comparisons)
    )


def head_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """The upper line of a table's head: (common head, number of columns); empty if no column has
    one.
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
