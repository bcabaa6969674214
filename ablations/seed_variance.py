"""Ablation of the sources of chance: how much each of them moves the result.

Question: how much of the spread between runs comes from the initial weights, from order and crops,
from masks, from the choice of the training clips and from fine-tuning?
The paper: nothing; one run a figure. Bouthillier et al. (arXiv 2103.03098) find for other tasks
that the choice of the data counts at least as much as the initial weights.
Expected: fine-tuning and order above the initial weights; the report has a variance with an
interval for each.

In the cell of a source its seed follows `seed` and the seeds of the others stay the same; in `all`
every one follows. All cells pre-train on 90 % of the clips, drawn by the seed of the data, so that
the choice of the clips can vary. A variance needs seeds: with five, its interval still reaches
from a third to eight times the value.

Command: `python sweeps/run.py seed_variance --seeds 0,1,2,3,4` (six cells).
Cost: a run of the recipe for each cell and seed.
"""

from __future__ import annotations

from typing import Any

from ablations.variants import Cells, Variants

SOURCES = {
    "init": "initial weights",
    "order": "order and crops",
    "masks": "masks",
    "data": "training clips",
    "finetune": "fine-tuning",
}
ALL = "all"
HELD = 1000  # seed of what does not vary; none of those that people give
FRACTION = 0.9


def cells() -> Cells:
    """Returns all sources together, then each alone."""
    every = {name: _seeds(source) for source, name in SOURCES.items()}
    return {ALL: _seeds(*SOURCES)} | every


def _seeds(*varied: str) -> dict[str, Any]:
    held = {f"seeds.{source}": -1 if source in varied else HELD for source in SOURCES}
    return {**held, "data.fraction": FRACTION, "data.subset": "drawn"}


STUDY = Variants(
    name="seed_variance",
    title="Sources of chance",
    question="How much does each source of chance move the result?",
    paper_says="Nothing: one run for each figure.",
    label="what varies",
    cells=cells(),
    short="varies",
)
build = STUDY.build
