"""Public benchmarks, read from their own annotation files; `BENCHMARKS` has them by name."""

from __future__ import annotations

import functools
from pathlib import Path

from simvtp.data.benchmarks.activitynet import ACTIVITYNET, ACTIVITYNET_GROUNDING
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader
from simvtp.data.benchmarks.cc3m import CC3M
from simvtp.data.benchmarks.charades import CHARADES_STA
from simvtp.data.benchmarks.coco import COCO
from simvtp.data.benchmarks.didemo import DIDEMO
from simvtp.data.benchmarks.flickr30k import FLICKR30K
from simvtp.data.benchmarks.hmdb51 import HMDB51
from simvtp.data.benchmarks.kinetics import KINETICS
from simvtp.data.benchmarks.lsmdc import LSMDC, LSMDC_MC
from simvtp.data.benchmarks.msrvtt import MSRVTT
from simvtp.data.benchmarks.msrvtt_mc import MSRVTT_MC
from simvtp.data.benchmarks.msrvtt_qa import MSRVTT_QA
from simvtp.data.benchmarks.msvd import MSVD
from simvtp.data.benchmarks.msvd_qa import MSVD_QA
from simvtp.data.benchmarks.records import Benchmark
from simvtp.data.benchmarks.ssv2 import SSV2
from simvtp.data.benchmarks.tacos import TACOS
from simvtp.data.benchmarks.tgif_qa import TGIF_QA
from simvtp.data.benchmarks.ucf101 import UCF101
from simvtp.data.benchmarks.vatex import VATEX
from simvtp.data.benchmarks.webvid import WEBVID
from simvtp.errors import ConfigError

BENCHMARKS: dict[str, BenchmarkReader] = {
    reader.name: reader
    for reader in (
        WEBVID,
        CC3M,
        MSRVTT,
        MSVD,
        DIDEMO,
        ACTIVITYNET,
        LSMDC,
        VATEX,
        MSRVTT_MC,
        LSMDC_MC,
        MSRVTT_QA,
        MSVD_QA,
        TGIF_QA,
        CHARADES_STA,
        TACOS,
        ACTIVITYNET_GROUNDING,
        UCF101,
        HMDB51,
        SSV2,
        KINETICS,
        FLICKR30K,
        COCO,
    )
}


def open_benchmark(name: str, root: Path | str, protocol: str = "") -> Benchmark:
    """Reads a benchmark below `root`; the protocol is the benchmark's first if none is given.

    Raises:
        ConfigError: no such benchmark or protocol.
        DataError: an annotation file is missing, changed, or contradicts itself.
    """
    protocol = resolve_protocol(name, protocol)
    return BENCHMARKS[name].open(Path(root).expanduser(), protocol)


def resolve_protocol(name: str, protocol: str) -> str:
    """Returns `protocol`, or the default one.

    Raises:
        ConfigError: there is no such benchmark or protocol.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"there is no benchmark '{name}'; choose from {', '.join(BENCHMARKS)}.")
    known = BENCHMARKS[name].protocols
    if protocol and protocol not in known:
        raise ConfigError(f"{name} has no protocol '{protocol}'; choose one of {', '.join(known)}.")
    return protocol or known[0]


@functools.lru_cache(maxsize=64)  # a sweep asks for the same data again for each of its points
def annotation_digest(name: str, root: str, protocol: str) -> str:
    """Returns the `Benchmark.digest` of what lies below `root` now.

    The answer stays the same for the rest of the process.
    """
    return open_benchmark(name, root, protocol).digest
