"""Writes the page of the papers: their tables, the data-efficiency curve, the claims.

Rows measured here have a page of their own.

It is made of the reports in the same folder, so it is as recent as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from reports.figures.style import ReportFigure, letters, line_width, report_style, save_figure
from reports.figures.venue import ARTICLE, Venue
from reports.output import render
from reports.output.html_page import measured_page, papers_page
from reports.output.latex import LatexPage, latex
from reports.output.metric_formats import metric_of
from reports.papers.claim_page import read_sweeps
from reports.papers.claims import claim_table, evidence_table, judge
from reports.papers.measured_rows import measured_frame, measured_tables
from reports.papers.published import (
    MSRVTT,
    PROTOCOL,
    TENTH,
    WHOLE,
    other_tables,
    paper_tables,
    read_rows,
)
from reports.study.archive import (
    MeasuredRow,
    ReportRecord,
    measured_cell,
    measured_rows,
    read_records,
)
from reports.study.stored_study import is_report
from reports.study.study_provenance import NAME as PROVENANCE
from simvtp.runs.atomic_files import write_atomically

NAME = "papers"
MEASURED = "measured.html"
FRACTION = "data.fraction"


def write_papers(out: Path, venue: Venue = ARTICLE) -> None:
    """Writes the page with its tables and figure into `out/papers`, from the reports in `out`."""
    records = read_records(out)
    folder = out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    rows = measured_rows(records)
    tables, others = paper_tables(), other_tables()
    findings = judge(read_sweeps(filter(is_report, sorted(out.glob(f"*/{PROVENANCE}")))))
    measured, claims = measured_tables(rows), (claim_table(findings), evidence_table(findings))
    paper = LatexPage(venue.column, venue.page)
    source = ["published figures: ablations/published.csv"]
    files = {
        "tables.md": render.markdown([*tables, *others]),
        "tables.tex": latex([*tables, *others], source, paper),
        "claims.md": render.markdown(claims),
        "claims.tex": latex(claims, ["the rule and the sources are below the table"], paper),
        "claims.csv": render.csv(pd.DataFrame([one.as_row() for one in findings])),
        "measured.md": render.markdown(measured),
        "measured.tex": latex(measured, ["the runs behind each row: measured.csv"], paper),
        "measured.csv": render.csv(measured_frame(rows)),
    }
    for name, text in files.items():
        write_atomically(folder / name, text)
    write_atomically(folder / MEASURED, measured_page(measured, tuple(files)))
    figure = efficiency_figure(records, folder, venue)
    page = papers_page((*tables, *others), claims, [figure], folder, (MEASURED, *files))
    write_atomically(folder / "index.html", page)


# ---- the data-efficiency curve -------------------------------------------------------------------


@dataclass(frozen=True)
class FractionPoint:
    """A measured cell at a fraction of the pre-training data."""

    fraction: float
    row: MeasuredRow


def efficiency_figure(
    records: Sequence[ReportRecord], folder: Path, venue: Venue = ARTICLE
) -> ReportFigure:
    """Draws R@1 over the fraction of the pre-training data, published and measured."""
    found = [_fraction_curve(record) for record in records if record.ablation == "data_fraction"]
    points = next((points for points in found if points), [])
    title = (
        "Fraction of the pre-training data and text-to-video R@1, as the paper prints it "
        "and as measured here."
    )
    measured = "Right: not measured here yet."
    if points:
        protocol = points[0].row.protocol
        measured = f"Right: {protocol}; mean and standard deviation over the seeds."
    caption = [
        title,
        f"Left: {PROTOCOL}, WebVid-2M (SimVTP abstract; the two points are all that is known).",
        measured,
        "The scales are not the same, and the panels are not to be compared in height.",
    ]
    subject = "published: ablations/published.csv"
    with report_style(venue):
        figure = draw_efficiency(points)
        return save_figure(figure, "data_efficiency", title, " ".join(caption), folder, subject)


def _fraction_curve(record: ReportRecord) -> list[FractionPoint]:
    key, _ = record.column
    made = []
    for cell in record.cells:
        row = measured_cell(record, cell, key) if set(cell.settings) == {FRACTION} else None
        if row is not None and "R1" in row.values:
            made.append(FractionPoint(float(cell.settings[FRACTION]), row))
    return sorted(made, key=lambda point: point.fraction)


def draw_efficiency(points: Sequence[FractionPoint]) -> Figure:
    """Draws the published values on the left, the measured ones on the right."""
    figure = Figure(figsize=(line_width(), 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    first, second = sns.color_palette("colorblind")[:2]
    rows = {row.method: row for row in read_rows() if row.protocol == MSRVTT}
    published = {0.1: float(rows[TENTH].values["R1"]), 1.0: float(rows[WHOLE].values["R1"])}
    left.plot(list(published), list(published.values()), color=first, marker="s", linestyle=":")
    for x, y in published.items():
        above = {"textcoords": "offset points", "xytext": (0, 6), "ha": "center"}
        left.annotate(f"{y:.1f}", (x, y), fontsize=letters(1.0), **above)
    left.set_title("published", fontsize=letters())
    _fraction_axis(left, list(published))
    left.set_ylim(40, 58)
    right.set_title("measured here", fontsize=letters())
    if points:
        summaries = [point.row.values["R1"] for point in points]
        fractions = [point.fraction for point in points]
        right.errorbar(
            fractions,
            [summary.mean for summary in summaries],
            yerr=[summary.std or 0.0 for summary in summaries],
            color=second,
            marker="o",
            capsize=2.5,
        )
        _fraction_axis(right, fractions)
        right.margins(y=0.2)
    else:
        middle = {"ha": "center", "va": "center", "transform": right.transAxes}
        right.text(0.5, 0.5, "not measured yet", **middle)
        right.set(xticks=[], yticks=[])
    figure.supxlabel("fraction of the pre-training data", fontsize=letters())
    left.set_ylabel(f"{metric_of('R1').label} (%)")
    sns.despine(figure)
    return figure


def _fraction_axis(axes: Axes, fractions: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(fractions)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(fractions, [f"{100 * fraction:g} %" for fraction in fractions])
    axes.margins(x=0.15)
