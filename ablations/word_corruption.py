"""Ablation of corruption and prediction: how many words are hidden, and how many MLM is asked for.

Question: does a high text ratio help because more of the caption is missing, or because MLM has
more words to predict at each step? And does it matter whether hidden words become [MASK]?
The paper: hides 75 % and predicts all of them, each as [MASK] (released behaviour). No figure that
separates the two is known. Wettig et al. (arXiv 2202.08005) separate them for text without video.
Expected: if the clip is what is learnt from, 75 % hidden with 15 % predicted stays near 75 % with
all predicted, and above 15 % hidden.

A cell is `hidden H, predicted P` in per cent of the words: at most H can be predicted. In cells
with `80/10/10` a tenth of the hidden words becomes a random one and a tenth stays, as in BERT
(`masks.text_corruption`).

Command: `python sweeps/run.py word_corruption` (five cells), `--full-grid` (nine).
Cost: a run of the recipe for each cell and seed.
"""

from __future__ import annotations

from ablations.variants import Cells, Variants

HIDDEN = (0.75, 0.4, 0.15)
BERT = "80/10/10"


def cell_name(hidden: float, predicted: float) -> str:
    """Returns `hidden 75 %, predicted 15 %`."""
    return f"hidden {100 * hidden:g} %, predicted {100 * predicted:g} %"


def cells() -> Cells:
    """Returns each ratio with each number of predicted words that it allows, then BERT's kinds."""
    found = {
        cell_name(hidden, predicted): _words(hidden, predicted / hidden, "mask")
        for hidden in HIDDEN
        for predicted in HIDDEN
        if predicted <= hidden
    }
    kinds = {
        f"{cell_name(hidden, hidden)}, {BERT}": _words(hidden, 1.0, "bert") for hidden in HIDDEN
    }
    return found | kinds


def _words(hidden: float, predicted: float, corruption: str) -> dict[str, object]:
    return {
        "masks.text_ratio": hidden,
        "masks.text_predicted": round(predicted, 6),
        "masks.text_corruption": corruption,
    }


SMALL = (
    cell_name(0.75, 0.75),
    cell_name(0.75, 0.15),
    cell_name(0.15, 0.15),
    f"{cell_name(0.75, 0.75)}, {BERT}",
    f"{cell_name(0.15, 0.15)}, {BERT}",
)

STUDY = Variants(
    name="word_corruption",
    title="Hidden words and predicted words",
    question="Does a high text ratio help because more is hidden, or because more is predicted, "
    "and does it matter what hidden words become?",
    paper_says="75 % are hidden and become [MASK], and all of them are predicted. No figure for "
    "anything else is known.",
    label="words",
    cells=cells(),
    small=SMALL,
    short="words",
)
build = STUDY.build
