"""A second Unix user on the machine: can neither change the jobs of a sweep nor slip in its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from sweeps.compat.submitit_private import submission_pickle
from sweeps.engine.sweep_engine import run_sweep
from sweeps.runner import JobOptions
from sweeps.runner.start_job import main
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY

OTHER = 12_345  # a user who owns nothing
DONE, REFUSED, FAILED = 0, 1, 2

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


def as_other_user(action: Callable[[], object]) -> int:
    """Returns DONE, REFUSED (PermissionError) or FAILED, in a process of the other user."""
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            action()
            status = DONE
        except PermissionError:
            status = REFUSED
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of runs that everybody may enter and write to, like a project's scratch folder."""
    folder = Path(tempfile.mkdtemp(prefix="simvtp-shared-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_files_of_a_sweep_are_writable_by_their_owner_alone(base: Experiment, shared: Path) -> None:
    grid = ratio_grid.build(override(base, [f"runtime.root={shared}"]), (0.9,), (0.75,))
    before = os.umask(0)  # a user whose habit is to share everything
    try:
        done = run_sweep(grid, JobOptions(entry=ENTRY), poll_s=0.02)
    finally:
        os.umask(before)
    (pickle,) = (done.sweep_dir / "jobs").rglob("*_submitted.pkl")
    assert as_other_user(lambda: os.listdir(shared)) == DONE  # it may look around
    assert as_other_user(lambda: pickle.write_bytes(b"evil")) == REFUSED
    assert as_other_user(lambda: pickle.unlink()) == REFUSED
    assert as_other_user(lambda: (pickle.parent / "0_submitted.pkl").write_bytes(b"")) == REFUSED
    assert as_other_user(lambda: pickle.rename(pickle.with_suffix(".old"))) == REFUSED
    code = next((shared / "sweeps" / "code").rglob("*.py"))
    assert as_other_user(lambda: code.write_text("evil")) == REFUSED


def test_a_submission_that_another_user_wrote_is_not_loaded(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUBMITIT_FOLDER", "")  # set by the job, and removed again
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    path = submission_pickle(str(shared))
    # were it loaded, it would create the file `loaded`
    evil = b"cbuiltins\nopen\n(S'" + str(shared / "loaded").encode() + b"'\nS'w'\ntR."
    assert as_other_user(lambda: path.write_bytes(evil)) == DONE
    assert main(str(shared)) == 1
    assert f"belongs to user {OTHER}: it is not loaded" in capsys.readouterr().err
    os.chown(path, 0, -1)  # ours now, but everybody may replace it
    assert main(str(shared)) == 1
    assert "can be written by every user: it is not loaded" in capsys.readouterr().err
    assert not (shared / "loaded").exists()
