"""The right to write into a run directory: one attempt has it, also when two are alive at once.

A batch system that has lost a node starts the job again elsewhere while the old process goes on.
Locks of the operating system do not help there: they end with a machine, or hang on a file server.
So each attempt takes a number, by creating the next file in `<run>/lease/`, which only one process
can do. The newest number owns the directory; an attempt that takes over removes the file of the one
before. The owner opens its own file before each write: if it is gone, the attempt has been
replaced, writes nothing more and stops. See `simvtp.runs.attempts` for the files.

What a replaced attempt had open stays without effect: the journal is copied to a new file at each
takeover, and checkpoints hold a position token of the journal that they belong to.

No two clocks are ever compared. A process of this machine is alive if its id and start time are
those of the lease; of an owner elsewhere only changes of its file count, watched for a while by the
watcher's own monotonic clock. (Ours; the released code has nothing of the kind.)
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.errors import Stopped, StopReason, UserError
from simvtp.runs.atomic_files import cannot_read, cannot_write, remove_leftovers, retry_io
from simvtp.runs.attempts import (
    LEASE_FOLDER,
    Attempt,
    end_attempt,
    is_alive_here,
    lease_file,
    newest_attempt,
    newest_token,
    owner_files,
    read_attempt,
)
from simvtp.runs.process_identity import is_frozen, this_process

BEAT_S = 5.0  # seconds between two touches of the owner's file
SILENT_S = 60.0  # an owner elsewhere counts as dead after so many seconds without a change
UNREADABLE_S = 10.0  # an empty or damaged lease file of nobody known is replaced after so long
LOOK_S = 0.5  # seconds between two looks at another owner's file

_LOG = logging.getLogger(__name__)
LogFn = Callable[[str], None]


class Fenced(Stopped):
    """Another attempt has taken the run directory over: this one must not write any more."""

    def __init__(self, message: str) -> None:
        super().__init__(message, StopReason.TAKEN_OVER)


class Lease:
    """The right to write into a run directory.

    Args:
        path: the file that is the right; None on ranks that do not write: theirs never ends.
        token: number of the attempt.
    """

    def __init__(self, path: Path | None, token: int = 0) -> None:
        self.path, self.token = path, token
        self._lost = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def check(self) -> None:
        """Raises Fenced if another attempt has taken over.

        Opens the file, because a file server answers that freshly. Raises UserError if the disk
        cannot be read.
        """
        if self.path is None:
            return
        path = self.path
        try:
            retry_io(lambda: open(path).close(), path)
        except FileNotFoundError:
            self._note_loss()
        except OSError as error:
            raise cannot_read(path, error) from error
        if self._lost.is_set():
            raise self._taken_over(path.parents[1])

    def check_newest(self) -> None:
        """Raises Fenced if there is a later attempt; unlike `check` also after this one's end."""
        if self.path is not None and newest_token(self.path.parents[1]) > self.token:
            raise self._taken_over(self.path.parents[1])

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Calls `callback` from another thread once the loss is noticed, at most a beat later."""
        self._callbacks.append(callback)
        if self._lost.is_set():
            callback()

    def heartbeat(self) -> bool:
        """Touches the file; returns False once it is gone."""
        if self.path is None:
            return True
        try:
            os.utime(self.path)
        except FileNotFoundError:
            self._note_loss()
        except OSError as error:
            _LOG.warning("cannot touch %s: %s", self.path, error.strerror or error)
        return not self._lost.is_set()

    def _taken_over(self, directory: Path) -> Fenced:
        newest = newest_attempt(directory)
        by = f" by {newest.who}" if newest and newest.token > self.token else ""
        return Fenced(
            f"the run directory {directory} was taken over{by}: "
            "this attempt stops and writes nothing more."
        )

    def _note_loss(self) -> None:
        if not self._lost.is_set():
            self._lost.set()
            for callback in self._callbacks:
                callback()


@contextlib.contextmanager
def hold(
    directory: Path,
    *,
    owns: bool = True,
    wait: bool = False,
    say: LogFn = print,
    beat_s: float = BEAT_S,
    silent_s: float = SILENT_S,
    unreadable_s: float = UNREADABLE_S,
) -> Iterator[Lease]:
    """Owns `directory` while the block runs.

    A process that holds it already gets the same right again. The same SLURM job with a higher
    restart count takes over at once (SLURM has given the earlier attempt up), and so does anybody
    from a dead process of this machine. An owner elsewhere is watched.

    Args:
        directory: the run directory; created if needed.
        owns: False for ranks that do not write: they get a lease that never ends.
        wait: wait while another attempt is alive (it may finish the work); False: UserError.
        say: gets a line when this process has to wait.
        beat_s: see BEAT_S.
        silent_s: see SILENT_S.
        unreadable_s: see UNREADABLE_S.

    Raises:
        UserError: another attempt is alive there, or the disk cannot be written.
        Fenced: a later start of this same job owns it already.
    """
    if not owns:
        yield Lease(None)
        return
    acquisition = _Acquisition(directory, this_process(), wait, say, silent_s, unreadable_s)
    try:
        token, joined = retry_io(acquisition.run, directory)
    except OSError as error:
        raise cannot_write(directory, error) from error
    lease = Lease(lease_file(directory, token), token)
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(beat_s) and lease.heartbeat():
            pass

    thread = threading.Thread(target=keep_beating, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        if not joined:  # else the block that took it ends it
            # on a full disk the next attempt sees that this process is dead
            with contextlib.suppress(OSError, UserError):
                end_attempt(directory, token, time.time())


@dataclass(frozen=True)
class _Sight:
    """One look at the owner's file; two equal ones are a silence."""

    token: int
    beat: float


