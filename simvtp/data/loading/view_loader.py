"""Views of clips and batches of texts for evaluation, in order."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import ModelConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.chunk_pipeline import (
    CHUNK,
    ChunkJob,
    ChunkPipeline,
    ChunkResult,
    ClipFailure,
    clip_bytes,
    clips_view,
)
from simvtp.data.loading.clip_source import ClipSource, open_source, processes_for
from simvtp.data.loading.corrupt_clips import JUDGED_FROM, CorruptClips, Counters
from simvtp.data.loading.sampling import STILL, eval_indices, middle_indices
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled
from simvtp.data.text.tokenizer import Tokenizer, encode_captions
from simvtp.data.video import transforms
from simvtp.data.video.decode_workers import DecodeWatchdog
from simvtp.data.video.video_reader import Reader
from simvtp.errors import DataError

GREY = 128  # pixels that are scored in place of a clip that does not decode


@dataclass(frozen=True)
class ViewChunks:
    """Task of a worker: makes all views of some clips; the numbers of a job are those of clips.

    With `parts` the frames are chosen as `data.frame_window` = parts says.
    """

    source: ClipSource
    model: ModelConfig
    stride: int
    segments: int
    crops: int
    parts: bool = False

    def __call__(self, job: ChunkJob, buffer: Any, watchdog: DecodeWatchdog) -> ChunkResult:
        views = self.segments * self.crops
        pixels = clips_view(buffer, len(job.numbers) * views, self.model)
        result = ChunkResult(np.array(job.numbers))
        for row, clip in enumerate(job.numbers):
            target = pixels[row * views : (row + 1) * views]
            try:
                if clip in job.quarantined:
                    raise DataError("")
                self._fill(target, clip, watchdog)
            except DataError as error:
                result.failures.append(ClipFailure(clip, str(error)))
                result.replaced += 1
                target[:] = GREY
        return result

    def _fill(self, views: np.ndarray, clip: int, watchdog: DecodeWatchdog) -> None:
        """Fills in the views, segment by segment, crop by crop.

        All windows are decoded in one call, then cropped.
        """
        frames, size = self.model.frames, self.model.image_size

        def choose(length: int) -> np.ndarray:
            return np.concatenate(
                [
                    middle_indices(length, frames, segment, self.segments)
                    if self.parts and self.stride != STILL
                    else eval_indices(length, frames, self.stride, segment, self.segments)
                    for segment in range(self.segments)
                ]
            )

        pixels = self.source.read(clip, choose, watchdog)
        for crop in range(self.crops):
            box = transforms.eval_box(pixels.shape[1], pixels.shape[2], crop, self.crops)
            cropped = transforms.crop_and_resize(pixels, box, size)
            views[crop :: self.crops] = cropped.reshape(self.segments, frames, size, size, 3)


class ViewLoader:
    """All views of each clip: temporal segments x spatial crops, in the order of the clips.

    A clip that does not decode ends the evaluation with DataError if data.on_corrupt=raise; else a
    middle-grey clip is scored in its place (it is never dropped, because that would change the
    gallery), it is logged and counted in `counters`, and above data.max_corrupt_ratio of the clips
    DataError ends the evaluation all the same.

    Args:
        batch_size: views in a batch.
        part: numbers of the clips to give, in order; None: of all.
        reader: decoder to use in place of `data.reader`.
        say: takes a line of text while decoded frames are being cached.
        check: asked now and then meanwhile; may raise to end it.
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
        part: range | None = None,
        reader: Reader | None = None,
        say: LogFn | None = None,
        check: CancelCheck = never_cancelled,
    ) -> None:
        self._clips, self._model = clips, model
        self._views, self._batch_size = segments * crops, batch_size
        side = transforms.read_side(model.image_size, "center")
        source = open_source(clips, data, runtime, side, reader, say, check)
        self._chunks = ViewChunks(
            source=source,
            model=model,
            stride=data.stride,
            segments=segments,
            crops=crops,
            parts=data.frame_window == "parts",
        )
        self._part = range(len(clips)) if part is None else part
        self._corrupt = CorruptClips(clips, data, min(JUDGED_FROM, len(self._part)))
        self._workers = processes_for(runtime, source, model)
        self._timeout_s = runtime.decode_timeout_s

    def __len__(self) -> int:
        """Returns the number of clips."""
        return len(self._clips)

    @property
    def counters(self) -> Counters:
        """Counters of this process."""
        return self._corrupt.counters

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Reasons why clips do not decode, by their number; of those that were read so far."""
        return self._corrupt.reasons

    def batches(self) -> Generator[tuple[Tensor, Tensor]]:
        """Yields (clips uint8 [b, T, H, W, 3], number of the video int64 [b]), b <= batch_size.

        Each video has segments x crops rows.
        """
        length = max(1, min(CHUNK, self._batch_size // self._views))
        pipeline = ChunkPipeline(
            self._chunks,
            length * self._views * clip_bytes(self._model),
            min(self._workers, len(self._part)),
            self._timeout_s,
        )
        every = self._part
        starts = range(0, len(every), length)
        chunks = pipeline.run(every[first : first + length] for first in starts)
        waiting: list[tuple[Tensor, Tensor]] = []
        try:
            for chunk in chunks:
                self.counters.replaced += chunk.result.replaced
                failures = pipeline.explained(chunk.result, self._clips)
                self._corrupt.record(chunk.result.clips, failures)
                rows = len(chunk.numbers) * self._views
                views = torch.from_numpy(clips_view(chunk.buffer, rows, self._model).copy())
                numbers = torch.tensor(chunk.numbers).repeat_interleave(self._views)
                waiting.append((views, numbers))
                if sum(len(part) for part, _ in waiting) >= self._batch_size:
                    yield from self._full_batches(waiting, chunk.numbers.stop == every.stop)
            if waiting:
                yield from self._full_batches(waiting, True)
        finally:
            chunks.close()

    def _full_batches(
        self, waiting: list[tuple[Tensor, Tensor]], everything: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the full batches of `waiting`; the rest stays there unless `everything`."""
        clips, numbers = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        waiting.clear()
        end = len(clips) if everything else len(clips) // self._batch_size * self._batch_size
        if end:
            yield from zip(
                clips[:end].split(self._batch_size),
                numbers[:end].split(self._batch_size),
                strict=True,
            )
        if end < len(clips):
            waiting.append((clips[end:], numbers[end:]))


def text_batches(
    captions: Sequence[str], tokenizer: Tokenizer, model: ModelConfig, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (input_ids int64 [b, L], attention_mask bool [b, L]) of the captions.

    L is that of `model.text_padding`.
    """
    for first in range(0, len(captions), batch_size):
        tokens = encode_captions(tokenizer, captions[first : first + batch_size], model)
        yield tokens.input_ids, tokens.attention_mask
