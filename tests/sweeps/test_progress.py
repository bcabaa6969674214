from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ablations.cost import fraction_done
from ablations.design import Ablation
from simvtp.runs.journal import Journal
from simvtp.runs.run_records import RunState
from sweeps.monitor.displays import MAX_LOGGED, FileLog, PlainDisplay, sweep_table
from sweeps.monitor.point_state import last_lines, read_state
from sweeps.monitor.point_view import (
    WAITING,
    PointView,
    SweepView,
    best_validation,
    estimate,
    format_duration,
    journal_tail,
    newest_metrics,
    point_line,
    point_view,
    summary_line,
)
from tests.sweeps.jobs import status


def view(*points: PointView, eta_s: float | None = 440.0) -> SweepView:
    return SweepView("Video and text mask ratio", points, 190.0, eta_s)


RUN = PointView(
    "video 0.90 text 0.75", RunState.RUNNING, "pretrain", 120, 620, 3.21, 210.4, 70.0, 0.1
)


def test_the_plain_line() -> None:
    rows = view(
        PointView("video 0.50 text 0.75", RunState.FINISHED),
        RUN,
        PointView("video 0.90 text 0.15", WAITING),
    )
    assert (
        point_line(RUN, 2, 3)
        == "[2/3] video 0.90 text 0.75 · pretrain 120/620 · loss 3.21 · 210 clips/s · ETA 1:10"
    )
    assert "· 0.098 clips/s ·" in point_line(replace(RUN, clips_per_s=0.0984), 2, 3)
    assert (
        summary_line(rows)
        == "1 of 3 points finished, 1 running, 1 waiting · 3:10 so far · about 7:20 left"
    )
    ended = view(
        PointView("a", RunState.FINISHED),
        PointView("b", RunState.CANCELLED),
        PointView("c", RunState.PRUNED),
        PointView("d", RunState.FAILED),
    )
    assert (
        summary_line(ended)
        == "1 of 4 points finished, 1 failed, 1 cancelled, 1 pruned · 3:10 so far"
    )


def test_a_point_that_prepares_its_data_shows_what_it_does() -> None:
    row = PointView("a", RunState.RUNNING, "prepare", note="generating clips 300/2456")
    assert point_line(row, 1, 1) == "[1/1] a · prepare · generating clips 300/2456"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (float("inf"), "?"), (5, "0:05"), (65.4, "1:05"), (7390, "2:03:10")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_row_is_read_from_status_and_the_tail_of_the_journal(
    tmp_path: Path, grid: Ablation
) -> None:
    point = grid.points()[0]
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(1, 2001):  # far more than the tail
        journal.write(
            "metrics",
            stage="pretrain",
            step=step,
            metrics={"loss/total": float(step), "speed/clips_per_s": 7.0, "speed/eta_s": 9.0},
        )
    journal.write("metrics", stage="finetune", step=1, metrics={"loss/total": 0.5})
    for step, value in ((2, 30.0), (3, 41.5), (4, 40.0)):
        journal.write(
            "metrics",
            stage="finetune",
            step=step,
            metrics={"val/t2v/R1": value, "val/t2v/MdR": value},
        )
    journal.close()
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write('{"kind": "metrics", "stage": "pretrain", "metr')  # being written
    status(tmp_path, "running", 2000, 4000)
    row = point_view(
        point.name, point.experiment, tmp_path, read_state(tmp_path), metric="test/finetuned/t2v/R1"
    )
    assert (
        row.state,
        row.stage,
        row.step,
        row.total,
        row.loss,
        row.clips_per_s,
        row.stage_eta_s,
    ) == (
        "running",
        "pretrain",
        2000,
        4000,
        2000.0,
        7.0,
        9.0,
    )
    assert 0 < row.fraction < 0.5 and row.best == 41.5
    entries = journal_tail(tmp_path / "journal.jsonl")
    assert len(entries) < 200, "the tail only"
    assert newest_metrics(entries, "finetune") == {
        "loss/total": 0.5,
        "val/t2v/R1": 40.0,
        "val/t2v/MdR": 40.0,
    }
    assert best_validation(entries, "test/finetuned/t2v/MdR") == 30.0, "a rank: lower is better"
    assert best_validation(entries, "test/finetuned/v2t/R1") is None
    assert journal_tail(tmp_path / "absent.jsonl") == []


