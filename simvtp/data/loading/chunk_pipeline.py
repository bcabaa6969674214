"""Chunks of decoded samples, made ahead of time by worker processes in shared buffers.

A loader cuts its samples into chunks (`ChunkJob`). A worker fills a buffer with the pixels of a
chunk and answers with a `ChunkResult`; `ChunkPipeline` hands the chunks out in order.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from simvtp.config.model_config import ModelConfig
from simvtp.data.clips import Clip
from simvtp.data.video.decode_workers import IDLE, DecodeWatchdog, DecodeWorker, WorkerDied
from simvtp.errors import ConfigError, UserError

CHUNK = 16  # samples that a worker makes at a time
DEPTH = 2  # jobs that a worker has in hand, so that it never waits for the main process


@dataclass(frozen=True)
class ChunkJob:
    """Samples that a worker makes at a time.

    Attributes:
        numbers: numbers of the samples, consecutive.
        buffer: number of the buffer that receives their pixels.
        candidates: numbers of clips, see `ChunkPipeline`.
        quarantined: clips that must not be decoded any more, because they have ended a worker.
    """

    numbers: range
    buffer: int
    candidates: np.ndarray
    quarantined: frozenset[int]


@dataclass(frozen=True)
class ClipFailure:
    """A clip that does not decode; `reason` is "" for a quarantined one."""

    clip: int
    reason: str


@dataclass
class ChunkResult:
    """Answer of a worker that has filled a buffer.

    Attributes:
        clips: int64, number of the clip of each sample.
        replaced: samples replaced by another clip, or by grey.
        failures: clips that did not decode.
    """

    clips: np.ndarray
    replaced: int = 0
    failures: list[ClipFailure] = field(default_factory=list)


@dataclass(frozen=True)
class FilledChunk:
    """A finished chunk; `buffer` (uint8) is valid until the next one is asked for."""

    numbers: range
    buffer: np.ndarray
    result: ChunkResult


class ChunkTask(Protocol):
    """Function of a worker: fills `buffer` with the samples of `job`. Must be picklable."""

    def __call__(self, job: ChunkJob, buffer: Any, watchdog: DecodeWatchdog) -> ChunkResult:
        """Decodes inside `watchdog.decoding(clip)`."""
        ...


@dataclass(frozen=True)
class _BufferedTask:
    """A `ChunkTask` with the buffers that its jobs name; workers inherit them when they start."""

    task: ChunkTask
    buffers: Sequence[Any]

    def __call__(self, job: ChunkJob, watchdog: DecodeWatchdog) -> ChunkResult:
        return self.task(job, self.buffers[job.buffer], watchdog)


def _themselves(numbers: range) -> np.ndarray:
    """Returns samples that are the numbers of their clips."""
    return np.array(numbers)


class ChunkPipeline:
    """Fills buffers ahead of time, in order, in worker processes, and survives workers that die.

    A job that ended a worker is done again without the clip that the worker was decoding.

    Args:
        task: makes the samples of one job.
        buffer_bytes: size of a chunk's pixels.
        workers: number of processes; 0 works in this one, without a time-out.
        timeout_s: limit of one decode.
        candidates: returns the clips of some samples, int64, in the order in which they are tried.

    Attributes:
        quarantined: {clip: reason} of clips that have ended a worker.

    Raises:
        ConfigError: `workers` is negative.
    """

    def __init__(
        self,
        task: ChunkTask,
        buffer_bytes: int,
        workers: int,
        timeout_s: float,
        candidates: Callable[[range], np.ndarray] = _themselves,
    ) -> None:
        if workers < 0:
            raise ConfigError(f"workers={workers}: must be 0 (decode in this process) or more.")
        self.quarantined: dict[int, str] = {}
        self._timeout_s, self._candidates = timeout_s, candidates
        self._count = workers
        if workers == 0:
            self._buffers: list[Any] = [np.empty(buffer_bytes, np.uint8)]
        else:
            context = multiprocessing.get_context("forkserver")
            self._buffers = [context.RawArray("B", buffer_bytes) for _ in range(workers * DEPTH)]
        self._task = _BufferedTask(task, self._buffers)

    def run(self, chunks: Iterable[range]) -> Generator[FilledChunk]:
        """Yields the chunks in the order of `chunks`; close the iterator to end the workers.

        Raises:
            UserError: a worker did not start, or ended while it was not decoding.
        """
        if self._count:
            yield from self._run_in_workers(chunks)
            return
        watchdog = DecodeWatchdog()
        for numbers in chunks:
            result = self._task(self._job(0, numbers), watchdog)
            yield FilledChunk(numbers, self._buffers[0], result)

    def _run_in_workers(self, chunks: Iterable[range]) -> Iterator[FilledChunk]:
        remaining = enumerate(chunks)
        sent: deque[tuple[int, range]] = deque()
        workers: list[DecodeWorker] = []
        try:
            for _ in range(self._count):
                workers.append(DecodeWorker(self._task, self._timeout_s))
            for _ in self._buffers:
                self._send_next(workers, sent, remaining)
            while sent:
                position, numbers = sent[0]
                result = self._receive(workers, sent)
                buffer = self._buffers[position % len(self._buffers)]
                yield FilledChunk(numbers, np.frombuffer(buffer, np.uint8), result)
                sent.popleft()
                self._send_next(workers, sent, remaining)
        finally:
            for worker in workers:
                worker.close()

    def _send_next(
        self,
        workers: list[DecodeWorker],
        sent: deque[tuple[int, range]],
        remaining: Iterator[tuple[int, range]],
    ) -> None:
        following = next(remaining, None)
        if following is not None:
            sent.append(following)
            self._send(workers, *following)

    def _send(self, workers: list[DecodeWorker], position: int, numbers: range) -> None:
        workers[position % self._count].send(self._job(position, numbers))

    def _job(self, position: int, numbers: range) -> ChunkJob:
        return ChunkJob(
            numbers,
            position % len(self._buffers),
            self._candidates(numbers),
            frozenset(self.quarantined),
        )

    def _receive(self, workers: list[DecodeWorker], sent: deque[tuple[int, range]]) -> ChunkResult:
        """Returns the answer to the oldest job; replaces its worker as often as clips end it."""
        at = sent[0][0] % self._count
        while True:
            try:
                answer: ChunkResult = workers[at].receive()
                return answer
            except WorkerDied as death:
                workers[at].close()
                if death.clip == IDLE:
                    raise UserError(
                        f"a data worker ended while it was not decoding ({death.reason}); if "
                        "memory ran out, lower runtime.workers or the batch size."
                    ) from death
                self.quarantined[death.clip] = death.reason
                workers[at] = DecodeWorker(self._task, self._timeout_s)
                for position, numbers in sent:
                    if position % self._count == at:
                        self._send(workers, position, numbers)

    def explained(self, result: ChunkResult, clips: Sequence[Clip]) -> list[ClipFailure]:
        """Returns the failures of a chunk, each with a reason."""
        return [
            failure
            if failure.reason
            else ClipFailure(
                failure.clip,
                f"{clips[failure.clip].path} does not decode ({self.quarantined[failure.clip]}).",
            )
            for failure in result.failures
        ]


def clip_bytes(model: ModelConfig) -> int:
    """Returns the size of one sample's pixels."""
    return model.frames * model.image_size**2 * 3


def clips_view(buffer: Any, count: int, model: ModelConfig) -> np.ndarray:
    """Returns the first `count` samples of a buffer as a view, uint8 [count, T, H, W, 3]."""
    shape = count, model.frames, model.image_size, model.image_size, 3
    return np.frombuffer(buffer, np.uint8, count * clip_bytes(model)).reshape(shape)
