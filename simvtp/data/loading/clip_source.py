"""Frames of clips by number, from their files or from the cache of decoded frames.

Both give the same bytes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import ModelConfig
from simvtp.data.clips import Clip, ClipView, shared_columns
from simvtp.data.datasets import cache_dir, worker_count
from simvtp.data.loading.frame_cache.build_cache import open_cache
from simvtp.data.loading.frame_cache.decoded_cache import DecodedCache
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, throttled_progress
from simvtp.data.video.decode_workers import DecodeWatchdog
from simvtp.data.video.readers import fit_short_side, get_reader, part_range, probe, read_frames
from simvtp.data.video.video_reader import Reader, VideoInfo

log = logging.getLogger(__name__)

CACHE_FROM = 64  # clips; fewer are decoded each time, and leave no cache behind
# pixels (frames x size x size) up to which a cached sample costs less than handing it between
# processes
SMALL_CLIP = 250_000
# sizes of films that a process keeps; a film that it meets again later is opened again
KEPT_INFOS = 1024


@dataclass
class ClipSource:
    """Reads frames of clips. Picklable: workers receive a copy.

    Attributes:
        clips: paths, parts and measures, which all processes share.
        side: short side at which frames are read; smaller videos are not enlarged.
    """

    clips: ClipView
    reader: Reader
    side: int
    cache: DecodedCache | None = None
    # of the films that this process met last
    _infos: OrderedDict[int, VideoInfo] = field(default_factory=OrderedDict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_infos": OrderedDict()}

    def path(self, clip: int) -> Path:
        """Returns the path of a clip."""
        return self.clips.path(clip)

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
        measured = self.clips.measured(clip)
        if measured is not None:
            return VideoInfo(*measured)
        info = self._infos.get(clip)
        if info is None:
            with watchdog.decoding(clip):
                info = self._infos[clip] = probe(self.path(clip), self.reader)
            if len(self._infos) > KEPT_INFOS:
                self._infos.popitem(last=False)
        return info

    def _part(self, clip: int, info: VideoInfo) -> tuple[int, int]:
        """Returns the first frame of the clip, and the one after its last."""
        start, end = self.clips.part(clip)
        if start is None and end is None:
            return 0, info.frames
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
    places = clips.places() if isinstance(clips, ClipView) else ClipView(shared_columns(clips))
    cache = None
    # The cache holds whole videos.
    if runtime.decoded_cache and len(clips) >= CACHE_FROM and not has_parts(places):
        folder = cache_dir(runtime) / "decoded"
        progress = throttled_progress(say or log.info, check)
        paths = [places.path(number) for number in range(len(places))]
        cache = open_cache(
            paths,
            reader,
            side,
            folder,
            worker_count(runtime),
            runtime.decode_timeout_s,
            progress,
            check,
        )
    return ClipSource(places, reader, side, cache)


def has_parts(clips: ClipView) -> bool:
    """Returns whether any clip is a part of its video."""
    return clips.columns.has_parts and any(
        clips.part(number) != (None, None) for number in range(len(clips))
    )


def processes_for(runtime: RuntimeConfig, source: ClipSource, model: ModelConfig) -> int:
    """Returns the number of worker processes that pay off.

    It is 0 where a sample is a small slice of the cache.
    """
    small = model.frames * model.image_size**2 <= SMALL_CLIP
    return 0 if source.cache is not None and small else worker_count(runtime)