def test_the_fraction_of_the_work_grows_from_stage_to_stage(grid: Ablation) -> None:
    shares = [
        fraction_done(grid.base, stage, share)
        for stage, share in (
            ("pretrain", 0.0),
            ("pretrain", 0.9),
            ("zero_shot", 0),
            ("finetune", 0.5),
            ("evaluate", 0),
        )
    ]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] <= 0.99
    assert len(set(shares)) == len(shares)


def test_the_estimate() -> None:
    now = time.time()
    half = PointView("a", RunState.RUNNING, fraction=0.5)
    waiting = [PointView("b", WAITING), PointView("c", WAITING), PointView("d", WAITING)]
    assert estimate([half, *waiting], {"a": (now, 0.5)}, [], 1) is None, "nothing is known yet"
    assert estimate([half, *waiting], {"a": (now - 10, 0.0)}, [], 1) == pytest.approx(
        10 + 3 * 20, abs=0.5
    )
    assert estimate([half, *waiting], {"a": (now - 10, 0.0)}, [], 2) == pytest.approx(35, abs=0.5)
    assert estimate([half, *waiting[:1]], {"a": (now - 5, 0.25)}, [], 4) == pytest.approx(
        20, abs=0.5
    ), "a complete point next to the other"
    assert estimate(
        [PointView("a", RunState.FINISHED), waiting[0]], {}, [30.0, 50.0], 1
    ) == pytest.approx(40)


def test_plain_lines_come_at_most_every_few_seconds_and_the_log_file_has_the_notes(
    tmp_path: Path,
) -> None:
    out = io.StringIO()
    display = FileLog(
        PlainDisplay(Console(file=out, soft_wrap=True), every_s=100), tmp_path / "sweep.log"
    )
    with display:
        for _ in range(5):
            display.show(view(RUN))
        display.note("failed [a]: 'x' [/]")
        display.show(view(RUN), now=True)
    assert out.getvalue().count("pretrain 120/620") == 2
    assert "failed [a]: 'x' [/]" in out.getvalue(), "brackets are no markup"
    assert "failed [a]: 'x' [/]" in (tmp_path / "sweep.log").read_text()


def test_the_table_fits_the_terminal() -> None:
    rows = [PointView(f"point {n}", WAITING) for n in range(100)] + [RUN]
    drawn = sweep_table(view(*rows), rows=10)
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(drawn)
    text = console.export_text()
    assert (
        drawn.row_count == 1
        and "video 0.90 text 0.75" in text
        and "120/620" in text
        and "100 waiting" in text
    )


def test_the_table_shows_nodes_and_jobs_where_there_are_any_and_the_running_points_first() -> None:
    headings = [column.header for column in sweep_table(view(PointView("a", WAITING)), 10).columns]
    assert "node" not in headings and "job" not in headings
    rows = [PointView(f"failed {n}", RunState.FAILED) for n in range(8)] + [
        PointView("far down", RunState.RUNNING, node="n1", job="12_3")
    ]
    drawn = sweep_table(view(*rows), rows=4)
    assert [column.header for column in drawn.columns][:3] == ["point", "state", "node"]
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(drawn)
    text = console.export_text()
    assert (
        drawn.row_count == 4
        and "far down" in text
        and "n1" in text
        and "12_3" in text
        and "and 5 more rows" in text
    )


