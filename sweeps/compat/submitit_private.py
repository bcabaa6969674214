"""Parts of submitit that are private there."""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core import job_environment, submission, utils


def supervisor_command(folder: str | Path) -> list[str]:
    """Returns the command of submitit's supervisor of one local job.

    Remove when submitit.LocalExecutor can start a job in a session of its own, with an environment
    and setup commands.
    """
    return [sys.executable, "-m", "submitit.local._local", str(folder)]


def submission_pickle(folder: str) -> Path:
    """Returns the pickle of the job that this process is.

    Remove when submitit checks the owner of a pickle before it loads it.
    """
    os.environ["SUBMITIT_FOLDER"] = folder
    return Path(job_environment.JobEnvironment().paths.submitted_pickle)


def run_submission(folder: str) -> None:
    """Loads and runs the pickle of the job that this process is.

    Remove when submitit checks the owner of a pickle before it loads it.
    """
    submission.process_job(folder)


def job_program(python: str, folder: Path) -> str:
    """Returns the shell command that starts a job in place of `python -m submitit.core._submit`."""
    return f"{python} -u -m sweeps.runner.start_job {shlex.quote(str(folder))}"


class SubmittingExecutor(submitit.LocalExecutor):
    """Local executor that hands the start of each job to a function.

    Remove when submitit.LocalExecutor can start a job in a session of its own, with an environment
    and setup commands.
    """

    def __init__(self, folder: Path, start: Callable[[str], submitit.LocalJob[Any]]) -> None:
        super().__init__(folder)
        self._start = start

    @property
    def _submitit_command_str(self) -> str:
        return job_program(shlex.quote(sys.executable), self.folder)

    def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
        return self._start(command)


class BatchExecutor(submitit.SlurmExecutor):
    """SLURM executor that hides variables of this process from sbatch, for arrays too.

    Remove when submitit.SlurmExecutor accepts an environment for sbatch, submits arrays by its own
    class (it creates a plain SlurmExecutor for them), and offers a dry run.
    """

    def __init__(self, folder: Path, unset: Sequence[str]) -> None:
        super().__init__(folder=folder, max_num_timeout=1000)
        self._unset = tuple(unset)

    @property
    def _submitit_command_str(self) -> str:
        return job_program(self.python, self.folder)

    def script(self, token: str) -> str:
        """Returns the text of the batch script that would be submitted."""
        text: str = self._make_submission_file_text(self._submitit_command_str, token)
        return text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # names only: command lines are visible to other users
        unset = [f"--unset={name}" for name in self._unset]
        return ["env", *unset, "sbatch", str(submission_file_path)]

    def _internal_process_submissions(
        self, delayed_submissions: list[utils.DelayedSubmission]
    ) -> list[submitit.Job[Any]]:
        if len(delayed_submissions) == 1:
            jobs: list[submitit.Job[Any]] = super()._internal_process_submissions(
                delayed_submissions
            )
            return jobs
        folder = utils.JobPaths.get_first_id_independent_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        pickles = []
        for delayed in delayed_submissions:
            pickles.append(folder / f"{uuid.uuid4().hex}.pkl")
            delayed.set_timeout(self.parameters.get("time", 5), self.max_num_timeout)
            delayed.dump(pickles[-1])
        array = BatchExecutor(self.folder, self._unset)
        array.parameters = {**self.parameters, "map_count": len(pickles)}
        self._throttle()
        first = array._submit_command(self._submitit_command_str)
        tasks = list(range(first.num_tasks))
        jobs = []
        for number, path in enumerate(pickles):
            job: submitit.Job[Any] = submitit.SlurmJob(
                self.folder, f"{first.job_id}_{number}", tasks
            )
            job.paths.move_temporary_file(path, "submitted_pickle")
            jobs.append(job)
        return jobs
