"""Every figure and table of a report in the format of a venue: widths, fonts, letters of 6 pt."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image

from reports.figures.costs import cost_plots
from reports.figures.style import Plot, draw_figures, report_style
from reports.figures.venue import ARTICLE, LEAST, VENUES, Venue
from reports.kinds.registry import report_type_of
from reports.output.latex import SIZES, LatexPage, fitted, latex, table_points, text_points
from reports.output.layout import Cell, Column, Table
from reports.papers.paper_tables import draw_efficiency
from reports.study.stored_study import read_record, stored_study
from reports.study.sweep_results import SweepResults
from tests.reports import made_up_search

STUDIES = Path(__file__).resolve().parents[2] / "results" / "studies"
FILES = (
    "2026-11-21-ablations/mask_ratio_provenance.json",
    "2026-11-21-prediction-vs-alignment/provenance.json",
    "2026-11-30-objectives-of-tiny-pair/losses_provenance.json",
)


def committed(name: str) -> SweepResults:
    record = read_record(STUDIES / name)
    return stored_study(record, report_type_of(record).make_axis)


def search() -> SweepResults:
    cells = made_up_search.search_cells(30)
    return made_up_search.search_results(made_up_search.search_plan(cells), made_up_search.bumpy)


def plots_of(sweep: SweepResults) -> list[Plot]:
    return [*report_type_of(sweep.plan).plots(sweep), *cost_plots(sweep)]


SWEEPS: dict[str, Callable[[], SweepResults]] = {
    **{name.partition("/")[0][11:]: (lambda name=name: committed(name)) for name in FILES},
    "search": search,
}


def letters(figure: Figure) -> list[Text]:
    """Returns the texts of a figure that are drawn: without those of ticks outside the axes."""
    figure.draw_without_rendering()
    outside = set()
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                outside |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in outside
    ]


def drawn_in(venue: Venue, name: str) -> list[tuple[str, Figure]]:
    sweep = SWEEPS[name]()
    return [(plot.name, plot.draw(sweep)) for plot in plots_of(sweep)]


@pytest.mark.parametrize("venue", VENUES.values(), ids=VENUES)
@pytest.mark.parametrize("name", SWEEPS)
def test_letters_have_at_least_six_points_and_nothing_is_cut_off(name: str, venue: Venue) -> None:
    """Figures are as wide as the line, so these are the sizes on paper."""
    with report_style(venue), warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that did not fit
        figures = [*drawn_in(venue, name), ("efficiency", draw_efficiency([]))]
        for plot, figure in figures:
            assert figure.get_figwidth() == pytest.approx(venue.column), plot
            assert figure.get_figheight() < 1.6 * max(venue.column, 4.0), plot
            for text in letters(figure):
                assert LEAST <= text.get_fontsize() <= venue.letters + 1e-9, (plot, text)
                box = text.get_window_extent()
                assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1, (plot, text)
                assert box.y0 >= -1 and box.y1 <= figure.bbox.height + 1, (plot, text)
            ends = [(axes.bbox.x0, axes.bbox.x1) for axes in figure.axes]
            panels = max(x1 for _, x1 in ends) - min(x0 for x0, _ in ends)
            assert panels > 0.4 * figure.bbox.width, plot  # the data keep a fair part


@pytest.mark.parametrize("venue", VENUES.values(), ids=VENUES)
def test_labels_do_not_touch(venue: Venue) -> None:
    with report_style(venue):
        for name in ("ablations", "prediction-vs-alignment"):
            for plot, figure in drawn_in(venue, name):
                figure.draw_without_rendering()
                axes = figure.axes[0]
                for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
                    shown = [t.get_window_extent() for t in labels if t.get_text()]
                    for one, two in itertools.combinations(shown, 2):
                        assert not one.overlaps(two), (plot, venue.name)


def test_files_have_the_width_and_the_font_of_the_venue(tmp_path: Path) -> None:
    sweep = SWEEPS["prediction-vs-alignment"]()
    cvpr = VENUES["cvpr"]
    figure, *_ = draw_figures(sweep, plots_of(sweep)[:1], tmp_path, cvpr)
    with Image.open(figure.png) as image:
        assert image.width == round(200 * cvpr.column)
    content = figure.pdf.read_bytes()
    assert cvpr.family().encode() in content and b"/FontFile2" in content
    assert b"DejaVu" not in content


def test_the_font_falls_back_and_says_so() -> None:
    for venue in VENUES.values():
        assert venue.family(venue.families) == venue.families[0]
        assert venue.font_note(venue.families) == ""
        assert venue.family([]) == venue.families[-1]  # always there
        font_manager.findfont(venue.families[-1], fallback_to_default=False)
    acl = VENUES["acl"]
    assert acl.family(["Tinos", "STIXGeneral"]) == "Tinos"
    assert "Times New Roman, the font of acl, is not installed" in acl.font_note(["Tinos"])
    assert "the figures use Tinos" in acl.font_note(["Tinos"]) and ARTICLE.font_note() == ""


# ---- tables --------------------------------------------------------------------------------------

COMPUTER_MODERN = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def real_points(text: str, size: float, file: str = "cmr10.ttf") -> float:
    """Returns the width of a text in points, measured in a font file."""
    font = FT2Font(str(COMPUTER_MODERN / file))
    font.set_size(size, 72)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64


@pytest.mark.parametrize("file", ["cmr10.ttf", "STIXGeneral.ttf"])
def test_widths_are_estimated_from_above(file: str) -> None:
    """For the words of reports, and for every letter by itself within a tenth of the size."""
    words = [
        "prediction + contrast, same samples",
        "text-to-video R@1 (%)",
        "MVM+MLM+VTC+VTM",
        "16.4",
        "video mask ratio",
        "clean text for VTC and VTM",
        "CPU-hours",
        "no pre-training",
        "WWWMMMwwwmmm",
        "illicit filling",
    ]
    for text in words:
        assert real_points(text, 10, file) <= text_points(text, 10), text
        assert text_points(text, 10) <= 1.5 * real_points(text, 10, file) + 6, text


def wide_table(columns: int, label: str = "a cell with a long name") -> Table:
    made = [Column("cell", is_label=True), Column("n")]
    made += [Column(f"R@{number}", f"direction {number // 4}") for number in range(columns)]
    row = (Cell(label), Cell("3"), *[Cell("16.4", "1.4", 1, ("(2)",))] * columns)
    return Table("wide", "Caption.", tuple(made), (row, row), ("note",))


@pytest.mark.parametrize("venue", VENUES.values(), ids=VENUES)
@pytest.mark.parametrize("columns", [1, 3, 6, 12, 25])
def test_tables_fit_the_line_without_scaling(columns: int, venue: Venue) -> None:
    table, page = wide_table(columns), LatexPage(venue.column, venue.page)
    blocks, starred = fitted(table, page)
    inches = page.page if starred else page.column
    assert not starred or venue.two_columns
    seen: list[str] = []
    for block in blocks:
        assert table_points(block.table, block.size) <= 72.27 * inches
        assert block.size.points >= 8.0  # its superscripts have 6 pt
        assert block.table.columns[0].head == "cell"
        seen += [column.group for column in block.table.columns if column.group]
    assert seen == [column.group for column in table.columns if column.group]  # nothing is lost
    text = latex([table], page=page)
    assert "resizebox" not in text and "scriptsize" not in text and r"\tiny" not in text
    assert text.count(r"\begin{tabular}") == len(blocks)
    assert (r"\begin{table*}" in text) == starred


def test_a_narrow_table_keeps_the_size_of_the_text() -> None:
    (block,), starred = fitted(wide_table(2), LatexPage())
    assert block.size == SIZES[0] and not starred
    (block,), starred = fitted(wide_table(6), LatexPage(3.25, 6.875))
    assert starred


def test_columns_of_running_text_share_the_line() -> None:
    columns = (
        Column("paper", is_label=True),
        Column("claim", is_label=True, width=0.32),
        Column("verdict", is_label=True, width=0.16),
    )
    text = latex([Table("claims", "c", columns, ((Cell("MAC"), Cell("x"), Cell("y")),), ())])
    parts = [float(p.partition(r"\linewidth")[0]) for p in text.split("p{")[1:]]
    assert len(parts) == 2 and parts[0] == pytest.approx(2 * parts[1], rel=0.01)
    taken = text_points("paper", 8.0) + 6 * 3.0
    assert sum(parts) * 4.75 * 72.27 + taken <= 4.75 * 72.27 + 1
