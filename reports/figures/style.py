"""What all figures share: sizes, fonts, inks, captions, and writing them as PDF for the paper and
PNG for the page.

The same runs give the same bytes. The figures themselves are in `heat`, `curves` and
`search_figures`; which of them a report has is said by its kind (`kinds`)."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.output.metric_formats import metric_of, range_text
from reports.output.tables import seeds_text
from reports.study.collect import Study, protocol_text
from simvtp.runs.atomic_files import write_atomically

WIDTH = 4.75  # inches; the line of a LaTeX article is 4.77, so the figure is set unscaled
PNG_DPI = 200
INK = "#222222"
PALE = "#9aa3ad"
TICK_SIZE = 8.5  # points
MARKERS = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "p",
    "<",
    ">",
    "h",
    "d",
)  # all filled: thin ones vanish at print size
_BASELINE_INKS = ("#8a4fa0", "#8c6d31", "#4f6d8c")
LETTER = 0.6  # mean width of a letter, of the font size
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": TICK_SIZE,
    "ytick.labelsize": TICK_SIZE,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
    "savefig.bbox": None,  # "tight" would change the size
    "axes.unicode_minus": True,
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True)
class Picture:
    """A figure in both formats, with the words that go below it and those for people who do not see
    it.
    """

    name: str
    png: Path
    pdf: Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Plot:
    """A figure before it is drawn: the first sentence of its caption, how to read it, and the
    function that draws it.
    """

    name: str
    title: str
    reading: tuple[str, ...]
    draw: Callable[[Study], Figure]


def draw_figures(study: Study, plots: Sequence[Plot], folder: Path) -> tuple[Picture, ...]:
    """Write `<name>.pdf` and `<name>.png` of each figure into `folder`."""
    with house_style():
        return tuple(_saved(plot, study, folder) for plot in plots)


@contextmanager
def house_style() -> Iterator[None]:
    """Sizes and fonts, within the block only."""
    # set_theme and the user's matplotlibrc would leave traces in the process or in the bytes
    with (
        matplotlib.rc_context(),
        matplotlib.style.context(
            ["default", sns.axes_style("ticks"), sns.plotting_context("paper"), _STYLE]
        ),
    ):
        yield


def _saved(plot: Plot, study: Study, folder: Path) -> Picture:
    subject = f"sweep {study.plan.sweep_id}; runs and fingerprints of each cell: provenance.json"
    caption = " ".join([plot.title, *plot.reading, *protocol_words(study)])
    return save_figure(plot.draw(study), plot.name, plot.title, caption, folder, subject)


def save_figure(
    figure: Figure, name: str, title: str, caption: str, folder: Path, subject: str
) -> Picture:
    """Write a figure in both formats; without dates and versions, so that the same figure gives the
    same bytes.
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
    paths = [folder / f"{name}.{ending}" for ending in ("png", "pdf")]
    write_atomically(paths[0], png.getvalue())
    write_atomically(paths[1], pdf.getvalue())
    return Picture(name, *paths, caption, f"{title} The numbers are in the table above.")


def relative_luminance(color: Sequence[float]) -> float:
    """Of an sRGB colour, 0 (black) to 1 (white), as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a: float, b: float) -> float:
    """Of two relative luminances, 1 to 21, as WCAG 2 defines it."""
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def palette(count: int) -> list[tuple[float, float, float]]:
    """Distinguishable by colour-blind readers, and by their markers in any case."""
    base = sns.color_palette("colorblind")
    return list(base[:count]) if count <= len(base) else list(sns.color_palette("crest", count))


def text_width(letters: int) -> float:
    """Inches, about, of a tick's label."""
    return letters * LETTER * TICK_SIZE / 72


def turn(labels: list[str], room: float) -> dict[str, Any]:
    """Labels lie flat if the longest fits into so many inches, else they are turned."""
    return (
        {"rotation": 0}
        if text_width(max(map(len, labels))) + 0.06 <= room
        else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    )


def spread_words(study: Study) -> str:
    counts = {len(study.values(cell, *study.plan.column)) for cell in study.plan.cells} - {0}
    if not counts:
        return "; nothing measured yet"
    if max(counts) == 1:
        return "; one seed"
    words = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"; mean and standard deviation over {words} seeds"


def baseline_lines(
    study: Study, line: Callable[..., object], band: Callable[..., object], between: str = "\n"
) -> list[Line2D]:
    """Draws what each baseline of the plan's metric gives, dash-dotted; a band between two lines
    where it differs between cells.

    `line`, `band`: `axhline` and `axhspan` of the axes, or `axvline` and `axvspan`. Returns the
    entries of the legend, `between`: what separates a name from its figure there."""
    metric, handles = metric_of(study.plan.column[1]), []
    for (name, cells), color in zip(
        study.baselines(*study.plan.column).items(), itertools.cycle(_BASELINE_INKS), strict=False
    ):
        low, high = min(cells.values()), max(cells.values())
        style: dict[str, Any] = {"linestyle": (0, (6, 2, 1, 2)), "color": color, "linewidth": 1.1}
        for level in dict.fromkeys((low, high)):
            line(level, zorder=0, **style)
        if high > low:
            band(low, high, color=color, alpha=0.08, linewidth=0, zorder=0)
        handles.append(
            Line2D([], [], **style, label=f"{name}{between}({range_text(metric, cells.values())})")
        )
    return handles


def protocol_words(study: Study) -> list[str]:
    result = study.example(study.plan.column[0])
    return [f"Protocol: {protocol_text(result)}; {seeds_text(study)}."] if result else []
