"""Speed of reading clips: files by each reader, shards of H.264 clips, shards of raw frames.

Four measurements. *Reading*: one clip, decoded and resized, by one thread; candidates take turns on
the same moments of the same video, and CPU time counts, which other processes do not delay.
*Loading*: whole training batches by worker processes, in turns, with the fraction of the time in
which a training step would wait. *Memory* over many opens. *Disk*: size of the stores.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from simvtp.bench.data_path.batch_speed import LoaderSpeed, SpeedSource, bench_sources
from simvtp.bench.data_path.sample_videos import FRAMES, RATE, make_videos, write_manifest
from simvtp.bench.measure import Timed, take_turns
from simvtp.config.data_config import DataConfig
from simvtp.config.model_config import ModelConfig
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.video.readers import fit_short_side, get_reader, read_frames
from simvtp.data.video.video_reader import Reader, VideoInfo
from simvtp.errors import UserError

SIDE = 224
STRIDE = 4  # of the files; the stores keep every fourth frame
JOBS = ("16 strided", "4 spread")
READERS = ("decord", "pyav", "fast", "torchcodec")
H264, RAW = "H.264 shards", "raw shards"
LOADING_TURNS = 3
COPIES = 8  # rows a video in the manifest for loading


@dataclass(frozen=True)
class LoaderSpeedOptions:
    """Options of a measurement.

    Attributes:
        folder: Folder in which videos and stores are made, and kept.
        rounds: Turns of each reader on each video.
        opens: Opens over which memory is watched.
        seconds: Duration of loading, each source; 0: loading is not measured.
        workers: Worker processes of loading.
        batch_size: Clips a batch.
        step_s: Duration of a training step.
    """

    folder: Path
    rounds: int = 8
    opens: int = 2000
    seconds: float = 10.0
    workers: int = 2
    batch_size: int = 16
    step_s: float = 0.0


@dataclass
class LoaderReport:
    """Measured speeds.

    Attributes:
        reading: {(video, job): {candidate: time of a clip}}.
        loading: Speed of whole batches from each source.
        memory: {candidate: KiB an open}.
        disk: {store: bytes of a clip of ten seconds}.
        absent: {reader: reason why it could not be measured}.
    """

    reading: dict[tuple[str, str], dict[str, Timed]] = field(default_factory=dict)
    loading: list[LoaderSpeed] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    disk: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Store:
    """Shards made of the videos: their folder, and the path of each clip by its id."""

    folder: Path
    clips: dict[str, Path]


Videos = Mapping[str, tuple[Path, VideoInfo]]


def measure_loader(options: LoaderSpeedOptions, say: Callable[[str], None] = print) -> LoaderReport:
    """Makes videos and stores, and measures reading, loading, memory and disk.

    Raises:
        UserError: PyAV is not installed, by which videos and stores are made.
    """
    report = LoaderReport()
    say("making videos and stores")
    videos = make_videos(options.folder)
    paths = [path for path, _ in videos.values()]
    manifest = write_manifest(paths, options.folder / "videos.csv", COPIES)
    stores = _make_stores(paths, options.folder, report)
    readers = _readers(paths[0], report)
    _measure_reading(videos, readers, stores, options, report, say)
    if options.seconds > 0:
        say("loading")
        names = [name for name in readers if name in ("decord", "fast")]
        report.loading = _loading(options, manifest, stores, names, say)
    _measure_memory(videos, readers, stores, options, report, say)
    return report


def _make_stores(paths: Sequence[Path], folder: Path, report: LoaderReport) -> dict[str, _Store]:
    """Writes both stores and notes the size of their clips and of the files."""
    single = write_manifest(list(paths), folder / "single.csv")
    stores = {}
    for name, store in ((H264, "h264"), (RAW, "raw")):
        target = TranscodeTarget(
            short=SIDE, fps=RATE / STRIDE, store="raw" if store == "raw" else "h264"
        )
        write_shards(single, folder / store, target, workers=0, say=lambda line: None)
        clips = read_shards(folder / store).clips
        total = sum(path.stat().st_size for path in (folder / store).glob("*.tar"))
        report.disk[name] = total / len(clips)
        stores[name] = _Store(folder / store, {clip.id: clip.path for clip in clips})
    report.disk["files"] = sum(path.stat().st_size for path in paths) / len(paths)
    return stores


def _readers(path: Path, report: LoaderReport) -> dict[str, Reader]:
    """Returns the readers that work here and notes why the others do not."""
    found = {}
    for name in READERS:
        reader = get_reader(name)
        try:
            read_frames(path, [0], reader)
            found[name] = reader
        except UserError as error:
            report.absent[name] = str(error)
    return found


def _measure_reading(
    videos: Videos,
    readers: Mapping[str, Reader],
    stores: Mapping[str, _Store],
    options: LoaderSpeedOptions,
    report: LoaderReport,
    say: Callable[[str], None],
) -> None:
    for video, (path, info) in videos.items():
        size = fit_short_side(info.height, info.width, SIDE)
        for job in JOBS:
            say(f"reading {video}, {job}")
            calls = {name: _FromFile(path, reader, size, job) for name, reader in readers.items()}
            for name, store in stores.items():
                member = store.clips[f"{path.stem}-0"]
                calls[name] = _FromFile(member, readers["fast"], None, job, STRIDE)
            report.reading[video, job] = _timed(calls, options.rounds)


def _measure_memory(
    videos: Videos,
    readers: Mapping[str, Reader],
    stores: Mapping[str, _Store],
    options: LoaderSpeedOptions,
    report: LoaderReport,
    say: Callable[[str], None],
) -> None:
    path, info = next(iter(videos.values()))
    size = fit_short_side(info.height, info.width, SIDE // 2)
    for name, reader in readers.items():
        say(f"memory: {options.opens} opens by {name}")
        report.memory[name] = _growth(path, reader, size, options.opens)
    for name, store in stores.items():
        member = store.clips[f"{path.stem}-0"]
        report.memory[name] = _growth(member, readers["fast"], None, options.opens)


class _FromFile:
    """Call that reads another clip each time; all candidates see the same moments."""

    def __init__(
        self,
        path: Path,
        reader: Reader,
        size: tuple[int, int] | None,
        job: str,
        kept_every: int = 1,
    ) -> None:
        self._path, self._reader, self._size, self._kept_every = path, reader, size, kept_every
        self._moments = self._choose(job)

    def _choose(self, job: str) -> Iterator[list[int]]:
        rng, last = random.Random(job), FRAMES // self._kept_every - 1
        while True:
            if job == JOBS[0]:
                start = rng.randrange(FRAMES - 15 * STRIDE)
                moments = [start + STRIDE * i for i in range(16)]
            else:
                moments = [
                    quarter * (FRAMES // 4) + rng.randrange(FRAMES // 4) for quarter in range(4)
                ]
            yield [min(last, moment // self._kept_every) for moment in moments]

    def __call__(self) -> None:
        # A new reader has not seen the file, as in the first pass over a large data set. The table
        # that `fast` keeps helps from the second pass on.
        reader = type(self._reader)()
        read_frames(self._path, next(self._moments), reader, self._size)


def _timed(calls: dict[str, _FromFile], rounds: int) -> dict[str, Timed]:
    return dict(
        zip(calls, take_turns(list(calls.values()), torch.device("cpu"), rounds), strict=True)
    )


def _loading(
    options: LoaderSpeedOptions,
    manifest: Path,
    stores: Mapping[str, _Store],
    readers: Sequence[str],
    say: Callable[[str], None],
) -> list[LoaderSpeed]:
    """Measures whole batches.

    The crop is multi-scale, as in the published training; one source has a central crop, which
    needs no resizing.
    """
    data, model = DataConfig(stride=STRIDE), ModelConfig(image_size=SIDE, frames=16)
    by_reader = {name: replace(data, reader=cast(Any, name)) for name in readers}
    sources = [SpeedSource(f"files, {name}", manifest, own) for name, own in by_reader.items()]
    repeated = replace(by_reader[readers[-1]], repeat=2)
    sources.append(SpeedSource(f"files, {readers[-1]}, data.repeat=2", manifest, repeated))
    stored = replace(data, stride=1)
    sources += [SpeedSource(name, store.folder, stored) for name, store in stores.items()]
    central = replace(stored, train_crop="center")
    sources.append(SpeedSource(f"{RAW}, central crop", stores[RAW].folder, central))
    return bench_sources(
        sources,
        model,
        options.workers,
        options.batch_size,
        options.seconds,
        options.step_s,
        say,
        COPIES,
        turns=LOADING_TURNS,
    )


def _growth(path: Path, reader: Reader, size: tuple[int, int] | None, opens: int) -> float:
    """Returns KiB of resident memory that an open and read adds, after the first hundred."""
    before = 0
    for number in range(opens):
        if number == min(100, opens // 2):
            before = _resident()
        read_frames(path, [number % 5], reader, size)
    return (_resident() - before) / 1024 / max(1, opens - min(100, opens // 2))


def _resident() -> int:
    """Returns bytes of resident memory."""
    import resource  # Unix only

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
