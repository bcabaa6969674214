"""How much data: the share of the training videos that pre-training sees.

Question: how does retrieval grow with the data of the pre-training? The paper: 10 % of WebVid-2M
gives 43.8 R@1 on MSR-VTT 1k-A after fine-tuning, all of it 53.6. Direction to expect if that holds:
the figure grows with the share, and does so less and less.

What is held fixed: the shares are nested (10 % lies inside 25 %, chosen by hash of the id);
fine-tuning always sees its whole training split, as in the paper, where both are different data
sets; every cell takes the **same number of steps**, those of the whole data, so a small share is
seen more often. So the table asks what more different pairs are worth at equal compute. At equal
epochs, 1 % of the data would also mean 1 % of the steps, and the table would say mostly that
untrained models retrieve badly. Which of the two the paper did is not known.

Where pre-training and fine-tuning share one data set (the embedded one), fine-tuning shows all of
its pairs even to the smallest cell: differences are then smaller than with a pre-training set of
its own.

Command: `python sweeps/run.py data_fraction` (recipe `tiny`: 10, 50 and 100 %), `python
sweeps/run.py data_fraction --full-grid` (all six). Cost: a run of the recipe for each cell and seed,
whatever the share."""

from __future__ import annotations

from collections.abc import Sequence

from ablations.command_line import AxisOption, CommandLine
from ablations.design import Ablation, Axis, retrieval_metric
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
    """One cell a share, compared with the whole data or else the largest share. Without shares:
    three for the recipe `tiny` (unless `full`), all six for any other."""
    small = base.name == "tiny" and not full
    shares = tuple(dict.fromkeys(fractions or (SMALL if small else FULL)))
    return Ablation(
        name="data_fraction",
        title="Share of the pre-training data",
        question="How does retrieval grow with the data of the pre-training, at an equal number of steps?",
        paper_says=(
            "10 % of WebVid-2M gives 43.8 R@1 on MSR-VTT 1k-A after fine-tuning, all of it 53.6. Here every cell takes the same number "
            "of steps and fine-tuning sees all of its data; whether the paper held steps or epochs fixed is not known."
        ),
        base=base,
        axes=(Axis(KEY, "share of the pre-training data", shares, short="data"),),
        seeds=tuple(seeds),
        metric=retrieval_metric(base),
        metric_label="text-to-video R@1 (%)",
        baseline={KEY: max(shares)},
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
