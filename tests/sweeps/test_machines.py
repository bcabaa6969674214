"""Machines as they are: streams without UTF-8, and variables that name devices of no GPU."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simvtp.config.experiment_config import Experiment
from simvtp.errors import UserError
from simvtp.runs.attempts import attempts
from sweeps.engine.sweep_engine import run_sweep
from sweeps.monitor.point_state import gpu_hours, read_job
from sweeps.monitor.text_streams import tolerate_encodings
from sweeps.runner import JobOptions
from sweeps.runner.local import LocalJobs, torch_devices, visible_gpus
from sweeps.runner.slurm_queue import SlurmQueue
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY, ROOT
from tests.sweeps.recorded_runs import COMMAND, QUIET

# ---- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_sweep_ends_well_on_a_stream_without_utf_8(base: Experiment, encoding: str) -> None:
    words = ["--root", base.runtime.root, *QUIET, "--video-ratios", "0.9", "pretrain.max_steps=10"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", COMMAND, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"2 of 2 points finished" in done.stdout
    for script in ("status", "doctor"):
        command = [sys.executable, f"sweeps/{script}.py", "--root", base.runtime.root]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


def test_characters_that_a_stream_lacks_are_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    tolerate_encodings(stream)
    stream.write("a \u00b7 \u4e2d")
    stream.flush()
    assert raw.getvalue() == b"a ? ?"


# ---- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NoDevFiles", "-1", "", " , "])
def test_names_of_no_device_are_no_gpus(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == []


def test_what_torch_sees_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = "GPU-1,MIG-2,nonsense"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr("sweeps.runner.local.torch_devices", lambda: 2)
    assert visible_gpus() == ["GPU-1", "MIG-2"], "up to the first that is no device"
    executor = LocalJobs(JobOptions(), tmp_path, 8, SlurmQueue())
    assert executor._environment(1)["CUDA_VISIBLE_DEVICES"] == "MIG-2"


def test_a_run_without_a_gpu_is_billed_none(
    base: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if torch_devices():
        pytest.skip("this machine has GPUs")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="no GPU is visible"):
        LocalJobs(JobOptions(gpus=1), tmp_path, 1, SlurmQueue())
    grid = ratio_grid.build(base, (0.9,), (0.75,))
    done = run_sweep(grid, JobOptions(entry=ENTRY), poll_s=0.02)
    run_dir = done.outcomes[0].point.run_dir
    job = read_job(run_dir)
    assert not done.unfinished and job is not None and job.gpus == 0
    assert [attempt.gpus for attempt in attempts(run_dir)] == [0] and gpu_hours(run_dir) == 0.0
