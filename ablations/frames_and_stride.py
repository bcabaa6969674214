"""How much time to see, and how finely: number of frames and the stride between them.

Question: is it more frames, or a longer window, that retrieval needs? The paper: 16 frames at
stride 4, a window of 64 (released behaviour). Figures for others: unknown. Direction to expect: a
longer window helps where captions speak of what happens; more frames in the same window help little
and cost in proportion.

Cells are called `frames x stride`, and the same in pre-training, fine-tuning and test. A window
that is longer than the clip is stretched over it, so that cells with such windows differ in their
number of frames alone: the clips of the embedded data set have 16 frames.

Command: `python sweeps/run.py frames_and_stride` (recipe `tiny`: windows of 16 and 8 frames, each
         with two strides), `--full-grid` (a quarter to twice the frames, half to twice the stride).
Cost: in proportion to the frames, and above that for long sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    frames, stride, tubelet = base.model.frames, base.data.stride, base.model.tubelet_size
    numbers = [
        n
        for n in (frames // 4, frames // 2, frames, 2 * frames)
        if n >= tubelet and n % tubelet == 0
    ]
    strides = sorted({max(1, stride // 2), stride, 2 * stride})
    return {_name(n, s): {"model.frames": n, "data.stride": s} for n in numbers for s in strides}


def small(base: Experiment) -> Sequence[str]:
    """The base, half its frames over the same window, and both over half of it."""
    frames, stride = base.model.frames, base.data.stride
    wanted = (
        (frames, stride),
        (frames // 2, 2 * stride),
        (frames, max(1, stride // 2)),
        (frames // 2, stride),
    )
    return [name for name in dict.fromkeys(_name(*pair) for pair in wanted) if name in cells(base)]


def _name(frames: int, stride: int) -> str:
    return f"{frames}x{stride}"


STUDY = Variants(
    name="frames_and_stride",
    title="Frames and the stride between them",
    question="Is it more frames, or a longer window, that retrieval needs?",
    paper_says="16 frames at stride 4. No figure for others is known.",
    label="frames x stride",
    cells=cells,
    small=small,
    short="frames",
    baseline=lambda base: _name(base.model.frames, base.data.stride),
)
build = STUDY.build
