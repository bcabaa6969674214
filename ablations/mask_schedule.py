"""Ablation of mask ratios that change: drawn for each step, rising, falling, low at the end.

Question: is one ratio for the whole pre-training best, or should it vary, change, or end low, so
that the features have seen what fine-tuning will show them?
The paper: constant ratios. Results for others are unknown; FLIP (arXiv 2212.00794) trains a little
at the end without masks.
Expected: hardly different on average over a range; a low ratio at the end helps most where nothing
follows (zero-shot).

Cells change both ratios, around the base's. `random` draws them uniformly for each step, `rising`
and `falling` go linearly through the same range, so that these three hide as much on average as
`constant`; `low at the end` has the last tenth of the steps at video 0.3 and text 0.15.

Command: `python sweeps/run.py mask_schedule` (five cells).
Cost: a run of the recipe for each cell and seed; `low at the end` costs somewhat more.
"""

from __future__ import annotations

from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment

HALF_WIDTH = 0.2  # of the range, as far as ratios stay below HIGHEST
HIGHEST = 0.97
LAST, LOW_VIDEO, LOW_TEXT = 0.1, 0.3, 0.15


def cells(base: Experiment) -> Cells:
    """Returns constant ratios, then each schedule."""
    video, text = _range(base.masks.video_ratio), _range(base.masks.text_ratio)
    return {
        "constant": _steps("", ""),
        "random": _steps(_text("uniform", video), _text("uniform", text)),
        "rising": _steps(_text("linear", video), _text("linear", text)),
        "falling": _steps(_text("linear", video[::-1]), _text("linear", text[::-1])),
        "low at the end": _steps(f"last:{LAST:g}:{LOW_VIDEO:g}", f"last:{LAST:g}:{LOW_TEXT:g}"),
    }


def _range(ratio: float) -> tuple[float, float]:
    """Returns a range whose middle is the ratio."""
    half = min(HALF_WIDTH, HIGHEST - ratio, ratio / 2)
    return round(ratio - half, 4), round(ratio + half, 4)


def _text(kind: str, ends: tuple[float, ...]) -> str:
    return f"{kind}:{ends[0]:g}:{ends[1]:g}"


def _steps(video: str, text: str) -> dict[str, str]:
    return {"masks.video_ratio_steps": video, "masks.text_ratio_steps": text}


STUDY = Variants(
    name="mask_schedule",
    title="Mask ratios that change",
    question="Is one mask ratio for the whole pre-training best, or should it vary or change?",
    paper_says="Both ratios are constant. No figure for others is known.",
    label="mask ratios over the steps",
    cells=cells,
    short="ratios",
)
build = STUDY.build
