"""Style of all figures (sizes, fonts, colours, captions), and writing them as PDF and PNG.

The same runs give the same bytes. The report type (`reports.kinds`) decides which figures a report
has.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.venue import ARTICLE, LEAST, Venue
from reports.output.metric_formats import metric_of, range_text
from reports.output.tables import seeds_text
from reports.study.protocols import protocol_text
from reports.study.sweep_results import SweepResults
from simvtp.runs.atomic_files import write_atomically

NARROW = 4.0  # inches; a legend at the side of a figure that is narrower leaves no room
PNG_DPI = 200
INK = "#222222"
PALE = "#9aa3ad"
MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">", "h", "d")  # filled: thin ones vanish in print
BASELINE_COLORS = ("#8a4fa0", "#8c6d31", "#4f6d8c")
LETTER = 0.6  # mean width of a letter, of the font size
_STYLE = {
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
    "savefig.bbox": None,  # "tight" would change the size
    "axes.unicode_minus": True,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # labels of a plan are text, whatever dollars they have
}


def _style_of(venue: Venue) -> dict[str, Any]:
    small = max(LEAST, venue.letters - 0.5)
    return {
        **_STYLE,
        "figure.figsize": (venue.column, 2.9),
        "font.family": venue.family(),
        "font.size": venue.letters,
        "axes.labelsize": venue.letters,
        "axes.titlesize": venue.letters,
        "xtick.labelsize": small,
        "ytick.labelsize": small,
        "legend.fontsize": small,
        "legend.title_fontsize": small,
    }


def line_width() -> float:
    """Returns the width of a figure in inches, as the style in force has it."""
    return float(matplotlib.rcParams["figure.figsize"][0])


def letters(less: float = 0.0) -> float:
    """Returns the size of letters in points, so much smaller than the body but never tiny."""
    return max(LEAST, float(matplotlib.rcParams["font.size"]) - less)


def is_narrow() -> bool:
    """Returns True for a figure of one of two columns, which has its legend below the axes."""
    return line_width() < NARROW


@dataclass(frozen=True)
class ReportFigure:
    """A written figure in both formats.

    Attributes:
        caption: text below the figure.
        alt: text for readers who cannot see it.
    """

    name: str
    png: Path
    pdf: Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Plot:
    """A figure before it is drawn.

    Attributes:
        title: first sentence of the caption.
        reading: further sentences: how to read it.
        draw: draws it.
    """

    name: str
    title: str
    reading: tuple[str, ...]
    draw: Callable[[SweepResults], Figure]


def draw_figures(
    sweep: SweepResults, plots: Sequence[Plot], folder: Path, venue: Venue = ARTICLE
) -> tuple[ReportFigure, ...]:
    """Writes `<name>.pdf` and `<name>.png` of each figure into `folder`."""
    with report_style(venue):
        return tuple(_saved(plot, sweep, folder) for plot in plots)


@contextmanager
def report_style(venue: Venue = ARTICLE) -> Iterator[None]:
    """Sets width, sizes and fonts within the block only."""
    # set_theme and the user's matplotlibrc would leave traces in the process or in the bytes
    with (
        matplotlib.rc_context(),
        matplotlib.style.context(
            [
                "default",
                sns.axes_style("ticks"),
                sns.plotting_context("paper"),
                _style_of(venue),
            ]
        ),
    ):
        yield


def _saved(plot: Plot, sweep: SweepResults, folder: Path) -> ReportFigure:
    subject = f"sweep {sweep.plan.sweep_id}; runs and fingerprints of each cell: provenance.json"
    caption = " ".join([plot.title, *plot.reading, *protocol_words(sweep)])
    return save_figure(plot.draw(sweep), plot.name, plot.title, caption, folder, subject)


def save_figure(
    figure: Figure, name: str, title: str, caption: str, folder: Path, subject: str
) -> ReportFigure:
    """Writes a figure in both formats.

    The files hold no dates and versions, so the same figure gives the same bytes.

    Args:
        figure: the drawn figure.
        name: of the files, without their endings.
        title: of the figure, for the metadata and the alternative text.
        caption: text below the figure.
        folder: where to write.
        subject: source of the data, for the metadata.
    """
    pdf, png = io.BytesIO(), io.BytesIO()
    figure.savefig(
        pdf, format="pdf", metadata={"CreationDate": None, "Title": title, "Subject": subject}
    )
    figure.savefig(
        png,
        format="png",
        dpi=PNG_DPI,
        metadata={"Software": None, "Title": title, "Description": subject},
    )
    png_path, pdf_path = folder / f"{name}.png", folder / f"{name}.pdf"
    write_atomically(png_path, png.getvalue())
    write_atomically(pdf_path, pdf.getvalue())
    alt = f"{title} The numbers are in the table above."
    return ReportFigure(name, png_path, pdf_path, caption, alt)


def relative_luminance(color: Sequence[float]) -> float:
    """Returns the luminance of an sRGB colour by WCAG 2, from 0 (black) to 1 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a: float, b: float) -> float:
    """Returns the contrast of two relative luminances by WCAG 2, from 1 to 21."""
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def palette(count: int) -> list[tuple[float, float, float]]:
    """Returns colours that colour-blind readers can tell apart, as far as there are enough."""
    base = sns.color_palette("colorblind")
    return list(base[:count]) if count <= len(base) else list(sns.color_palette("crest", count))


