"""The state of a run as the tracker shows it, from status.json and job.json."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simvtp.runs.atomic_files import read_json
from simvtp.runs.attempts import attempts

ENDED_EARLY = (
    "cancelled",
    "pruned",
    "killed",
)  # said by job.json: by the user, by a search, by the machine
STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"} | dict.fromkeys(
    ENDED_EARLY, "KILLED"
)  # else RUNNING


def run_status(run_dir: Path, abandoned: bool = False) -> dict[str, Any]:
    """status.json, unless job.json says that the job was ended from outside since: cancelled,
    pruned, or killed by the machine.

    With `abandoned`, a run whose process on this machine is gone counts as stopped.
    """
    path = run_dir / "status.json"
    status: dict[str, Any] = read_json(path) if path.exists() else {"state": "queued"}
    early = _ended_early(run_dir, status)
    if early:
        return {**status, **early}
    if (
        abandoned
        and status["state"] == "running"
        and status.get("host") == socket.gethostname()
        and not _alive(status.get("pid"))
    ):
        return {
            **status,
            "state": "stopped",
            "message": f"the process ended without a word; {status.get('message', '')}".rstrip(
                "; "
            ),
        }
    return status


def _ended_early(run_dir: Path, status: Mapping[str, Any]) -> dict[str, Any]:
    """State, message and time of an end that the run could not tell itself; empty if there was
    none, or if a later attempt went on.
    """
    ended = read_optional(run_dir / "job.json").get("ended") or {}
    cause, at = ended.get("cause", ""), float(ended.get("at", 0))
    if (
        not cause
        or status["state"] == "finished"
        or any(attempt.began > at for attempt in attempts(run_dir)[-1:])
    ):
        return {}
    if cause not in ENDED_EARLY and status["state"] != "running":
        return {}  # what the run says of its own end is more exact
    words = f"{cause}: {ended['message']}" if ended.get("message") else str(cause)
    return {"state": cause if cause in ENDED_EARLY else "killed", "message": words, "updated": at}


def read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True  # it is there and belongs to somebody else
    return True
