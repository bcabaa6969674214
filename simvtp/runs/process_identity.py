"""Identifies this process, so that another one can see later whether it still lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SLURM_FACTS = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NTASKS",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_NAME",
    "SLURM_CLUSTER_NAME",
    "SLURM_GPUS_ON_NODE",
    "SLURM_CPUS_PER_TASK",
)
# set for the jobs of a sweep that saw no GPU on its machine, and so gave them none
NO_GPU_SEEN = "SIMVTP_NO_GPU_SEEN"


def process_start(pid: int) -> float:
    """Returns when a process started, as a number that stays the same while it lives.

    It is 0 if there is no such process, or only its zombie. From /proc it is clock ticks since the
    boot: unlike the time of day, that does not move when the clock is set.
    """
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return 0.0 if fields[0] in ("Z", "X") else float(fields[19])
    import psutil  # only where there is no /proc: it takes long to import

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


def is_frozen(pid: int) -> bool:
    """Returns True if a process of this machine is stopped (SIGSTOP, Ctrl-Z); False if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def cores_of_rank() -> int:
    """Returns the cores that this process may use.

    Processes of one run on a node share its cores evenly, unless SLURM gave each its own.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit():
        return min(cores, int(given))
    sharing = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // max(1, int(sharing))) if sharing.isdigit() else cores


def machine_id() -> str:
    """Returns a name of this boot of this machine and of its process namespace; "" if unknown.

    Process ids can be compared only where it is the same: host names are not unique (containers),
    and process ids are given out again after a boot.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def this_process() -> dict[str, Any]:
    """Returns the identity of this process; of the environment only what SLURM_FACTS names."""
    slurm = {name: os.environ[name] for name in SLURM_FACTS if name in os.environ}
    return {
        "host": socket.gethostname(),
        "machine": machine_id(),
        "pid": os.getpid(),
        "pid_started": process_start(os.getpid()),
        "job": slurm.get("SLURM_JOB_ID", ""),
        "restart": int(slurm.get("SLURM_RESTART_COUNT") or 0),
        "gpus": _reserved_gpus(slurm),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "began": time.time(),
        "code": str(Path(__file__).resolve().parents[2]),
        "slurm": slurm,
    }


def _reserved_gpus(slurm: Mapping[str, str]) -> int:
    """Returns the GPUs reserved for this attempt on all its nodes: what a cluster bills."""
    if slurm.get("SLURM_GPUS_ON_NODE", "").isdigit():
        return int(slurm["SLURM_GPUS_ON_NODE"]) * int(slurm.get("SLURM_JOB_NUM_NODES") or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    # NoDevFiles is what SLURM gives to a job without GPUs
    return sum(name.strip() not in ("", "-1", "NoDevFiles") for name in visible)
