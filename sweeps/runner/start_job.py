"""Starts a submitted job: `python -m sweeps.runner.start_job FOLDER`.

A submission is a pickle, and loading one runs code. It is loaded only if it belongs to the user of
the job (or to root) and not everybody may write to it."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

from sweeps.compat.submitit_private import run_submission, submission_pickle
from sweeps.monitor.text_streams import tolerate_encodings

WAIT_S = 60.0  # the controller moves the pickle to its place after the submission


def refusal(path: Path) -> str:
    """Returns why a pickle must not be loaded; "" if it may be."""
    for part in (path, path.parent):
        facts = part.stat()
        if facts.st_uid not in (os.getuid(), 0):
            return f"{part} belongs to user {facts.st_uid}: it is not loaded"
        if facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
            return f"{part} can be written by every user: it is not loaded"
    return ""


def main(folder: str) -> int:
    """Loads and runs the submission in `folder`; returns the exit status."""
    tolerate_encodings()
    path, deadline = submission_pickle(folder), time.monotonic() + WAIT_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    if path.exists():  # without it, submitit ends the job with its own message
        reason = refusal(path)
        if reason:
            print(f"failed: {reason}", file=sys.stderr)
            return 1
    run_submission(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
