"""Ablation of the video ratio together with the batch: what fits into the same memory.

Question: what is a high video ratio worth, if the memory that it saves goes into a larger batch?
The paper: one batch (1024) at one ratio. FLIP (arXiv 2212.00794) and MAC (arXiv 2212.00986) gain
from masks mainly by larger batches in the same memory and time.
Expected: with the same memory, high ratios gain on low ones, the more the contrast counts; with the
same number of steps more than with the same number of samples.

A cell is `video R, batch B`: B is the largest batch whose step keeps no more values for the
backward pass than one of the base experiment. They are counted as tokens x width x blocks over all
passes of a step: visible tubes, captions (which no video ratio makes shorter), and the decoder's
tubes. A step of `tiny_pair` (with 200 word pieces) keeps 227 to 248 MiB in all of them
(tests/ablations/test_batch_ratio.py). Each batch other than the base's has two arms: `same samples`
(fewer steps for a larger batch) and `same steps` (more samples). The learning rate is in proportion
to the batch, as everywhere. The gain of the ratio alone, with one batch for all, is the ablation
`mask_ratio`.

Negatives of VTC and VTM are those of a micro-batch: leave runtime.micro_batch and
runtime.accumulate such that a step is one, or a larger batch has no more negatives.

Command: `python sweeps/run.py batch_ratio` (recipe `tiny_pair`: five cells), `--full-grid` (nine,
and two more without masks for a method that reconstructs nothing, such as MAC).
Cost: a run of the recipe for each cell and seed, but for the lengths of `same steps`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ablations.cost import kept_values
from ablations.schedule import length
from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment

RATIOS, SMALL_RATIOS = (0.5, 0.6, 0.75, 0.9, 0.95), (0.5, 0.75, 0.9)
SAMPLES, STEPS = ARMS = ("same samples", "same steps")
FINENESS = 32  # units of the base's batch: how finely batches are chosen


def batch_at(base: Experiment, ratio: float) -> int:
    """Returns the largest batch at a video ratio that needs no more memory than the base's.

    It is at least 2, and a multiple of `batch_unit`, so that ranks can share it.
    """
    batch = base.pretrain.batch_size
    masks = dataclasses.replace(base.masks, video_ratio=ratio)
    fits = batch * kept_values(base) / kept_values(dataclasses.replace(base, masks=masks))
    unit = batch_unit(base)
    return max(2, int(fits * (1 + 1e-9)) // unit * unit)


def batch_unit(base: Experiment) -> int:
    """Returns the power of two that divides the base's batch and is about a 32nd of it."""
    batch = base.pretrain.batch_size
    return math.gcd(batch, 2 ** int(math.log2(max(1, batch // FINENESS))))


def cells(base: Experiment) -> Cells:
    """Returns the base, and each other ratio with its batch and both lengths."""
    lowest = () if "mvm" in base.losses.wanted else (0.0,)
    own = base.masks.video_ratio
    found = {cell_name(base, own): _settings(base, own, base.pretrain.batch_size, 1.0)}
    for ratio in (*lowest, *RATIOS):
        if ratio != own:
            found |= {cell_name(base, ratio, arm): _cell(base, ratio, arm) for arm in ARMS}
    return found


def small(base: Experiment) -> Sequence[str]:
    """Returns the base and two other ratios, with both lengths."""
    others = [ratio for ratio in SMALL_RATIOS if ratio != base.masks.video_ratio]
    arms = [cell_name(base, ratio, arm) for ratio in others for arm in ARMS]
    return [cell_name(base, base.masks.video_ratio), *arms]


def cell_name(base: Experiment, ratio: float, arm: str = "") -> str:
    """Returns `video 0.5, batch 40, same steps`; without an arm, the base's own."""
    own = ratio == base.masks.video_ratio
    batch = base.pretrain.batch_size if own else batch_at(base, ratio)
    return f"video {ratio:g}, batch {batch}" + (f", {arm}" if arm else "")


def _cell(base: Experiment, ratio: float, arm: str) -> Mapping[str, Any]:
    """Returns the settings of a ratio with its batch, for as many samples or steps as the base."""
    batch = batch_at(base, ratio)
    growth = batch / base.pretrain.batch_size
    # a length in epochs counts samples, and one in steps counts steps
    in_steps = bool(base.pretrain.max_steps)
    factor = {(SAMPLES, True): 1 / growth, (STEPS, False): growth}.get((arm, in_steps), 1.0)
    return _settings(base, ratio, batch, factor)


def _settings(base: Experiment, ratio: float, batch: int, factor: float) -> Mapping[str, Any]:
    return {
        "masks.video_ratio": ratio,
        "pretrain.batch_size": batch,
        **length(base, factor),
    }


STUDY = Variants(
    name="batch_ratio",
    title="Video mask ratio and batch at equal memory",
    question="What is a high video ratio worth, if the memory that it saves goes into a larger "
    "batch?",
    paper_says="One batch, 1024, at one ratio. No figure for others is known.",
    label="video ratio, batch and length",
    cells=cells,
    small=small,
    short="batch",
    baseline=lambda base: cell_name(base, base.masks.video_ratio),
)
build = STUDY.build
