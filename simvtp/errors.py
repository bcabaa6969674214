"""Errors whose cause lies outside the code: settings, files, disks, servers, other processes.

Each message is one sentence (or two) that says what is wrong, where, and what to do. The command
line prints it without a traceback and exits with status 2; anything else is a defect of this
project and keeps its traceback.
"""

from __future__ import annotations

import signal
from enum import StrEnum
from pathlib import Path

from simvtp.console import printable


class UserError(Exception):
    """Base class of errors that the user can correct; the message is written for the user.

    Names of files and rows in it are printed as they are, without control characters.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(UserError):
    """A setting does not exist, has the wrong type, or contradicts another one."""


class DataError(UserError):
    """A manifest, a clip or a split cannot be used."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, or belongs to another configuration."""


class DamagedFile(UserError):
    """A file that this project wrote cannot be read as what it should be.

    The message reads `damaged: FILE (reason); what to do.`

    Attributes:
        path: the damaged file.
    """

    def __init__(self, path: Path, reason: str, advice: str) -> None:
        super().__init__(f"damaged: {path} ({reason}); {advice}")
        self.path = path


class TrainingDiverged(UserError):
    """A loss became NaN or infinite."""


class RankLost(UserError):
    """Another process of a run that several processes share has ended; the run can be continued."""


class DeviceMemoryExhausted(UserError):
    """The memory of a GPU does not suffice for a training step."""


class StopReason(StrEnum):
    """Reason why a process stopped before the end of its work; a field of status.json."""

    TERMINATED = "terminated"  # SIGTERM: a user or a preemption asked it to end
    INTERRUPTED = "interrupted"  # SIGINT: Ctrl-C
    REQUEUE = (
        "requeue"  # SIGUSR1, SIGUSR2: the batch system asks it to save and to be started again
    )
    TAKEN_OVER = "taken_over"  # another attempt owns the run directory
    OTHER_RANK = "other_rank"  # another rank of the same run was asked to stop
    STAGE_DONE = "stage_done"  # the last stage that was asked for is complete

    @classmethod
    def of_signal(cls, number: int) -> StopReason:
        """Returns what a stop signal asks for."""
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            return cls.REQUEUE
        return cls.INTERRUPTED if number == signal.SIGINT else cls.TERMINATED


class Stopped(UserError):
    """The process was asked to stop; what was reached is saved, and the same call continues there.

    Attributes:
        reason: why it stopped; None if nobody said.
    """

    def __init__(self, message: str = "", reason: StopReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason
