"""Errors whose cause lies outside the code: settings, files, disks, servers, other processes.

Each message is one sentence (or two) that says what is wrong, where, and what to do. The command
line prints it without a traceback and exits with status 2; anything else is a defect of this
project and keeps its traceback.
"""

from __future__ import annotations

import re
import signal
from enum import StrEnum
from pathlib import Path

from simvtp.console import printable

# what gloo, nccl and the store of torch say of a process that has ended, and of a silent one
_ENDED = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited"
    r"|ncclRemoteError|Connection closed by localRank"
)
_SILENT = re.compile(
    r"Timed out waiting \d+ ?ms|Watchdog caught collective operation timeout"
    r"|[Ww]ait timeout after \d+ ?ms|Timed out after waiting \d+ ?ms"
    r"|Some NCCL operations have failed or timed out"
)
CONTINUES = "the same command continues from the last checkpoint"


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


def lost_rank(text: str) -> str:
    """Returns what an error says of another process of the run, with what to do.

    Empty if it says nothing of one.
    """
    if found := _ENDED.search(text):
        return f"another process of this run has gone away ({found[0]}); {CONTINUES}"
    return silent_rank(text)


def silent_rank(text: str) -> str:
    """Returns what an error or a line of a log says of a process that did not answer in time.

    Empty if it says nothing of one.
    """
    found = _SILENT.search(text)
    if found is None:
        return ""
    return (
        f"another process of this run did not answer in time ({found[0]}): the logs of the others "
        f"say what it waited for, such as a file system, its data or a failing GPU; {CONTINUES}"
    )


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
