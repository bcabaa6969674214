"""Runs are matched to the plan: nothing is dropped silently, protocols are not mixed."""

from dataclasses import replace
from typing import Any

import pytest

from reports.output.tables import headline
from reports.study.collect import gather
from reports.study.report_plan import ReportError, StudyPlan
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO, all_results, result, run


def finished(made: dict[str, Any], number: int = 0, r1: float = 10.0, **tags: Any) -> Any:
    return run(made["points"][number], *all_results(r1), **tags)


def test_two_finished_runs_for_one_cell_and_seed_are_named() -> None:
    made = made_up.plan()
    with pytest.raises(
        ReportError,
        match=r"two finished runs, aaa and bbb.*"
        r"video mask ratio 0\.5, text mask ratio 0\.15, seed 0",
    ):
        gather(made, [finished(made, run_id="bbb"), finished(made, run_id="aaa")])


def test_a_stopped_run_of_a_finished_point_is_listed_not_refused() -> None:
    made = made_up.plan()
    sweep = gather(
        made,
        [
            finished(made, run_id="aaa"),
            finished(made, run_id="bbb", state="stopped", message="out of time"),
        ],
    )
    assert [r.run_id for r in sweep.runs] == ["aaa"]
    assert [(a.run_id, a.state, a.remark) for a in sweep.excluded if a.run_id] == [
        ("bbb", "stopped", "out of time")
    ]


@pytest.mark.parametrize(
    "change", [{"frames": 16}, {"split": "test", "crops": 3}, {"ties": "optimistic"}]
)
def test_two_protocols_may_not_share_a_column(change: dict[str, Any]) -> None:
    made = made_up.plan()
    runs = [
        run(made["points"][0], result(10.0), run_id="aaa"),
        run(made["points"][1], result(11.0, **change), run_id="bbb"),
    ]
    field = list(change)[-1]
    with pytest.raises(ReportError, match=rf"two protocols.*{field} .*aaa.*{field} .*bbb"):
        gather(made, runs)


def test_seed_and_checkpoint_may_differ_in_a_column() -> None:
    made = made_up.plan(seeds=(0, 1))
    runs = [
        run(point, result(10.0 + i, seed=point["seed"])) for i, point in enumerate(made["points"])
    ]
    assert len(gather(made, runs).runs) == 8


def test_unfinished_failed_and_dirty_runs_are_listed() -> None:
    made = made_up.plan()
    runs = [
        finished(made, 0, git_dirty="true"),
        run(made["points"][1], *all_results(99.0), state="failed", message="NaN at step 7"),
        run(made["points"][2], state="running"),
    ]
    sweep = gather(made, runs)
    assert [r.point.fingerprint for r in sweep.runs] == [
        made["points"][0]["fingerprint"]
    ] and sweep.runs[0].dirty
    assert [a.state for a in sweep.excluded] == ["finished", "failed", "running", "not tracked"]
    assert "uncommitted" in sweep.excluded[0].remark and sweep.excluded[1].remark == "NaN at step 7"


def test_a_run_that_finished_without_the_figure_is_listed() -> None:
    made = made_up.plan()
    sweep = gather(made, [finished(made, 0), run(made["points"][1], result(5.0, "zero-shot"))])
    assert [(a.state, a.remark) for a in sweep.excluded if a.run_id] == [
        (
            "no figure",
            "it finished without test/finetuned/t2v/R1, so its cell in the table is empty",
        )
    ]


def test_the_figure_of_the_plan_must_exist() -> None:
    made = made_up.plan(metric="test/finetuned/t2v/R2")
    with pytest.raises(
        ReportError, match=r"test/finetuned/t2v/R2; the runs have: .*test/finetuned/t2v/R1"
    ):
        gather(made, [finished(made)])


def test_what_is_no_number_is_left_out_and_said() -> None:
    made = made_up.plan()
    sweep = gather(
        made, [run(made["points"][0], result(float("inf"))), run(made["points"][1], result(3.0))]
    )
    assert sweep.values((0.5, 0.15), *sweep.plan.column) == {}
    assert any(
        "test/finetuned/t2v/R1" in notice and "inf: left out" in notice for notice in sweep.notices
    )


def test_a_plan_without_its_keys_is_refused() -> None:
    made = made_up.plan()
    del made["axes"], made["metric"]
    with pytest.raises(ReportError, match=r"sweep mask_ratio-0123abcd lacks axes, metric"):
        StudyPlan.from_dict(made)


def test_cells_come_in_the_order_of_the_axes() -> None:
    cells = [{VIDEO: v, TEXT: t} for v, t in ((0.9, 0.75), (0.5, 0.75), (0.9, 0.15), (0.5, 0.15))]
    plan = StudyPlan.from_dict(made_up.plan(cells=cells))
    assert plan.cells == ((0.5, 0.15), (0.5, 0.75), (0.9, 0.15), (0.9, 0.75))


def test_values_of_an_axis_are_written_alike() -> None:
    axis = StudyPlan.from_dict(made_up.plan(video=(0.5, 0.75, 0.9))).axes[0]
    assert [axis.text(value) for value in axis.values] == ["0.50", "0.75", "0.90"]


def frames_sweep(frames: list[int]) -> Any:
    axes = [{"key": "frames_and_stride", "label": "frames x stride", "values": ["4x2", "8x1"]}]
    cells = [{"frames_and_stride": name} for name in axes[0]["values"]]
    made = made_up.plan(axes=axes, cells=cells, published_optimum=None, seeds=(0, 1))
    return gather(
        made,
        [
            run(p, result(10.0, seed=p["seed"], frames=n))
            for p, n in zip(made["points"], frames, strict=True)
        ],
    )


def test_what_an_axis_varies_may_differ_between_its_rows_and_is_noted() -> None:
    sweep = frames_sweep([4, 8, 4, 8])
    (table,) = headline(sweep)
    assert (
        "The rows differ in the frames of their test (4, 8), which this sweep varies; "
        "all else is equal." in table.notes
    )
    with pytest.raises(
        ReportError, match=r"two protocols.*frames 4 .*frames 8"
    ):  # within one cell it is no comparison of frames
        frames_sweep([4, 8, 8, 8])


def test_pruned_and_cancelled_trials_never_enter() -> None:
    """Even if the tracker shows them as finished, as MLflow does without an error."""
    made = made_up.plan()
    runs = [finished(made, 0)]
    runs += [
        replace(run(made["points"][n], *all_results(99.0), state=state), status="FINISHED")
        for n, state in ((1, "pruned"), (2, "cancelled"))
    ]
    sweep = gather(made, runs, None, {made["points"][3]["fingerprint"]: "pruned"})
    assert len(sweep.runs) == 1 and sweep.states == {"finished": 1, "cancelled": 1, "pruned": 2}
    assert all(sweep.summary(cell, *sweep.plan.column) is None for cell in sweep.plan.cells[1:])
    assert "99.0" not in " ".join(
        cell.text for table in headline(sweep) for row in table.rows for cell in row
    )
