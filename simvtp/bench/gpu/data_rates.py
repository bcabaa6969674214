"""Loader to device with and without steps, and scoring of views by precision."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from simvtp.batch import Batch
from simvtp.bench.data_path.raw_clips import raw_folder, write_raw_clips
from simvtp.bench.gpu.check_worker import Recorder
from simvtp.bench.gpu.step_cases import StepCase, build_parts, small, step_cases
from simvtp.bench.gpu.step_rates import step_call
from simvtp.bench.measure import wait_for
from simvtp.bench.step.sizes import random_batch
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import ModelConfig
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import BUILTIN, load_tokenizer
from simvtp.evaluation.metrics import ranks_of_features
from simvtp.evaluation.retrieval_evaluation import Embedded, embed_test_set

LEAST_WAIT = 0.05  # of the time, that steps may wait for data
MOST_WORKERS = 14


@dataclass(frozen=True)
class LoaderSizes:
    """Sizes of the measurement of the loader."""

    clips: int
    samples: int
    workers: int
    seconds: float


# ---- loader --------------------------------------------------------------------------------------


def measure_loader_rates(recorder: Recorder) -> None:
    """Reports clips a second of a raw store to the device, alone and with steps of `base`."""
    tiny, device = recorder.tiny, recorder.device
    case = small(step_cases()[0]) if tiny else step_cases()[0]
    cores = len(os.sched_getaffinity(0))
    workers = 0 if tiny else max(1, min(MOST_WORKERS, cores - 2))
    sizes = LoaderSizes(16 if tiny else 128, 4 if tiny else 128, workers, 0 if tiny else 6)
    model = case.experiment.model
    words = max(model.vocab_size, load_tokenizer(BUILTIN).vocab_size)
    model = replace(model, vocab_size=words)
    case = replace(case, experiment=replace(case.experiment, model=model))
    with tempfile.TemporaryDirectory(dir=raw_folder()) as temporary:
        loader = _loader(Path(temporary), model, sizes, device)
        with recorder.attempt("loader alone", needed=0 if tiny else 8):
            alone = _rate(loader, sizes, lambda batch: batch.to(device), device)
            _report(recorder, "loader to device", sizes, alone)
        with recorder.attempt("loader and steps", needed=0 if tiny else 12):
            _measure_overlap(recorder, case, loader, sizes)


def _loader(
    folder: Path, model: ModelConfig, sizes: LoaderSizes, device: torch.device
) -> TrainLoader:
    side = model.image_size * 8 // 7  # as the multi-scale crop reads it
    clips = write_raw_clips(folder / "clips.tar", sizes.clips, model.frames + 4, side)
    tokenizer = load_tokenizer(BUILTIN)
    return TrainLoader(
        clips,
        tokenizer,
        data=DataConfig(stride=1),
        model=model,
        runtime=RuntimeConfig(workers=sizes.workers, device=str(device)),
        batch_size=sizes.samples,
        seed=0,
    )


@dataclass(frozen=True)
class LoaderRate:
    """Clips a second, and the part of the time spent waiting for a batch."""

    clips_per_s: float
    waiting: float


def _rate(
    loader: TrainLoader, sizes: LoaderSizes, use: Callable[[Batch], object], device: torch.device
) -> LoaderRate:
    stream: Generator[Batch] = loader.batches()
    waited, count = 0.0, 0
    try:
        for _ in range(2):  # the workers start
            use(next(stream))
        wait_for(device)
        began = time.perf_counter()
        while count < 2 or time.perf_counter() - began < sizes.seconds:
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            use(batch)
            count += 1
        wait_for(device)
        elapsed = time.perf_counter() - began
    finally:
        stream.close()
    return LoaderRate(count * sizes.samples / elapsed, waited / elapsed)


def _measure_overlap(
    recorder: Recorder, case: StepCase, loader: TrainLoader, sizes: LoaderSizes
) -> None:
    device = recorder.device
    parts = build_parts(case, 2)
    held: list[Batch] = []

    def step_on(batch: Batch) -> None:
        if not held:
            held.append(batch)
            steps.append(step_call(parts, batch, "bf16", device))
        steps[0]()

    steps: list[Callable[[], None]] = []
    together = _rate(loader, sizes, step_on, device)
    _report(recorder, "loader and steps of base", sizes, together)
    wait_for(device)
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < sizes.seconds / 2:
        steps[0]()
        wait_for(device)
        count += 1
    alone = count * sizes.samples / (time.perf_counter() - began)
    _report(recorder, "steps of base alone", sizes, LoaderRate(alone, 0.0))
    if device.type == "cuda":
        text = f"steps wait for data {100 * LEAST_WAIT:g} % of the time at most"
        recorder.gate(text, together.waiting <= LEAST_WAIT)
        text = "steps with the loader are 90 % as fast as alone, or more"
        recorder.gate(text, together.clips_per_s >= 0.9 * alone)


def _report(recorder: Recorder, name: str, sizes: LoaderSizes, rate: LoaderRate) -> None:
    recorder.row(
        "raw store in memory",
        what=name,
        workers=sizes.workers,
        samples=sizes.samples,
        clips_per_s=rate.clips_per_s,
        waiting_for_data=rate.waiting,
    )


# ---- scoring -------------------------------------------------------------------------------------


def measure_scoring(recorder: Recorder) -> None:
    """Reports seconds of embedding views in fp32, TF32 and bf16, and the ranks that change."""
    tiny, device = recorder.tiny, recorder.device
    case = next(one for one in step_cases() if one.task == "retrieval dual")
    case = small(case) if tiny else case
    videos, views, at_once = (8, 2, 4) if tiny else (64, 9, 16)
    parts = build_parts(case, 2)
    model = copy.deepcopy(parts.model).to(device)
    batch = random_batch(case.experiment.model, videos)
    first: tuple[Tensor, Tensor] | None = None
    for name, context in _precisions(device).items():
        with recorder.attempt(name, needed=0 if tiny else 3), context:
            began = time.perf_counter()
            embedded = _embed(model, batch, views, at_once, device)
            wait_for(device)
            seconds = time.perf_counter() - began
            ranks = ranks_of_features(embedded.texts, embedded.videos, embedded.owners)
            first = first or ranks
            changed = sum(int((a != b).sum()) for a, b in zip(ranks, first, strict=True))
            recorder.row(
                f"scoring {videos} videos in {views} views",
                precision=name,
                seconds=seconds,
                views_per_s=videos * views / seconds,
                ranks_that_change=changed,
                of=2 * videos,
            )
            if name == "fp32":
                finite = bool(torch.isfinite(embedded.videos).all())
                recorder.gate("features are finite", finite)


def _precisions(device: torch.device) -> dict[str, AbstractContextManager[None]]:
    kind = device.type
    bf16 = torch.autocast(kind, dtype=torch.bfloat16)
    if kind == "cpu":
        return {"fp32": nullcontext(), "bf16": bf16}
    return {"fp32": nullcontext(), "TF32": _tensor_float(), "bf16": bf16}


@contextmanager
def _tensor_float() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _embed(
    model: nn.Module, batch: Batch, views: int, at_once: int, device: torch.device
) -> Embedded:
    def clips() -> Iterator[tuple[Tensor, Tensor]]:
        for view in range(views):
            for start in range(0, len(batch), at_once):
                part = batch.part(start, start + at_once)
                # another view: the picture moved by some columns
                yield part.clips.roll(view, dims=3), torch.arange(start, start + len(part))

    texts = [(batch.input_ids, batch.attention_mask)]
    owners = torch.arange(len(batch))
    return embed_test_set(model, clips(), texts, owners, device=device)
