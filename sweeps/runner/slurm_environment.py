"""The environment of every SLURM command: squeue, sbatch, sacct, scontrol, scancel and srun.

SLURM's commands read many variables (`SQUEUE_STATES`, `SBATCH_TIMELIMIT`, `SLURM_MEM_PER_CPU`, ...)
that change what they answer or submit. A user's habit, or the outer job in which a sweep was
started, must not reach them: only the variables named here may stay."""

from __future__ import annotations

import os
from collections.abc import Mapping

# Where the cluster is and how to authenticate: all that a command needs of its caller.
ALLOWED = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})
# Read or set by SLURM's commands, by the process managers below srun, or by an outer submitit job.
PREFIXES = (
    "SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_",
    "SCONTROL_", "SINFO_", "PMI_", "PMIX_", "SUBMITIT_",
)  # fmt: skip
# Set by an outer job for the devices that it was given.
DEVICES = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def slurm_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of a SLURM command.

    Args:
        environment: of the caller; None = of this process.
    """
    given = os.environ if environment is None else environment
    dropped = set(dropped_variables(given))
    return {name: value for name, value in given.items() if name not in dropped}


def dropped_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Returns the names of the variables that no SLURM command gets, sorted.

    Args:
        environment: of the caller; None = of this process.
    """
    given = os.environ if environment is None else environment
    devices = DEVICES if "SLURM_JOB_ID" in given else ()
    return sorted(
        name
        for name in given
        if (name.startswith(PREFIXES) and name not in ALLOWED) or name in devices
    )


def describe_dropped(environment: Mapping[str, str] | None = None) -> list[str]:
    """Returns one sentence for each kind of variable that is dropped.

    Args:
        environment: of the caller; None = of this process.
    """
    given = os.environ if environment is None else environment
    dropped = dropped_variables(given)
    options = [name for name in dropped if name.startswith("SBATCH_")]
    others = [name for name in dropped if name not in options]
    notes = []
    if options:
        values = ", ".join(f"{name}={given[name]}" for name in options)
        notes.append(
            f"ignored from the environment: {values} (give options on the command line, in a "
            "cluster profile, or by --sbatch)"
        )
    if others and "SLURM_JOB_ID" in given:
        notes.append(
            f"started inside job {given['SLURM_JOB_ID']} of SLURM: {len(others)} of its variables "
            "are not passed to the jobs"
        )
    elif others:
        notes.append(f"ignored from the environment: {', '.join(others)}")
    return notes
