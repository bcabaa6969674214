"""Interface of the readers of benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simvtp.data.benchmarks.records import Benchmark, TaskName


@dataclass(frozen=True)
class Source:
    """Origin of a benchmark and the layout of its files. Texts for a table."""

    where: str
    files: str  # annotation files, in the order in which they are looked for
    folders: str  # where the videos or images are looked for, below the root
    licence: str
    size: str  # of the videos; "—" where it is not known to us


@dataclass(frozen=True)
class BenchmarkReader:
    """Reads one benchmark.

    Attributes:
        protocols: the first is the default.
        open: (root, protocol) -> Benchmark. DataError says which file is missing and where it was
            looked for, which column is missing and which were found, or what contradicts itself.
        needs_reader: the data.reader that opens its files, where not every one does.
    """

    name: str
    task: TaskName
    protocols: tuple[str, ...]
    open: Callable[[Path, str], Benchmark]
    describe: Source
    needs_reader: str = ""
