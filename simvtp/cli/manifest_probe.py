"""Opens a manifest, loads batches, and says what it costs; started by `bench manifest`.

It runs as a program of its own (`python manifest_probe.py MANIFEST CACHE WORKERS BATCHES CLIPS`),
so that no memory is left of anything else, and with the code that PYTHONPATH names, so that one
commit can be compared with another. Videos are not decoded: frames are zeros, whatever the path.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIDE, FRAMES = 32, 2


class Zeros:
    """Reader of films that are black, without opening a file."""

    name = "zeros"

    def probe(self, path: Path) -> Any:
        """Returns the size of any film."""
        from simvtp.data.video.video_reader import VideoInfo

        return VideoInfo(64, 25.0, SIDE, SIDE)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]."""
        height, width = size or (SIDE, SIDE)
        return np.zeros((len(indices), height, width, 3), np.uint8)


def memory_of(process: int | str) -> dict[str, int]:
    """Returns bytes of a process: resident, private, shared, and of its heap.

    Private are also pages of a mapped file that no other process looks at now; they can be taken
    away when memory is short. The heap (anonymous pages) cannot.
    """
    fields = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) * 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    resident, heap = fields["Rss"], fields["Anonymous"]
    return {"resident": resident, "private": private, "shared": resident - private, "heap": heap}


def workers_of(process: int) -> list[int]:
    """Returns the worker processes: those that Python's fork server has started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    return [grand for child in children.get(process, ()) for grand in children.get(child, ())]


def spent_memory() -> dict[str, Any]:
    """Returns the memory of this process and of each of its workers."""
    workers = [memory_of(worker) for worker in workers_of(os.getpid())]
    return {"main": memory_of("self"), "workers": workers}


def measure(
    manifest: str, cache: str, workers: int, batches: int, batch_size: int
) -> dict[str, Any]:
    """Returns seconds and bytes on the way from the path of a manifest to `batches` batches."""
    from simvtp.config.data_config import DataConfig
    from simvtp.config.experiment_config import Experiment, RuntimeConfig
    from simvtp.config.model_config import ModelConfig
    from simvtp.data.datasets import open_dataset
    from simvtp.data.loading.train_loader import TrainLoader
    from simvtp.data.text.tokenizer import load_tokenizer
    from simvtp.resolve import finalise

    runtime = RuntimeConfig(workers=workers, device="cpu", cache=cache)
    tokenizer = load_tokenizer("builtin")
    before = memory_of("self")
    began, used = time.perf_counter(), time.process_time()
    data = finalise(
        Experiment(data=DataConfig(dataset="manifest", manifest=manifest), runtime=runtime)
    ).data
    digested = time.perf_counter()
    dataset = open_dataset(data, runtime)
    opened, open_cpu_s = time.perf_counter(), time.process_time() - used
    after_open = memory_of("self")
    loader = TrainLoader(
        dataset.splits["train"],
        tokenizer,
        data=data,
        model=ModelConfig(image_size=SIDE, frames=FRAMES),
        runtime=runtime,
        batch_size=batch_size,
        seed=0,
        reader=Zeros(),
    )
    stream = loader.batches()
    names = list(next(stream).sample_ids)
    first_batch = time.perf_counter()
    result = {
        "digest": data.manifest_digest,
        "names": names[:4],
        "digest_s": digested - began,
        "open_s": opened - digested,
        "open_cpu_s": open_cpu_s,
        "first_batch_s": first_batch - began,
        "before": before,
        "opened": after_open,
        "first": spent_memory(),
    }
    for _ in range(batches):
        next(stream)
    result["later"] = spent_memory()
    stream.close()
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))))
