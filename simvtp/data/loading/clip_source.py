"""Frames of clips by number, from their files or from the cache of decoded frames.

Both give the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import ModelConfig
from simvtp.data.clips import Clip
from simvtp.data.datasets import cache_dir
from simvtp.data.loading.frame_cache.build_cache import open_cache
from simvtp.data.loading.frame_cache.decoded_cache import DecodedCache
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, throttled_progress
from simvtp.data.video.decode_workers import DecodeWatchdog, SharedTexts
from simvtp.data.video.readers import fit_short_side, get_reader, part_range, probe, read_frames
from simvtp.data.video.video_reader import Reader, VideoInfo

log = logging.getLogger(__name__)

CACHE_FROM = 64  # clips; fewer are decoded each time, and leave no cache behind
# pixels (frames x size x size) up to which a cached sample costs less than handing it between
# processes
SMALL_CLIP = 250_000


@dataclass
class ClipSource:
    """Reads frames of clips. Picklable: workers receive a copy.

    Attributes:
        paths: of the clips.
        side: short side at which frames are read; smaller videos are not enlarged.
        parts: float64 [clips, 2], start and end in seconds, NaN = the video's own; None = whole
            videos.
        measured: float64 [clips, 4]: frames, frames per second, height, width; None = each file is
            opened to learn them.
    """

    paths: SharedTexts
    reader: Reader
    side: int
    cache: DecodedCache | None = None
    parts: np.ndarray | None = None
    measured: np.ndarray | None = None
    _infos: dict[int, VideoInfo] = field(default_factory=dict, repr=False)  # of this process

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_infos": {}}

    def path(self, clip: int) -> Path:
        """Returns the path of a clip."""
        return Path(self.paths[clip])

    def read(
        self,
        clip: int,
        choose: Callable[[int], Sequence[int] | np.ndarray],
        watchdog: DecodeWatchdog,
    ) -> np.ndarray:
        """Returns frames of a clip, uint8 [n, H, W, 3], short side `side` or less.

        Of a clip that is a part of a video, only the frames of that part count, at the video's
        average rate.

        Args:
            choose: choose(n) returns the indices to read out of n frames.

        Raises:
            DataError: it does not decode.
        """
        if self.cache is not None and self.cache.holds(clip):
            return self.cache.read(clip, choose(self.cache.length(clip)))
        path = self.path(clip)
        info = self._info(clip, watchdog)
        size = fit_short_side(info.height, info.width, self.side)
        first, last = self._part(clip, info)
        chosen = [first + int(i) for i in choose(last - first)]
        with watchdog.decoding(clip):
            return read_frames(
                path, chosen, self.reader, None if size == (info.height, info.width) else size
            )

    def _info(self, clip: int, watchdog: DecodeWatchdog) -> VideoInfo:
        if self.measured is not None:
            frames, fps, height, width = self.measured[clip].tolist()
            return VideoInfo(int(frames), fps, int(height), int(width))
        if clip not in self._infos:
            with watchdog.decoding(clip):
                self._infos[clip] = probe(self.path(clip), self.reader)
        return self._infos[clip]

    def _part(self, clip: int, info: VideoInfo) -> tuple[int, int]:
        """Returns the first frame of the clip, and the one after its last."""
        if self.parts is None:
            return 0, info.frames
        start, end = (None if np.isnan(s) else float(s) for s in self.parts[clip])
        return part_range(self.path(clip), self.reader, info, start, end)


def open_source(
    clips: Sequence[Clip],
    data: DataConfig,
    runtime: RuntimeConfig,
    side: int,
    reader: Reader | None = None,
    say: LogFn | None = None,
    check: CancelCheck = never_cancelled,
) -> ClipSource:
    """Returns the source of the frames of `clips`.

    Builds the cache of decoded frames first if runtime.decoded_cache wants one and there are
    CACHE_FROM clips or more.
    """
    reader = reader or get_reader(data.reader)
    cache = None
    parts = _parts_of(clips)
    # The cache holds whole videos.
    if runtime.decoded_cache and len(clips) >= CACHE_FROM and parts is None:
        folder = cache_dir(runtime) / "decoded"
        progress = throttled_progress(say or log.info, check)
        paths = [clip.path for clip in clips]
        cache = open_cache(
            paths, reader, side, folder, runtime.workers, runtime.decode_timeout_s, progress, check
        )
    known = [clip.measured for clip in clips if clip.measured is not None]
    measured = np.array(known, np.float64) if len(known) == len(clips) else None
    return ClipSource(
        SharedTexts([str(clip.path) for clip in clips]), reader, side, cache, parts, measured
    )


def _parts_of(clips: Sequence[Clip]) -> np.ndarray | None:
    if all(clip.start_s is None and clip.end_s is None for clip in clips):
        return None
    return np.array([(clip.start_s, clip.end_s) for clip in clips], np.float64)  # None becomes NaN


def processes_for(runtime: RuntimeConfig, source: ClipSource, model: ModelConfig) -> int:
    """Returns the number of worker processes that pay off.

    It is 0 where a sample is a small slice of the cache.
    """
    small = model.frames * model.image_size**2 <= SMALL_CLIP
    return 0 if source.cache is not None and small else runtime.workers
