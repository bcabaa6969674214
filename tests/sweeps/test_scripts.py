"""Common behaviour of status, cancel and doctor."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.design import Ablation
from sweeps import cancel, doctor, status
from sweeps.monitor.controller_lock import controller
from tests.sweeps.conftest import ROOT
from tests.sweeps.recorded_runs import kill_quietly, locked, make_run, root_of, write_plan

HEAVY = ("torch", "optuna", "submitit", "mlflow", "pandas", "transformers")


def test_the_commands_do_not_import_the_heavy_libraries(grid: Ablation) -> None:
    write_plan(grid)
    kill_quietly(make_run(grid, grid.points()[0]))
    program = (
        "import sys\n"
        "from sweeps import status, cancel, doctor\n"
        f"assert status.main({root_of(grid)!r}) == 0\n"
        f"assert cancel.main([{grid.sweep_id!r}, '--dry-run', *{root_of(grid)!r}]) == 0\n"
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded []", done.stdout + done.stderr


@pytest.mark.parametrize("program", ["status", "cancel", "doctor"])
def test_help_has_examples_and_runs_as_a_script(program: str) -> None:
    done = subprocess.run(
        [sys.executable, f"sweeps/{program}.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode == 0
        and "examples:" in done.stdout
        and f"python sweeps/{program}.py" in done.stdout
    ), done.stderr


def test_bad_input_is_one_sentence_and_status_2(
    grid: Ablation, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_plan(grid)
    write_plan(replace(grid, seeds=(0, 1)))

    def refused(main: Callable[[Sequence[str]], int], *arguments: str) -> str:
        try:
            code = main(arguments)
        except SystemExit as leave:  # argparse
            code = int(leave.code or 0)
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and len(err.strip().splitlines()) == 1, (code, out, err)
        return err

    assert "there is no such folder" in refused(status.main, "--root", str(tmp_path / "nowhere"))
    assert "no sweep 'losses' under" in refused(status.main, "losses", *root_of(grid))
    assert "fits several sweeps" in refused(status.main, "mask_", *root_of(grid))
    assert "unrecognized arguments: --wach" in refused(status.main, "--wach")
    assert "--only colour=red: choose a key from" in refused(
        cancel.main, grid.sweep_id, "--only", "colour=red", *root_of(grid)
    )
    assert "leaves no point" in refused(
        cancel.main, grid.sweep_id, "--only", "video_ratio=0.1", *root_of(grid)
    )
    assert "--points nobody: there is no such point" in refused(
        cancel.main, grid.sweep_id, "--points", "nobody", *root_of(grid)
    )
    assert "there is no such folder" in refused(doctor.main, "--root", str(tmp_path / "nowhere"))


def test_who_runs_a_sweep_is_seen_without_taking_its_lock(grid: Ablation) -> None:
    folder = write_plan(grid)
    assert controller(folder) == ""
    with locked(folder / "controller.lock"):
        assert controller(folder) == "process 1 on n1"
    assert controller(folder) == "", "the text that a dead controller left is no controller"
    with open(folder / "controller.lock", "a") as file:  # nothing is left of the question
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
