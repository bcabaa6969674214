"""Reports of sweeps over other tasks than retrieval: metrics, baselines and protocols."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports.analysis.verdict import sentences
from reports.figures import curves
from reports.figures.dots import dots
from reports.kinds import search_report
from reports.kinds.registry import report_type_of
from reports.kinds.report_writer import write_report
from reports.output.all_metrics import all_metrics
from reports.output.dataframes import metrics_frame
from reports.output.metric_formats import metric_of
from reports.output.tables import headline
from reports.study.collect import gather
from reports.study.protocols import protocol_text
from reports.study.report_plan import ReportError
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import Result
from tests.reports import made_up, made_up_search
from tests.reports.made_up import (
    TEXT,
    VIDEO,
    action_result,
    count_result,
    grounding_result,
    qa_result,
)

BEST = {(0.5, 0.15): 30.0, (0.5, 0.75): 33.0, (0.9, 0.15): 31.0, (0.9, 0.75): 40.0}


def value(cell: dict[str, Any]) -> float:
    return BEST[cell[VIDEO], cell[TEXT]]


def questions(**plan: Any) -> SweepResults:
    made = made_up.plan(metric=made_up.QA, metric_label="accuracy (%)", **plan)
    return made_up.task_results(made, lambda cell, seed: qa_result(value(cell)))


def legend(figure: Any) -> list[str]:
    return [
        text.get_text().replace("\n", " ") for box in figure.legends for text in box.get_texts()
    ]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (
            qa_result(30.0),
            "question answering (open-ended) on shapes "
            "(test split, 400 questions against 16 candidates), finetuned, 8 frames, "
            "1 × 1 views (segments × crops), ties pessimistic",
        ),
        (
            count_result(1.0),
            "question answering (count) on shapes (test split, 400 questions), finetuned, 8 frames",
        ),
        (
            action_result(9.0),
            "action recognition (linear-probe) on shapes "
            "(test split, 300 videos against 20 classes), finetuned",
        ),
        (
            grounding_result(35.0),
            "temporal grounding (NMS 0.5) on charades_sta "
            "(test split, 3720 sentences), finetuned, 16 frames",
        ),
        (
            made_up.result(10.0, variant="1k-A"),
            "text-to-video retrieval (1k-A) on shapes "
            "(test split, 256 queries against 256 candidates)",
        ),
        (
            made_up.result(10.0, task="image_text", direction="i2t", frames=1),
            "image-to-text retrieval on shapes (test split, 256 queries",
        ),
    ],
    ids=["open", "count", "action", "grounding", "variant", "image"],
)
def test_the_protocol_speaks_of_its_task(result: Result, text: str) -> None:
    assert protocol_text(result).startswith(text)


@pytest.mark.parametrize(
    ("name", "label", "unit", "higher"),
    [
        ("accuracy", "accuracy", "%", True),
        ("accuracy-what-colour", "accuracy (what-colour)", "%", True),
        ("top5", "top-5", "%", True),
        ("MSE", "MSE", "", False),
        ("MSE-raw", "MSE (not rounded)", "", False),
        ("R1-IoU0.5", "R@1 (IoU 0.5)", "%", True),
        ("mIoU", "mIoU", "%", True),
        ("MnR", "MnR", "rank", False),
    ],
)
def test_metrics_are_known_with_their_direction(
    name: str, label: str, unit: str, higher: bool
) -> None:
    metric = metric_of(name)
    assert (metric.label, metric.unit, metric.higher_is_better) == (label, unit, higher)


def test_table_verdict_and_figure_of_questions_show_chance_and_prior() -> None:
    sweep = questions()
    (table,) = headline(sweep)
    assert table.caption.endswith(
        "accuracy (%) on shapes (chance: accuracy 6.25 %; prior: accuracy 31.00 %)."
    )
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["0.5", "30.0", "33.0"],
        ["0.9", "31.0", "40.0"],
    ]
    assert table.rows[1][2].rank == 1 and table.rows[0][2].rank == 2
    said = " ".join(sentences(sweep))
    assert (
        "Best here: video mask ratio 0.9, text mask ratio 0.75, accuracy 40.0 % (one seed)." in said
    )
    assert (
        "400 test questions alone gives a standard error of about 2.4 points" in said
    )  # sqrt(0.4 * 0.6 / 400) = 2.45 %
    assert "Guessing would give 6.25 %; the cells reach 4.8 to 6.4 times that." in said
    assert (
        "Prior (most frequent answer of training): accuracy 31.00 %; 2 of 4 cells are no better."
        in said
    )  # 30.0 and the equal 31.0
    figure = curves.curve(sweep, sweep.plan.axes[0], sweep.plan.axes[1])
    assert legend(figure)[-2:] == ["chance (accuracy 6.25 %)", "prior (31.00 %)"]
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines]
    bottom, top = figure.axes[0].get_ylim()
    assert [31.0, 31.0] in drawn and bottom < 31.0 < top and [6.25, 6.25] in drawn
    assert all(
        "prior: accuracy 31.00 %" in " ".join(plot.reading) for plot in curves.curve_plots(sweep)
    )


def test_a_model_that_is_nowhere_above_the_prior_is_said_to_be() -> None:
    made = made_up.plan(metric=made_up.QA)
    said = " ".join(
        sentences(made_up.task_results(made, lambda cell, seed: qa_result(value(cell), prior=45.0)))
    )
    assert (
        "accuracy 45.00 %; no cell is better, so nothing here shows that the video was of use."
        in said
    )


def test_a_baseline_that_was_trained_for_each_cell_is_compared_cell_by_cell() -> None:
    made = made_up.plan(metric=made_up.QA)
    sweep = made_up.task_results(
        made,
        lambda cell, seed: qa_result(
            value(cell), prior=1.0, blind=value(cell) + (2 if cell[VIDEO] < 0.6 else -2)
        ),
    )
    said = " ".join(sentences(sweep))
    assert (
        "Prior (most frequent answer of training): accuracy 1.00 %; all 4 cells are better." in said
    )
    assert "Video hidden: accuracy 29.00 to 38.00 %; 2 of 4 cells are no better." in said
    figure = curves.curve(sweep, sweep.plan.axes[0], sweep.plan.axes[1])
    assert legend(figure)[-1] == "video hidden (29.00 to 38.00 %)"
    assert {"prior", "video hidden"} <= set(metrics_frame(sweep).columns)


def test_all_metrics_keep_tasks_apart_and_show_the_categories() -> None:
    first, second = all_metrics(questions())
    assert (
        "all retrieval metrics, zero-shot" in first.caption
        and "all question answering metrics (open-ended), finetuned" in second.caption
    )
    assert [column.head for column in second.columns][2:] == [
        "n",
        "accuracy",
        "accuracy (colour)",
        "accuracy (shape)",
    ]
    assert second.notes[0] == "Accuracy in %, higher is better."
    assert "Chance: accuracy 6.2, accuracy (colour) 6.2, accuracy (shape) 6.2." in second.notes
    assert any(
        note.startswith(
            "Prior (most frequent answer of training): accuracy 31.0, accuracy (colour) 31.0, "
        )
        for note in second.notes
    )
    assert "prior" not in " ".join(first.notes).lower()
    assert first.name != second.name


def test_many_kinds_of_questions_stay_out_of_the_table_and_are_mentioned() -> None:
    made = made_up.plan(metric=made_up.QA)
    sweep = made_up.task_results(
        made, lambda cell, seed: qa_result(value(cell), categories=[f"kind{n}" for n in range(9)])
    )
    table = all_metrics(sweep)[1]
    assert [column.head for column in table.columns][2:] == ["n", "accuracy"]
    assert "The accuracies of 9 kinds of questions are in all.csv." in table.notes


def test_a_smaller_error_is_better() -> None:
    made = made_up.plan(metric="test/finetuned/qa/count/MSE", metric_label="MSE")
    sweep = made_up.task_results(made, lambda cell, seed: count_result(value(cell) / 16))
    (table,) = headline(sweep)
    assert [[cell.rank for cell in row[1:]] for row in table.rows] == [[1, 0], [2, 0]]
    said = " ".join(sentences(sweep))
    assert (
        "Best here: video mask ratio 0.5, text mask ratio 0.15, MSE 1.88 (one seed). "
        "That is 0.62 better than the published" in said
    )
    assert "standard error" not in said
    assert "Guessing would give MSE 6.00; the cells have 1.88 to 2.50." in said
    assert "MSE 2.00; 2 of 4 cells are no better." in said
    assert "MSE is the mean squared error, lower is better" in all_metrics(sweep)[1].notes[0]


def test_overlaps_and_classes_get_their_words() -> None:
    made = made_up.plan(metric="test/finetuned/grounding/NMS-0.5/mIoU", metric_label="mIoU (%)")
    sweep = made_up.task_results(made, lambda cell, seed: grounding_result(value(cell)))
    table = all_metrics(sweep)[1]
    assert [column.head for column in table.columns][3:] == [
        "R@1 (IoU 0.5)",
        "R@5 (IoU 0.5)",
        "mIoU",
    ]
    assert "standard error" not in " ".join(
        sentences(sweep)
    )  # a mean of overlaps is no share of sentences
    made = made_up.plan(metric="test/finetuned/action/linear-probe/top1", metric_label="top-1 (%)")
    table = all_metrics(made_up.task_results(made, lambda cell, seed: action_result(value(cell))))[
        1
    ]
    assert [column.head for column in table.columns][3:] == ["top-1", "top-5"]


def test_two_variants_may_not_share_a_column() -> None:
    made = made_up.plan()
    runs = [
        made_up.run(point, made_up.result(10.0, variant=v), run_id=v or "none")
        for point, v in zip(made["points"], ("1k-A", ""), strict=False)
    ]
    with pytest.raises(
        ReportError, match=r"two protocols.*variant 1k-A in run 1k-A, variant \(none\) in run none"
    ):
        gather(made, runs)


def test_vocabularies_of_two_sizes_may_not_share_a_column() -> None:
    made = made_up.plan(metric=made_up.QA)
    runs = [
        made_up.run(made["points"][0], qa_result(30.0)),
        made_up.run(made["points"][1], replace(qa_result(31.0), gallery=20)),
    ]
    with pytest.raises(ReportError, match=r"gallery 16 in run .*, gallery 20 in run"):
        gather(made, runs)


def test_sets_of_losses_are_drawn_with_the_prior() -> None:
    axes = [{"key": "losses", "label": "losses", "values": ["MVM", "MVM+MLM"]}]
    cells = [{"losses": name} for name in axes[0]["values"]]
    made = made_up.plan(
        axes=axes, cells=cells, ablation="losses", published_optimum=None, metric=made_up.QA
    )
    sweep = made_up.task_results(made, lambda cell, seed: qa_result(28.0 + len(cell["losses"])))
    figure = dots(sweep)
    figure.draw_without_rendering()
    assert (
        figure.axes[0].bbox.height > 0.4 * figure.dpi * len(cells) / 2
    )  # the legend leaves the sets their room
    assert legend(figure) == ["chance (accuracy 6.25 %)", "prior (31.00 %)"]


def test_a_search_on_questions_quotes_the_test_figure_with_both_ways_of_guessing() -> None:
    quality = {"metric": "val/accuracy", "label": "val accuracy (%)", "direction": "maximize"}
    made = made_up_search.search_plan(
        made_up_search.search_cells(2),
        objectives=(quality,),
        metric="val/accuracy",
        metric_label="val accuracy (%)",
    )
    runs = [
        made_up.run(
            point, made_up.result(2.0, "zero-shot"), qa_result(test), metrics={"val/accuracy": val}
        )
        for point, val, test in zip(made["points"], (50.0, 40.0), (35.0, 45.0), strict=True)
    ]
    first, second, *_ = search_report.verdict(gather(made, runs, report_type_of(made).make_axis))
    assert first.startswith("Selected on val: trial 0 (")
    assert second.startswith(
        "On the test split it has accuracy 35.0 % (guessing: 6.25 %, prior: 31.00 %): "
        "that is the figure to quote."
    )


def test_the_whole_report_of_questions_is_written(tmp_path: Path) -> None:
    write_report(questions(), tmp_path)
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert (
        record["cells"][0]["runs"][0]["results"]["test/finetuned/qa/open-ended"]["baselines"][
            "prior"
        ]["accuracy"]
        == made_up.PRIOR
    )
    assert record["protocols"]["test/finetuned/qa/open-ended"]["variant"] == "open-ended"
    page = (tmp_path / "index.html").read_text()
    assert "question answering (open-ended) on shapes" in page and "prior: accuracy 31.00 %" in page
    assert (tmp_path / "curve_video_ratio.pdf").exists()