def text_width(count: int) -> float:
    """Returns the approximate width of a tick label of so many letters in inches."""
    return count * LETTER * letters(0.5) / 72


def turn(labels: list[str], room: float) -> dict[str, Any]:
    """Returns the rotation of tick labels: none if the longest fits into `room` inches."""
    return (
        {"rotation": 0}
        if text_width(max(map(len, labels))) + 0.06 <= room
        else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    )


def add_legend(
    figure: Figure, handles: Sequence[Artist], title: str | None = None, below: bool = False
) -> None:
    """Adds a legend outside the axes, where it covers nothing: at the right, or below.

    It is below the axes of a narrow figure, and where that is asked for; then each entry is one
    line, in as many columns as fit.
    """
    if not handles:
        return
    if not (below or is_narrow()):
        figure.legend(
            handles=handles, title=title, loc="outside right upper", frameon=False, alignment="left"
        )
        return
    for handle in handles:
        handle.set_label(str(handle.get_label()).replace("\n", " "))
    figure.legend(
        handles=handles,
        title=title,
        loc="outside lower center",
        ncols=_legend_columns([str(handle.get_label()) for handle in handles]),
        frameon=False,
        alignment="left",
        handlelength=1.6,
        columnspacing=1.2,
        handletextpad=0.6,
    )


def legend_height(labels: Sequence[str], title: str | None = None) -> float:
    """Returns the height in inches of a legend below the axes; 0 if it is at their side."""
    if not labels:
        return 0.0
    rows = math.ceil(len(labels) / _legend_columns(labels)) + (title is not None)
    return 0.08 + rows * 1.5 * letters(0.5) / 72


def _legend_columns(labels: Sequence[str]) -> int:
    widest = max(len(label.replace("\n", " ")) for label in labels)
    entry = text_width(widest) + 3.4 * letters(0.5) / 72  # the handle and the space around it
    return max(1, min(len(labels), int(line_width() / entry)))


def spread_words(sweep: SweepResults) -> str:
    """Returns `; mean and every run, 3 seeds`, for the end of a title."""
    counts = {len(sweep.values(cell, *sweep.plan.column)) for cell in sweep.plan.cells} - {0}
    if not counts:
        return "; nothing measured yet"
    if max(counts) == 1:
        return "; one seed"
    words = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"; mean and every run, {words} seeds"


def baseline_lines(
    sweep: SweepResults,
    line: Callable[..., object],
    band: Callable[..., object],
    between: str = "\n",
) -> list[Line2D]:
    """Draws the level of each baseline and control of the plan's metric, dash-dotted.

    If the level differs between cells, a band is drawn between the lowest and the highest.

    Args:
        sweep: the results.
        line: `axhline` or `axvline` of the axes.
        band: `axhspan` or `axvspan` of the axes.
        between: separates a name from its value in the legend.

    Returns:
        The entries of the legend.
    """
    metric, handles = metric_of(sweep.plan.column[1]), []
    baselines = sweep.levels(*sweep.plan.column).items()
    for (name, cells), color in zip(baselines, itertools.cycle(BASELINE_COLORS), strict=False):
        low, high = min(cells.values()), max(cells.values())
        style: dict[str, Any] = {"linestyle": (0, (6, 2, 1, 2)), "color": color, "linewidth": 1.1}
        for level in dict.fromkeys((low, high)):
            line(level, zorder=0, **style)
        if high > low:
            band(low, high, color=color, alpha=0.08, linewidth=0, zorder=0)
        label = f"{name}{between}({range_text(metric, cells.values())})"
        handles.append(Line2D([], [], **style, label=label))
    return handles


def protocol_words(sweep: SweepResults) -> list[str]:
    """Returns the protocol of the plan's metric, as a sentence of a caption."""
    result = sweep.headline
    return [f"Protocol: {protocol_text(result)}; {seeds_text(sweep)}."] if result else []
