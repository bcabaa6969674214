"""How fast whole batches come: from files, from shards, side by side.

Loaders take turns of a few seconds (`simvtp.bench.measure`). On a machine that others use, compare
with no workers: then the CPU time of a clip is told, too, which waits for nobody.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simvtp.bench.measure import Timed, orders
from simvtp.config.schema import DataConfig, ModelConfig, RuntimeConfig
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.manifest import read_manifest
from simvtp.data.shards import is_shards
from simvtp.data.text.tokenizer import Tokenizer, load_tokenizer

TURNS = 5
STEPS_APART = 1000  # between the first steps of two turns, so that other clips are read
# batches at the beginning of a turn that do not count: workers start, files are opened for the
# first time
WARM_UP = 2


@dataclass(frozen=True)
class Source:
    """Where clips come from, and how they are read."""

    name: str
    path: Path | str  # a manifest or a folder of shards; of those with splits, the training clips
    data: DataConfig


@dataclass
class LoaderSpeed:
    """What was measured of one source, a value a turn."""

    name: str
    clip: Timed = field(
        default_factory=Timed
    )  # a clip; the CPU time is this process's, which without workers does all there is to do
    waits: list[float] = field(
        default_factory=list
    )  # share of the time in which the consumer waited for data
    replaced: int = 0

    @property
    def rate(self) -> float:
        """Clips a second."""
        return 1 / self.clip.seconds

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the most clips a second of a turn."""
        return 1 / max(self.clip.wall), 1 / min(self.clip.wall)

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU time a clip."""
        return 1000 * statistics.median(self.clip.cpu)

    @property
    def wait(self) -> float:
        return statistics.median(self.waits)

    def line(self, batch_size: int, first: LoaderSpeed, workers: int, step_s: float) -> str:
        """One line for people."""
        least, most = self.extremes
        return (
            f"{self.name}: {self.rate:.1f} clips/s ({least:.1f} to {most:.1f}), x{self.clip.ratio(first.clip)[0]:.2f}, "
            f"waiting {100 * self.wait:.0f} % of the time"
            + ("" if step_s else f"; enough for steps of {1000 * batch_size / self.rate:.0f} ms")
            + (
                ""
                if workers
                else f"; {self.cpu_ms:.2f} ms CPU a clip, x{self.clip.ratio(first.clip, cpu=True)[0]:.2f}"
            )
            + (f"; {self.replaced} samples replaced" if self.replaced else "")
        )


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
    """Load training batches from each source in turn.

    Args:
        sources: manifests and folders of shards; of those with splits, the training clips.
        model: sizes of the clips (image_size, frames, text_length).
        data: stride, crop and reader.
        seconds: for each source, all turns together, without their warm-up.
        step_s: what a training step takes; between two batches the bench sleeps so long (0: it only
            loads).

    Raises:
        DataError: a source cannot be read, or too much of it does not decode.
    """
    return bench_sources(
        [Source(str(path), path, data) for path in sources],
        model,
        workers,
        batch_size,
        seconds,
        step_s,
        say,
    )


def bench_sources(
    sources: Sequence[Source],
    model: ModelConfig,
    workers: int = 2,
    batch_size: int = 16,
    seconds: float = 20.0,
    step_s: float = 0.0,
    say: Callable[[str], None] = print,
    copies: int = 1,
    turns: int = TURNS,
) -> list[LoaderSpeed]:
    """The same of sources that are read in several ways; `copies`: each clip of a folder of shards
    counts so often, for few clips.
    """
    tokenizer = load_tokenizer(sources[0].data.tokenizer)
    loaders = [_loader(source, tokenizer, model, workers, batch_size, copies) for source in sources]
    speeds = [LoaderSpeed(source.name) for source in sources]
    for turn, order in enumerate(orders(len(loaders), turns)):
        for place in order:
            wall, cpu, wait = _turn(
                loaders[place], turn * STEPS_APART, seconds / turns, batch_size, step_s
            )
            speeds[place].clip.wall.append(wall)
            speeds[place].clip.cpu.append(cpu)
            speeds[place].waits.append(wait)
            speeds[place].replaced = loaders[place].counters.replaced
    say(
        f"batches of {batch_size} clips, {model.frames} frames of {model.image_size} px, stride {sources[0].data.stride}, {sources[0].data.reader}, "
        f"{workers} workers, a step of {1000 * step_s:g} ms; {turns} turns each:"
    )
    for speed in speeds:
        say(speed.line(batch_size, speeds[0], workers, step_s))
    return speeds


def _loader(
    source: Source,
    tokenizer: Tokenizer,
    model: ModelConfig,
    workers: int,
    batch_size: int,
    copies: int,
) -> TrainLoader:
    manifest = read_manifest(source.path)
    clips = [clip for clip in manifest.clips if not manifest.has_splits or clip.split == "train"]
    clips *= copies if is_shards(Path(source.path)) else 1
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
    """(seconds a clip spent waiting and stepping, CPU seconds a clip, share spent waiting) over at
    least one batch.
    """
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
        stream.close()  # type: ignore[attr-defined]
    return elapsed / count, used / count, waited / elapsed
