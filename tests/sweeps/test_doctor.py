"""`sweeps/doctor.py` on damaged run directories and studies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.design import Ablation
from simvtp.config.overrides import override
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.attempts import owner
from simvtp.runs.journal import read_journal
from simvtp.runs.lease import hold
from sweeps import doctor
from sweeps.monitor.overview import find_sweeps
from sweeps.monitor.repair.rebuild import open_recorded
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue
from tests.sweeps import ratio_grid
from tests.sweeps.recorded_runs import (
    digest,
    ended_process,
    fake_programs,
    folder_of,
    kill_quietly,
    locked,
    make_run,
    process_facts,
    run_doctor,
    write_plan,
)


def test_nothing_is_wrong_with_a_sound_root(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_plan(grid)
    for point in grid.points():
        make_run(grid, point)
    study = open_recorded(find_sweeps(Path(grid.base.runtime.root))[0])
    study.plan(lambda point, last: True)
    assert (folder / "study.journal").exists()
    before = digest(Path(grid.base.runtime.root))
    assert run_doctor(capsys, grid) == (0, f"No problems found under {grid.base.runtime.root}.\n")
    assert digest(Path(grid.base.runtime.root)) == before, "looking changes nothing"


def torn_journal(run_dir: Path) -> Callable[[], None]:
    path = run_dir / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "metr')

    def check() -> None:
        assert path.read_bytes() == whole

    return check


def damaged_journal(run_dir: Path) -> Callable[[], None]:
    path = run_dir / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\0" * (len(lines[1]) - 1) + b"\n", *lines[2:]]))

    def check() -> None:
        repaired = [line for _, line in read_journal(path)]
        assert [line.get("step") for line in repaired[:5]] == [1, None, 3, 4, 5]
        assert path.stat().st_size == sum(map(len, lines)), "places in it stay what they were"
        assert len(list(run_dir.glob("journal.jsonl.damaged-*"))) == 1

    return check


def running_without_process(run_dir: Path) -> Callable[[], None]:
    kill_quietly(run_dir)
    (run_dir / "results.json").unlink()

    def check() -> None:
        assert (
            read_json(run_dir / "status.json")["state"] == "stopped"
            and state_of(run_dir, SlurmQueue()).state == "stopped"
        )

    return check


def stale_lease(run_dir: Path) -> Callable[[], None]:
    values = {
        "token": 1,
        "host": socket.gethostname(),
        "pid": ended_process(),
        "pid_started": 7.0,
        "job": "",
        "restart": 0,
        "gpus": 0,
        "began": 1.0,
    }
    write_atomically(run_dir / "lease" / "00000001.json", json.dumps(values))
    assert owner(run_dir) is not None

    def check() -> None:
        assert owner(run_dir) is None and (run_dir / "lease" / "00000001.ended.json").exists()

    return check


def half_written_checkpoint(run_dir: Path) -> Callable[[], None]:
    path = run_dir / "checkpoints" / "pretrain" / ".step_5.pt.123.tmp"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    os.utime(path, (1.0, 1.0))
    young = path.with_name(".step_6.pt.124.tmp")
    young.write_bytes(b"being written")

    def check() -> None:
        assert not path.exists() and young.exists()

    return check


def unreadable_results(run_dir: Path) -> Callable[[], None]:
    (run_dir / "results.json").write_text("[{")

    def check() -> None:
        assert (
            not (run_dir / "results.json").exists()
            and state_of(run_dir, SlurmQueue()).state == "killed"
        ), "it is scored again"

    return check


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (torn_journal, "the last line of journal.jsonl is torn (14 bytes)"),
        (damaged_journal, "journal.jsonl is damaged in line 2"),
        (running_without_process, "its status says running, and no process is there"),
        (stale_lease, "which has ended, was never released"),
        (half_written_checkpoint, "1 half-written file(s)"),
        (unreadable_results, "results.json cannot be read"),
    ],
)
def test_damage_of_a_run_directory_is_reported_and_repaired(
    damage: Callable[[Path], Callable[[], None]],
    said: str,
    grid: Ablation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_plan(grid)
    root = Path(grid.base.runtime.root)
    check = damage(make_run(grid, grid.points()[0]))
    before = digest(root)
    code, out = run_doctor(capsys, grid, "--dry-run")
    assert code == 1 and said in out and "nothing was changed" in out
    assert digest(root) == before
    with locked(folder_of(grid) / "controller.lock"):
        before = digest(root)
        code, out = run_doctor(capsys, grid, "--yes")
        assert code == 1 and "left alone: " in out and digest(root) == before, (
            "not while its sweep is being run"
        )
    code, out = run_doctor(capsys, grid, "--yes")
    assert code == 0 and said in out and "1 problem(s) repaired." in out, out
    check()
    assert run_doctor(capsys, grid)[0] == 0


def torn_study(folder: Path, grid: Ablation) -> Callable[[], None]:
    with open(folder / "study.journal", "ab") as file:
        file.write(b'{"op_code": 4, "wor')
    return lambda: None


def damaged_study(folder: Path, grid: Ablation) -> Callable[[], None]:
    lines = (folder / "study.journal").read_bytes().splitlines(keepends=True)
    (folder / "study.journal").write_bytes(b"".join([lines[0], b"rubbish\n", *lines[1:]]))
    return lambda: None


def lost_trials(folder: Path, grid: Ablation) -> Callable[[], None]:
    return lambda: None  # the fixture study has one


def study_lock(folder: Path, grid: Ablation) -> Callable[[], None]:
    lock = folder / "study.journal.lock"
    lock.symlink_to(folder / "study.journal")

    def check() -> None:
        assert not os.path.lexists(lock)

    return check


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (torn_study, "the last line of study.journal is torn"),
        (damaged_study, "line 2 of study.journal is damaged"),
        (lost_trials, "2 trial(s) of the study are RUNNING without a job"),
        (study_lock, "left the lock of the study behind"),
    ],
)
def test_damage_of_a_study_is_reported_and_repaired(
    damage: Callable[[Path, Ablation], Callable[[], None]],
    said: str,
    grid: Ablation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, root = write_plan(grid), Path(grid.base.runtime.root)
    for point in grid.points()[:2]:
        make_run(grid, point, "finished" if point is grid.points()[0] else "failed", "a reason")
    study = open_recorded(find_sweeps(root)[0])
    study.plan(lambda point, last: point.fingerprint in {p.fingerprint for p in grid.points()[:2]})
    asked = [study.ask().fingerprint, study.ask().fingerprint]
    if damage is not lost_trials:
        study.tell(asked[0], [1.0])
        study.tell(asked[1], None, "a reason")
    del study
    check = damage(folder, grid)
    before = digest(root)
    code, out = run_doctor(capsys, grid, "--dry-run")
    assert code == 1 and said in out and digest(root) == before, out
    code, out = run_doctor(capsys, grid, "--yes")
    assert code == 0 and said in out, out
    check()
    assert open_recorded(find_sweeps(root)[0]).counts() == {"COMPLETE": 1, "FAIL": 1}
    assert run_doctor(capsys, grid)[0] == 0


def test_a_disk_that_is_full_or_cannot_be_written_is_said(
    grid: Ablation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.main(["--root", "/proc", "--dry-run"]) == 1
    assert "/proc cannot be written" in capsys.readouterr().out
    write_plan(grid)
    monkeypatch.setattr("sweeps.monitor.repair.diagnose.LITTLE_SPACE", 1 << 62)
    code, out = run_doctor(capsys, grid, "--yes")
    assert code == 1 and "MB are free" in out and "to do: free some space" in out


@pytest.mark.parametrize("more", [0, 1, 11])
def test_cores_that_a_job_asked_for_and_may_not_use_are_said(
    grid: Ablation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """Some versions of srun give each rank one core, whatever --cpus says."""
    write_plan(grid)
    run_dir, cores = make_run(grid, grid.points()[0]), len(os.sched_getaffinity(0))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(cores + more))
    with hold(run_dir, say=lambda line: None):
        code, out = run_doctor(capsys, grid, "--dry-run")
    said = f"may use {cores} of the {cores + more} cores that it asked for" in out
    assert said == (more > 0) and code == int(said), out
    assert run_doctor(capsys, grid, "--dry-run")[0] == 0, "a run that has ended is past it"


def test_code_that_no_job_uses_is_removed_with_yes_only(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(grid)
    root = Path(grid.base.runtime.root)
    used, unused, fresh = (
        root / "sweeps" / "code" / name for name in ("0" * 16, "1" * 16, "2" * 16)
    )
    for folder in (used, unused, fresh):
        (folder / "simvtp").mkdir(parents=True)
        (folder / "simvtp" / "__init__.py").write_text("# code")
    for folder in (used, unused):
        os.utime(folder, (1.0, 1.0))
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record = {
            "executor": "local",
            "job_id": "1",
            "submitted": time.time(),
            **process_facts(sleeper.pid),
            "code": str(used),
        }
        write_atomically(grid.points()[0].run_dir / "job.json", json.dumps(record))
        code, out = run_doctor(capsys, grid)
        assert (
            code == 0
            and f"sweeps/code/{unused.name}" in out
            and "only with --yes" in out
            and used.name not in out
            and fresh.name not in out
        )
        assert unused.exists()
        assert run_doctor(capsys, grid, "--yes")[0] == 0
        assert not unused.exists() and used.exists() and fresh.exists()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_an_interrupted_submission_is_not_guessed_about(
    grid: Ablation,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_plan(grid)
    record = {
        "token": "ab",
        "name": "sweep.ab",
        "submitted": 1.0,
        "fingerprints": [grid.points()[0].fingerprint],
        "job_ids": None,
    }
    write_atomically(folder / "submissions" / "ab.json", json.dumps(record))
    tools = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")

    def slurm(script: str) -> tuple[int, str]:
        fake_programs(tools, squeue=script)
        return run_doctor(capsys, grid, "--yes")

    code, out = slurm("exit 1")
    assert code == 1 and "SLURM cannot be asked" in out
    code, out = slurm("echo '12_0|PENDING||Resources|0:00|sweep.ab'")
    assert (
        code == 1
        and "SLURM has job 12_0" in out
        and read_json(folder / "submissions" / "ab.json")["job_ids"] is None
    )
    code, out = slurm("exit 0")
    assert code == 0 and read_json(folder / "submissions" / "ab.json")["job_ids"] == ["none"], out


def test_a_tracker_that_does_not_answer_is_said_and_nothing_is_lost(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    away = ratio_grid.build(override(grid.base, [f"runtime.tracking_uri={address}"]))
    write_plan(away)
    make_run(away, away.points()[0])
    code, out = run_doctor(capsys, away, "--yes")
    assert code == 1 and "does not answer" in out and "python -m simvtp sync" in out
