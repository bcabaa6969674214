"""`python reports/compare.py RUN_A RUN_B`: what differs between two runs, and what came of it.
Needs their directories, and no tracker.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import seaborn as sns
from matplotlib.figure import Figure

from reports.figures.style import WIDTH, Picture, house_style, save_figure
from reports.output.html_page import compare_page
from reports.output.metric_formats import metric_of
from reports.output.report_index import write_front
from reports.run_diff import (
    MISSING,
    Score,
    Section,
    Side,
    Wins,
    read_side,
    scores,
    sections,
    shared_curves,
    verdict,
    wins,
)
from reports.study.archive import COMPARISON, read_records
from reports.study.report_plan import ReportError
from simvtp.config.schema import RuntimeConfig
from simvtp.errors import UserError
from simvtp.runs.atomic_files import write_atomically

SHOWN = 4  # settings that the front page names
REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = """\
examples:
  python reports/compare.py runs/0123456789ab runs/ba9876543210
  python reports/compare.py 0123 ba98 --root /scratch/runs --out /tmp/comparison

Exit status: 0 compared, 2 bad input."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the options.\n")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python reports/compare.py",
        description="What differs between two runs in settings, code, data and environment; their curves, figures and single test items.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
    """Run the command; returns the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        a, b = (read_side(find_run(text, args.root)) for text in args.runs)
        out = args.out or Path("reports/out") / f"compare_{a.name[:8]}_{b.name[:8]}"
        parts, found, won = sections(a, b, REPOSITORY), scores(a, b), wins(a, b)
        write_comparison(a, b, parts, found, won, out)
        print(text_of(a, b, parts, found, won))
        print(f"\nPage: {out / 'index.html'}", flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough; the page itself is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"the comparison cannot be written: {error}.", file=sys.stderr)
        return 2
    return 0


def find_run(text: str, root: Path) -> Path:
    """A folder, or the one run under `root` whose name begins so."""
    if Path(text).is_dir():
        return Path(text)
    found = (
        sorted(path.parent for path in root.glob(f"{text}*/experiment.json"))
        if text.isalnum()
        else []
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise ReportError(
            f"'{text}' begins the names of {len(found)} runs under {root}: {', '.join(path.name for path in found)}."
        )
    raise ReportError(f"'{text}' is no folder, and no run under {root} has a name that begins so.")


def write_comparison(
    a: Side,
    b: Side,
    parts: Sequence[Section],
    found: Sequence[Score],
    won: Sequence[Wins],
    out: Path,
) -> None:
    """The page with its figure, and what the front page of the reports beside it says of it."""
    out.mkdir(parents=True, exist_ok=True)
    names = shared_curves(a, b)
    pictures: list[Picture] = []
    if names:
        title = "Losses and validation figures of both runs, on top of each other."
        with house_style():
            pictures.append(
                save_figure(
                    draw_curves(a, b, names),
                    "curves",
                    title,
                    title,
                    out,
                    f"runs {a.name} and {b.name}",
                )
            )
    page = compare_page(
        a,
        b,
        verdict(a, b, found),
        parts,
        [_score_row(score) for score in found],
        won,
        pictures,
        out,
    )
    write_atomically(out / "index.html", page)
    told = {
        "first": a.name,
        "second": b.name,
        "differing": [row[0] for row in parts[0].rows[:SHOWN]],
        "verdict": verdict(a, b, found),
    }
    write_atomically(out / COMPARISON, json.dumps(told, indent=1, ensure_ascii=False))
    if read_records(out.parent):  # it lies among reports: their front page links to it
        write_front(out.parent)


def draw_curves(a: Side, b: Side, names: Sequence[str]) -> Figure:
    """A panel for each series, two beside each other."""
    rows = (len(names) + 1) // 2
    figure = Figure(figsize=(WIDTH, 0.5 + 1.7 * rows), layout="constrained")
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
        axes.set_title(name, fontsize=8.5)
        axes.grid(color="#e6e6e6", linewidth=0.6)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    sns.despine(figure)
    return figure


# ---- words ---------------------------------------------------------------------------------------


def _score_row(score: Score) -> tuple[str, str, str, str, str]:
    """(name, first, second, difference, its interval or why there is none)."""
    metric = metric_of(score.metric)
    first, second = (
        MISSING if value is None else metric.text(value) for value in (score.first, score.second)
    )
    gap = MISSING
    if score.first is not None and score.second is not None and score.remark != "another protocol":
        gap = f"{score.second - score.first:+.{metric.decimals}f}".replace("-", "−")
    interval = score.remark
    if score.gap is not None and score.gap.interval is not None:
        interval = metric.interval(score.gap.interval)
    return f"{score.key} {metric.label}", first, second, gap, interval


def text_of(
    a: Side, b: Side, parts: Sequence[Section], found: Sequence[Score], won: Sequence[Wins]
) -> str:
    """The same as the page, for a terminal."""
    lines = [
        f"{a.name} ({a.status.get('state', 'not started')}) and {b.name} ({b.status.get('state', 'not started')})"
    ]
    for part in parts:
        lines += ["", part.title if part.rows else f"{part.title}: no difference"]
        lines += _columns(part.rows)
        lines += [f"  {part.remark}"] if part.remark else []
    lines += (
        ["", "Results (second minus first; 95 % interval over test items)"]
        if found
        else ["", "Results: none yet"]
    )
    lines += _columns([_score_row(score) for score in found])
    for one in won:
        label = metric_of(one.metric).label
        counts = f"both {one.both}, only {a.name} {one.only_first}, only {b.name} {one.only_second}, neither {one.neither}"
        lines += ["", f"{one.key}, right at first ({label}): {counts}"]
        for items, who in ((one.lost, a.name), (one.won, b.name)):
            lines += (
                [
                    f"  better in {who}: "
                    + ", ".join(f"{item} (rank {x:.0f} → {y:.0f})" for item, x, y in items[:3])
                ]
                if items
                else []
            )
    return "\n".join([*lines, "", verdict(a, b, found)])


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [min(44, max(len(row[place]) for row in rows)) for place in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
