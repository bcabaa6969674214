"""Small experiments, contexts and batches for the tests of tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from simvtp.batch import Batch
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.datasets import open_dataset
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.experiment import with_vocabulary
from simvtp.tasks import Context
from tests.small import small_experiment

MODEL = SimVTPConfig(
    image_size=16,
    frames=4,
    patch_size=8,
    tubelet_size=2,
    dim=16,
    depth=3,
    heads=2,
    decoder_dim=8,
    decoder_depth=1,
    decoder_heads=1,
    vocab_size=40,
    text_length=8,
    max_text_positions=8,
    text_dropout=0.0,
)


def silent(line: str) -> None:
    pass


def downstream(root: Path, cache: Path, init: Path, *more: str) -> Experiment:
    return small_experiment(
        root,
        cache,
        f"finetune.init={init}",
        "evaluate.zero_shot=false",
        "finetune.evaluations=1",
        *more,
    )


def context_of(experiment: Experiment, **changes: object) -> Context:
    tokenizer = load_tokenizer("builtin")
    dataset = open_dataset(experiment.data, experiment.runtime)
    usual = Context(
        with_vocabulary(experiment, tokenizer), dataset, tokenizer, torch.device("cpu"), say=silent
    )
    return replace(usual, **changes)


def batch_of(size: int = 2, seed: int = 0, texts: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, texts, 8) if texts else (size, 8)
    ids = torch.randint(4, 40, shape, generator=generator)
    clips = torch.randint(0, 256, (size, 4, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return Batch(
        clips,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        ids,
        tuple("ab"[:size]),
        torch.zeros(size, dtype=torch.int64),
    )
