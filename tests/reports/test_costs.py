"""Costs of the cells, known and unknown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports.figures.costs import cost_plots, cost_tables, costs_frame, counted, draw
from reports.kinds.report_writer import write_report
from reports.study.collect import gather
from reports.study.sweep_results import SweepResults
from tests.reports import made_up, made_up_search
from tests.reports.made_up import TEXT, VIDEO


def hours(cell: dict[str, float]) -> float:
    return 1.0 + cell[VIDEO] + cell[TEXT]


def sweep_results(**changes: Any) -> SweepResults:
    made = made_up.plan(seeds=(0, 1))
    runs = [
        made_up.run(
            p,
            *made_up.all_results(10 + p["cell"][VIDEO], p["seed"]),
            hours=hours(p["cell"]) + p["seed"],
        )
        for p in made["points"]
    ]
    return gather(made, [replace(run, **changes) for run in runs])


def test_hours_samples_and_operations_of_each_cell() -> None:
    (table,) = cost_tables(sweep_results())
    heads = [column.head for column in table.columns]
    row = dict(zip(heads, (cell.text for cell in table.rows[0]), strict=True))
    assert row["CPU-hours"] == "2.15"  # 1 + 0.5 + 0.15, and one hour more for the second seed
    assert (row["pre-trained on"], row["fine-tuned on"], row["parameters"]) == (
        "12.8 k",
        "1.6 k",
        "1.2 M",
    )
    assert (
        row["GMAC"] == "0.17" and row["FLOPs of pre-training"] == "1.31e13"
    )  # 3 * 3.4e8 * 200 * 64
    frame = costs_frame(sweep_results())
    assert (
        frame["pretraining_flops"][0] == pytest.approx(3 * 3.4e8 * 12800)
        and list(frame["n"]) == [2] * 4
    )


def test_what_a_run_did_not_note_is_a_dash() -> None:
    (table,) = cost_tables(sweep_results(metrics={}, steps={}))
    row = {
        column.head: cell.text for column, cell in zip(table.columns, table.rows[0], strict=True)
    }
    assert (
        row["parameters"]
        == row["GMAC"]
        == row["pre-trained on"]
        == row["FLOPs of pre-training"]
        == "—"
        and row["CPU-hours"] == "2.15"
    )
    assert any("did not record it" in note for note in table.notes)


def test_the_score_lies_at_the_hours_of_a_run() -> None:
    made = sweep_results()
    (plot,) = cost_plots(made)
    assert "CPU-hours" in plot.title
    figure = draw(made)
    dots = [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 1
    ]
    assert dots[0] == pytest.approx((2.15, 10.5))
    assert figure.axes[0].get_xlabel() == "CPU-hours of a run"
    assert "GPU-hours" in cost_plots(sweep_results(gpu_hours=2.0))[0].title


def test_machines_that_differ_are_named() -> None:
    made = made_up.plan()
    runs = [
        made_up.run(p, *made_up.all_results(9.0), hardware=f"machine {n % 2}")
        for n, p in enumerate(made["points"])
    ]
    assert any("machine 0; machine 1" in note for note in cost_tables(gather(made, runs))[0].notes)


def test_a_search_has_no_table_of_costs_and_the_report_has_one(tmp_path: Path) -> None:
    assert (
        cost_tables(
            made_up_search.search_results(
                made_up_search.search_plan(made_up_search.search_cells(3)), made_up_search.bumpy
            )
        )
        == ()
    )
    write_report(sweep_results(), tmp_path)
    assert "<h2>Cost</h2>" in (tmp_path / "index.html").read_text()
    assert {"costs.md", "costs.tex", "costs.csv", "score_against_cost.pdf"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_counts_are_written_with_three_digits() -> None:
    assert [counted(value) for value in (640, 12_800, 86.23e6, 2.5e9)] == [
        "640",
        "12.8 k",
        "86.2 M",
        "2.5 G",
    ]
