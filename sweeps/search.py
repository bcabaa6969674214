"""Searches ratios, loss weights, learning rate, decoder size: `python sweeps/search.py --help`."""

import sys
from collections.abc import Sequence
from typing import Any

from ablations import search
from ablations.command_line import AxisOption
from ablations.search import OBJECTIVES, PRUNERS, SAMPLERS, Search
from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError
from sweeps.cli.command import main
from sweeps.cli.sweep_parser import SweepScript

SINGLE = ("trials", "pruner", "sampler", "sampler_seed")


def build(base: Experiment, seeds: Sequence[int] = (0,), **values: Any) -> Search:
    """Returns the search of the options; those of one value may come as a list of one."""
    for name in SINGLE:
        if isinstance(values.get(name), tuple):
            if len(values[name]) != 1:
                raise ConfigError(f"--{name.replace('_', '-')} takes one value.")
            values[name] = values[name][0]
    return search.build(base, seeds=seeds, **values)


SWEEP = SweepScript(
    name="search",
    build=build,
    axes=(
        AxisOption(
            "--trials",
            "trials",
            "points in total; a larger number continues the search (default: 20)",
            int,
            "N",
        ),
        AxisOption(
            "--space",
            "space",
            "changes the space: a range with low:high or low:high:log, choices with a,b,c, "
            "one value to fix it (default: python -m ablations shows it)",
            str,
            "key=low:high,...",
        ),
        AxisOption(
            "--objectives",
            "objectives",
            f"one or two of {', '.join(OBJECTIVES)} (default: quality)",
            str,
            "A[,B]",
        ),
        AxisOption(
            "--pruner",
            "pruner",
            f"ends bad points early: {', '.join(PRUNERS)} (default: none)",
            str,
            "NAME",
        ),
        AxisOption(
            "--sampler",
            "sampler",
            f"proposes points: {', '.join(SAMPLERS)} (default: tpe)",
            str,
            "NAME",
        ),
        AxisOption(
            "--sampler-seed", "sampler_seed", "seed of the proposals (default: 0)", int, "N"
        ),
    ),
    search=True,
    description="A search for the settings that retrieve best on the val split: TPE over ratios, "
    "loss weights, learning rate and decoder size.",
    examples="  python sweeps/search.py --trials 30 --pruner hyperband finetune.evaluations=5\n"
    "  python sweeps/search.py --objectives quality,cost "
    "--space masks.video_ratio=0.5:0.9,model.depth=2,3,4\n",
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
