"""Training batches, endless and resumable at any step.

Which samples, in which order and with which random choices: `sample_order`. Processes that decode
them: `chunk_pipeline` and `decode_workers`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import ModelConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.augment import Augment
from simvtp.data.loading.chunk_pipeline import (
    CHUNK,
    ChunkJob,
    ChunkPipeline,
    ChunkResult,
    ClipFailure,
    FilledChunk,
    clip_bytes,
    clips_view,
)
from simvtp.data.loading.clip_source import ClipSource, open_source, processes_for
from simvtp.data.loading.corrupt_clips import JUDGED_FROM, CorruptClips, Counters
from simvtp.data.loading.sample_order import ClipTurns, SampleOrder, sample_draws, uniforms
from simvtp.data.loading.sampling import STILL, Window, part_indices, train_indices
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled
from simvtp.data.text.tokenizer import TokenBatch, Tokenizer, encode_captions
from simvtp.data.video import transforms
from simvtp.data.video.decode_workers import DecodeWatchdog
from simvtp.data.video.video_reader import Reader
from simvtp.errors import DataError

log = logging.getLogger(__name__)

TRIES = 50  # clips in a row that may fail before a sample is given up

# (numbers of the samples in the training, clip of each) -> their texts ([b, L], or [b, C, L] for C
# texts a sample) and targets [b, ...]
Annotate = Callable[[Sequence[int], Sequence[int]], tuple[TokenBatch, Tensor | None]]


@dataclass(frozen=True)
class TrainChunks:
    """Task of a worker: makes some samples of a step and their repeats in the next ones.

    The numbers of a job are those of the first of these steps; the buffer then holds
    [sample, repeat].

    Attributes:
        crop: as `data.train_crop`.
        crop_area: as `data.crop_area`.
        flip: probability of a horizontal flip.
    """

    source: ClipSource
    order: SampleOrder
    model: ModelConfig
    stride: int
    crop: str
    crop_area: float
    flip: float
    augment: Augment
    window: Window = "tight"

    def __call__(self, job: ChunkJob, buffer: Any, watchdog: DecodeWatchdog) -> ChunkResult:
        repeat = self.order.repeat
        pixels = clips_view(buffer, len(job.numbers) * repeat, self.model)
        result = ChunkResult(np.empty(len(job.numbers), np.int64))
        for row, number in enumerate(job.numbers):
            samples = pixels[row * repeat : (row + 1) * repeat]
            clips = job.candidates[row : row + min(TRIES, self.order.clips)].tolist()
            result.clips[row] = self._fill(
                samples, number, clips, job.quarantined, result, watchdog
            )
        return result

    def _fill(
        self,
        samples: np.ndarray,
        number: int,
        clips: Sequence[int],
        quarantined: frozenset[int],
        result: ChunkResult,
        watchdog: DecodeWatchdog,
    ) -> int:
        """Fills in a sample with its repeats and returns its clip.

        It is the clip whose turn it is, or the next one in the epoch's order that decodes: the
        first of `clips` that does.
        """
        for attempt, clip in enumerate(clips):
            if clip in quarantined:
                result.failures.append(ClipFailure(clip, ""))
                continue
            try:
                frames = self.source.read(
                    clip,
                    lambda n: self._indices(n, number),
                    watchdog,
                )
            except DataError as error:
                result.failures.append(ClipFailure(clip, str(error)))
                continue
            for again, sample in enumerate(samples):
                sample[:] = self._view(frames, number + again * self.order.batch_size)
            result.replaced += len(samples) if attempt else 0
            return clip
        last = result.failures[-1].reason or self.source.path(clip)
        raise DataError(f"{len(clips)} clips in a row do not decode; the last: {last}")

    def _indices(self, n_frames: int, number: int) -> np.ndarray:
        """Returns the frames of sample `number` of a clip with `n_frames`."""
        seed, stage, frames = self.order.seed, self.order.stage, self.model.frames
        if self.window == "parts" and self.stride != STILL:
            return part_indices(n_frames, uniforms(seed, stage, number, frames, "parts"))
        uniform = sample_draws(seed, stage, number).window
        return train_indices(n_frames, frames, self.stride, uniform, self.window)

    def _view(self, frames: np.ndarray, number: int) -> np.ndarray:
        """Returns the frames as sample `number` shows them."""
        seed, stage = self.order.seed, self.order.stage
        draws = sample_draws(seed, stage, number)

        def draw(count: int, purpose: str) -> np.ndarray:
            return uniforms(seed, stage, number, count, purpose)

        frames = self.augment.before_crop(frames, draw)
        height, width = frames.shape[1:3]
        box = transforms.train_box(self.crop, height, width, draws.crop, self.crop_area)
        frames = transforms.crop_and_resize(frames, box, self.model.image_size)
        if draws.flip < self.flip:
            frames = transforms.flip(frames)
        return self.augment.after_crop(frames, draw)


class TrainLoader:
    """Endless training batches, resumable at any step.

    A clip that does not decode is replaced by the next one in the epoch's order, logged once and
    counted in `counters`; above `data.max_corrupt_ratio` of the clips seen (judged from 100 on), or
    at once with data.on_corrupt=raise, DataError ends the run. A decode that takes longer than
    runtime.decode_timeout_s, or crashes, costs its worker process and counts as corrupt; with
    runtime.workers=0 there is no such protection.

    Args:
        clips: the training clips.
        batch_size: global; rank r of `world` gets samples [r * batch_size / world, (r + 1) *
            batch_size / world) of each batch.
        train_crop, crop_area, flip: empty and None take those of `data`.
        augment: RandAugment and random erasing; None: neither.
        stage: part of the random key, so that two stages do not see the same order.
        reader: decoder to use in place of `data.reader`.
        say: takes a line of text while decoded frames are being cached.
        check: asked now and then meanwhile; may raise to end it.
        annotate: texts and targets of samples; None: one of the clip's captions, and no targets.

    Raises:
        DataError: no clips, or a batch smaller than the number of ranks.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        tokenizer: Tokenizer,
        *,
        data: DataConfig,
        model: ModelConfig,
        runtime: RuntimeConfig,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        train_crop: str = "",
        crop_area: float | None = None,
        flip: float | None = None,
        augment: Augment | None = None,
        stage: str = "",
        reader: Reader | None = None,
        say: LogFn | None = None,
        check: CancelCheck = never_cancelled,
        annotate: Annotate | None = None,
    ) -> None:
        _check_batch(len(clips), batch_size, world)
        self._clips = clips
        self._tokenizer = tokenizer
        self._model = model
        self._annotate = annotate or self._draw_captions
        self._order = SampleOrder(len(clips), batch_size, seed, stage, rank, world, data.repeat)
        self._turns = ClipTurns(self._order, TRIES)
        crop = train_crop or data.train_crop
        side = transforms.read_side(model.image_size, crop)
        source = open_source(clips, data, runtime, side, reader, say, check)
        self._chunks = TrainChunks(
            source=source,
            order=self._order,
            model=model,
            stride=data.stride,
            crop=crop,
            crop_area=data.crop_area if crop_area is None else crop_area,
            flip=data.flip if flip is None else flip,
            augment=augment or Augment(),
            window=_window(data, stage),
        )
        self._corrupt = CorruptClips(clips, data, min(JUDGED_FROM, max(1, len(clips) // world)))
        self._pin = runtime.device != "cpu" and torch.cuda.is_available()
        self._workers = processes_for(runtime, source, model)
        self._timeout_s = runtime.decode_timeout_s

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in the clips."""
        return self._order.steps_per_epoch

    @property
    def workers(self) -> int:
        """Number of processes that decode; 0 if this one does."""
        return self._workers

    @property
    def counters(self) -> Counters:
        """Counters of this process."""
        return self._corrupt.counters

    def batches(self, start_step: int = 0) -> Generator[Batch]:
        """Yields the batches of steps `start_step`, `start_step` + 1, ... without end.

        Close the iterator to end the workers.
        """
        order, repeat = self._order, self._order.repeat
        length = min(max(1, CHUNK // repeat), len(order.numbers(0)))
        pipeline = ChunkPipeline(
            self._chunks,
            length * repeat * clip_bytes(self._model),
            self._workers,
            self._timeout_s,
            self._turns.candidates,
        )
        # The first of the steps that share their clips with this one.
        group_start = start_step - start_step % repeat
        chunks = pipeline.run(self._chunk_numbers(group_start, length))
        try:
            for step in itertools.count(group_start, repeat):
                first = max(step, start_step)
                clips, chosen = self._decoded(step, first - step, chunks, pipeline)
                for number in range(first, step + repeat):
                    yield self._batch(order.numbers(number), clips.pop(0), chosen)
        finally:
            chunks.close()

    def _chunk_numbers(self, start_step: int, length: int) -> Iterator[range]:
        """Yields the sample numbers of the chunks, from the first one of `start_step` on."""
        for step in itertools.count(start_step, self._order.repeat):
            numbers = self._order.numbers(step)
            for first in range(0, len(numbers), length):
                yield numbers[first : first + length]

    def _decoded(
        self, step: int, skipped: int, chunks: Iterator[FilledChunk], pipeline: ChunkPipeline
    ) -> tuple[list[Tensor], list[int]]:
        """Returns the pixels of the steps that share clips with `step`, and the clips.

        Args:
            skipped: so many of these steps, the first ones, are left out.
        """
        began = time.perf_counter()
        model, repeat, count = self._model, self._order.repeat, len(self._order.numbers(step))
        shape = count, model.frames, model.image_size, model.image_size, 3
        pixels = [
            torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)
            for _ in range(skipped, repeat)
        ]
        rows = [part.numpy().reshape(count, -1) for part in pixels]
        chosen = np.empty(count, np.int64)
        done = 0
        while done < count:
            chunk = next(chunks)
            length = len(chunk.numbers)
            filled = chunk.buffer[: length * repeat * clip_bytes(model)]
            samples = filled.reshape(length, repeat, -1)
            for number, target in enumerate(rows, start=skipped):
                target[done : done + length] = samples[:, number]
            chosen[done : done + length] = chunk.result.clips
            self.counters.replaced += chunk.result.replaced
            self._corrupt.record(chunk.result.clips, pipeline.explained(chunk.result, self._clips))
            done += length
        self.counters.wait_s += time.perf_counter() - began
        return pixels, chosen.tolist()

    def _batch(self, numbers: range, clips: Tensor, chosen: list[int]) -> Batch:
        began = time.perf_counter()
        tokens, targets = self._annotate(numbers, chosen)
        names = tuple(self._clips[clip].id for clip in chosen)
        batch = Batch(
            clips, tokens.input_ids, tokens.attention_mask, tokens.word_ids, names, targets
        )
        self.counters.wait_s += time.perf_counter() - began
        return batch.pin_memory() if self._pin else batch

    def _draw_captions(
        self, numbers: Sequence[int], clips: Sequence[int]
    ) -> tuple[TokenBatch, None]:
        """Returns a caption of each clip; of several, one drawn for the sample's number."""
        captions = []
        for number, clip in zip(numbers, clips, strict=True):
            several = self._clips[clip].captions
            drawn = 0
            if len(several) > 1:
                draws = sample_draws(self._order.seed, self._order.stage, number)
                drawn = int(draws.caption * len(several))
            captions.append(several[drawn])
        return encode_captions(self._tokenizer, captions, self._model), None


def _window(data: DataConfig, stage: str) -> Window:
    """Returns how the frames of a stage are sampled, by `data.frame_window`."""
    if data.frame_window != "whole":
        return data.frame_window
    return "whole" if stage == "pretrain" else "spread"


def _check_batch(clips: int, batch_size: int, world: int) -> None:
    if not clips:
        raise DataError("there are no training clips.")
    if batch_size < world:
        raise DataError(
            f"a batch of {batch_size} cannot be shared by {world} processes: raise batch_size."
        )
    if clips < batch_size:
        log.warning(
            "%d clips are fewer than a batch of %d: clips repeat within a batch", clips, batch_size
        )
