"""Worker processes that may hang or crash without taking the run with them.

Why not torch's DataLoader: it reports a dead worker by raising from a signal handler in the middle
of whatever the main process does, cannot end a hanging one, and draws from torch's global random
state each time it starts. Here a worker says which clip it decodes, and the kernel ends it
(SIGALRM, default action) when one clip takes too long, even if the decoder holds the interpreter
lock. The main process sees the pipe close, knows the clip, and starts another worker.

Workers come from multiprocessing's fork server: a clean process with no threads, no GPU and no open
decoder to inherit. Like all processes that Python spawns they import the main script, which
therefore needs the usual `if __name__ == "__main__":`.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, resource_tracker, util
from typing import Any

import numpy as np

from simvtp.errors import UserError

Task = Callable[[Any, "Guard"], Any]
DEPTH = 2  # jobs that a worker has in hand, so that it never waits for the main process
REQUESTS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)  # to stop; they are for the main process
PRELOAD = [
    "torch",
    "simvtp.data.loading.loader",
]  # imported once by the fork server, so that each worker starts in milliseconds


class WorkerDied(Exception):
    """A worker process ended in the middle of its job.

    Attributes:
        mark: the number of the clip it was decoding, or -1 if it was not decoding.
        reason: what happened, in words.
    """

    def __init__(self, mark: int, reason: str) -> None:
        super().__init__(reason)
        self.mark = mark
        self.reason = reason


class Guard:
    """Watches one decode at a time; the one inside a worker can end the process, the plain one (no
    mark) does nothing.
    """

    def __init__(self, mark: Any = None, timeout_s: float = 0.0) -> None:
        self._mark = mark
        self._timeout_s = timeout_s

    @contextlib.contextmanager
    def decoding(self, number: int) -> Iterator[None]:
        """Around the decoding of clip `number`."""
        if self._mark is None:
            yield
            return
        self._mark.value = number
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._mark.value = -1


class GuardedWorker:
    """One process that answers jobs in order. `task` must be picklable; it is called as task(job,
    guard).
    """

    def __init__(self, task: Task, timeout_s: float) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._timeout_s = timeout_s
        self.connection, theirs = context.Pipe()
        self._mark = context.RawValue("q", -1)
        self._process = context.Process(
            target=_serve, args=(theirs, task, self._mark, timeout_s), daemon=True
        )
        with _main_script_that_exists(), undisturbed():
            self._process.start()
        theirs.close()
        # At interpreter exit, before multiprocessing joins its children: they ignore SIGTERM, so it
        # would wait for ever.
        self._finalizer = util.Finalize(
            self, _kill, args=(self._process, self.connection), exitpriority=20
        )

    def send(self, job: Any) -> None:
        """Hand over a job; a worker that has died is reported by `receive`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(job)

    def receive(self) -> Any:
        """The answer to the oldest job. Raises what the task raised, or WorkerDied."""
        try:
            fine, answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise WorkerDied(self._mark.value, self._cause()) from None
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

    def close(self) -> None:
        """End the process at once."""
        self._finalizer()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Processes started inside the block never see a request to stop; here it arrives at the end of
    the block.

    A batch system sends its signals to every process of a job, and by default each of them would
    end it: a decoder's death would then be blamed on the clip that it had in hand. A blocked signal
    stays blocked in the processes that are started, from their first moment on, and in theirs. The
    main process decides what a request means and ends its workers by itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        # multiprocessing's own helper; where it starts it, it unblocks some signals behind itself
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_script_that_exists() -> Iterator[None]:
    """A program that Python reads from its standard input calls itself `<stdin>`: spare the worker
    from looking for that file.
    """
    main = sys.modules["__main__"]
    name = getattr(main, "__file__", None)
    if name is None or os.path.exists(name):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = name


def _kill(process: Any, pipe: connection.Connection) -> None:
    pipe.close()
    process.kill()
    process.join()


