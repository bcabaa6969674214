"""Batches for training, views and texts for evaluation.

Which samples, in which order and with which random choices: `simvtp.data.loading.sample_order`. Who
decodes them: `simvtp.data.loading.decode_workers`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.schema import DataConfig, ModelConfig, RuntimeConfig
from simvtp.data.clips import Clip
from simvtp.data.loading import transforms
from simvtp.data.loading.augment import Augment
from simvtp.data.loading.clip_source import ClipSource, LogFn, open_source, processes_for
from simvtp.data.loading.corrupt_clips import JUDGED_FROM, Counters, Health
from simvtp.data.loading.decode_workers import Guard, Pipeline
from simvtp.data.loading.sample_order import (
    U_CAPTION,
    U_CROP,
    U_FLIP,
    U_WINDOW,
    Order,
    epoch_order,
    uniforms,
)
from simvtp.data.loading.sampling import eval_indices, train_indices
from simvtp.data.progress import CancelCheck, never_cancelled
from simvtp.data.text.tokenizer import TokenBatch, Tokenizer
from simvtp.data.video.video_reader import Reader
from simvtp.errors import DataError

log = logging.getLogger(__name__)

CHUNK = 16  # samples that a worker makes at a time
TRIES = 50  # clips in a row that may fail before a sample is given up
GREY = 128  # scored in place of a test clip that does not decode

# (numbers of the samples in the training, the clip of each) -> their texts ([b, L], or [b, C, L]
# for C texts a sample) and targets [b, ...]
Annotate = Callable[[Sequence[int], Sequence[int]], tuple[TokenBatch, Tensor | None]]
Job = tuple[
    tuple[int, int], int, frozenset[int]
]  # (first number, last + 1), buffer, clips that must not be decoded


@dataclass
class Made:
    """What a worker says of a chunk that it has put into its buffer."""

    clips: np.ndarray  # int64, the clip of each sample
    replaced: int = 0  # samples for which another clip stepped in
    failures: list[tuple[int, str]] = field(
        default_factory=list
    )  # (clip, reason); no reason for one that ended a worker


# ---- training ------------------------------------------------------------------------------------


@dataclass
class _TrainTask:
    """Makes some samples of a step and their repeats in the next ones: called with ((first number,
    last number + 1), buffer, bad clips), numbers of the first of these steps. The buffer then holds
    [sample, repeat]."""

    source: ClipSource
    order: Order
    model: ModelConfig
    stride: int
    crop: str
    flip: float
    augment: Augment
    buffers: list[Any]

    def __post_init__(self) -> None:
        self._epoch: tuple[int, np.ndarray] = -1, np.empty(0, np.int64)

    def __call__(self, job: Job, guard: Guard) -> Made:
        (first, last), buffer, bad = job
        repeat = self.order.repeat
        out = _clips_in(self.buffers[buffer], (last - first) * repeat, self.model)
        made = Made(np.empty(last - first, np.int64))
        for row, number in enumerate(range(first, last)):
            made.clips[row] = self._sample(
                number, out[row * repeat : (row + 1) * repeat], bad, made, guard
            )
        return made

    def _sample(
        self, number: int, out: np.ndarray, bad: frozenset[int], made: Made, guard: Guard
    ) -> int:
        """Fill `out` with the sample's repeats and return its clip: the one in turn, or the next
        one in the epoch's order that decodes.
        """
        epoch, position = self.order.place(number)
        if self._epoch[0] != epoch:
            self._epoch = (
                epoch,
                epoch_order(self.order.clips, self.order.seed, epoch, self.order.stage),
            )
        window = uniforms(self.order.seed, self.order.stage, number)[U_WINDOW]
        tries = min(TRIES, self.order.clips)
        for attempt in range(tries):
            clip = int(self._epoch[1][(position + attempt) % self.order.clips])
            if clip in bad:
                made.failures.append((clip, ""))
                continue
            try:
                frames = self.source.read(
                    clip, lambda n: train_indices(n, self.model.frames, self.stride, window), guard
                )
                for again, target in enumerate(out):
                    target[:] = self._view(frames, number + again * self.order.batch_size)
                made.replaced += len(out) if attempt else 0
                return clip
            except DataError as error:
                made.failures.append((clip, str(error)))
        raise DataError(
            f"{tries} clips in a row do not decode; the last: {made.failures[-1][1] or self.source.path(clip)}"
        )

    def _view(self, frames: np.ndarray, number: int) -> np.ndarray:
        """The frames as sample `number` shows them."""
        uniform = uniforms(self.order.seed, self.order.stage, number)

        def draw(count: int, purpose: str) -> np.ndarray:
            return uniforms(self.order.seed, self.order.stage, number, count, purpose)

        frames = self.augment.before_crop(frames, draw)
        box = transforms.train_box(self.crop, frames.shape[1], frames.shape[2], uniform[U_CROP:])
        frames = transforms.crop_and_resize(frames, box, self.model.image_size)
        return self.augment.after_crop(
            transforms.flip(frames) if uniform[U_FLIP] < self.flip else frames, draw
        )


class TrainLoader:
    """Endless training batches, resumable at any step.

    Args:
        clips: the training clips.
        batch_size: global; rank r of `world` gets samples [r * batch_size / world, (r + 1) *
            batch_size / world) of each batch.
        train_crop, flip: empty and None take those of `data`.
        augment: RandAugment and random erasing; None: neither.
        stage: part of the random key, so that two stages do not see the same order.
        reader: decoder to use in place of `data.reader`.
        say: takes a line of text while decoded frames are being cached.
        check: asked now and then meanwhile; may raise to end it.
        annotate: texts and targets of samples; None: one of the clip's captions, and no targets.

    A clip that does not decode is replaced by the next one in the epoch's order, logged once and
    counted in `counters`; above `data.max_corrupt_share` of the clips seen (judged from 100 on), or
    at once with data.on_corrupt=raise, DataError ends the run. A decode that takes longer than
    runtime.decode_timeout_s, or crashes, costs its worker process and counts as corrupt; with
    runtime.workers=0 there is no such protection.
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
        flip: float | None = None,
        augment: Augment | None = None,
        stage: str = "",
        reader: Reader | None = None,
        say: LogFn | None = None,
        check: CancelCheck = never_cancelled,
        annotate: Annotate | None = None,
    ) -> None:
        if not clips:
            raise DataError("there are no training clips.")
        if batch_size < world:
            raise DataError(
                f"a batch of {batch_size} cannot be shared by {world} processes: raise batch_size."
            )
        self._clips = clips
        self._tokenizer = tokenizer
        self._model = model
        self._runtime = runtime
        self._annotate = annotate or self._captions
        self._order = Order(len(clips), batch_size, seed, stage, rank, world, data.repeat)
        if len(clips) < batch_size:
            log.warning(
                "%d clips are fewer than a batch of %d: clips repeat within a batch",
                len(clips),
                batch_size,
            )
        crop = train_crop or data.train_crop
        source = open_source(
            clips, data, runtime, transforms.read_side(model.image_size, crop), reader, say, check
        )
        self._task = (
            source,
            self._order,
            model,
            data.stride,
            crop,
            data.flip if flip is None else flip,
            augment or Augment(),
        )
        self._health = Health(clips, data, min(JUDGED_FROM, max(1, len(clips) // world)))
        self._pin = runtime.device != "cpu" and torch.cuda.is_available()
        self._workers = processes_for(runtime, source, model)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    @property
    def counters(self) -> Counters:
        return self._health.counters

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches of steps `start_step`, `start_step` + 1, ... without end; close the iterator to
        end the workers.
        """
        repeat = self._order.repeat
        chunk = min(max(1, CHUNK // repeat), len(self._order.numbers(0)))
        pipeline = Pipeline(
            lambda buffers: _TrainTask(*self._task, buffers),
            chunk * repeat * _bytes_of(self._model),
            self._workers,
            self._runtime.decode_timeout_s,
        )
        begun = (
            start_step - start_step % repeat
        )  # the first of the steps that share their clips with this one
        parts = pipeline.run(
            (first, min(first + chunk, numbers.stop))
            for numbers in map(self._order.numbers, itertools.count(begun, repeat))
            for first in range(numbers.start, numbers.stop, chunk)
        )
        try:
            for step in itertools.count(begun, repeat):
                first = max(step, start_step)
                clips, chosen = self._decoded(
                    first - step, len(self._order.numbers(step)), parts, pipeline
                )
                for number in range(first, step + repeat):
                    yield self._batch(self._order.numbers(number), clips.pop(0), chosen)
        finally:
            parts.close()  # type: ignore[attr-defined]

    def _decoded(
        self, skipped: int, count: int, parts: Iterator[Any], pipeline: Pipeline
    ) -> tuple[list[Tensor], list[int]]:
        """The clips of the steps that share them, a tensor for each step but the first `skipped`;
        and which clips they are.
        """
        began = time.perf_counter()
        model, repeat = self._model, self._order.repeat
        shape = count, model.frames, model.image_size, model.image_size, 3
        clips = [
            torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)
            for _ in range(skipped, repeat)
        ]
        targets, chosen = (
            [part.numpy().reshape(count, -1) for part in clips],
            np.empty(count, np.int64),
        )
        done = 0
        while done < count:
            (first, last), buffer, made = next(parts)
            made_clips = buffer[: (last - first) * repeat * _bytes_of(model)].reshape(
                last - first, repeat, -1
            )
            for number, target in enumerate(targets, start=skipped):
                target[done : done + last - first] = made_clips[:, number]
            chosen[done : done + last - first] = made.clips
            self.counters.replaced += made.replaced
            self._health.note(made.clips, _explained(made.failures, self._clips, pipeline))
            done += last - first
        self.counters.wait_s += time.perf_counter() - began
        return clips, chosen.tolist()

    def _batch(self, numbers: range, clips: Tensor, chosen: list[int]) -> Batch:
        began = time.perf_counter()
        tokens, targets = self._annotate(numbers, chosen)
        names = tuple(self._clips[clip].id for clip in chosen)
        batch = Batch(
            clips, tokens.input_ids, tokens.attention_mask, tokens.word_ids, names, targets
        )
        self.counters.wait_s += time.perf_counter() - began
        return batch.pin_memory() if self._pin else batch

    def _captions(self, numbers: Sequence[int], clips: Sequence[int]) -> tuple[TokenBatch, None]:
        """A caption of each clip; of several, one that the sample's number picks."""
        captions = []
        for number, clip in zip(numbers, clips, strict=True):
            several = self._clips[clip].captions
            which = 0
            if len(several) > 1:
                which = int(
                    uniforms(self._order.seed, self._order.stage, number, U_CAPTION + 1)[U_CAPTION]
                    * len(several)
                )
            captions.append(several[which])
        return self._tokenizer.encode(captions, self._model.text_length), None


def _bytes_of(model: ModelConfig) -> int:
    return model.frames * model.image_size**2 * 3


def _clips_in(buffer: Any, count: int, model: ModelConfig) -> np.ndarray:
    """The first `count` clips of a buffer: uint8 [count, T, H, W, 3], a view."""
    shape = count, model.frames, model.image_size, model.image_size, 3
    return np.frombuffer(buffer, np.uint8, count * _bytes_of(model)).reshape(shape)


def _explained(
    failures: Sequence[tuple[int, str]], clips: Sequence[Clip], pipeline: Pipeline
) -> list[tuple[int, str]]:
    """The failures, with the reason of those that ended a worker."""
    return [
        (clip, reason or f"{clips[clip].path} does not decode ({pipeline.bad[clip]}).")
        for clip, reason in failures
    ]


# ---- evaluation ----------------------------------------------------------------------------------


@dataclass
class _ViewTask:
    """Makes all views of some clips: called with ((first clip, last + 1), buffer, bad clips)."""

    source: ClipSource
    model: ModelConfig
    stride: int
    segments: int
    crops: int
    buffers: list[Any]

    def __call__(self, job: Job, guard: Guard) -> Made:
        (first, last), buffer, bad = job
        views = self.segments * self.crops
        out = _clips_in(self.buffers[buffer], (last - first) * views, self.model)
        made = Made(np.arange(first, last))
        for clip in range(first, last):
            target = out[(clip - first) * views : (clip - first + 1) * views]
            try:
                if clip in bad:
                    raise DataError("")
                self._views(clip, target, guard)
            except DataError as error:
                made.failures.append((clip, str(error)))
                made.replaced += 1
                target[:] = GREY
        return made

    def _views(self, clip: int, out: np.ndarray, guard: Guard) -> None:
        """All windows are decoded in one call, then cropped: views in the order segment by segment,
        crop by crop.
        """
        t, size = self.model.frames, self.model.image_size

        def choose(n: int) -> np.ndarray:
            return np.concatenate(
                [
                    eval_indices(n, t, self.stride, segment, self.segments)
                    for segment in range(self.segments)
                ]
            )

        frames = self.source.read(clip, choose, guard)
        for crop in range(self.crops):
            box = transforms.eval_box(frames.shape[1], frames.shape[2], crop, self.crops)
            cropped = transforms.crop_and_resize(frames, box, size).reshape(
                self.segments, t, size, size, 3
            )
            out[crop :: self.crops] = cropped


class ViewLoader:
    """All views of each clip, for evaluation: temporal segments x spatial crops, in the order of
    the clips.

    A clip that does not decode ends the evaluation with DataError if data.on_corrupt=raise; else a
    middle-grey clip is scored in its place (it is never dropped, because that would change the
    gallery), it is logged and counted in `counters`, and above data.max_corrupt_share of the clips
    DataError ends the evaluation all the same.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        data: DataConfig,
        model: ModelConfig,
        runtime: RuntimeConfig,
        segments: int,
        crops: int,
        batch_size: int,
        reader: Reader | None = None,
        say: LogFn | None = None,
        check: CancelCheck = never_cancelled,
    ) -> None:
        self._clips, self._model, self._runtime = clips, model, runtime
        self._views, self._batch_size = segments * crops, batch_size
        source = open_source(
            clips,
            data,
            runtime,
            transforms.read_side(model.image_size, "center"),
            reader,
            say,
            check,
        )
        self._task = (source, model, data.stride, segments, crops)
        self._health = Health(clips, data, min(JUDGED_FROM, len(clips)))
        self._workers = processes_for(runtime, source, model)

    @property
    def counters(self) -> Counters:
        return self._health.counters

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (clips uint8 [b, T, H, W, 3], number of the video int64 [b]) with b at most
        batch_size; each video has segments x crops rows.
        """
        group = max(1, min(CHUNK, self._batch_size // self._views))
        pipeline = Pipeline(
            lambda buffers: _ViewTask(*self._task, buffers),
            group * self._views * _bytes_of(self._model),
            min(self._workers, len(self._clips)),
            self._runtime.decode_timeout_s,
        )
        parts = pipeline.run(
            (first, min(first + group, len(self._clips)))
            for first in range(0, len(self._clips), group)
        )
        waiting: list[tuple[Tensor, Tensor]] = []
        try:
            for (first, last), buffer, made in parts:
                self.counters.replaced += made.replaced
                self._health.note(made.clips, _explained(made.failures, self._clips, pipeline))
                views = torch.from_numpy(
                    _clips_in(buffer, (last - first) * self._views, self._model).copy()
                )
                waiting.append((views, torch.arange(first, last).repeat_interleave(self._views)))
                if sum(len(part) for part, _ in waiting) >= self._batch_size:
                    yield from self._cut(waiting, last == len(self._clips))
            if waiting:
                yield from self._cut(waiting, True)
        finally:
            parts.close()  # type: ignore[attr-defined]

    def _cut(
        self, waiting: list[tuple[Tensor, Tensor]], everything: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of what is waiting; the rest stays there unless `everything` is wanted."""
        clips, numbers = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        waiting.clear()
        end = len(clips) if everything else len(clips) // self._batch_size * self._batch_size
        yield from (
            zip(
                clips[:end].split(self._batch_size),
                numbers[:end].split(self._batch_size),
                strict=True,
            )
            if end
            else ()
        )
        if end < len(clips):
            waiting.append((clips[end:], numbers[end:]))


def text_batches(
    captions: Sequence[str], tokenizer: Tokenizer, length: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (input_ids int64 [b, length], attention_mask bool [b, length]) in the order of
    `captions`.
    """
    for first in range(0, len(captions), batch_size):
        tokens = tokenizer.encode(captions[first : first + batch_size], length)
        yield tokens.input_ids, tokens.attention_mask
