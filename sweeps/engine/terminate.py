"""Ends points from outside their sweep command, which may be running: for `sweeps/cancel.py`.

The mark is written to a point's job.json before its job gets a signal, so that whoever sees the job
end reads why. A sweep command reads the mark of a point that waits before it hands it in; a point
that it hands in at that very moment is found when we look again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from sweeps.monitor.run_state import ALIVE, PointState, job_alive, note_end
from sweeps.runner.slurm_queue import cancel as scancel

BY = "sweeps/cancel.py"


@dataclass(frozen=True)
class Target:
    """A point that is to be ended, as it stood when we looked."""

    name: str
    run_dir: Path
    state: PointState

    @property
    def job(self) -> Mapping[str, Any]:
        return self.state.job

    @property
    def obstacle(self) -> str:
        """Why its job cannot be ended from here; "" if it can."""
        if self.state.state not in ALIVE or self.job.get("executor") == "slurm":
            return ""
        if self.job.get("executor") == "local" and self.job.get("host") != socket.gethostname():
            return f"runs on {self.job.get('host')}: give this command there"
        if self.job.get("executor") == "local" and job_alive(self.job, {}):
            return ""
        return "runs inside another program or was started by hand: stop it there with Ctrl-C"


def end_points(targets: Sequence[Target], cause: str, grace_s: float) -> dict[Path, str]:
    """Mark, then signal, then wait. `cause`: cancelled, or stopped (continued by the same sweep
    command). `grace_s`: time to save a checkpoint. Returns what could not be done, and why."""
    left = {target.run_dir: target.obstacle for target in targets if target.obstacle}
    able = [target for target in targets if target.run_dir not in left]
    running = [target for target in able if target.state.state in ALIVE]
    slurm = [target for target in running if target.job["executor"] == "slurm"]
    for target in able:
        _mark(target, cause)
    said = scancel([str(target.job["job_id"]) for target in slurm])
    if said:
        left |= {target.run_dir: f"SLURM says: {said}" for target in slurm}
    left |= _end_local([target for target in running if target.job["executor"] == "local"], grace_s)
    for target in running:
        if target.run_dir in left:
            _unmark(target)
        else:
            _mark(
                target, cause
            )  # again: a job that began after the first mark would otherwise be younger than its end
    return left


def _end_local(targets: Sequence[Target], grace_s: float) -> dict[Path, str]:
    """SIGTERM, which a job answers by saving and leaving; SIGKILL to its session after the grace.
    Returns what still lives.
    """
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        living = [target for target in targets if job_alive(target.job, {})]
        for target in living:
            pid = int(target.job["pid"])  # the leader of a session of its own
            try:
                os.kill(pid, number) if number == signal.SIGTERM else os.killpg(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + patience
        while any(job_alive(target.job, {}) for target in living) and time.monotonic() < deadline:
            time.sleep(0.1)
    return {
        target.run_dir: "its process does not end"
        for target in targets
        if job_alive(target.job, {})
    }


def _mark(target: Target, cause: str) -> None:
    """Write how the attempt ends. Nobody hands in a running point, so its record can be changed; a
    waiting one may be handed in at this very moment, and then the new record must win: ours is only
    put where there is none."""
    if target.state.state in ALIVE:
        note_end(target.run_dir, cause, "", BY, target.job)
        return
    path, mine = target.run_dir / "job.json", target.run_dir / f".job.json.{os.getpid()}.tmp"
    target.run_dir.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        path.rename(mine)
        record = read_json_or_none(mine, dict) or {}
    write_atomically(
        mine,
        json.dumps(
            {**record, "ended": {"cause": cause, "message": "", "by": BY, "at": time.time()}},
            indent=1,
        ),
    )
    with contextlib.suppress(
        FileExistsError
    ):  # else it was handed in: the next look finds it running
        os.link(mine, path)
    mine.unlink()


def _unmark(target: Target) -> None:
    """The job goes on: take the mark back, unless the record speaks of another job by now."""
    path = target.run_dir / "job.json"
    record = read_json_or_none(path, dict) or {}
    if record.get("job_id") == target.job.get("job_id") and record.pop("ended", None):
        write_atomically(path, json.dumps(record, indent=1))
