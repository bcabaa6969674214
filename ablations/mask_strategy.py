"""Ablation of the mask strategy: which tubes and which words are hidden together.

Question: does it matter whether tubes, single patches, whole time slots or rectangles are hidden,
and words, word pieces or runs of words?
The paper: tubes for video and single words for text (abstract, figure 2). Results for other
strategies are unknown.
Expected: tubes above random patches (a hidden patch can be copied from the frame before); whole
time slots lowest for short clips; whole words and spans slightly above pieces, which can be guessed
from the rest of their word; rare pieces above all pieces, because MLM then spends its predictions
on what only the clip tells, and frequent ones below. The ratios are those of the base experiment.

Cells are called `video+text`. Video: tube (the same positions in every time slot), random,
per_frame (each slot its own, the same number), block (a rectangle, the same in every slot), frame
(whole time slots). Text: token (pieces), word (whole words), span (runs of three words); with tubes
alone also rare and frequent (as many pieces, those preferred that the training captions hold
seldom, or often).

Command: `python sweeps/run.py mask_strategy` (recipe `tiny`: the published pair and each change of
one half of it, 9 cells), `--full-grid` (17).
Cost: a run of the recipe for each cell and seed, whatever the strategy.
"""

from __future__ import annotations

from ablations.variants import Variants, two_settings

VIDEO = ("tube", "random", "per_frame", "block", "frame")
TEXT, BY_FREQUENCY = ("token", "word", "span"), ("rare", "frequent")
PAIRS = (
    *((video, text) for video in VIDEO for text in TEXT),
    *((VIDEO[0], text) for text in BY_FREQUENCY),
)
SMALL = tuple(f"{video}+{text}" for video, text in PAIRS if video == "tube" or text == "token")

STUDY = Variants(
    name="mask_strategy",
    title="Which tubes and which words are hidden together",
    question="Does it matter whether tubes, single patches, whole time slots or rectangles are "
    "hidden, and pieces, words or runs of words, rare or frequent ones?",
    paper_says="Tubes and single words are hidden. Figures for other strategies are not known.",
    label="mask strategy (video+text)",
    cells=two_settings(
        ("masks.video_kind", "masks.text_kind"),
        PAIRS,
        lambda video, text: f"{video}+{text}",
    ),
    small=SMALL,
    short="strategy",
)
build = STUDY.build
