"""Speed of whole batches from files and from shards, in turns.

Loaders take turns of a few seconds (`simvtp.bench.measure`). On a machine that others use, compare
without workers: then the CPU time of a clip is reported too, which other processes do not delay.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simvtp.bench.measure import Timed, orders
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import ModelConfig
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.manifest import by_split, read_manifest
from simvtp.data.shards import is_shards
from simvtp.data.text.tokenizer import Tokenizer, load_tokenizer

TURNS = 5
STEPS_APART = 1000  # between the first steps of two turns, so that other clips are read
# First batches of a turn, not timed: workers start, and files are opened for the first time.
WARM_UP = 2


@dataclass(frozen=True)
class SpeedSource:
    """A source of clips and how it is read.

    Attributes:
        name: Its name in the table.
        path: A manifest or a folder of shards; of those with splits, the training clips.
        data: How clips are read.
    """

    name: str
    path: Path | str
    data: DataConfig


@dataclass
class LoaderSpeed:
    """Measured speed of one source.

    Attributes:
        name: Name of the source.
        clip: Time of a clip, one value a turn. CPU time is that of this process, which without
            workers does all the work.
        waits: Fraction of the time in which the consumer waited for data, one value a turn.
        replaced: Samples replaced by another clip.
    """

    name: str
    clip: Timed = field(default_factory=Timed)
    waits: list[float] = field(default_factory=list)
    replaced: int = 0

    @property
    def rate(self) -> float:
        """Clips a second."""
        return 1 / self.clip.seconds

    @property
    def extremes(self) -> tuple[float, float]:
        """Minimum and maximum of a turn's clips a second."""
        return 1 / max(self.clip.wall), 1 / min(self.clip.wall)

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU time a clip."""
        return 1000 * statistics.median(self.clip.cpu)

    @property
    def wait(self) -> float:
        return statistics.median(self.waits)

    def line(self, batch_size: int, first: LoaderSpeed, workers: int, step_s: float) -> str:
        """Returns one line for the terminal."""
        least, most = self.extremes
        parts = [
            f"{self.name}: {self.rate:.1f} clips/s ({least:.1f} to {most:.1f}), "
            f"x{self.clip.ratio(first.clip)[0]:.2f}, waiting {100 * self.wait:.0f} % of the time"
        ]
        if not step_s:
            parts.append(f"enough for steps of {1000 * batch_size / self.rate:.0f} ms")
        if not workers:
            ratio = self.clip.ratio(first.clip, cpu=True)[0]
            parts.append(f"{self.cpu_ms:.2f} ms CPU a clip, x{ratio:.2f}")
        if self.replaced:
            parts.append(f"{self.replaced} samples replaced")
        return "; ".join(parts)


def bench_loader(
    sources: Sequence[Path | str],
    model: ModelConfig,
    data: DataConfig,
    workers: int = 2,
    batch_size: int = 16,
    seconds: float = 20.0,
    step_s: float = 0.0,
    say: Callable[[str], None] = print,
) -> list[LoaderSpeed]:
    """Measures training batches from each source in turn.

    Args:
        sources: Manifests and folders of shards; of those with splits, the training clips.
        model: Sizes of the clips (image_size, frames, text_length).
        data: Stride, crop and reader.
        workers: Worker processes.
        batch_size: Clips a batch.
        seconds: Duration for each source, all turns together, without their warm-up.
        step_s: Duration of a training step, slept between two batches (0: loading only).
        say: Logs one line.

    Raises:
        DataError: A source cannot be read, or too much of it does not decode.
    """
    named = [SpeedSource(str(path), path, data) for path in sources]
    return bench_sources(named, model, workers, batch_size, seconds, step_s, say)


def bench_sources(
    sources: Sequence[SpeedSource],
    model: ModelConfig,
    workers: int = 2,
    batch_size: int = 16,
    seconds: float = 20.0,
    step_s: float = 0.0,
    say: Callable[[str], None] = print,
    copies: int = 1,
    turns: int = TURNS,
) -> list[LoaderSpeed]:
    """Measures as `bench_loader`, with settings of reading for each source.

    `copies` repeats each clip of a folder of shards, which may hold few.
    """
    tokenizer = load_tokenizer(sources[0].data.tokenizer)
    loaders = [_loader(source, tokenizer, model, workers, batch_size, copies) for source in sources]
    speeds = [LoaderSpeed(source.name) for source in sources]
    for turn, order in enumerate(orders(len(loaders), turns)):
        for index in order:
            loader, speed = loaders[index], speeds[index]
            first_step = turn * STEPS_APART
            wall, cpu, wait = _turn(loader, first_step, seconds / turns, batch_size, step_s)
            speed.clip.wall.append(wall)
            speed.clip.cpu.append(cpu)
            speed.waits.append(wait)
            speed.replaced = loader.counters.replaced
    data = sources[0].data
    say(
        f"batches of {batch_size} clips, {model.frames} frames of {model.image_size} px, "
        f"stride {data.stride}, {data.reader}, {workers} workers, a step of "
        f"{1000 * step_s:g} ms; {turns} turns each:"
    )
    for speed in speeds:
        say(speed.line(batch_size, speeds[0], workers, step_s))
    return speeds


def _loader(
    source: SpeedSource,
    tokenizer: Tokenizer,
    model: ModelConfig,
    workers: int,
    batch_size: int,
    copies: int,
) -> TrainLoader:
    manifest = read_manifest(source.path)
    clips = by_split(manifest.clips)["train"] if manifest.has_splits else manifest.clips
    if copies > 1 and is_shards(Path(source.path)):
        clips = [*clips] * copies
    runtime = RuntimeConfig(workers=workers, device="cpu")
    return TrainLoader(
        clips,
        tokenizer,
        data=source.data,
        model=model,
        runtime=runtime,
        batch_size=batch_size,
        seed=0,
    )


def _turn(
    loader: TrainLoader, start: int, seconds: float, batch_size: int, step_s: float
) -> tuple[float, float, float]:
    """Returns (seconds a clip, CPU seconds a clip, fraction spent waiting) over a batch or more."""
    stream = loader.batches(start)
    waited = elapsed = 0.0
    count = 0
    try:
        for _ in range(WARM_UP):
            next(stream)
        began, used = time.perf_counter(), time.process_time()
        while not count or elapsed < seconds:
            asked = time.perf_counter()
            next(stream)
            waited += time.perf_counter() - asked
            time.sleep(step_s)
            count += batch_size
            elapsed = time.perf_counter() - began
        used = time.process_time() - used
    finally:
        stream.close()
    return elapsed / count, used / count, waited / elapsed
