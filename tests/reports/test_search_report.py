"""The report of a search: selected on val, quoted from test, nothing averaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.figures.style import report_style
from reports.kinds import search_figures, search_report
from reports.kinds.registry import report_type_of
from reports.kinds.report_writer import write_report
from reports.kinds.search_trials import best_first, objectives_of, pareto_front, trials_of
from reports.study.collect import gather
from reports.study.report_plan import StudyPlan
from reports.study.sweep_results import SweepResults
from tests.reports import made_up, made_up_search
from tests.reports.made_up_search import (
    COST,
    QUALITY,
    SPACE,
    search_cells,
    search_plan,
    search_results,
)

BOTH = (QUALITY, COST)


def figures_for(
    *pairs: tuple[float, float] | str, objectives: Any = BOTH, **changes: Any
) -> SweepResults:
    """A search whose trials have these (val R@1, hours), or states."""
    made = search_plan(search_cells(len(pairs)), objectives=objectives, **changes)
    return search_results(made, lambda cell, number: pairs[number])


def test_the_front_holds_what_nothing_beats_and_equal_trials_both() -> None:
    sweep = figures_for((10, 1.0), (12, 2.0), (9, 1.5), (12, 2.0), (12, 3.0), "pruned", (8, 0.5))
    front = pareto_front(trials_of(sweep), objectives_of(sweep))
    assert [trial.number for trial in front] == [0, 1, 3, 6]


def test_objectives_are_improved_in_their_own_direction() -> None:
    fewer = ({"metric": "val/t2v/MdR", "label": "val MdR", "direction": "minimize"},)
    made = search_plan(
        search_cells(3), objectives=fewer, metric="val/t2v/MdR", metric_label="val MdR"
    )
    runs = [
        made_up.run(p, *made_up.all_results(5.0), metrics={"val/t2v/MdR": value})
        for p, value in zip(made["points"], (9.0, 4.0, 7.0), strict=True)
    ]
    sweep = gather(made, runs, report_type_of(made).make_axis)
    assert [trial.number for trial in best_first(trials_of(sweep), objectives_of(sweep)[0])] == [
        1,
        2,
        0,
    ]
    assert search_report.verdict(sweep)[0].startswith("Selected on val: trial 1 ")


def test_a_cost_named_first_does_not_become_the_quality() -> None:
    sweep = figures_for(
        (10, 1.0),
        (12, 2.0),
        objectives=(COST, QUALITY),
        metric=COST["metric"],
        metric_label=COST["label"],
    )
    assert [objective.metric for objective in objectives_of(sweep)] == [
        QUALITY["metric"],
        COST["metric"],
    ]
    assert "trial 1 " in search_report.verdict(sweep)[0]


def test_the_best_is_selected_on_val_and_the_test_figure_is_the_one_to_quote() -> None:
    made = search_plan(search_cells(3))
    # the trial that is best on val is the worst on test
    runs = [
        made_up.run(point, *made_up.all_results(test), metrics={made_up_search.VAL: val})
        for point, val, test in zip(
            made["points"], (20.0, 10.0, 15.0), (5.0, 30.0, 25.0), strict=True
        )
    ]
    sweep = gather(made, runs, report_type_of(made).make_axis)
    first, second, *_ = search_report.verdict(sweep)
    assert first.startswith("Selected on val: trial 0 (") and first.endswith(
        "the best of 3 with R@1 20.0 % on val."
    )
    assert (
        second.startswith(
            "On the test split it has R@1 5.0 % (guessing: 0.40 %): that is the figure to quote."
        )
        and "too favourable" in second
    )
    (table,) = search_report.tables(sweep)
    heads = [column.head for column in table.columns]
    val, test = heads.index("val R@1 (%)"), heads.index("R@1 on test")
    assert [
        (row[0].text, row[val].text, row[val].rank, row[test].text, row[test].rank)
        for row in table.rows
    ] == [
        ("0", "20.0", 1, "5.0", 0),
        ("2", "15.0", 0, "25.0", 0),
        ("1", "10.0", 0, "30.0", 0),
    ]
    assert any(
        note.startswith("Test: text-to-video retrieval on shapes (test split, 256 queries")
        for note in table.notes
    )
    assert any("n = 1" in note and "not averaged" in note for note in table.notes)


def test_pruned_and_cancelled_trials_are_counted_and_never_a_figure(tmp_path: Path) -> None:
    sweep = figures_for(
        (10, 1.0), "pruned", (12, 2.0), "cancelled", "pruned", "failed"
    )  # their runs carry val R@1 98.7654
    write_report(sweep, tmp_path)
    for file in (
        "table.md",
        "all.md",
        "table.tex",
        "all.tex",
        "table.csv",
        "all.csv",
        "values.csv",
        "provenance.json",
    ):
        assert "98.7" not in (tmp_path / file).read_text(), file
    assert (tmp_path / "all.md").read_text().count("| pruned") == 2
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert (
        record["states"] == {"finished": 2, "cancelled": 1, "failed": 1, "pruned": 2}
        and record["planned_points"] == 6
    )
    assert [
        excluded_run["state"] for excluded_run in record["not_in_the_table_or_with_reservation"]
    ] == [
        "pruned",
        "cancelled",
        "pruned",
        "failed",
    ]
    assert [cell["mean"] for cell in record["cells"]] == [10, None, 12, None, None, None]
    assert (
        "2 of 6 trials finished, 1 of 6 trials cancelled, "
        "1 of 6 trials failed, 2 of 6 trials pruned." in " ".join(search_report.verdict(sweep))
    )
    page = (tmp_path / "index.html").read_text()
    assert "2 of 6 trials pruned" in page and "The paper" not in page


def test_trials_that_are_missing_are_counted_and_a_search_without_figures_says_so() -> None:
    assert "; 9 were asked for." in " ".join(
        search_report.verdict(figures_for((10, 1.0), (12, 2.0), trials=9))
    )
    nothing = figures_for("running", "failed")
    assert (
        search_report.verdict(nothing)[0]
        == "No trial of this search has a figure yet, so there is nothing to say."
    )
    assert search_figures.search_plots(nothing) == []
    (table,) = search_report.tables(nothing)
    assert table.rows == ()


def test_the_provenance_says_how_trials_were_chosen(tmp_path: Path) -> None:
    sweep = figures_for((10, 1.0), (12, 2.0))
    write_report(sweep, tmp_path)
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert (record["kind"], record["sampler"], record["pruner"]) == (
        "search",
        "tpe (seed 0, startup 10)",
        "none",
    )
    assert [objective["direction"] for objective in record["objectives"]] == [
        "maximize",
        "minimize",
    ]
    assert record["cells"][1]["runs"][0]["scores"] == {
        made_up_search.HOURS: 2.0,
        made_up_search.VAL: 12.0,
    }


def test_pictures_of_a_search(tmp_path: Path) -> None:
    one, two = (
        search_results(search_plan(search_cells(30), objectives=o), made_up_search.bumpy)
        for o in ((QUALITY,), BOTH)
    )
    assert [plot.name for plot in search_figures.search_plots(one)] == ["history", "slices"]
    assert [plot.name for plot in search_figures.search_plots(two)] == [
        "pareto",
        "history",
        "slices",
    ]
    write_report(two, tmp_path)
    assert (
        {path.stem for path in tmp_path.glob("*.png")}
        == {"pareto", "history", "slices"}
        == {path.stem for path in tmp_path.glob("*.pdf")}
    )
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(two, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@report_style()
def test_the_front_is_a_step_line_through_the_front_only() -> None:
    sweep = figures_for((10, 1.0), (12, 2.0), (9, 1.5), (12, 3.0), "pruned", (8, 0.5))
    axes = search_figures.pareto(sweep).axes[0]
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert list(zip(steps.get_xdata(), steps.get_ydata(), strict=True)) == [
        (0.5, 8),
        (1.0, 10),
        (2.0, 12),
    ]
    pale = axes.lines[0]
    assert sorted(zip(pale.get_xdata(), pale.get_ydata(), strict=True)) == [(1.5, 9), (3.0, 12)]
    star = axes.lines[-1]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2.0, 12)


@report_style()
def test_the_history_keeps_the_best_so_far_and_marks_what_has_no_figure() -> None:
    sweep = figures_for((10, 1.0), "pruned", (9, 1.0), (12, 2.0), "failed", (11, 1.0))
    figure = search_figures.history(sweep)
    lines = {line.get_drawstyle(): line for line in figure.axes[0].lines}
    best = lines["steps-post"]
    assert list(zip(best.get_xdata(), best.get_ydata(), strict=True)) == [
        (0, 10),
        (2, 10),
        (3, 12),
        (5, 12),
        (5, 12),
    ]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["trial", "best so far", "best (trial 3)", "failed (1)", "pruned (1)"]


@report_style()
def test_slices_show_each_varied_parameter_and_nothing_is_cut() -> None:
    cells = [cell | {made_up_search.DEPTH: 2} for cell in search_cells(12)]
    sweep = search_results(search_plan(cells), lambda cell, number: (5.0 + number, 1.0))
    figure = search_figures.slices(sweep)
    shown = [panel.get_xlabel() for panel in figure.axes if panel.get_visible()]
    assert shown == ["video mask ratio", "learning rate", "MVM target"]
    assert [panel.get_xscale() for panel in figure.axes[:2]] == ["linear", "log"]
    figure.draw_without_rendering()
    for panel in figure.axes[:3]:
        box = panel.get_tightbbox()
        assert (
            box.x0 >= -1
            and box.y0 >= -1
            and box.x1 <= figure.bbox.width + 1
            and box.y1 <= figure.bbox.height + 1
        )


def test_trials_stay_in_the_order_in_which_they_were_asked_for_and_values_are_short() -> None:
    cells = list(reversed(search_cells(5)))
    plan = StudyPlan.from_dict(search_plan(cells), search_report.make_axis)
    assert [dict(zip([p["key"] for p in SPACE], cell, strict=True)) for cell in plan.cells] == cells
    rate = plan.axes[1]
    assert rate.logarithmic and rate.text(0.000123456) == "0.000123" and rate.text(0.05) == "0.05"


@pytest.mark.parametrize("count", [1, 2])
def test_a_search_that_has_just_begun_is_reported(tmp_path: Path, count: int) -> None:
    sweep = figures_for(*[(10.0 + n, 1.0) for n in range(count)])
    write_report(sweep, tmp_path)
    assert (tmp_path / "history.png").exists() == (count == 2)
