"""A step that does not fit into the GPU ends in one sentence that names the settings to change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.batch import Batch
from simvtp.errors import DeviceMemoryExhausted
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.training.parallel.batch_split import BatchSplit, split_batch
from simvtp.training.parallel.device_memory import memory_exhausted, smaller_micro_batch
from tests.training.training_runs import MODEL, pretrain

CPU = torch.device("cpu")


class Small(SimVTP):
    """A model that runs out of memory above `fits` samples, as torch says it of a GPU."""

    fits = 4

    def forward(
        self, batch: Batch, masks: Any, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, torch.Tensor]:
        if len(batch) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(batch, masks, options)


def built() -> Small:
    model = Small(MODEL)
    model.initialise(0)
    return model


def test_the_sentence_names_settings_with_which_the_step_fits(tmp_path: Path) -> None:
    with pytest.raises(DeviceMemoryExhausted, match="step 1 of stage pretrain") as caught:
        pretrain(tmp_path, model=built())
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and "--mem" not in sentence
    assert "runtime.gradient_checkpointing=true" in sentence
    advised = re.search(r"runtime.accumulate=0 runtime.micro_batch=(\d+)", sentence)
    assert advised is not None and int(advised[1]) == 4
    outcome = pretrain(
        tmp_path, model=built(), accumulate=0, micro_batch=int(advised[1]), total_steps=2
    )
    assert outcome.step == 2


@pytest.mark.parametrize("batch", [1, 2, 6, 7, 12, 128, 1024])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_the_advice_is_a_smaller_divisor_or_there_is_none(batch: int, ranks: int) -> None:
    split = split_batch("pretrain", batch * ranks, ranks)
    smaller = smaller_micro_batch(split)
    if smaller is None:
        assert split.samples == 1
    else:
        again = split_batch("pretrain", batch * ranks, ranks, accumulate=0, micro_batch=smaller)
        assert again.samples == smaller < split.samples


def test_a_single_sample_that_does_not_fit_needs_more_than_settings() -> None:
    error = memory_exhausted("pretrain", 1, BatchSplit(1, 8, 1), CPU, checkpointed=True)
    assert "micro_batch" not in str(error) and "a GPU with more memory" in str(error)
