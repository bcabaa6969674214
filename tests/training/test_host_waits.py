"""Between two log lines the loop neither waits for the device nor changes a shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from simvtp.batch import Batch
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.simvtp.simvtp_model import SimVTP
from tests.training.training_runs import (
    MODEL,
    TRAIN,
    make_batch,
    make_model,
    pretrain,
)


class Watch(TorchDispatchMode):
    """Mode that records each operation with its shapes.

    It refuses operations that make the host wait or give shapes that depend on data.
    """

    WAITING = (
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "unique",
        "bincount",
        "repeat_interleave",
    )

    def __init__(self) -> None:
        super().__init__()
        self.quiet = False  # in a step that must not wait
        self.trace: list[tuple[Any, ...]] = []
        self.traces: dict[int, list[tuple[Any, ...]]] = {}

    def begin(self, step: int, quiet: bool) -> None:
        self.quiet, self.trace = quiet, []
        self.traces[step] = self.trace

    def refuse(self, what: str) -> None:
        if self.quiet:
            raise AssertionError(f"{what} makes the host wait inside a step")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in self.WAITING:
            self.refuse(name)
        if name in ("index", "index_put_", "index_put"):
            indices = [i for i in tree_flatten(args[1])[0] if isinstance(i, torch.Tensor)]
            if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                self.refuse("indexing with a mask")
        result = func(*args, **(kwargs or {}))
        flat = [
            value for value in tree_flatten((args, result))[0] if isinstance(value, torch.Tensor)
        ]
        self.trace.append((name, *(tuple(value.shape) for value in flat)))
        return result


@pytest.mark.parametrize(
    ("model", "settings", "stage"),
    [
        ({}, {}, {}),
        (
            {"contrastive_text": "clean", "vtm_negatives": "hard"},
            {"ema_decay": 0.9},
            {"accumulate": 2},
        ),
        (
            {"reuse_pair_pass": False, "text_decoder_depth": 1},
            {"clip_norm": 0.0},
            {"gradient_checkpointing": True},
        ),
    ],
)
def test_no_host_sync_and_no_shape_change_between_log_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, Any],
    settings: dict[str, Any],
    stage: dict[str, Any],
) -> None:
    watch = Watch()
    for name in (
        "item",
        "tolist",
        "numpy",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__array__",
    ):
        real = getattr(torch.Tensor, name)

        def watched(self: torch.Tensor, *args: Any, _real: Any = real, _name: str = name) -> Any:
            watch.refuse(f"Tensor.{_name}")
            return _real(self, *args)

        monkeypatch.setattr(torch.Tensor, name, watched)

    def source(first: int) -> Iterator[Batch]:
        for done in range(first, 100):
            watch.quiet = False
            batch = make_batch(done)
            watch.begin(done + 1, quiet=(done + 1) % 5 != 0)
            yield batch

    config = replace(MODEL, **model)
    options = {
        "train": replace(TRAIN, **settings),
        **stage,
        "total_steps": 15,
        "log_every": 5,
        "checkpoint_every": 100,
    }
    with watch:
        outcome = pretrain(tmp_path, model=make_model(config=config), source=source, **options)
    assert outcome.step == 15
    assert len(watch.traces[7]) > 300
    for step in (3, 4, 8, 9, 12, 13, 14):
        assert watch.traces[step] == watch.traces[7], step
    assert watch.traces[6] == watch.traces[11]  # the first step after a log line starts new sums


def test_the_watch_notices_a_wait(tmp_path: Path) -> None:
    class Waiting(SimVTP):
        def forward(
            self, batch: Batch, masks: Any, options: ForwardOptions = DEFAULT_OPTIONS
        ) -> dict[str, torch.Tensor]:
            outputs = super().forward(batch, masks, options)
            return outputs if float(outputs["video_prediction"].detach().sum()) > -1e9 else {}

    watch = Watch()

    def source(first: int) -> Iterator[Batch]:
        batch = make_batch(0)
        watch.begin(1, quiet=True)
        yield batch

    with watch, pytest.raises(AssertionError, match="makes the host wait"):
        pretrain(tmp_path, model=Waiting(MODEL), source=source)
