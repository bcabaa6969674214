"""A tiny real model on made-up clips, and processes that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.config.recipes import tiny
from simvtp.config.train_config import LossConfig, TrainConfig
from simvtp.config.tree import to_dict
from simvtp.methods import build_model
from simvtp.models.common.masking import draw_masks
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.journal import Journal, read_journal
from simvtp.training.checkpointing.preemption import stop_on_signals
from simvtp.training.loop import train
from simvtp.training.objectives import PretrainObjective
from simvtp.training.parallel import distributed
from simvtp.training.stage import Stage, StageOutcome

MASK_ID = 3
SEED = 5
MODEL = SimVTPConfig(
    image_size=16,
    frames=4,
    patch_size=8,
    tubelet_size=2,
    dim=16,
    depth=2,
    heads=2,
    decoder_dim=8,
    decoder_depth=1,
    decoder_heads=1,
    vocab_size=40,
    text_length=8,
    max_text_positions=8,
    text_dropout=0.1,
)
MASKS = MaskConfig(video_ratio=0.5, text_ratio=0.5)
TRAIN = TrainConfig(batch_size=8, base_lr=0.1, base_min_lr=0.001, warmup_ratio=0.2, clip_norm=1.0)
ALL = ("mvm", "mlm", "vtc", "vtm")


def make_batch(step: int, size: int = 8, model: SimVTPConfig = MODEL) -> Batch:
    """The batch of `step`.

    Random pixels and captions of different lengths, always the same for the same step.
    """
    generator = torch.Generator().manual_seed(1000 + step)
    side = model.image_size
    clips = torch.randint(
        0, 256, (size, model.frames, side, side, 3), generator=generator, dtype=torch.uint8
    )
    lengths = torch.randint(
        1, model.text_length - 1, (size, 1), generator=generator
    )  # words of each caption
    positions = torch.arange(model.text_length)[None]
    words = torch.randint(4, model.vocab_size, (size, model.text_length), generator=generator)
    present = positions < lengths + 2
    input_ids = (
        torch.where(positions == 0, 1, torch.where(positions == lengths + 1, 2, words)) * present
    )
    word_ids = torch.where((positions > 0) & (positions <= lengths), positions - 1, -1)
    return Batch(clips, input_ids, present, word_ids, tuple(f"clip{step}-{i}" for i in range(size)))


def batches(first: int, size: int = 8) -> Iterator[Batch]:
    step = first
    while True:
        yield make_batch(step, size)
        step += 1


def draw(batch: Batch, step: int, first_sample: int) -> Masks:
    return draw_masks(
        batch, MODEL, MASKS, mask_id=MASK_ID, seed=SEED, step=step, first_sample=first_sample
    )


def draw_with_negatives_of(group: int) -> Callable[[Batch, int, int], Masks]:
    """Returns `draw` with the next sample of the same group of `group` samples as negative."""

    def drawn(batch: Batch, step: int, first_sample: int) -> Masks:
        index = torch.arange(len(batch))
        return replace(
            draw(batch, step, first_sample),
            negative_index=index // group * group + (index + 1) % group,
            text_negative_index=index // group * group + (index + group - 1) % group,
        )

    return drawn


def make_model(objectives: tuple[str, ...] = ALL, config: SimVTPConfig = MODEL) -> SimVTP:
    return build_model(config, objectives, seed=SEED)


def make_stage(directory: Path, **changes: Any) -> Stage:
    experiment = tiny()
    usual: dict[str, Any] = {
        "name": "pretrain",
        "train": TRAIN,
        "total_steps": 20,
        "seed": SEED,
        "directory": directory,
        "fingerprint": experiment.fingerprint,
        "config": to_dict(experiment),
        "device": "cpu",
        "log_every": 3,
        "checkpoint_every": 4,
        "keep": 2,
    }
    return Stage(**{**usual, **changes})


def pretrain(
    directory: Path,
    *,
    losses: LossConfig | None = None,
    model: torch.nn.Module | None = None,
    source: Any = None,
    **changes: Any,
) -> StageOutcome:
    """Run (or continue) a tiny pre-training in `directory`, stopping on signals."""
    losses = losses or LossConfig()
    journal = Journal(directory / "journal.jsonl")
    options = {
        key: changes.pop(key)
        for key in ("evaluate", "on_log", "stop", "check_ownership", "say")
        if key in changes
    }
    masks = changes.pop("draw", draw)
    try:
        with stop_on_signals() as stop:
            return train(
                make_stage(directory, **changes),
                model or make_model(losses.wanted),
                PretrainObjective(losses),
                source or batches,
                masks,
                journal,
                **{"stop": stop, **options},
            )
    finally:
        journal.close()


def lines(directory: Path) -> list[dict[str, Any]]:
    return [line for _, line in read_journal(directory / "journal.jsonl")]


def metrics(directory: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics) of the journal without what depends on the clock."""
    timed = ("speed/", "system/")
    found = [line for line in lines(directory) if line["kind"] == "metrics"]
    return [
        (line["step"], {k: v for k, v in line["metrics"].items() if not k.startswith(timed)})
        for line in found
    ]


def in_process(target: Callable[..., None], *args: Any) -> multiprocessing.Process:
    """Start `target` in a process of its own that can be killed.

    The server it is forked from has torch loaded already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.preload"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_rank(
    rank: int,
    world: int,
    per_node: int,
    port: int,
    step_s: float,
    work: Callable[..., Any],
    args: Any,
    options: Any,
) -> None:
    """One rank, with the environment that torchrun and submitit give to it."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_RANK=str(rank % per_node),
        LOCAL_WORLD_SIZE=str(per_node),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    if step_s:
        distributed.COLLECTIVE_TIMEOUT = timedelta(seconds=step_s)
    with distributed.distributed(torch.device("cpu")) as launch:
        assert launch == distributed.Launch(rank, world, rank % per_node, per_node)
        assert (distributed.rank(), distributed.world()) == (rank, world)
        work(*args, **options)


def start_ranks(
    ranks: int,
    work: Callable[..., Any],
    *args: Any,
    per_node: int = 0,
    step_s: float = 0.0,
    **options: Any,
) -> list[multiprocessing.Process]:
    """`work(*args, **options)` on gloo ranks, in processes of their own.

    `per_node` of them on a node (0 = all). `step_s` is the time that a collective of a step may
    take (0 = as usual).
    """
    port = free_port()
    return [
        in_process(_as_rank, rank, ranks, per_node or ranks, port, step_s, work, args, options)
        for rank in range(ranks)
    ]


def on_ranks(ranks: int, work: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Runs `start_ranks` to its end, without an error."""
    processes = start_ranks(ranks, work, *args, **options)
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0] * ranks


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
