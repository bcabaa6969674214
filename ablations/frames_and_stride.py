"""Ablation of the temporal window: number of frames and the stride between them.

Question: does retrieval need more frames, or a longer window?
The paper: 16 frames at stride 4, a window of 64 (released behaviour). Results for others are
unknown.
Expected: a longer window helps if captions describe what happens; more frames in the same window
help little and cost in proportion.

Cells are called `frames x stride`, the same in pre-training, fine-tuning and test. A window that is
longer than the clip is stretched over it, so cells with such windows differ in their number of
frames alone: the clips of the embedded data set have 16 frames.

Command: `python sweeps/run.py frames_and_stride` (recipe `tiny`: windows of 16 and 8 frames, each
with two strides), `--full-grid` (a quarter to twice the frames, half to twice the stride).
Cost: in proportion to the frames, and above that for long sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablations.variants import Cells, Variants, two_settings
from simvtp.config.experiment_config import Experiment


def cells(base: Experiment) -> Cells:
    """Returns every possible number of frames with every stride."""
    frames, stride, tubelet = base.model.frames, base.data.stride, base.model.tubelet_size
    numbers = [
        n
        for n in (frames // 4, frames // 2, frames, 2 * frames)
        if n >= tubelet and n % tubelet == 0
    ]
    strides = sorted({max(1, stride // 2), stride, 2 * stride})
    pairs = [(n, s) for n in numbers for s in strides]
    return two_settings(("model.frames", "data.stride"), pairs, cell_name)


def small(base: Experiment) -> Sequence[str]:
    """Returns the base, half its frames over the same window, and both over half of it."""
    frames, stride = base.model.frames, base.data.stride
    half_stride = max(1, stride // 2)
    pairs = (
        (frames, stride),
        (frames // 2, 2 * stride),
        (frames, half_stride),
        (frames // 2, stride),
    )
    possible = cells(base)
    names = dict.fromkeys(cell_name(*pair) for pair in pairs)
    return [name for name in names if name in possible]


def cell_name(frames: int, stride: int) -> str:
    """Returns `8x4`."""
    return f"{frames}x{stride}"


STUDY = Variants(
    name="frames_and_stride",
    title="Frames and the stride between them",
    question="Does retrieval need more frames, or a longer window?",
    paper_says="16 frames at stride 4. No figure for others is known.",
    label="frames x stride",
    cells=cells,
    small=small,
    short="frames",
    baseline=lambda base: cell_name(base.model.frames, base.data.stride),
)
build = STUDY.build
