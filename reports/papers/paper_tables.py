"""The page "the papers beside what was measured here": both comparisons on MSR-VTT, the
data-efficiency curve, and the claims.

Made of the reports that lie in the same folder, so it is up to date with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from reports.figures.style import WIDTH, Picture, house_style, save_figure
from reports.output import render
from reports.output.html_page import papers_page
from reports.output.metric_formats import metric_of
from reports.papers.claims import claim_table, judge
from reports.papers.published import METRICS, PROTOCOL, TENTH, WHOLE, paper_tables, read_rows
from reports.study.archive import Measured, Record, measured_cell, measured_rows, read_records
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.metric_names import MetricName

NAME = "papers"
SHARE = "data.fraction"


def write_papers(out: Path) -> None:
    """`out/papers`: the page, its tables and figure; made again from the reports under `out`."""
    records = read_records(out)
    folder = out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    rows = measured_rows(records)
    tables = paper_tables(rows)
    findings = judge(records)
    claims = claim_table(findings)
    comments = [
        "published figures: ablations/published.csv; the runs behind what was measured here: measured.csv"
    ]
    files = {
        "tables.md": render.markdown(tables),
        "tables.tex": render.latex(tables, comments),
        "measured.csv": render.csv(_measured_frame(rows)),
        "claims.md": render.markdown([claims]),
        "claims.tex": render.latex([claims], ["the rule and the sources stand below the table"]),
        "claims.csv": render.csv(pd.DataFrame([vars(finding) for finding in findings])),
    }
    for name, text in files.items():
        write_atomically(folder / name, text)
    picture = efficiency_picture(records, folder)
    write_atomically(
        folder / "index.html", papers_page(tables, claims, [picture], folder, tuple(files))
    )


def _measured_frame(rows: Sequence[Measured]) -> pd.DataFrame:
    """Full precision, with the runs behind each row."""
    made = []
    for row in rows:
        values = {
            "row": row.label,
            "ablation": row.ablation,
            "protocol": row.protocol,
            "n": row.seeds,
        }
        for name in METRICS:
            summary = row.figures.get(name)
            values |= {
                name: summary.mean if summary else None,
                f"{name}/std": summary.std if summary else None,
            }
        values |= {
            "cpu_hours": row.cpu_hours,
            "gpu_hours": row.gpu_hours,
            "commits": " ".join(row.commits),
            "runs": " ".join(row.runs),
        }
        made.append(values)
    return pd.DataFrame(made)


# ---- the data-efficiency curve -------------------------------------------------------------------


def efficiency_picture(records: Sequence[Record], folder: Path) -> Picture:
    """R@1 over the share of the pre-training data: published on the left, measured here on the
    right, each on its own scale.
    """
    found = [_share_curve(record) for record in records if record["ablation"] == "data_fraction"]
    points = next((points for points in found if points), [])
    protocol = points[0][1].protocol if points else ""
    title = "Share of the pre-training data and text-to-video R@1: what the paper prints, and what was measured here."
    caption = [
        title,
        f"Left: {PROTOCOL}, WebVid-2M (SimVTP abstract; the two points are all that is known).",
    ]
    caption += [
        f"Right: {protocol}; mean and standard deviation over the seeds."
        if points
        else "Right: not measured here yet."
    ]
    caption += ["The scales are not the same, and the panels are not to be compared in height."]
    with house_style():
        return save_figure(
            draw_efficiency(points),
            "data_efficiency",
            title,
            " ".join(caption),
            folder,
            "published: ablations/published.csv",
        )


def _share_curve(record: Record) -> list[tuple[float, Measured]]:
    key = MetricName.parse(record["metric"]).key
    made = []
    for cell in record["cells"]:
        measured = (
            measured_cell(record, cell["cell"], key) if set(cell["cell"]) == {SHARE} else None
        )
        if measured is not None and "R1" in measured.figures:
            made.append((float(cell["cell"][SHARE]), measured))
    return sorted(made, key=lambda point: point[0])


def draw_efficiency(points: Sequence[tuple[float, Measured]]) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = {row.method: row for row in read_rows()}
    published = [(0.1, float(rows[TENTH].figures["R1"])), (1.0, float(rows[WHOLE].figures["R1"]))]
    first, second = sns.color_palette("colorblind")[:2]
    left.plot(*zip(*published, strict=True), color=first, marker="s", linestyle=":")
    for x, y in published:
        left.annotate(
            f"{y:.1f}", (x, y), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8
        )
    left.set_title("published", fontsize=9)
    _share_axis(left, [x for x, _ in published])
    left.set_ylim(40, 58)
    right.set_title("measured here", fontsize=9)
    if points:
        summaries = [one.figures["R1"] for _, one in points]
        shares = [x for x, _ in points]
        right.errorbar(
            shares,
            [s.mean for s in summaries],
            yerr=[s.std or 0.0 for s in summaries],
            color=second,
            marker="o",
            capsize=2.5,
        )
        _share_axis(right, shares)
        right.margins(y=0.2)
    else:
        right.text(
            0.5, 0.5, "not measured yet", ha="center", va="center", transform=right.transAxes
        )
        right.set(xticks=[], yticks=[])
    left.set_ylabel(f"{metric_of('R1').label} (%)")
    sns.despine(figure)
    return figure


def _share_axis(axes: Axes, shares: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(shares)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    axes.margins(x=0.15)
    axes.set_xlabel("share of the pre-training data")
