"""Finds out why SLURM jobs ended: from the accounting, else from the controller's memory.

Causes are: cancelled, out_of_memory, node_fail, timeout, preempted, killed, failed, completed."""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterable, Sequence

from simvtp.runs.run_records import JobEnd
from sweeps.runner.slurm_queue import ask

IDS_PER_QUERY = 500  # of sacct
SINGLE_QUERIES = 100  # of scontrol, which is asked for one job at a time
NOT_OVER = (
    "RUNNING", "PENDING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "CONFIGURING",
)  # fmt: skip
OUT_OF_MEMORY_ADVICE = (
    "out of memory: SLURM killed it. Request more with --mem, or lower batch_size or "
    "runtime.micro_batch"
)


ENDS = {
    "OUT_OF_MEMORY": JobEnd("out_of_memory", OUT_OF_MEMORY_ADVICE),
    "NODE_FAIL": JobEnd("node_fail", "its node failed"),
    "BOOT_FAIL": JobEnd("node_fail", "its node failed to boot"),
    "PREEMPTED": JobEnd("preempted", "it was preempted and not requeued"),
    "TIMEOUT": JobEnd("timeout", "its time limit ended it before it had saved"),
    "DEADLINE": JobEnd("timeout", "its deadline ended it"),
    "COMPLETED": JobEnd("completed", "SLURM reports that it completed"),
}


def find_ends(job_ids: Iterable[str]) -> dict[str, JobEnd]:
    """Returns why jobs ended, as far as SLURM knows.

    Jobs that SLURM does not know, or that are not over, are left out.
    """
    wanted = list(job_ids)
    found: dict[str, JobEnd] = {}
    for start in range(0, len(wanted), IDS_PER_QUERY):
        ids = ",".join(wanted[start : start + IDS_PER_QUERY])
        fields = "JobID,State,ExitCode,NodeList"
        output = ask(["sacct", "--noheader", "--parsable2", "--format", fields, "--jobs", ids])
        found |= from_accounting((output or "").splitlines())
    for job_id in [job_id for job_id in wanted if job_id not in found][:SINGLE_QUERIES]:
        end = from_controller(ask(["scontrol", "show", "job", "--oneliner", job_id]) or "")
        if end is not None:
            found[job_id] = end
    return {job_id: end for job_id, end in found.items() if job_id in set(wanted)}


def from_accounting(lines: Sequence[str]) -> dict[str, JobEnd]:
    """Parses lines of `sacct --parsable2`: job id, state, exit code and nodes."""
    rows: dict[str, list[list[str]]] = {}
    for line in lines:
        fields = line.split("|")
        if len(fields) >= 4:
            rows.setdefault(fields[0].partition(".")[0], []).append(fields)
    found = {}
    for job_id, jobs in rows.items():
        jobs.sort(key=lambda fields: "." in fields[0])  # the job itself before its steps
        end = _end([fields[1] for fields in jobs], jobs[0][2], jobs[0][3])
        if end is not None:
            found[job_id] = end
    return found


def from_controller(text: str) -> JobEnd | None:
    """Parses the line of `scontrol show job --oneliner`."""
    fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
    nodes = fields.get("NodeList", "").replace("(null)", "")
    return _end([fields.get("JobState", "")], fields.get("ExitCode", ""), nodes)


def _end(states: Sequence[str], exit_code: str, node: str) -> JobEnd | None:
    """Returns the end of a job from its state, those of its steps, and `status:signal`."""
    words = [state.split()[0].rstrip("+") for state in states if state.strip()]
    where = f" (on {node})" if node and node != "None assigned" else ""
    if not words or words[0] in NOT_OVER:
        return None
    if words[0].startswith("CANCEL"):
        by = re.search(r"CANCELLED by (\d+)", states[0])
        who = f" by user {_user(int(by[1]))}" if by else ""
        return JobEnd("cancelled", f"cancelled{who}{where}")
    if "OUT_OF_MEMORY" in words:  # the job itself is often called FAILED then
        return ENDS["OUT_OF_MEMORY"]
    if words[0] in ENDS:
        end = ENDS[words[0]]
        return JobEnd(end.cause, end.message + where)
    status, _, number = exit_code.partition(":")
    if number not in ("", "0"):
        return JobEnd("killed", f"its process was killed by signal {number}{where}")
    if status in ("137", "143"):  # a signal as the shell's exit status
        return JobEnd("killed", f"its process was killed by signal {int(status) - 128}{where}")
    return JobEnd("failed", f"its process ended with status {status or '?'}{where}")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
