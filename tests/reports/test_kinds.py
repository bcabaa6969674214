"""Reports of the other sweeps: sets of losses, shares of the data, and which kind a plan gets."""

import math
from typing import Any

import pytest

from reports.figures import curves
from reports.kinds import losses_report
from reports.kinds.registry import GRID, REPORT_TYPES, report_type_of
from reports.output.latex import escape
from reports.output.tables import headline
from reports.study.report_plan import ReportError
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO


def named(names: tuple[str, ...], missing: str = "", **changes: Any) -> SweepResults:
    axes = [{"key": "losses", "label": "losses", "values": list(names)}]
    made = made_up.plan(
        axes=axes,
        cells=[{"losses": name} for name in names],
        ablation="losses",
        published_optimum=None,
        **changes,
    )
    return made_up.sweep_results(
        made,
        lambda cell, seed: None if cell["losses"] == missing else 3.0 * len(cell["losses"]) + seed,
    )


def test_a_tick_for_each_loss_that_is_on() -> None:
    sweep = named(("MVM", "MVM+MLM", "MVM+MLM+VTC"), missing="MVM+MLM")
    (table,) = REPORT_TYPES["losses"].tables(sweep)
    assert [column.head for column in table.columns] == [
        "MVM",
        "MLM",
        "VTC",
        "text-to-video R@1 (%)",
        "n",
    ]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["✓", "", "", "9.0", "1"],
        ["✓", "✓", "", "—", "0 of 1"],
        ["✓", "✓", "✓", "33.0", "1"],
    ]
    assert [row[3].rank for row in table.rows] == [2, 0, 1]
    assert escape("✓") == r"$\surd$"


def test_controls_have_a_column_of_their_own() -> None:
    sweep = named(("none", "text only", "MLM", "MVM+MLM"))
    (table,) = REPORT_TYPES["losses"].tables(sweep)
    assert [column.head for column in table.columns][:3] == ["control", "MLM", "MVM"]
    assert [[cell.text for cell in row[:3]] for row in table.rows] == [
        ["none", "", ""],
        ["text only", "", ""],
        ["", "✓", ""],
        ["", "✓", "✓"],
    ]
    plain = named(("MVM", "MVM+MLM"))
    assert REPORT_TYPES["losses"].tables(plain)[0].columns[0].head == "MVM"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("MVM+MLM", {"MVM": "✓", "MLM": "✓"}),
        ("MVM + 0.5 VTC", {"MVM": "✓", "VTC": "0.5"}),
        ("mvm+vtc×2", {"MVM": "✓", "VTC": "2"}),
        ("VTM=0.25", {"VTM": "0.25"}),
        ("all of them", None),
    ],
)
def test_names_of_sets_are_read(name: str, found: dict[str, str] | None) -> None:
    assert losses_report.parts(name) == found


def test_names_of_another_form_get_the_table_of_any_grid() -> None:
    sweep = named(("all of them", "MVM"))
    assert REPORT_TYPES["losses"].tables(sweep) == headline(sweep)


def test_the_picture_of_sets_has_a_line_for_each_and_no_dot_for_a_missing_one() -> None:
    sweep = named(("MVM", "MLM+VTC", "MVM+MLM"), missing="MLM+VTC", seeds=(0, 1))
    (plot,) = REPORT_TYPES["losses"].plots(sweep)
    assert "A line without a marker" in " ".join(plot.reading)
    axes = plot.draw(sweep).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["MVM", "MLM+VTC", "MVM+MLM"]
    dots = [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata()) == 1
    ]
    assert dots == [(9.5, 2), (21.5, 0)]
    runs = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 2]
    assert [sorted(line.get_xdata()) for line in runs] == [[9.0, 10.0], [21.0, 22.0]]
    assert REPORT_TYPES["losses"].plots(named(("MVM", "MLM"), missing="MLM")) == []


def fractions(values: dict[float, float | None]) -> SweepResults:
    axes = [{"key": "data.fraction", "label": "share of the training data", "values": list(values)}]
    made = made_up.plan(
        axes=axes,
        cells=[{"data.fraction": f} for f in values],
        ablation="data_fraction",
        published_optimum=None,
    )
    return made_up.sweep_results(made, lambda cell, seed: values[cell["data.fraction"]])


def test_shares_of_the_data_lie_on_a_logarithmic_axis_and_are_written_in_per_cent() -> None:
    sweep = fractions({0.01: 2.0, 0.05: 4.0, 0.1: 6.0, 0.25: None, 0.5: 11.0, 1.0: 12.0})
    (plot,) = REPORT_TYPES["data_fraction"].plots(sweep)
    assert plot.name == "curve_fraction" and "Logarithmic axis." in plot.reading
    axes = plot.draw(sweep).axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "1 %",
        "5 %",
        "10 %",
        "25 %",
        "50 %",
        "100 %",
    ]
    (table,) = REPORT_TYPES["data_fraction"].tables(sweep)
    assert [row[0].text for row in table.rows] == ["1 %", "5 %", "10 %", "25 %", "50 %", "100 %"]


def test_no_line_is_drawn_over_a_missing_cell() -> None:
    sweep = fractions({0.01: 2.0, 0.05: 4.0, 0.25: None, 0.5: 11.0, 1.0: 12.0})
    (line,) = [
        line
        for line in curves.curve(sweep, sweep.plan.axes[0], None).axes[0].lines
        if line.get_linestyle() == "-" and len(line.get_xdata()) == 5
    ]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, False, True, False, False]
    assert list(line.get_xdata()) == [0.01, 0.05, 0.25, 0.5, 1.0]


def test_a_cell_that_was_not_planned_is_no_gap() -> None:
    cells = [
        {VIDEO: v, TEXT: t} for v in (0.5, 0.7, 0.9) for t in (0.15, 0.75) if (v, t) != (0.7, 0.15)
    ]
    sweep = made_up.sweep_results(made_up.plan(cells=cells), lambda cell, seed: 10 * cell[VIDEO])
    short, long = curves.lines_of(sweep, sweep.plan.axes[0], sweep.plan.axes[1])
    assert (short.positions, long.positions) == ((0.5, 0.9), (0.5, 0.7, 0.9)) and None not in (
        *short.marks,
        *long.marks,
    )


def test_a_plan_gets_its_kind() -> None:
    assert (
        report_type_of({"ablation": "mask_ratio"}) is GRID
        and report_type_of({"ablation": "losses"}) is REPORT_TYPES["losses"]
    )
    assert report_type_of({"kind": "search", "ablation": "mask_ratio"}) is REPORT_TYPES["search"]
    with pytest.raises(ReportError, match="of kind 'tree' have no report"):
        report_type_of({"kind": "tree", "ablation": "x"})
