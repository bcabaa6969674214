"""The copy of the code that jobs run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ablations.design import Ablation
from simvtp.runs.attempts import attempts
from sweeps.engine.sweep_engine import run_sweep
from sweeps.monitor.point_state import read_job
from sweeps.runner import JobOptions
from sweeps.runner.code_snapshot import take_snapshot
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
