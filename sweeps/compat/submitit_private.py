"""Parts of submitit that are private there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import submitit


def supervisor_command(folder: str | Path) -> list[str]:
    """Returns the command of submitit's supervisor of one local job.

    Remove when submitit.LocalExecutor can start a job in a session of its own, with an environment
    and setup commands.
    """
    return [sys.executable, "-m", "submitit.local._local", str(folder)]


class SubmittingExecutor(submitit.LocalExecutor):
    """Local executor that hands the start of each job to a function.

    Remove when submitit.LocalExecutor can start a job in a session of its own, with an environment
    and setup commands.
    """

    def __init__(self, folder: Path, start: Callable[[str], submitit.LocalJob[Any]]) -> None:
        super().__init__(folder)
        self._start = start

    def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
        return self._start(command)


def submission_script(executor: submitit.SlurmExecutor, token: str) -> str:
    """Returns the text of the batch script that `executor` would submit.

    Remove when submitit offers a dry run.
    """
    text: str = executor._make_submission_file_text(executor._submitit_command_str, token)
    return text
