"""Writes the files of one report: tables, figures, provenance and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.analysis.across.crossing_tables import crossings_frame
from reports.analysis.across.signal_tables import signal_frame
from reports.analysis.comparisons import comparisons_frame
from reports.analysis.effects import effects_frame
from reports.figures.costs import cost_plots, costs_frame
from reports.figures.learning_curves import learning_plots
from reports.figures.reconstructions import reconstruction_figures
from reports.figures.style import ReportFigure, draw_figures
from reports.figures.use_curves import use_plots
from reports.figures.venue import ARTICLE, Venue
from reports.kinds.registry import report_type_of
from reports.output import render
from reports.output.dataframes import metrics_frame
from reports.output.html_page import ReportContent, report_page
from reports.output.latex import LatexPage, latex
from reports.output.layout import Table
from reports.study.study_provenance import NAME as PROVENANCE
from reports.study.study_provenance import provenance_record, to_json
from reports.study.sweep_results import SweepResults
from simvtp.runs.atomic_files import read_json, write_atomically

SECTION_FRAMES = {
    "comparisons": comparisons_frame,
    "effects": effects_frame,
    "signal": signal_frame,
    "crossings": crossings_frame,
    "costs": costs_frame,
}


def write_report(
    sweep: SweepResults,
    folder: Path,
    venue: Venue = ARTICLE,
    others: Sequence[SweepResults] = (),
) -> None:
    """Writes all files of one ablation's report.

    Args:
        sweep: its results.
        folder: where to write.
        venue: format of figures and LaTeX tables.
        others: sweeps of the same ablation at other scales.
    """
    kind = report_type_of(sweep.plan)
    verdict, tables = kind.verdict(sweep), kind.tables(sweep)
    # With spreads, a table of both directions would be too wide for the page.
    more = kind.more(sweep, len(sweep.plan.seeds) > 1)
    sections = {
        "comparisons": kind.comparisons(sweep),
        "effects": kind.effects(sweep),
        "signal": kind.signal(sweep, others),
        "crossings": kind.crossings(sweep),
        "use": kind.use(sweep),
        "published": kind.published(sweep),
        "costs": kind.costs(sweep),
    }
    files = _tables(sweep, tables, more, sections, LatexPage(venue.column, venue.page))
    folder.mkdir(parents=True, exist_ok=True)
    figures: tuple[ReportFigure, ...] = ()
    if sweep.runs:
        figures = draw_figures(
            sweep,
            [
                *kind.plots(sweep),
                *learning_plots(sweep),
                *use_plots(sweep),
                *cost_plots(sweep),
            ],
            folder,
            venue,
        )
    reconstructions = reconstruction_figures(sweep, folder)
    drawn = _names([*figures, *reconstructions], folder)
    _remove_figures(folder, keep=drawn)
    record = provenance_record(sweep, verdict, drawn) | {"methods": kind.methods}
    files[PROVENANCE] = to_json(record)
    for name, text in files.items():
        write_atomically(folder / name, text)
    content = ReportContent(verdict, tables, sections, more, figures, reconstructions, tuple(files))
    write_atomically(folder / "index.html", report_page(sweep, content, folder))


def _tables(
    sweep: SweepResults,
    tables: Sequence[Table],
    more: Sequence[Table],
    sections: Mapping[str, Sequence[Table]],
    page: LatexPage,
) -> dict[str, str]:
    """Returns {name of the file: text} of all tables."""
    kind = report_type_of(sweep.plan)
    comments = [f"sweep {sweep.plan.sweep_id}; the runs behind each figure: {PROVENANCE}"]
    files = {
        "table.md": render.markdown(tables),
        "table.tex": latex(tables, comments, page),
        "table.csv": render.csv(kind.points(sweep)),
        "all.md": render.markdown(more),
        "all.tex": latex(kind.more(sweep, True), comments, page),
        "all.csv": render.csv(kind.cells(sweep)),
    }
    for name, made in sections.items():
        if made:
            files[f"{name}.md"] = render.markdown(made)
            files[f"{name}.tex"] = latex(made, comments, page)
            if name in SECTION_FRAMES:
                files[f"{name}.csv"] = render.csv(SECTION_FRAMES[name](sweep))
    files["values.csv"] = render.csv(metrics_frame(sweep))
    return files


def _names(figures: Sequence[ReportFigure], folder: Path) -> list[str]:
    paths = dict.fromkeys(path for figure in figures for path in (figure.pdf, figure.png))
    return [path.relative_to(folder).as_posix() for path in paths]


def _remove_figures(folder: Path, keep: Sequence[str]) -> None:
    """Removes figures of an earlier report, for instance of another sweep, from the folder."""
    earlier = folder / PROVENANCE
    if earlier.exists():
        for name in set(read_json(earlier).get("figures", ())) - set(keep):
            path = folder / name
            if path.resolve().is_relative_to(folder.resolve()):
                path.unlink(missing_ok=True)
