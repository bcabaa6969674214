"""Who may write into a run directory: exactly one attempt, also when two live at once.

A batch system that has lost a node starts the job again elsewhere while the old process goes on.
Locks of the operating system do not help there: they end with a machine, or hang on a file server.
So each attempt takes a number, by creating the next file in `<run>/lease/`, which only one can do.
The newest number owns the directory; whoever took over removes the file of the one before. The
owner opens its own file before each write: is it gone, the attempt has been replaced, writes
nothing more and stops itself.

    00000002.json        the owner: who, where, since when; touched every few seconds
    00000001.ended.json  an attempt that is over, with the time of its end

What a replaced attempt had open stays without effect: the journal is copied to a new file at each
takeover, and checkpoints carry a mark of the journal that they were written beside. Times of
different machines are never compared: whether an owner elsewhere still lives is seen by watching
its file change. (Ours; released behaviour has nothing of the kind.)
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.errors import Stopped, UserError
from simvtp.runs.journal import write_atomically

FOLDER = "lease"
BEAT_S = 5.0  # how often the owner touches its file
SILENT_S = (
    60.0  # an owner on another machine whose file did not change for so long is taken for dead
)
SLURM_FACTS = (
    "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES",
    "SLURM_NTASKS", "SLURM_JOB_PARTITION", "SLURM_JOB_NAME", "SLURM_CLUSTER_NAME", "SLURM_GPUS_ON_NODE",
)  # fmt: skip

_LOG = logging.getLogger(__name__)
_OWNER = re.compile(r"(\d{8})\.json")
_ANY = re.compile(r"(\d{8})\.(?:ended\.)?json")
Say = Callable[[str], None]


class Fenced(Stopped):
    """Another attempt has taken the run directory over: this one must not write any more."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run, as its lease file tells it. `ended` is None while the file says that it
    goes on.
    """

    token: int
    host: str
    pid: int
    pid_started: float
    job: str
    restart: int
    gpus: int
    began: float
    ended: float | None
    last_beat: float
    slurm: Mapping[str, str]

    @property
    def who(self) -> str:
        """`job 12 on n1`, or `process 77 on laptop`."""
        return (
            f"job {self.job} on {self.host}" if self.job else f"process {self.pid} on {self.host}"
        )


class Lease:
    """The right to write into a run directory. A rank that does not write has one that never ends."""

    def __init__(self, path: Path | None, token: int = 0) -> None:
        self.path, self.token = path, token
        self._lost = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def check(self) -> None:
        """Raise Fenced if another attempt has taken over. Opens the file: a file server answers
        that freshly.
        """
        if self.path is None:
            return
        try:
            with open(self.path):
                pass
        except FileNotFoundError:
            self._note_loss()
        except OSError as error:
            raise UserError(
                f"cannot read {self.path}: {error.strerror or error}; is the disk still there?"
            ) from error
        if self._lost.is_set():
            newest = next(iter(reversed(attempts(self.path.parents[1]))), None)
            by = f" by {newest.who}" if newest and newest.token > self.token else ""
            raise Fenced(
                f"the run directory {self.path.parents[1]} was taken over{by}: this attempt stops and writes nothing more."
            )

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` (from another thread) as soon as the loss is noticed, at most a beat
        after it happened.
        """
        self._callbacks.append(callback)
        if self._lost.is_set():
            callback()

    def beat(self) -> bool:
        """Touch the file; False once it is gone."""
        if self.path is None:
            return True
        try:
            os.utime(self.path)
        except FileNotFoundError:
            self._note_loss()
        except OSError as error:
            _LOG.warning("cannot touch %s: %s", self.path, error.strerror or error)
        return not self._lost.is_set()

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
    say: Say = print,
    beat_s: float = BEAT_S,
    silent_s: float = SILENT_S,
) -> Iterator[Lease]:
    """Own `directory` while the block runs.

    Args:
        owns: False for ranks that do not write: they get a lease that never ends.
        wait: wait while another attempt lives there (it may finish the work); False: UserError.
        beat_s, silent_s: see BEAT_S and SILENT_S.

    A process that holds it already gets the same right again. The same SLURM job with a higher
    restart count takes over at once (SLURM has given the earlier attempt up), and so does anybody
    from a dead process of this machine.

    Raises:
        UserError: another attempt lives there, or the disk cannot be written.
        Fenced: a later start of this same job owns it already.
    """
    if not owns:
        yield Lease(None)
        return
    me = _identity()
    try:
        token, joined = _take(directory, me, wait, say, silent_s)
    except OSError as error:
        raise UserError(
            f"cannot write to {directory}: {error.strerror or error}; choose another runtime.root."
        ) from error
    lease = Lease(_file(directory, token), token)
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(beat_s) and lease.beat():
            pass

    beating = threading.Thread(target=keep_beating, name="lease", daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        stop.set()
        beating.join()
        if not joined:  # else whoever took it ends it
            with contextlib.suppress(
                OSError, UserError
            ):  # a full disk: the next attempt sees that this process is dead
                _end(directory, token, time.time())


def attempts(directory: Path) -> list[Attempt]:
    """All attempts at a run, oldest first; files that cannot be read (being written just now) are
    left out.
    """
    found = []
    for path in _files(directory, _ANY):
        attempt = _read(path)
        if attempt is not None:
            found.append(attempt)
    unique = {
        attempt.token: attempt
        for attempt in sorted(found, key=lambda a: (a.token, a.ended is not None))
    }
    return list(unique.values())


def owner(directory: Path) -> Attempt | None:
    """The attempt that owns the directory, living or not; None if the newest one has ended."""
    newest = next(iter(reversed(attempts(directory))), None)
    return newest if newest is not None and newest.ended is None else None


def lives_here(attempt: Attempt) -> bool | None:
    """Whether the process of an attempt lives; None if that cannot be known from this machine."""
    if attempt.host != socket.gethostname():
        return None
    return start_mark(attempt.pid) == attempt.pid_started > 0


def release_dead(directory: Path) -> bool:
    """End the lease of an owner that is known to be gone (for repairs); True if there was one."""
    now = owner(directory)
    if now is None:
        return False
    _end(directory, now.token, now.last_beat)
    return True


def start_mark(pid: int) -> float:
    """When a process started, as a number that stays the same while it lives; 0 if there is none,
    or only its zombie.

    From /proc it is clock ticks since the boot: unlike the time of day, that does not move when the
    clock is set.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return 0.0 if fields[0] in ("Z", "X") else float(fields[19])
    import psutil  # not Linux

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


# ---- taking it -----------------------------------------------------------------------------------


def _identity() -> dict[str, Any]:
    """Who this process is; of the environment only what is named in SLURM_FACTS."""
    slurm = {name: os.environ[name] for name in SLURM_FACTS if name in os.environ}
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_started": start_mark(os.getpid()),
        "job": slurm.get("SLURM_JOB_ID", ""),
        "restart": int(slurm.get("SLURM_RESTART_COUNT") or 0),
        "gpus": _gpus(slurm),
        "began": time.time(),
        "code": str(Path(__file__).resolve().parents[2]),
        "slurm": slurm,
    }


def _gpus(slurm: Mapping[str, str]) -> int:
    """GPUs that are set aside for this attempt, on all its nodes: what a cluster bills."""
    if slurm.get("SLURM_GPUS_ON_NODE", "").isdigit():
        return int(slurm["SLURM_GPUS_ON_NODE"]) * int(slurm.get("SLURM_JOB_NUM_NODES") or 1)
    named = [
        name
        for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if name.strip() and name.strip() != "-1"
    ]
    return len(named)


def _take(
    directory: Path, me: Mapping[str, Any], wait: bool, say: Say, silent_s: float
) -> tuple[int, bool]:
    """(token, whether this process held it already)."""
    (directory / FOLDER).mkdir(parents=True, exist_ok=True)
    watched: tuple[int, float, float] | None = (
        None  # token, its last beat, our clock when we first saw that beat
    )
    told = 0  # token of the owner that the user was told of
    while True:
        tokens = [
            int(found[1])
            for path in _files(directory, _ANY)
            if (found := _ANY.fullmatch(path.name))
        ]
        newest = max(tokens, default=0)
        path = _file(directory, newest)
        holder = _read(path)
        if path.exists():
            if holder is not None and (holder.host, holder.pid, holder.pid_started) == (
                me["host"],
                me["pid"],
                me["pid_started"],
            ):
                return newest, True
            beat = holder.last_beat if holder else 0.0
            if watched is None or watched[:2] != (newest, beat):
                watched = (newest, beat, time.monotonic())
            silent = time.monotonic() - watched[2] > silent_s or (
                not wait and beat and time.time() - beat > silent_s
            )
            if not silent and not (holder is not None and _replaced_by(holder, me)):
                if not wait:
                    who = holder.who if holder else "another process"
                    raise UserError(
                        f"{who} works on this experiment in {directory}: wait for it, or stop it first."
                    )
                if told != newest:
                    told = newest
                    say(
                        f"{holder.who if holder else 'another process'} works in {directory}: waiting for it"
                    )
                time.sleep(0.5)
                continue
        if _create(_file(directory, newest + 1), {"token": newest + 1, **me}):
            for older in _files(directory, _OWNER):
                if (found := _OWNER.fullmatch(older.name)) and int(found[1]) <= newest:
                    before = _read(older)
                    _end(directory, int(found[1]), before.last_beat if before else time.time())
            if newest:
                _new_file(directory / "journal.jsonl")
            return newest + 1, False


def _replaced_by(holder: Attempt, me: Mapping[str, Any]) -> bool:
    """Whether we may take over from `holder` without watching it."""
    if holder.job and holder.job == me["job"]:
        if holder.restart > me["restart"]:
            raise Fenced(f"a later start of {holder.who} owns the run directory: this one stops.")
        if holder.restart < me["restart"]:
            return True
    return lives_here(holder) is False


def _create(path: Path, content: Mapping[str, Any]) -> bool:
    """Create the file; False if somebody else was first."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    return True


def _end(directory: Path, token: int, at: float) -> None:
    """Write down that an attempt is over, and take its right away."""
    path = _file(directory, token)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:  # it was killed while it wrote its first line
        content = {"token": token}
    write_atomically(
        path.with_name(f"{token:08d}.ended.json"), json.dumps({**content, "ended": at})
    )
    path.unlink(missing_ok=True)


def _new_file(path: Path) -> None:
    """The same content under the same name, but another file: what a replaced attempt has open is
    no longer this one.
    """
    if path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.copyfile(path, temporary)
        os.replace(temporary, path)


def _file(directory: Path, token: int) -> Path:
    return directory / FOLDER / f"{token:08d}.json"


def _files(directory: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        return sorted(
            path for path in (directory / FOLDER).iterdir() if pattern.fullmatch(path.name)
        )
    except FileNotFoundError:
        return []


def _read(path: Path) -> Attempt | None:
    try:
        beat, values = path.stat().st_mtime, json.loads(path.read_text())
        return Attempt(
            token=int(values["token"]),
            host=str(values.get("host", "")),
            pid=int(values.get("pid", 0)),
            pid_started=float(values.get("pid_started", 0)),
            job=str(values.get("job", "")),
            restart=int(values.get("restart", 0)),
            gpus=int(values.get("gpus", 0)),
            began=float(values.get("began", beat)),
            ended=None if values.get("ended") is None else float(values["ended"]),
            last_beat=beat,
            slurm=dict(values.get("slurm", {})),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