class _Acquisition:
    """One attempt to become the owner of a run directory."""

    def __init__(
        self,
        directory: Path,
        me: Mapping[str, Any],
        wait: bool,
        say: LogFn,
        silent_s: float,
        unreadable_s: float,
    ) -> None:
        self._directory, self._me, self._wait, self._say = directory, me, wait, say
        self._silent_s, self._unreadable_s = silent_s, unreadable_s
        self._last: _Sight | None = None
        self._since = 0.0  # our monotonic clock when the last change was seen
        self._announced = 0  # token of the owner that the user knows of

    def run(self) -> tuple[int, bool]:
        """Returns (token, True if this process held the directory already)."""
        (self._directory / LEASE_FOLDER).mkdir(parents=True, exist_ok=True)
        while True:
            newest = newest_token(self._directory)
            path = lease_file(self._directory, newest)
            holder = read_attempt(path)
            if holder is not None and self._is_me(holder):
                return newest, True
            if path.exists() and not self._may_replace(newest, path, holder):
                time.sleep(LOOK_S)
            elif self._create(newest + 1):
                self._end_older(newest)
                return newest + 1, False

    def _is_me(self, holder: Attempt) -> bool:
        mine = tuple(self._me[name] for name in ("host", "pid", "pid_started"))
        return (holder.host, holder.pid, holder.pid_started) == mine and holder.ended is None

    def _may_replace(self, token: int, path: Path, holder: Attempt | None) -> bool:
        """Returns True if the owner is gone; raises UserError if it is alive and we do not wait."""
        silence, changed = self._watch(token, path)
        if holder is None:
            if silence > self._unreadable_s:
                return True
            self._announce(token, f"the lease {path} cannot be read: watching it")
            return False
        if self._is_given_up(holder):
            return True
        alive = is_alive_here(holder)
        if alive is False or silence > self._silent_s:
            return True
        # a frozen process is watched like one elsewhere: it may never thaw
        if not self._wait and (changed or (alive and not is_frozen(holder.pid))):
            raise UserError(
                f"{holder.who} works on this experiment in {self._directory}: "
                "wait for it, or stop it first."
            )
        if self._wait:
            self._announce(token, f"{holder.who} works in {self._directory}: waiting for it")
        else:
            self._announce(
                token,
                f"{holder.who} owned {self._directory} last: watching for up to "
                f"{self._silent_s:.0f} s whether it is alive",
            )
        return False

    def _watch(self, token: int, path: Path) -> tuple[float, bool]:
        """Returns (seconds without a change of the file, True if it changed meanwhile)."""
        try:
            with open(path) as file:  # opened for each look, see `read_attempt`
                sight = _Sight(token, os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            sight = _Sight(token, 0.0)
        last, self._last = self._last, sight
        if last != sight:
            self._since = time.monotonic()
        changed = last is not None and last.token == token and last != sight
        return time.monotonic() - self._since, changed

    def _is_given_up(self, holder: Attempt) -> bool:
        """Returns True if SLURM has started this very job again since.

        Raises Fenced if this process is the earlier start.
        """
        if not holder.job or holder.job != self._me["job"]:
            return False
        if holder.restart > self._me["restart"]:
            raise Fenced(f"a later start of {holder.who} owns the run directory: this one stops.")
        return holder.restart < int(self._me["restart"])

    def _announce(self, token: int, text: str) -> None:
        if self._announced != token:
            self._announced = token
            self._say(text)

    def _create(self, token: int) -> bool:
        """Creates the lease file; returns False if another process was first."""
        path = lease_file(self._directory, token)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({"token": token, **self._me}, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                path.unlink(missing_ok=True)  # else an empty lease of nobody would stay
            raise
        return True

    def _end_older(self, newest: int) -> None:
        """Takes the right of all earlier attempts away, and what they have open."""
        for token, path in owner_files(self._directory):
            if token <= newest:
                before = read_attempt(path)
                at = before.last_beat if before else time.time()
                end_attempt(self._directory, token, at)
        if newest:
            remove_leftovers(self._directory)
            _replace_by_copy(self._directory / "journal.jsonl")


def _replace_by_copy(path: Path) -> None:
    """Gives a file a new inode: what a replaced attempt has open is no longer this file."""
    if path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.copyfile(path, temporary)
        os.replace(temporary, path)
