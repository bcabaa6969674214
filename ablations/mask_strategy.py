"""How to hide: which tubes and which words go together when some are masked.

Question: does it matter whether tubes, single places, whole moments or rectangles are hidden, and
words, pieces or runs of words? The paper: tubes for video and single words for text (abstract,
figure 2). Figures for other strategies: unknown. Direction to expect: tubes above random places (a
hidden place can be copied from the frame before); whole moments lowest for short clips; whole words
and spans slightly above pieces, which can be guessed from the rest of their word. The ratios are
those of the base experiment.

Cells are called `video+text`. Video: tube (the same places in every time slot), random, per_frame
(each slot its own, the same number), block (a rectangle, the same in every slot), frame (whole time
slots). Text: token (pieces), word (whole words), span (runs of three words).

Command: `python sweeps/run.py mask_strategy` (recipe `tiny`: each strategy beside the published
other one, 7 cells), `--full-grid` (15). Cost: a run of the recipe for each cell and seed, whatever
the strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment

VIDEO = ("tube", "random", "per_frame", "block", "frame")
TEXT = ("token", "word", "span")


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    return {
        f"{video}+{text}": {"masks.video_kind": video, "masks.text_kind": text}
        for video in VIDEO
        for text in TEXT
    }


def small(base: Experiment) -> Sequence[str]:
    """The published pair, and each change of one half of it."""
    return (*(f"{video}+token" for video in VIDEO), *(f"tube+{text}" for text in TEXT[1:]))


STUDY = Variants(
    name="mask_strategy",
    title="Which tubes and which words are hidden together",
    question="Does it matter whether tubes, places, moments or rectangles are hidden, and pieces, words or runs of words?",
    paper_says="Tubes and single words are hidden. Figures for other strategies are not known.",
    label="mask strategy (video+text)",
    cells=cells,
    small=small,
    short="strategy",
)
build = STUDY.build
