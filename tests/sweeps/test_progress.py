from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from ablations.design import Ablation
from simvtp.journal import Journal
from sweeps.progress import (
    WAITING,
    Lines,
    Logged,
    PointView,
    SweepView,
    clock,
    estimate,
    last_metrics,
    line,
    look,
    summary,
    table,
    work_share,
)
from sweeps.rundir import FINISHED, RUNNING, last_lines, read_state
from tests.sweeps.jobs import status


def view(*points: PointView, eta_s: float | None = 440.0) -> SweepView:
    return SweepView("Video and text mask ratio", points, 190.0, eta_s)


RUN = PointView("video 0.90 text 0.75", RUNNING, "pretrain", 120, 620, 3.21, 210.4, 70.0, 0.1)


def test_the_plain_line() -> None:
    rows = view(PointView("video 0.50 text 0.75", FINISHED), RUN, PointView("video 0.90 text 0.15", WAITING))
    assert line(rows, RUN) == "[2/3] video 0.90 text 0.75 · pretrain 120/620 · loss 3.21 · 210 clips/s · ETA 1:10"
    assert summary(rows) == "1 of 3 points finished, 1 running, 1 waiting · 3:10 so far · about 7:20 left"


def test_a_point_that_prepares_its_data_shows_what_it_does() -> None:
    row = PointView("a", RUNNING, "prepare", note="generating clips 300/2456")
    assert line(view(row), row) == "[1/1] a · prepare · generating clips 300/2456"


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (float("inf"), "?"), (5, "0:05"), (65.4, "1:05"), (7390, "2:03:10")])
def test_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def test_a_row_is_read_from_status_and_the_tail_of_the_journal(tmp_path: Path, grid: Ablation) -> None:
    point = grid.points()[0]
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(1, 2001):  # far more than the tail
        journal.write(
            "metrics", stage="pretrain", step=step, metrics={"loss/total": float(step), "speed/clips_per_s": 7.0, "speed/eta_s": 9.0}
        )
    journal.write("metrics", stage="finetune", step=1, metrics={"loss/total": 0.5})
    journal.close()
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write('{"kind": "metrics", "stage": "pretrain", "metr')  # being written
    status(tmp_path, "running", 2000, 4000)
    row = look(point.name, point.experiment, tmp_path, read_state(tmp_path))
    assert (row.state, row.stage, row.step, row.total, row.loss, row.clips_per_s, row.stage_eta_s) == (
        "running",
        "pretrain",
        2000,
        4000,
        2000.0,
        7.0,
        9.0,
    )
    assert 0 < row.share < 0.5
    assert last_metrics(tmp_path / "journal.jsonl", "finetune") == {"loss/total": 0.5}
    assert last_metrics(tmp_path / "absent.jsonl", "finetune") == {}


def test_the_share_of_the_work_grows_from_stage_to_stage(grid: Ablation) -> None:
    shares = [
        work_share(grid.base, stage, share)
        for stage, share in (("pretrain", 0.0), ("pretrain", 0.9), ("zero_shot", 0), ("finetune", 0.5), ("evaluate", 0))
    ]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] <= 0.99
    assert len(set(shares)) == len(shares)


def test_the_estimate() -> None:
    now = time.time()
    half = PointView("a", RUNNING, share=0.5)
    waiting = [PointView("b", WAITING), PointView("c", WAITING), PointView("d", WAITING)]
    assert estimate([half, *waiting], {"a": (now, 0.5)}, [], 1) is None, "nothing is known yet"
    assert estimate([half, *waiting], {"a": (now - 10, 0.0)}, [], 1) == pytest.approx(10 + 3 * 20, abs=0.5)
    assert estimate([half, *waiting], {"a": (now - 10, 0.0)}, [], 2) == pytest.approx(35, abs=0.5)
    assert estimate([half, *waiting[:1]], {"a": (now - 5, 0.25)}, [], 4) == pytest.approx(20, abs=0.5), "a whole point, beside the other"
    assert estimate([PointView("a", FINISHED), waiting[0]], {}, [30.0, 50.0], 1) == pytest.approx(40)


def test_plain_lines_come_at_most_every_few_seconds_and_the_log_file_has_the_notes(tmp_path: Path) -> None:
    out = io.StringIO()
    display = Logged(Lines(Console(file=out, soft_wrap=True), every_s=100), tmp_path / "sweep.log")
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
    drawn = table(view(*rows), rows=10)
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(drawn)
    text = console.export_text()
    assert drawn.row_count == 1 and "video 0.90 text 0.75" in text and "120/620" in text and "100 waiting" in text


def test_states_of_a_run_directory(tmp_path: Path) -> None:
    assert read_state(tmp_path).state == "missing"
    (tmp_path / "job.json").write_text(
        json.dumps({"executor": "local", "job_id": "1", "pid": 1, "pid_started": -1.0, "host": "x", "submitted": 1.0})
    )
    assert read_state(tmp_path).state == "killed", "submitted long ago on another machine, never heard of"
    status(tmp_path, "running", 1, 2)
    assert read_state(tmp_path).state == "running", "this very process wrote it"
    assert read_state(tmp_path, alive=False).state == "killed"
    status(tmp_path, "finished", 2, 2)
    assert read_state(tmp_path, alive=False).state == "killed", "finished without results is not finished"
    (tmp_path / "results.json").write_text("[]")
    assert read_state(tmp_path).state == "finished"
    status(tmp_path, "failed", 2, 2)
    assert read_state(tmp_path).state == "failed"
    (tmp_path / "status.json").write_text("{torn")
    assert read_state(tmp_path).state == "killed"


def test_the_last_lines_leave_out_what_the_job_system_says_about_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\nsubmitit INFO (x) - Starting\n\nsecond\nsubmitit ERROR (x) - Submitted job triggered an exception\nthird\n")
    assert last_lines(log, 2) == ["second", "third"]
    assert last_lines(tmp_path / "absent") == []
