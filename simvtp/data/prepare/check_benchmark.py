"""Checks a benchmark before a long run meets its faults.

It says which protocols its files allow, and which videos are missing or do not decode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simvtp.console import printable
from simvtp.data.benchmarks import BENCHMARKS, open_benchmark, resolve_protocol
from simvtp.data.benchmarks.records import Benchmark
from simvtp.data.prepare.check_manifest import decode_all
from simvtp.data.video.video_reader import Reader
from simvtp.errors import DataError

SHOWN = 5  # faults of a kind that are named where all are not asked for


@dataclass(frozen=True)
class BenchmarkReport:
    """Findings of `check_benchmark`."""

    benchmark: Benchmark
    possible: Mapping[
        str, str
    ]  # protocol -> why it is not possible with the files that are there; empty if it is
    missing: tuple[str, ...]  # "id: path", no such file
    corrupt: tuple[
        str, ...
    ]  # "id: reason", does not decode to its end; empty if decoding was not asked for
    decoded: bool

    @property
    def ok(self) -> bool:
        return not self.missing and not self.corrupt

    def lines(self) -> list[str]:
        """Returns the report as text, with a verdict at its end."""
        b, there = self.benchmark, len(self.benchmark.videos) - len(self.missing)
        variants = [
            f"protocol {name}: {f'not possible: {why}' if why else 'possible'}"
            for name, why in self.possible.items()
        ]
        counts = ", ".join(f"{split} {count}" for split, count in records_by_split(b).items())
        kinds = {"missing": self.missing, "undecodable": self.corrupt}
        faults = [
            f"{kind}: {entry}" for kind, entries in kinds.items() for entry in _shown(entries)
        ]
        decoding = (
            f"{len(self.corrupt)} undecodable" if self.decoded else "not decoded (--decode does)"
        )
        return [
            *variants,
            *(f"note: {note}" for note in b.notes),
            f"{b.name} {b.protocol}, records by split: {counts}",
            *faults,
            f"{b.name} {b.protocol}: {len(b.videos)} annotated videos: {there} there, "
            f"{len(self.missing)} missing, {decoding}",
        ]


def records_by_split(benchmark: Benchmark) -> dict[str, int]:
    """Returns the number of captioned videos, questions, moments or actions of each split."""
    records: Sequence[object] = (
        benchmark.questions or benchmark.moments or benchmark.actions or benchmark.clips
    )
    splits = [getattr(record, "split", "") for record in records]
    return {split: splits.count(split) for split in ("train", "val", "test")}


def _shown(entries: Sequence[str]) -> list[str]:
    more = len(entries) - SHOWN
    return [*entries[:SHOWN], *([f"and {more} more"] if more > 0 else [])]


def check_benchmark(
    name: str,
    root: Path | str,
    protocol: str = "",
    decode: bool = False,
    reader: str | Reader = "fast",
    timeout: float = 30.0,
    workers: int = 2,
    say: Callable[[str], None] = print,
) -> BenchmarkReport:
    """Reports which protocols are possible, and whether the videos of one of them exist.

    Args:
        protocol: the one whose videos are looked for; by default the first that is possible.
        decode: also decode every frame of every video, in worker processes that are ended when one
            hangs.
        reader: as for `check_manifest`; a benchmark of images or GIFs is read by the back-end that
            can.
        timeout: as for `check_manifest`.
        workers: as for `check_manifest`.
        say: takes progress and, at the end, the report, line by line.

    Raises:
        ConfigError: no such benchmark or protocol.
        DataError: the annotations of `protocol` (or of every protocol) cannot be read.
    """
    if protocol:
        resolve_protocol(name, protocol)
    benchmark, possible = _open_possible(name, root, protocol)
    videos = list(benchmark.videos.items())
    present = [(video, path) for video, path in videos if path.is_file()]
    found = {video for video, _ in present}
    corrupt: dict[int, str] = {}
    if decode:
        say(f"decoding {len(present)} videos")
        reader = BENCHMARKS[name].needs_reader or reader
        answers = decode_all([path for _, path in present], reader, timeout, workers, say)
        corrupt = {
            number: f"{present[number][0]}: {answer}"
            for number, answer in answers.items()
            if isinstance(answer, str)
        }
    report = BenchmarkReport(
        benchmark=benchmark,
        possible=possible,
        missing=tuple(f"{video}: {path}" for video, path in videos if video not in found),
        corrupt=tuple(corrupt[number] for number in sorted(corrupt)),
        decoded=decode,
    )
    for line in report.lines():
        say(printable(line))
    return report


def _open_possible(name: str, root: Path | str, protocol: str) -> tuple[Benchmark, dict[str, str]]:
    """Returns the benchmark under its protocol, or the first possible one, and {protocol: fault}.

    A possible protocol has the fault "".
    """
    opened: dict[str, Benchmark] = {}
    faults: dict[str, str] = {}
    for variant in BENCHMARKS[name].protocols:
        try:
            opened[variant] = open_benchmark(name, root, variant)
            faults[variant] = ""
        except DataError as error:
            faults[variant] = str(error)
    if protocol and protocol not in opened:
        raise DataError(f"{name} {protocol}: {faults[protocol]}")
    if not opened:
        variant, fault = next(iter(faults.items()))
        raise DataError(f"{name}: no protocol is possible; {variant}: {fault}")
    return opened[protocol] if protocol else next(iter(opened.values())), faults


def table() -> list[str]:
    """Returns a line for each benchmark: name, task, protocols, annotation files."""
    rows = [("name", "task", "protocols", "annotation files")]
    rows += [
        (r.name, r.task, ", ".join(r.protocols), r.describe.files) for r in BENCHMARKS.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join((*cells, row[3])))
    return lines
