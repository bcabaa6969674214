"""How fast clips come: from ordinary files by each reader, from shards of small H.264 clips, and
from shards of uncompressed frames.

Four measurements. *Reading*: one clip, decoded and resized, by one thread; contestants take turns
on the same moments of the same film, and what counts is CPU time, which waits for nobody.
*Loading*: whole training batches by worker processes, in turns, with the share of the time in which
a training step would wait. *Memory* over many opens. *Disk*: what the stores take.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from simvtp.bench.data_path.batch_speed import LoaderSpeed, Source, bench_sources
from simvtp.bench.data_path.sample_videos import FRAMES, RATE, make_films, write_manifest
from simvtp.bench.measure import Timed, take_turns
from simvtp.config.schema import DataConfig, ModelConfig
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.video.readers import fit_short_side, get_reader, read_frames
from simvtp.data.video.video_reader import Reader
from simvtp.errors import UserError

SIDE = 224
STRIDE = 4  # of the files; the stores keep every fourth frame
JOBS = ("16 strided", "4 spread")
READERS = ("decord", "pyav", "fast", "torchcodec")
H264, RAW = "H.264 shards", "raw shards"
LOADING_TURNS = 3
COPIES = 8  # of each film in the manifest of the loading part


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    folder: Path  # films and stores are made here, and kept
    rounds: int = 8  # of reading
    opens: int = 2000
    seconds: float = 10.0  # of loading, each source; 0: loading is not measured
    workers: int = 2
    batch_size: int = 16
    step_s: float = 0.0


@dataclass
class Report:
    """What was measured."""

    reading: dict[tuple[str, str], dict[str, Timed]] = field(
        default_factory=dict
    )  # (film, job) -> contestant -> time of a clip
    loading: list[LoaderSpeed] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)  # contestant -> KiB an open
    disk: dict[str, float] = field(default_factory=dict)  # store -> bytes of a clip of ten seconds
    absent: dict[str, str] = field(default_factory=dict)  # reader -> why it is not there


def measure_loader(settings: Settings, say: Callable[[str], None] = print) -> Report:
    """All four; UserError without PyAV, by which films and stores are made."""
    report = Report()
    say("making films and stores")
    films = make_films(settings.folder)
    manifest = write_manifest(
        [path for path, _ in films.values()], settings.folder / "films.csv", COPIES
    )
    single = write_manifest([path for path, _ in films.values()], settings.folder / "single.csv")
    stores = {}
    for name, store in ((H264, "h264"), (RAW, "raw")):
        stores[name] = settings.folder / store
        target = TranscodeTarget(
            short=SIDE, fps=RATE / STRIDE, store="raw" if store == "raw" else "h264"
        )
        write_shards(single, stores[name], target, workers=0, say=lambda line: None)
        clips = read_shards(stores[name]).clips
        report.disk[name] = sum(path.stat().st_size for path in stores[name].glob("*.tar")) / len(
            clips
        )
    report.disk["files"] = sum(path.stat().st_size for path, _ in films.values()) / len(films)
    readers = _readers(next(iter(films.values()))[0], report)
    kept = {
        name: {clip.id: clip for clip in read_shards(folder).clips}
        for name, folder in stores.items()
    }
    for film, (path, info) in films.items():
        size = fit_short_side(info.height, info.width, SIDE)
        for job in JOBS:
            say(f"reading {film}, {job}")
            calls = {name: _FromFile(path, reader, size, job) for name, reader in readers.items()}
            calls |= {
                name: _FromFile(members[f"{path.stem}-0"].path, readers["fast"], None, job, STRIDE)
                for name, members in kept.items()
            }
            report.reading[film, job] = _timed(calls, settings.rounds)
    if settings.seconds > 0:
        say("loading")
        report.loading = _loading(
            settings,
            manifest,
            stores,
            [name for name in readers if name in ("decord", "fast")],
            say,
        )
    path, info = next(iter(films.values()))
    for name, reader in readers.items():
        say(f"memory: {settings.opens} opens by {name}")
        report.memory[name] = _growth(
            path, reader, fit_short_side(info.height, info.width, SIDE // 2), settings.opens
        )
    for name, members in kept.items():
        report.memory[name] = _growth(
            members[f"{path.stem}-0"].path, readers["fast"], None, settings.opens
        )
    return report


def _readers(path: Path, report: Report) -> dict[str, Reader]:
    """Those that work here."""
    found = {}
    for name in READERS:
        reader = get_reader(name)
        try:
            read_frames(path, [0], reader)
            found[name] = reader
        except UserError as error:
            report.absent[name] = str(error)
    return found


class _FromFile:
    """Reads another clip of the film at each call; all contestants see the same moments."""

    def __init__(
        self, path: Path, reader: Reader, size: tuple[int, int] | None, job: str, kept: int = 1
    ) -> None:
        self._path, self._reader, self._size, self._kept = path, reader, size, kept
        self._moments = self._choose(job)

    def _choose(self, job: str) -> Iterator[list[int]]:
        rng, last = random.Random(job), FRAMES // self._kept - 1
        while True:
            if job == JOBS[0]:
                start = rng.randrange(FRAMES - 15 * STRIDE)
                moments = [start + STRIDE * i for i in range(16)]
            else:
                moments = [
                    quarter * (FRAMES // 4) + rng.randrange(FRAMES // 4) for quarter in range(4)
                ]
            yield [min(last, moment // self._kept) for moment in moments]

    def __call__(self) -> None:
        # A reader that has never met the file: what a large data set is like. The table that `fast`
        # keeps helps from the second pass on.
        reader = type(self._reader)()
        read_frames(self._path, next(self._moments), reader, self._size)


def _timed(calls: dict[str, _FromFile], rounds: int) -> dict[str, Timed]:
    return dict(
        zip(calls, take_turns(list(calls.values()), torch.device("cpu"), rounds), strict=True)
    )


def _loading(
    settings: Settings,
    manifest: Path,
    stores: dict[str, Path],
    readers: Sequence[str],
    say: Callable[[str], None],
) -> list[LoaderSpeed]:
    """Whole batches; a multi-scale crop as in the published training, and a central one, which only
    cuts.
    """
    data, model = DataConfig(stride=STRIDE), ModelConfig(image_size=SIDE, frames=16)
    sources = [Source(f"files, {name}", manifest, replace(data, reader=name)) for name in readers]  # type: ignore[arg-type]
    sources += [
        Source(
            f"files, {readers[-1]}, data.repeat=2",
            manifest,
            replace(data, reader=readers[-1], repeat=2),  # type: ignore[arg-type]
        )
    ]
    sources += [Source(name, folder, replace(data, stride=1)) for name, folder in stores.items()]
    sources += [
        Source(f"{RAW}, central crop", stores[RAW], replace(data, stride=1, train_crop="center"))
    ]
    return bench_sources(
        sources,
        model,
        settings.workers,
        settings.batch_size,
        settings.seconds,
        settings.step_s,
        say,
        COPIES,
        turns=LOADING_TURNS,
    )


def _growth(path: Path, reader: Reader, size: tuple[int, int] | None, opens: int) -> float:
    """KiB of resident memory that each open and read leaves behind, after the first hundred."""
    before = 0
    for number in range(opens):
        if number == min(100, opens // 2):
            before = _resident()
        read_frames(path, [number % 5], reader, size)
    return (_resident() - before) / 1024 / max(1, opens - min(100, opens // 2))


def _resident() -> int:
    """Bytes."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
