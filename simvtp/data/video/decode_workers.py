"""Worker processes that may hang or crash without ending the run.

torch's DataLoader reports a dead worker by raising from a signal handler in the middle of whatever
the main process does, cannot end a hanging one, and draws from torch's global random state each
time it starts. Here a worker publishes the clip that it decodes, and the kernel ends the worker
(SIGALRM, default action) when one clip takes too long, even if the decoder holds the interpreter
lock. The main process sees the pipe close, knows the clip, and starts another worker.

Workers come from multiprocessing's fork server: a clean process with no threads, no GPU and no open
decoder to inherit. They import the main script only if it defines something that they need (see
`needs_main_script`), so a plain script without `if __name__ == "__main__":` works.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, resource_tracker, util
from typing import Any, TypeVar

import numpy as np

from simvtp.errors import ConfigError, UserError

Job = TypeVar("Job")
Answer = TypeVar("Answer")

STARTING = -2  # current clip of a worker that does not serve yet
IDLE = -1  # current clip of a worker that decodes none
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Imported once by the fork server, so that each worker starts in milliseconds.
PRELOAD = ["torch", "simvtp.data.loading.train_loader", "simvtp.data.loading.view_loader"]


class WorkerDied(Exception):
    """A worker process ended in the middle of its job.

    Attributes:
        clip: number of the clip that it was decoding, or IDLE.
        reason: what happened, in words.
    """

    def __init__(self, clip: int, reason: str) -> None:
        super().__init__(reason)
        self.clip = clip
        self.reason = reason


class DecodeWatchdog:
    """Limits the time of one decode at a time, inside a worker process.

    Without `current_clip` (in the main process) it does nothing.

    Args:
        current_clip: shared int64, holds the number of the clip while it is decoded.
        timeout_s: time after which the kernel ends the process.
    """

    def __init__(self, current_clip: Any = None, timeout_s: float = 0.0) -> None:
        self._current_clip = current_clip
        self._timeout_s = timeout_s

    @contextlib.contextmanager
    def decoding(self, clip: int) -> Iterator[None]:
        """Surrounds the decoding of clip number `clip`."""
        if self._current_clip is None:
            yield
            return
        self._current_clip.value = clip
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._current_clip.value = IDLE


class DecodeWorker:
    """One process that answers jobs in order.

    Args:
        task: called as task(job, watchdog); must be picklable.
        timeout_s: limit of one decode.
    """

    def __init__(self, task: Callable[[Any, DecodeWatchdog], Any], timeout_s: float) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._timeout_s = timeout_s
        self._from_main = needs_main_script(task)
        self.connection, theirs = context.Pipe()
        self._current_clip = context.RawValue("q", STARTING)
        self._process = context.Process(
            target=_serve, args=(theirs, task, self._current_clip, timeout_s), daemon=True
        )
        with main_script_hidden(unless=bool(self._from_main)), stop_signals_blocked():
            self._process.start()
        theirs.close()
        # At interpreter exit, before multiprocessing joins its children: they ignore SIGTERM, so it
        # would wait for ever.
        self._finalizer = util.Finalize(
            self, _kill, args=(self._process, self.connection), exitpriority=20
        )

    def send(self, job: Any) -> None:
        """Hands over a job; `receive` reports a worker that has died."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(job)

    def receive(self) -> Any:
        """Returns the answer to the oldest job.

        Raises:
            UserError: the worker did not start, or the task raised one.
            RuntimeError: the task raised another exception.
            WorkerDied: the process ended during the job.
        """
        try:
            fine, answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            if self._current_clip.value == STARTING:
                raise UserError(self._start_failure()) from None
            raise WorkerDied(self._current_clip.value, self._cause()) from None
        if fine:
            return answer
        raise answer

    def _cause(self) -> str:
        code = self._process.exitcode
        if code == -signal.SIGALRM:
            return f"decoding took longer than {self._timeout_s:g} s and was ended"
        if code is not None and code < 0:
            return f"the decoder's process was ended by {signal.Signals(-code).name}"
        return f"the decoder ended its process (exit status {code})"

    def _start_failure(self) -> str:
        code = self._process.exitcode
        if code is not None and code < 0:
            return (
                f"a data worker was ended by {signal.Signals(-code).name} while it started; if "
                "memory ran out, lower runtime.workers."
            )
        if not self._from_main:
            return f"a data worker could not start (exit status {code}): see its error above."
        script = getattr(sys.modules["__main__"], "__file__", None)
        if script is None or not os.path.exists(script):
            return (
                f"a data worker could not start: {self._from_main} is defined in a program that "
                "was not read from a file, so the worker cannot import it; put it in a module."
            )
        return (
            f"a data worker could not start: it imports {script}, which defines "
            f'{self._from_main}; put the code that runs there under `if __name__ == "__main__":`, '
            "or set runtime.workers=0."
        )

    def close(self) -> None:
        """Ends the process at once."""
        self._finalizer()


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Blocks the signals of STOP_SIGNALS in this process and in processes started meanwhile.

    A batch system sends its signals to every process of a job, and by default each of them would
    end it: a decoder's death would then be blamed on the clip that it had in hand. A blocked signal
    stays blocked in the processes that are started, from their first moment on, and in theirs. The
    main process gets what arrived at the end of the block, and ends its workers by itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        # multiprocessing's own helper; where it starts it, it unblocks some signals afterwards.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _MainFinder(pickle.Pickler):
    """Pickles into nothing and notes the first class or function of the main script."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=pickle.HIGHEST_PROTOCOL)
        self.found = ""

    def persistent_id(self, value: Any) -> str | None:
        """Skips arrays, which are large or shared and hold no code."""
        if isinstance(value, (ctypes.Array, np.ndarray)):
            return "array"
        if getattr(value, "__module__", "") == "__main__" and hasattr(value, "__qualname__"):
            self.found = self.found or value.__qualname__
        return None


def needs_main_script(task: Any) -> str:
    """Returns the name of a class or function of the main script inside `task`, or "".

    Python's spawned processes import the main script because their work may be defined there.
    Where it is not, that import only runs code a second time.
    """
    finder = _MainFinder()
    with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):
        finder.dump(task)  # what cannot be pickled is reported when the process starts
    return finder.found


@contextlib.contextmanager
def main_script_hidden(unless: bool = False) -> Iterator[None]:
    """Keeps processes started meanwhile from importing the main script.

    Args:
        unless: the script is needed; it is hidden all the same if it was not read from a file
            (Python calls such a program `<stdin>`, and the process would look for that file).
    """
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__[name] for name in ("__file__", "__spec__") if hasattr(main, name)}
    if unless and os.path.exists(hidden.get("__file__") or ""):
        yield
        return
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)


def _kill(process: Any, pipe: connection.Connection) -> None:
    pipe.close()
    process.kill()
    process.join()


def _serve(
    pipe: connection.Connection,
    task: Callable[[Any, DecodeWatchdog], Any],
    current_clip: Any,
    timeout_s: float,
) -> None:
    import torch  # the fork server has it; a process that only starts workers need not

    # Ctrl-C and SLURM's signals go to every process of the group. The main process decides what
    # they mean; it still needs its batches.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    torch.set_num_threads(1)
    watchdog = DecodeWatchdog(current_clip, timeout_s)
    current_clip.value = IDLE
    while True:
        try:
            job = pipe.recv()
        except (EOFError, ConnectionResetError):
            return  # the main process is gone
        try:
            answer = True, task(job, watchdog)
        except UserError as error:
            answer = False, error
        except Exception:
            answer = False, RuntimeError(f"in a data worker:\n{traceback.format_exc()}")
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def map_in_workers(
    task: Callable[[Job, DecodeWatchdog], Answer],
    jobs: Sequence[Job],
    workers: int,
    timeout_s: float,
) -> Iterator[tuple[int, Answer | WorkerDied]]:
    """Yields (number of the job, answer) in the order of completion, each job once.

    The answer of a job whose worker died is the WorkerDied itself. `workers` = 0 works in this
    process, without a time-out.

    Raises:
        ConfigError: `workers` is negative.
    """
    if workers < 0:
        raise ConfigError(f"workers={workers}: must be 0 (decode in this process) or more.")
    if workers == 0:
        watchdog = DecodeWatchdog()
        for number, job in enumerate(jobs):
            yield number, task(job, watchdog)
        return
    waiting = deque(enumerate(jobs))
    busy: dict[Any, tuple[DecodeWorker, int]] = {}  # by the worker's connection
    idle = [DecodeWorker(task, timeout_s) for _ in range(min(workers, len(waiting)))]
    try:
        while waiting or busy:
            while waiting and idle:
                number, job = waiting.popleft()
                worker = idle.pop()
                worker.send(job)
                busy[worker.connection] = worker, number
            for pipe in connection.wait(list(busy)):
                worker, number = busy.pop(pipe)
                answer: Answer | WorkerDied
                try:
                    answer = worker.receive()
                except WorkerDied as death:
                    answer = death
                    worker.close()
                    if waiting:
                        worker = DecodeWorker(task, timeout_s)
                idle.append(worker)
                yield number, answer
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.close()


class SharedTexts:
    """A list of texts in memory that worker processes share.

    A few million paths are neither copied nor pickled.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        context = multiprocessing.get_context("forkserver")
        ends = itertools.accumulate((len(text) for text in encoded), initial=0)
        self._ends = context.RawArray("q", [*ends])
        size = self._ends[len(encoded)]
        self._bytes = context.RawArray("B", max(1, size))
        memoryview(self._bytes).cast("B")[:size] = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        text = bytes(self._bytes[self._ends[number] : self._ends[number + 1]])
        return text.decode("utf-8", "surrogateescape")