def test_the_log_file_gets_changes_of_state_and_a_snapshot_now_and_then(tmp_path: Path) -> None:
    waiting = [PointView(f"point {n}", WAITING) for n in range(MAX_LOGGED + 1)]
    quiet = PlainDisplay(Console(file=io.StringIO()), every_s=1000)
    with FileLog(quiet, tmp_path / "sweep.log", every_s=1000) as display:
        display.show(view(*waiting))
        for step in range(1, 50):  # forty-nine steps forward are no change of state
            display.show(
                view(
                    PointView(
                        "point 0", RunState.RUNNING, "pretrain", step, 50, node="n1", job="7_0"
                    ),
                    *waiting[1:],
                )
            )
        display.show(view(PointView("point 0", RunState.FINISHED), *waiting[1:]))
    log = (tmp_path / "sweep.log").read_text().splitlines()
    assert len(log) == 3, log
    assert log[1].endswith("point 0: waiting -> running (node n1, job 7_0)") and log[2].endswith(
        "point 0: running -> finished"
    )

    with FileLog(quiet, tmp_path / "many.log", every_s=0.0) as display:
        display.show(
            view(
                *[
                    PointView(f"point {n}", RunState.RUNNING, "pretrain", 1, 50)
                    for n in range(MAX_LOGGED)
                ]
            )
        )
        display.show(
            view(
                *[
                    PointView(f"point {n}", RunState.RUNNING, "pretrain", 2, 50)
                    for n in range(MAX_LOGGED + 1)
                ]
            )
        )
    log = (tmp_path / "many.log").read_text().splitlines()
    assert len(log) == MAX_LOGGED + 2 and log[-1].startswith(
        "0 of 301 points finished, 301 running"
    ), "only counted when there are many"


def test_the_work_of_a_view_grows_with_its_points_and_not_faster(tmp_path: Path) -> None:
    def work(points: int) -> float:
        """CPU seconds of one view: the least of five, so that other processes hardly matter."""
        rows = [
            PointView(
                f"point {n}",
                RunState.RUNNING if n % 4 == 0 else WAITING,
                "pretrain",
                n,
                5000,
                1.0,
                node="n1",
            )
            for n in range(points)
        ]
        out, took = io.StringIO(), []
        with FileLog(
            PlainDisplay(Console(file=out, soft_wrap=True), every_s=0.0, max_lines=10**6),
            tmp_path / "sweep.log",
        ) as display:
            for _ in range(5):
                begun = time.process_time()
                display.show(view(*rows))
                sweep_table(view(*rows), rows=40)
                took.append(time.process_time() - begun)
        assert f"[{points - 3}/{points}] point {points - 4}" in out.getvalue()
        return min(took)

    assert work(4000) < 60 * work(400), "in proportion: 10 times; with the square: 100 times"


def test_states_of_a_run_directory(tmp_path: Path) -> None:
    assert read_state(tmp_path).state == "missing"
    (tmp_path / "job.json").write_text(
        json.dumps(
            {
                "executor": "local",
                "job_id": "1",
                "pid": 1,
                "pid_started": -1.0,
                "host": "x",
                "submitted": 1.0,
            }
        )
    )
    assert read_state(tmp_path).state == "killed", (
        "submitted long ago on another machine, with no sign of life"
    )
    status(tmp_path, "running", 1, 2)
    assert read_state(tmp_path).state == "running", "this very process wrote it"
    assert read_state(tmp_path, alive=False).state == "killed"
    status(tmp_path, "finished", 2, 2)
    assert read_state(tmp_path, alive=False).state == "killed", (
        "finished without results is not finished"
    )
    (tmp_path / "results.json").write_text("[]")
    assert read_state(tmp_path).state == "finished"
    status(tmp_path, "failed", 2, 2)
    assert read_state(tmp_path).state == "failed"
    (tmp_path / "status.json").write_text("{torn")
    assert read_state(tmp_path).state == "killed"


def test_the_last_lines_leave_out_what_the_job_system_says_about_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "first\nsubmitit INFO (x) - Starting\n\nsecond\n"
        "submitit ERROR (x) - Submitted job triggered an exception\nthird\n"
    )
    assert last_lines(log, 2) == ["second", "third"]
    assert last_lines(tmp_path / "absent") == []