def _serve(pipe: connection.Connection, task: Task, mark: Any, timeout_s: float) -> None:
    import torch

    # Ctrl-C and SLURM's signals go to every process of the group. The main process decides what
    # they mean; it still needs its batches.
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    torch.set_num_threads(1)
    guard = Guard(mark, timeout_s)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, ConnectionResetError):
            return  # the main process is gone
        try:
            answer = True, task(job, guard)
        except UserError as error:
            answer = False, error
        except Exception:
            answer = False, RuntimeError(f"in a data worker:\n{traceback.format_exc()}")
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def guarded_map(
    task: Task, jobs: Sequence[Any], workers: int, timeout_s: float
) -> Iterator[tuple[int, Any]]:
    """Yield (number of the job, answer) as they come, each once; the answer of a job whose worker
    died is the WorkerDied itself.

    `workers` = 0 works in this process, without a time-out.
    """
    if workers == 0:
        guard = Guard()
        for number, job in enumerate(jobs):
            yield number, task(job, guard)
        return
    waiting = deque(enumerate(jobs))
    busy: dict[connection.Connection, tuple[GuardedWorker, int]] = {}
    idle = [GuardedWorker(task, timeout_s) for _ in range(min(workers, len(waiting)))]
    try:
        while waiting or busy:
            while waiting and idle:
                number, job = waiting.popleft()
                worker = idle.pop()
                worker.send(job)
                busy[worker.connection] = worker, number
            for pipe in connection.wait(list(busy)):
                worker, number = busy.pop(pipe)  # type: ignore[call-overload]
                try:
                    answer = worker.receive()
                except WorkerDied as death:
                    answer = death
                    worker.close()
                    if waiting:
                        worker = GuardedWorker(task, timeout_s)
                idle.append(worker)
                yield number, answer
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.close()


class Pipeline:
    """Fills buffers ahead of time, in order, in `workers` processes (0 = in this one), and survives
    workers that die.

    The task is called as task((job, buffer number, bad), guard) and fills `buffers[number]`; `bad`
    is the set of clips that must not be decoded any more, because they have ended a worker. A job
    that ended a worker is done again without that clip.
    """

    def __init__(
        self,
        make_task: Callable[[list[Any]], Task],
        buffer_bytes: int,
        workers: int,
        timeout_s: float,
    ) -> None:
        self.bad: dict[int, str] = {}  # clip -> reason
        self._timeout_s = timeout_s
        self._count = workers
        if workers == 0:
            self._buffers: list[Any] = [np.empty(buffer_bytes, np.uint8)]
        else:
            context = multiprocessing.get_context("forkserver")
            self._buffers = [context.RawArray("B", buffer_bytes) for _ in range(workers * DEPTH)]
        self._task = make_task(self._buffers)

    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, np.ndarray, Any]]:
        """Yield (job, uint8 buffer, answer) in the order of `jobs`; the buffer is valid until the
        next one is asked for.
        """
        if self._count == 0:
            guard = Guard()
            for job in jobs:
                answer = self._task((job, 0, frozenset(self.bad)), guard)
                yield job, self._buffers[0], answer
            return
        source = iter(jobs)
        sent: deque[tuple[int, Any]] = deque()
        workers: list[GuardedWorker] = []
        try:
            workers.extend(GuardedWorker(self._task, self._timeout_s) for _ in range(self._count))
            for number, job in zip(range(len(self._buffers)), source, strict=False):
                self._send(workers, sent, number, job)
            while sent:
                number, job = sent[0]
                answer = self._receive(workers, sent)
                yield (
                    job,
                    np.frombuffer(self._buffers[number % len(self._buffers)], np.uint8),
                    answer,
                )
                sent.popleft()
                for following in source:
                    self._send(workers, sent, number + len(self._buffers), following)
                    break
        finally:
            for worker in workers:
                worker.close()

    def _send(
        self, workers: list[GuardedWorker], sent: deque[tuple[int, Any]], number: int, job: Any
    ) -> None:
        sent.append((number, job))
        workers[number % self._count].send((job, number % len(self._buffers), frozenset(self.bad)))

    def _receive(self, workers: list[GuardedWorker], sent: deque[tuple[int, Any]]) -> Any:
        """The answer to the oldest job that was sent; replaces its worker as often as clips end it."""
        at = sent[0][0] % self._count
        while True:
            try:
                return workers[at].receive()
            except WorkerDied as death:
                workers[at].close()
                if death.mark < 0:
                    raise UserError(
                        f"a data worker ended while it was not decoding ({death.reason}); if memory ran out, lower runtime.workers or the batch size."
                    ) from death
                self.bad[death.mark] = death.reason
                workers[at] = GuardedWorker(self._task, self._timeout_s)
                for number, job in sent:
                    if number % self._count == at:
                        workers[at].send((job, number % len(self._buffers), frozenset(self.bad)))


class SharedTexts:
    """A list of texts in memory that worker processes share: a few million paths are neither copied
    nor pickled.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        coded = [text.encode("utf-8", "surrogateescape") for text in texts]
        context = multiprocessing.get_context("forkserver")
        self._ends = context.RawArray(
            "q", [*itertools.accumulate((len(text) for text in coded), initial=0)]
        )
        self._bytes = context.RawArray("B", max(1, self._ends[len(coded)]))
        memoryview(self._bytes).cast("B")[: self._ends[len(coded)]] = b"".join(coded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        return bytes(self._bytes[self._ends[number] : self._ends[number + 1]]).decode(
            "utf-8", "surrogateescape"
        )
