"""The split of a global batch: derived, checked, and described in one line."""

from __future__ import annotations

import pytest

from simvtp.errors import ConfigError
from simvtp.training.parallel.batch_split import BatchSplit, split_batch


@pytest.mark.parametrize(
    ("batch", "ranks", "micro", "expected"),
    [
        (64, 1, 0, BatchSplit(1, 1, 64)),
        (64, 1, 64, BatchSplit(1, 1, 64)),
        (64, 1, 63, BatchSplit(1, 2, 32)),
        (64, 4, 5, BatchSplit(4, 4, 4)),
        (60, 2, 8, BatchSplit(2, 5, 6)),  # the fewest equal parts of 30 with at most 8 samples
        (14, 2, 4, BatchSplit(2, 7, 1)),
    ],
)
def test_accumulation_is_derived(batch: int, ranks: int, micro: int, expected: BatchSplit) -> None:
    share = split_batch("pretrain", batch, ranks, accumulate=0, micro_batch=micro)
    assert share == expected and share.batch_size == batch


def test_given_accumulation_stays_as_it_is() -> None:
    assert split_batch("pretrain", 64, 4, accumulate=2, micro_batch=1) == BatchSplit(4, 2, 8)


def test_a_batch_that_cannot_be_cut_names_numbers_that_can() -> None:
    with pytest.raises(
        ConfigError,
        match=r"batch_size=64 of stage finetune cannot be split over 3 ranks and 1 accumulation "
        r"step: "
        r"use 1, 2, 4, 8, 16, 32 or 64 ranks, or a batch_size of 63 or 66\.",
    ):
        split_batch("finetune", 64, 3, accumulate=0)
    with pytest.raises(ConfigError, match=r"use 1 or 3 ranks, or a batch_size of 8 or 16\."):
        split_batch("pretrain", 12, 2, accumulate=4)
    with pytest.raises(ConfigError, match="cannot be split into 5 accumulation steps"):
        split_batch("pretrain", 12, 1, accumulate=5)


def test_the_line_says_where_negatives_come_from() -> None:
    share = BatchSplit(8, 2, 64)
    assert share.describe("pretrain", "global") == (
        "pretrain: global batch 1024 = 8 ranks x 2 accumulation steps x 64 samples; "
        "contrastive negatives from 512 samples (the micro-batches of all ranks)"
    )
    assert "negatives from 64 samples (a micro-batch)" in share.describe("pretrain", "local")
    assert (
        share.describe("pretrain", "")
        == "pretrain: global batch 1024 = 8 ranks x 2 accumulation steps x 64 samples"
    )
    assert "from 32 samples (a micro-batch)" in BatchSplit(1, 1, 32).describe("finetune", "global")
