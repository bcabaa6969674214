"""Ablation of the objectives: subsets of MVM, MLM, VTC and VTM, and their weights.

MVM predicts hidden video tubes, MLM hidden words; VTC pulls the features of a pair together, VTM
classifies pairs as right or wrong.

Question: what does each objective add, and do the reconstructing ones (MVM, MLM) or the aligning
ones (VTC, VTM) suffice alone?
The paper: all four with weight 1; VTC and VTM help "significantly". No result of any subset is
known.
Expected: MVM+MLM is lowest, adding VTC or VTM raises it, all four are best. On a small data set it
may come out otherwise.

Eleven of the fifteen subsets are sensible, because a neighbour in the table answers a question with
them: each objective alone (what does it give by itself?), all but one (what is lost without it?),
the reconstructing pair, the aligning pair, and all four. The other four pairs mix one of each kind
and answer nothing that these do not; `--subsets MVM+VTC` runs them all the same. VTM without VTC is
allowed: it needs a wrong clip for each text, which is drawn at random, not by VTC similarity. At
least one objective must be on.

Three controls answer what no subset can. `none`: no pre-training, the initial weights fine-tuned as
in every row; a subset below it does harm. `text only`: MLM with the video never shown
(`model.mlm_video=none`); what MLM gains over it comes from the clips. `shuffled pairs`: all
objectives, each clip with the caption of another one (`data.pairing=shuffled`); what all four gain
over it comes from the right pairs.

An objective that is off costs nothing: its decoder or head is not built. The table has retrieval
after fine-tuning, which trains the features of every cell with the same contrastive loss; without
VTC the zero-shot values are those of features that were never trained to be compared, and are no
measure of the pre-training.

Command: `python sweeps/run.py losses` (recipe `tiny`: the controls, each objective alone, the two
pairs and all four), `--full-grid` (eleven subsets), `--subsets "none,MLM,text only"`, `--weights
vtc=0.5,1,2 --subsets MVM+MLM+VTC+VTM`.
Cost: at most a run of the recipe for each cell and seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ablations.base_recipe import SMALL_GRID_RECIPES, own_weights
from ablations.command_line import AxisOption, CommandLine
from ablations.design import Ablation, Axis
from ablations.headline import headline
from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import INITIAL
from simvtp.errors import ConfigError

OBJECTIVES = ("MVM", "MLM", "VTC", "VTM")
ALL = "MVM+MLM+VTC+VTM"
NONE, TEXT_ONLY, SHUFFLED = "none", "text only", "shuffled pairs"
CONTROLS = (NONE, TEXT_ONLY, SHUFFLED)
SMALL = (*CONTROLS, *OBJECTIVES, "VTC+VTM", "MVM+MLM", ALL)
ALL_BUT_ONE = ("MVM+MLM+VTC", "MVM+MLM+VTM", "MVM+VTC+VTM", "MLM+VTC+VTM")
SENSIBLE = (*CONTROLS, *OBJECTIVES, "MVM+MLM", "VTC+VTM", *ALL_BUT_ONE, ALL)


def build(
    base: Experiment,
    subsets: Sequence[str] | None = None,
    weights: Sequence[str] | str = (),
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """Makes the ablation: one cell a subset and combination of weights.

    Args:
        base: the experiment that every cell changes.
        subsets: controls, and names such as `MVM+MLM`, in any order of the parts; default: `SMALL`
            for the recipe `tiny` (unless `full`), else `SENSIBLE`.
        weights: `vtc=0.5,1,2`, with commas also between objectives; the weights of several
            objectives are combined.
        seeds: each cell is run once per seed.
        full: `SENSIBLE` by default.

    Raises:
        ConfigError: a subset or a weight has another form.
    """
    small = base.name in SMALL_GRID_RECIPES and not full
    variants = read_weights(weights)
    settings: dict[str, dict[str, Any]] = {}
    for name in subsets or (SMALL if small else SENSIBLE):
        control = name.strip().lower()
        if control in CONTROLS:
            settings[control] = control_settings(control, base)
            continue
        subset = read_subset(name)
        for values in itertools.product(*(variants.get(one, (1.0,)) for one in subset)):
            on = dict(zip(subset, values, strict=True))
            settings[cell_name(on)] = switched_on(on, base)
    return Ablation(
        name="losses",
        title="Objectives of the pre-training",
        question="What do masked video modelling, masked language modelling, contrast and "
        "matching each add?",
        paper_says="All four with weight 1 are used; contrast and matching help "
        '"significantly". No figure of a subset is known.',
        base=base,
        axes=(Axis("losses", "objectives", tuple(settings), settings=settings),),
        seeds=tuple(seeds),
        metric=headline(base).metric,
        metric_label=headline(base).label,
        published_optimum={"losses": ALL},
    )


def switched_on(weights: Mapping[str, float], base: Experiment) -> dict[str, Any]:
    """Returns the settings of these weights; every other objective is off.

    A weight is relative to that of the recipe, which evens out the sizes of the losses.
    """
    own = own_weights(base)
    return {
        f"losses.{name.lower()}": weights.get(name, 0.0) * own[name.lower()] for name in OBJECTIVES
    }


def control_settings(name: str, base: Experiment) -> dict[str, Any]:
    """Returns the settings of a control: see the head of the file."""
    if name == NONE:
        return {"finetune.init": INITIAL}
    if name == TEXT_ONLY:
        return {**switched_on({"MLM": 1.0}, base), "model.mlm_video": "none"}
    return {**switched_on(dict.fromkeys(OBJECTIVES, 1.0), base), "data.pairing": "shuffled"}


def cell_name(weights: Mapping[str, float]) -> str:
    """Returns `MVM+MLM+0.5 VTC`: the objectives in the order of the paper, with weights not 1."""
    return "+".join(
        name if weights[name] == 1 else f"{weights[name]:g} {name}"
        for name in OBJECTIVES
        if name in weights
    )


def read_subset(text: str) -> tuple[str, ...]:
    """Returns the objectives of `vtc+MVM`, in the order of the paper."""
    parts = [part.strip().upper() for part in text.split("+")]
    for part in parts:
        if part not in OBJECTIVES:
            raise ConfigError(
                f"'{text}' is not a set of objectives: write some of {', '.join(OBJECTIVES)} "
                f"with + between, such as {ALL_BUT_ONE[0]}, or one of {', '.join(CONTROLS)}."
            )
    return tuple(name for name in OBJECTIVES if name in parts)


def read_weights(texts: Sequence[str] | str) -> dict[str, tuple[float, ...]]:
    """Returns {"VTC": (0.5, 1.0, 2.0)} of `vtc=0.5,1,2`."""
    found: dict[str, list[float]] = {}
    name = ""
    for part in ",".join([texts] if isinstance(texts, str) else texts).split(","):
        if not part.strip():
            continue
        before, sign, value = part.rpartition("=")
        name = before.strip().upper() if sign else name
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in OBJECTIVES or not 0 < number < float("inf"):
            raise ConfigError(
                f"--weights {part.strip()}: write an objective and weights above 0, "
                "such as vtc=0.5,1,2 (--subsets leaves one out)."
            )
        found.setdefault(name, []).append(number)
    return {name: tuple(dict.fromkeys(values)) for name, values in found.items()}


COMMAND_LINE = CommandLine(
    axes=(
        AxisOption(
            "--subsets",
            "subsets",
            f"sets of objectives and controls (default: {', '.join(SMALL)} for tiny, "
            "else all eleven sensible sets)",
            str,
        ),
        AxisOption(
            "--weights",
            "weights",
            "weights to try for an objective, such as vtc=0.5,1,2 (default: 1)",
            str,
        ),
    ),
    description="Subsets of the objectives MVM, MLM, VTC and VTM, and their weights. "
    "As published: all four with weight 1.",
    examples="  python sweeps/run.py losses --subsets MVM+MLM+VTC+VTM --weights vtc=0.5,1,2\n",
)
