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
from simvtp.runs.process_identity import NO_GPU_SEEN
from simvtp.training.parallel.distributed import choose_device
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


LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)
"""


def plant_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: int, listed: str) -> None:
    """Makes it look as if torch sees GPUs, and nvidia-smi lists them (it is absent if empty)."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("sweeps.runner.local.torch_devices", lambda: seen)
    driver = tmp_path / "nvidiactl"
    driver.touch()
    monkeypatch.setattr("sweeps.runner.local.DRIVER_FILES", (driver,))
    monkeypatch.setenv("PATH", str(tmp_path))
    if listed:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n/bin/cat <<'EOF'\n{listed}EOF\n")
        program.chmod(0o755)


def test_gpus_are_found_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant_driver(monkeypatch, tmp_path, 4, "")
    assert visible_gpus() == ["0", "1", "2", "3"]
    executor = LocalJobs(JobOptions(), tmp_path, 8, SlurmQueue())
    assert executor.slots == 4
    given = [executor._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)]
    assert given == ["0", "1", "2", "3"]
    assert NO_GPU_SEEN not in executor._environment(0)


def test_mig_slices_are_listed_and_used_one_a_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant_driver(monkeypatch, tmp_path, 1, LISTED)
    assert visible_gpus() == ["MIG-1", "MIG-2", "GPU-bb"]
    executor = LocalJobs(JobOptions(), tmp_path, 8, SlurmQueue())
    given = [executor._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert executor.slots == 3 and given == ["MIG-1", "MIG-2", "GPU-bb"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-2,MIG-1")
    assert visible_gpus() == ["MIG-2", "MIG-1"], "a process sees the first of several slices"


@pytest.mark.parametrize("listed", ["", "GPU 0: NVIDIA L4 (UUID: GPU-aa)\n", "no devices\n"])
def test_whole_gpus_are_numbered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str
) -> None:
    plant_driver(monkeypatch, tmp_path, 1, listed)
    assert visible_gpus() == ["0"]


def test_a_job_refuses_gpus_that_its_sweep_did_not_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("sweeps.runner.local.has_driver", lambda: False)
    environment = LocalJobs(JobOptions(), tmp_path, 8, SlurmQueue())._environment(0)
    monkeypatch.setenv(NO_GPU_SEEN, environment[NO_GPU_SEEN])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(UserError, match="torch sees 4 GPU.*saw none.*CUDA_VISIBLE_DEVICES"):
        choose_device("auto")
    assert choose_device("cpu").type == "cpu"


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
