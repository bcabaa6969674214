"""The folder of the runs is moved: everything works from the new place, nothing from the old."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from sweeps.engine.sweep_engine import run_sweep
from sweeps.monitor.overview import find_sweeps
from sweeps.monitor.point_state import read_job
from sweeps.monitor.repair.rebuild import rebuild_study
from sweeps.runner import JobOptions
from sweeps.runner.slurm_queue import SlurmQueue
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY, ROOT

LOCAL = JobOptions(entry=ENTRY, parallel=2)


def test_a_moved_folder_of_runs_is_complete(base: Experiment, tmp_path: Path) -> None:
    failing = override(base, ["finetune.enabled=false"])
    run_sweep(ratio_grid.build(base, (0.9,)), LOCAL, poll_s=0.02)
    run_sweep(ratio_grid.build(failing, (0.9,)), LOCAL, poll_s=0.02)
    old, new = Path(base.runtime.root), tmp_path / "elsewhere" / "new"
    new.parent.mkdir()
    old.rename(new)

    command = [sys.executable, "sweeps/status.py", "--all", "--json", "--root", str(new)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    points = [point for sweep in json.loads(done.stdout)["sweeps"] for point in sweep["points"]]
    assert sorted(point["state"] for point in points) == ["failed"] * 2 + ["finished"] * 2
    for point in points:
        assert Path(point["log"]).is_relative_to(new) and Path(point["log"]).exists()
        job = read_job(Path(point["run_dir"]))
        assert job is not None and Path(job.code).is_relative_to(new)

    moved = override(base, [f"runtime.root={new}"])
    starts = [path.read_text() for path in sorted(new.glob("*/starts.txt"))]
    again = run_sweep(ratio_grid.build(moved, (0.9,)), LOCAL, poll_s=0.02)
    assert not again.unfinished and again.sweep_dir.is_relative_to(new)
    assert [path.read_text() for path in sorted(new.glob("*/starts.txt"))] == starts
    for sweep in find_sweeps(new):
        rebuild_study(sweep, SlurmQueue())
    assert not old.exists(), "nothing is written to the old path"
