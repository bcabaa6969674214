"""Ablation of the fidelity ladder: from the released behaviour to ours, one repair at a time.

Question: what does each repair give, and does one of them lose something?
The paper: nothing; its results are those of the released behaviour, or of something near it.
Expected: each rung at or above the one below. A rung that goes down shows that what we call a
defect was none.

The top of the ladder is the base experiment; at the bottom stands the same experiment with every
defect of the released implementation that can change a figure of one machine: captions padded to
the longest of the batch, padding in the mean, local negatives and a mean of MLM by rank, text
masked at random in number, masked text for VTC and VTM, a pass of its own for VTM's positives (with
other dropout), windows of frames * stride frames, the best epoch by R@1 after every epoch, no
clipping, fp32. A defect that the base experiment has as
well is no rung. Left out: choosing the best epoch on the test split, whose results share no column
with others (`finetune.selection=test`), and what ends a run rather than changes it. On one rank
local and global negatives (and the means of MLM) coincide: that rung then shows nothing but noise,
and the small grid leaves it out.

Command: `python sweeps/run.py fidelity` (the ladder), `--full-grid` (and each repair alone).
Cost: a run of the recipe for each rung and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.base_recipe import SMALL_GRID_RECIPES
from ablations.design import Ablation
from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.tree import flatten
from simvtp.errors import ConfigError

BOTTOM = "released"
NEGATIVES = "global negatives"
REPAIRS: Cells = {  # the released settings that each repair replaces
    "captions of one length": {"model.text_padding": "longest"},
    "content pooling": {"model.pooling": "with_pads", "finetune.task.pooling": "with_pads"},
    NEGATIVES: {
        "losses.vtc_negatives": "local",
        "finetune.task.vtc_negatives": "local",
        "losses.mlm_mean": "ranks",
    },
    "exact text masks": {"masks.text_rule": "bernoulli"},
    "clean text for VTC and VTM": {"model.contrastive_text": "masked"},
    "one pair pass": {"model.reuse_pair_pass": False},
    "tight windows": {"data.frame_window": "whole"},
    "steady selection": {"finetune.evaluations": 0, "finetune.task.select_by": "R1"},
    "clipping": {"pretrain.clip_norm": 0.0, "finetune.train.clip_norm": 0.0},
    "bf16": {"pretrain.precision": "fp32", "finetune.train.precision": "fp32"},
}


def rungs(base: Experiment) -> Sequence[str]:
    """Returns the repairs that the base experiment has, in order."""
    own = flatten(base)
    return [
        name
        for name, released in REPAIRS.items()
        if any(own.get(key, value) != value for key, value in released.items())
    ]


def cells(base: Experiment) -> Cells:
    """Returns the ladder, then each repair alone.

    Raises:
        ConfigError: the base experiment repairs no defect.
    """
    repairs = rungs(base)
    if not repairs:
        raise ConfigError(
            f"recipe {base.name} repairs no defect, so there is no ladder; "
            "choose another one, such as base."
        )
    found = {BOTTOM: _with(base, ())}
    for number, name in enumerate(repairs, 1):
        found[f"+ {name}"] = _with(base, repairs[:number])
    return found | {f"only {name}": _with(base, (name,)) for name in repairs[1:]}


def small(base: Experiment) -> Sequence[str]:
    """Returns the ladder without the rung that one rank cannot show."""
    return [
        name for name in cells(base) if not name.startswith("only") and name != f"+ {NEGATIVES}"
    ]


def ladder(base: Experiment) -> Sequence[str]:
    """Returns the ladder without the repairs alone."""
    return [name for name in cells(base) if not name.startswith("only")]


def _with(base: Experiment, repaired: Sequence[str]) -> Mapping[str, Any]:
    """Returns every setting of the ladder: ours if it is repaired, else as released."""
    own = flatten(base)
    return {
        key: own[key] if name in repaired else value
        for name in rungs(base)
        for key, value in REPAIRS[name].items()
        if key in own
    }


STUDY = Variants(
    name="fidelity",
    title="From the released behaviour to ours",
    question="What does each repair of a released defect give?",
    paper_says="Nothing: the defects are those of the released implementation.",
    label="repaired",
    cells=cells,
    small=small,
    short="rung",
)


def build(
    base: Experiment,
    cells: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """Makes the ladder; with `full` each repair alone as well."""
    return STUDY.build(
        base,
        cells or (None if full or base.name in SMALL_GRID_RECIPES else ladder(base)),
        seeds,
        full,
    )
