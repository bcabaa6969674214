"""The copy of the code that jobs run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from ablations.design import Ablation
from simvtp.config.experiment_config import Experiment
from simvtp.runs.attempts import attempts
from sweeps.engine.sweep_engine import run_sweep
from sweeps.monitor.point_state import read_job
from sweeps.runner import JobOptions
from sweeps.runner.code_snapshot import take_snapshot
from sweeps.runner.start_job import refusal
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY, ROOT

LOCAL = JobOptions(entry=ENTRY, parallel=2)


def small_tree(folder: Path, word: str) -> Path:
    """A source tree whose job says a word."""
    for package in ("simvtp", "ablations", "sweeps", "extra"):
        (folder / package).mkdir(parents=True, exist_ok=True)
        (folder / package / "__init__.py").write_text("")
    (folder / "extra" / "job.py").write_text(f"WORD = {word!r}\n")
    (folder / "extra" / "data.bin").write_bytes(b"not code")
    return folder


def word_of(environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "import extra.job; print(extra.job.WORD)"],
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or done.stderr


def test_a_job_imports_the_code_of_its_submission_whatever_becomes_of_the_tree(
    tmp_path: Path,
) -> None:
    source = small_tree(tmp_path / "source", "submitted")
    frozen = take_snapshot(tmp_path / "runs", "extra.job:run", source)
    small_tree(source, "edited later")
    assert word_of(frozen.environment(), cwd=source) == "submitted", (
        "the folder in which the job starts must not win"
    )
    later = take_snapshot(tmp_path / "runs", "extra.job:run", source)
    assert later.path != frozen.path and word_of(later.environment(), cwd=source) == "edited later"
    assert not (frozen.path / "extra" / "data.bin").exists()


def test_the_same_code_is_copied_once_and_an_edited_copy_is_replaced(tmp_path: Path) -> None:
    source = small_tree(tmp_path / "source", "submitted")
    first = take_snapshot(tmp_path / "runs", "extra.job:run", source)
    again = take_snapshot(tmp_path / "runs", "extra.job:run", source)
    assert first == again and len(list((tmp_path / "runs" / "sweeps" / "code").iterdir())) == 1
    edited = first.path / "extra" / "job.py"
    edited.chmod(0o644)
    edited.write_text("WORD = 'tampered'\n")
    assert (
        word_of(take_snapshot(tmp_path / "runs", "extra.job:run", source).environment(), tmp_path)
        == "submitted"
    )


def test_a_sweep_runs_its_frozen_code_and_says_which(grid: Ablation) -> None:
    done = run_sweep(grid, LOCAL, poll_s=0.02)
    for outcome in done.outcomes:
        job = read_job(outcome.point.run_dir)
        assert job is not None
        code = Path(job.code)
        module = Path("sweeps", "runner", "job.py")
        assert (code / module).read_text() == (ROOT / module).read_text()
        assert {attempt.token for attempt in attempts(outcome.point.run_dir)} == {1}
        lease = json.loads((outcome.point.run_dir / "lease" / "00000001.ended.json").read_text())
        assert Path(lease["code"]) == code, "the job imported something else"


def test_only_tracked_source_files_are_copied_and_never_for_more_readers(tmp_path: Path) -> None:
    source = small_tree(tmp_path / "source", "submitted")
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    subprocess.run(["git", "-C", str(source), "add", "."], check=True)
    secret = tmp_path / "secret"
    secret.write_text("token")
    (source / "sweeps" / "private.py").write_text("# mine alone")
    (source / "sweeps" / "private.py").chmod(0o600)
    subprocess.run(["git", "-C", str(source), "add", "sweeps/private.py"], check=True)
    for name in (".env", "notes.txt", "new_module.py", ".new_module.py.swp"):
        (source / "sweeps" / name).write_text("token")
    (source / "sweeps" / "link.py").symlink_to(secret)
    subprocess.run(["git", "-C", str(source), "add", "sweeps/link.py"], check=True)
    snapshot = take_snapshot(tmp_path / "runs", "extra.job:run", source)
    names = {path.name for path in (snapshot.path / "sweeps").iterdir()}
    assert names == {"__init__.py", "private.py"}
    assert stat.S_IMODE((snapshot.path / "sweeps" / "private.py").stat().st_mode) == 0o400
    assert snapshot.left_out == ("sweeps/new_module.py",), "the sweep says so"


def test_without_git_source_files_are_copied_by_their_endings(tmp_path: Path) -> None:
    source = small_tree(tmp_path / "source", "submitted")
    clusters = source / "sweeps" / "clusters"
    clusters.mkdir()
    for path in (clusters / "mine.toml", source / "sweeps" / ".env", source / "sweeps" / ".x.py"):
        path.write_text("export TOKEN=secret")
    (source / "simvtp" / "words.txt").write_text("a b c")
    (source / "simvtp" / "link.txt").symlink_to("/etc/hostname")
    snapshot = take_snapshot(tmp_path / "runs", "extra.job:run", source)
    files = [path for path in snapshot.path.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(snapshot.path)) for path in files) == [
        "ablations/__init__.py",
        "extra/__init__.py",
        "extra/job.py",
        "simvtp/__init__.py",
        "simvtp/words.txt",
        "sweeps/__init__.py",
    ]
    assert b"secret" not in b"".join(path.read_bytes() for path in files)


# ---- submissions ---------------------------------------------------------------------------------


def test_a_submission_is_loaded_only_if_it_belongs_to_the_user(tmp_path: Path) -> None:
    pickle = tmp_path / "job.pkl"
    pickle.write_bytes(b"")
    pickle.chmod(0o644)
    assert refusal(pickle) == ""
    pickle.chmod(0o666)
    assert "can be written by every user" in refusal(pickle)
    if os.getuid() == 0:
        pickle.chmod(0o644)
        os.chown(pickle, 12345, -1)
        assert "belongs to user 12345" in refusal(pickle)


def test_submissions_of_a_sweep_are_writable_by_their_owner_alone(base: Experiment) -> None:
    grid = ratio_grid.build(base, (0.9,), (0.75,))
    before = os.umask(0)
    try:
        done = run_sweep(grid, LOCAL, poll_s=0.02)
    finally:
        os.umask(before)
    assert not done.unfinished
    (pickle,) = (done.sweep_dir / "jobs").rglob("*_submitted.pkl")
    for path in (pickle, pickle.parent):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
