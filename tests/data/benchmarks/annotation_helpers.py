"""Every protocol of every benchmark, and helpers of the tests of their files."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import BENCHMARKS
from simvtp.data.benchmarks.records import Benchmark

VARIANTS = [
    (name, protocol) for name, reader in BENCHMARKS.items() for protocol in reader.protocols
]


def records(benchmark: Benchmark) -> tuple:
    return benchmark.questions or benchmark.moments or benchmark.actions or benchmark.clips


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
