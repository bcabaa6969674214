"""Command `python reports/compare.py RUN_A RUN_B`: compares two runs.

It reads their directories and needs no tracker.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import seaborn as sns
from matplotlib.figure import Figure

from reports.figures.style import ReportFigure, letters, line_width, report_style, save_figure
from reports.output.escaping import visible
from reports.output.html_page import compare_page
from reports.output.layout import MISSING
from reports.output.metric_formats import metric_of
from reports.output.report_index import write_report_index
from reports.report_parser import ReportParser
from reports.run_diff import DiffSection, sections
from reports.run_scores import (
    ANOTHER_PROTOCOL,
    ChangedItem,
    Score,
    Wins,
    scores,
    shared_curves,
    verdict,
    wins,
)
from reports.run_side import RunSide, read_side
from reports.study.archive import ComparisonRecord, read_records, write_comparison_record
from reports.study.report_plan import ReportError
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import UserError
from simvtp.runs.atomic_files import write_atomically

SHOWN_SETTINGS = 4  # that the index page names
REPOSITORY = Path(__file__).resolve().parents[1]
MAX_WIDTH = 44  # letters of a column in the terminal
EXAMPLES = """\
examples:
  python reports/compare.py runs/0123456789ab runs/ba9876543210
  python reports/compare.py 0123 ba98 --root /scratch/runs --out /tmp/comparison

Exit status: 0 compared, 2 bad input."""


@dataclass(frozen=True)
class RunComparison:
    """Two runs with everything that differs."""

    a: RunSide
    b: RunSide
    sections: tuple[DiffSection, ...]
    scores: tuple[Score, ...]
    wins: tuple[Wins, ...]

    @property
    def verdict(self) -> str:
        """One sentence on the result."""
        return verdict(self.a, self.b, self.scores)


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command."""
    parser = ReportParser(
        "compare",
        "compare",
        description="Differences between two runs in settings, code, data and environment; "
        "their curves, results and single test items.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "runs", nargs=2, metavar="RUN", help="a run directory, or the beginning of its name"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(RuntimeConfig.root),
        metavar="DIR",
        help="folder of the runs (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help="where to write (default: reports/out/compare_A_B)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        made = compare_runs(*(find_run(text, args.root) for text in args.runs))
        out = args.out or Path("reports/out") / f"compare_{made.a.name[:8]}_{made.b.name[:8]}"
        write_comparison(made, out)
        print("\n".join(map(visible, text_of(made).split("\n"))))
        print(f"\nPage: {out / 'index.html'}", flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output (`| head`) has ended; the page is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"the comparison cannot be written: {error}.", file=sys.stderr)
        return 2
    return 0


def find_run(text: str, root: Path) -> Path:
    """Returns a folder, or the one run under `root` whose name begins so.

    Raises:
        ReportError: there is no such run, or more than one.
    """
    if Path(text).is_dir():
        return Path(text)
    found = []
    if text.isalnum():
        found = sorted(path.parent for path in root.glob(f"{text}*/experiment.json"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise ReportError(f"'{text}' begins the names of {len(found)} runs under {root}: {names}.")
    raise ReportError(f"'{text}' is no folder, and no run under {root} has a name that begins so.")


def compare_runs(first: Path, second: Path) -> RunComparison:
    """Compares two run directories."""
    a, b = read_side(first), read_side(second)
    return RunComparison(a, b, sections(a, b, REPOSITORY), scores(a, b), wins(a, b))


def write_comparison(made: RunComparison, out: Path) -> None:
    """Writes the page with its figure, and the record that the index page reads."""
    out.mkdir(parents=True, exist_ok=True)
    a, b = made.a, made.b
    figures: list[ReportFigure] = []
    names = shared_curves(a, b)
    if names:
        title = "Losses and validation values of both runs."
        subject = f"runs {a.name} and {b.name}"
        with report_style():
            drawn = draw_curves(a, b, names)
            figures.append(save_figure(drawn, "curves", title, title, out, subject))
    rows = [_score_row(score) for score in made.scores]
    page = compare_page(a, b, made.verdict, made.sections, rows, made.wins, figures, out)
    write_atomically(out / "index.html", page)
    differing = tuple(row[0] for row in made.sections[0].rows[:SHOWN_SETTINGS])
    write_comparison_record(ComparisonRecord(a.name, b.name, differing, made.verdict), out)
    # The index page of a folder that holds no reports belongs to somebody else.
    if read_records(out.parent):
        write_report_index(out.parent)


def draw_curves(a: RunSide, b: RunSide, names: Sequence[str]) -> Figure:
    """Draws a panel for each series, two in a row."""
    rows = (len(names) + 1) // 2
    figure = Figure(figsize=(line_width(), 0.5 + 1.7 * rows), layout="constrained")
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    colors = sns.color_palette("colorblind")
    for axes, name in zip(panels, names, strict=False):
        for side, color, style in ((a, colors[0], "-"), (b, colors[1], "--")):
            steps, values = zip(*side.curves[name], strict=True)
            axes.plot(
                steps,
                values,
                color=color,
                linestyle=style,
                linewidth=1.2,
                marker="o" if len(steps) < 3 else None,
                label=side.name,
            )
        axes.set_title(name, fontsize=letters(0.5))
        axes.grid(color="#e6e6e6", linewidth=0.6)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    sns.despine(figure)
    return figure


# ---- text for a terminal -------------------------------------------------------------------------


def _score_row(score: Score) -> tuple[str, str, str, str, str]:
    """Returns (name, first, second, difference, its interval or the reason why there is none)."""
    metric = metric_of(score.metric)
    first, second = (
        MISSING if value is None else metric.text(value) for value in (score.first, score.second)
    )
    gap = MISSING
    if score.first is not None and score.second is not None and score.remark != ANOTHER_PROTOCOL:
        gap = f"{score.second - score.first:+.{metric.decimals}f}".replace("-", "−")
    interval = score.remark
    if score.gap is not None and score.gap.interval is not None:
        interval = metric.interval(score.gap.interval)
    return f"{score.key} {metric.label}", first, second, gap, interval


def text_of(made: RunComparison) -> str:
    """Returns the content of the page for a terminal."""
    a, b = made.a, made.b
    lines = [f"{a.name} ({a.state}) and {b.name} ({b.state})"]
    for section in made.sections:
        lines += ["", section.title if section.rows else f"{section.title}: no difference"]
        lines += _columns(section.rows)
        lines += [f"  {section.remark}"] if section.remark else []
    results = "Results (second minus first; 95 % interval over test items)"
    lines += ["", results if made.scores else "Results: none yet"]
    lines += _columns([_score_row(score) for score in made.scores])
    for one in made.wins:
        counts = (
            f"both {one.both}, only {a.name} {one.only_first}, "
            f"only {b.name} {one.only_second}, neither {one.neither}"
        )
        lines += ["", f"{one.key}, right answers ({metric_of(one.metric).label}): {counts}"]
        for items, name in ((one.lost, a.name), (one.won, b.name)):
            if items:
                lines.append(f"  better in {name}: {', '.join(map(_item_text, items[:3]))}")
    return "\n".join([*lines, "", made.verdict])


def _item_text(one: ChangedItem) -> str:
    return f"{one.item} (rank {one.first:.0f} → {one.second:.0f})"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns indented lines with aligned columns."""
    if not rows:
        return []
    widths = [min(MAX_WIDTH, max(map(len, column))) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        lines.append(f"  {'  '.join(padded).rstrip()}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
