"""Ablation of the amount of data: the fraction of the training videos that pre-training sees.

Question: how does retrieval grow with the data of the pre-training?
The paper: 10 % of WebVid-2M gives 43.8 R@1 on MSR-VTT 1k-A after fine-tuning, all of it 53.6.
Expected: retrieval grows with the fraction, and less and less so.

The fractions are nested (10 % is part of 25 %, chosen by hash of the id). Fine-tuning always sees
its whole training split, as in the paper, where both are different data sets. Every cell takes the
**same number of steps**, those of the whole data, so a small fraction is seen more often: the table
shows the value of more different pairs at equal compute. At equal epochs, 1 % of the data would
also mean 1 % of the steps, and the table would show mostly that untrained models retrieve badly.
Which of the two the paper did is not known.

If pre-training and fine-tuning have one data set (the embedded one), fine-tuning shows all of its
pairs even to the smallest cell: differences are then smaller than with a pre-training set of its
own. A row of its own, `no pre-training`, fine-tunes the initial weights: only what lies
above it was gained by pre-training.

Command: `python sweeps/run.py data_fraction` (recipe `tiny`: 10, 50 and 100 %), `python
sweeps/run.py data_fraction --full-grid` (all six).
Cost: a run of the recipe for each cell and seed, whatever the fraction.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablations.base_recipe import SMALL_GRID_RECIPES
from ablations.command_line import AxisOption, CommandLine
from ablations.design import Ablation, Axis, null_arm
from ablations.headline import headline
from simvtp.config.experiment_config import Experiment

KEY = "data.fraction"
FULL = (0.01, 0.05, 0.10, 0.25, 0.50, 1.0)
SMALL = (0.10, 0.50, 1.0)


def build(
    base: Experiment,
    fractions: Sequence[float] | None = None,
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """Makes the ablation: one cell a fraction, compared with the largest.

    Args:
        base: the experiment that every cell changes.
        fractions: default: three for the recipe `tiny` (unless `full`), all six for any other.
        seeds: each cell is run once per seed.
        full: all six by default.
    """
    small = base.name in SMALL_GRID_RECIPES and not full
    values = tuple(dict.fromkeys(fractions or (SMALL if small else FULL)))
    return Ablation(
        name="data_fraction",
        title="Fraction of the pre-training data",
        question="How does retrieval grow with the data of the pre-training, "
        "at an equal number of steps?",
        paper_says="10 % of WebVid-2M gives 43.8 R@1 on MSR-VTT 1k-A after fine-tuning, all of it "
        "53.6. Here every cell takes the same number of steps and fine-tuning sees all of its "
        "data; whether the paper held steps or epochs fixed is not known.",
        base=base,
        axes=(Axis(KEY, "fraction of the pre-training data", values, short="data"),),
        seeds=tuple(seeds),
        metric=headline(base).metric,
        metric_label=headline(base).label,
        baseline={KEY: max(values)},
        controls=null_arm(base),
    )


COMMAND_LINE = CommandLine(
    axes=(
        AxisOption(
            "--fractions",
            "fractions",
            "fractions in (0, 1] (default: 0.1,0.5,1 for tiny, else 0.01,0.05,0.1,0.25,0.5,1)",
        ),
    ),
    description="The fraction of the data that pre-training sees, at an equal number of steps; "
    "fine-tuning sees all of its data.",
    examples="  python sweeps/run.py data_fraction --fractions 0.1,1 --seeds 0,1,2\n",
)
