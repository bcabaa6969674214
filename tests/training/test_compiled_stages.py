"""Compiled blocks in one process that pre-trains, tests, fine-tunes and tests again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from simvtp.experiment import run
from simvtp.training import stage_run
from simvtp.training.parallel.parallel_model import VARIANTS, compile_blocks
from tests.small import small_experiment
from tests.training.training_runs import make_batch, make_model

STAGES = 2  # that train; each is followed by a test with its compiled blocks


class Graphs:
    """A backend of torch.compile that runs what it is given, and counts it."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def compile(self, model: nn.Module, mode: str) -> None:
        """Stands for `compile_blocks`, with this backend."""
        self.counts.append(0)
        compile_blocks(model, mode, backend=self)  # type: ignore[arg-type]

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.counts[-1] += 1
        return graph.forward


@pytest.mark.slow
def test_no_block_of_any_stage_meets_the_limit(
    tmp_path: Path,
    shapes_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    graphs = Graphs()
    monkeypatch.setattr(stage_run, "compile_blocks", graphs.compile)
    experiment = small_experiment(tmp_path, shapes_cache, "runtime.compile=true")
    with caplog.at_level(logging.WARNING):
        run(experiment, say=lambda line: None)
    print(f"graphs of {STAGES} stages with their tests: {graphs.counts}")
    assert len(graphs.counts) == STAGES and all(0 < one <= VARIANTS for one in graphs.counts)
    assert not [message for message in caplog.messages if "limit" in message]


def test_a_second_size_makes_a_second_graph_and_a_new_stage_starts_again() -> None:
    graphs, model = Graphs(), make_model()
    batch = make_batch(0)
    for _ in range(2):
        graphs.compile(model, "default")
        for size in (8, 8, 5, 3):
            part = batch.part(0, size)
            with torch.no_grad():
                model.embed_text(part.input_ids, part.attention_mask)
    assert graphs.counts == [3, 3]
