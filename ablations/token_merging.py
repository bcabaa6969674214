"""Whether visible tubes that look alike may share one token in the encoder.

Question: what is left to save in the few visible tubes, and what does it cost? The paper: one token
a visible tube. Figures for fewer: unknown; token merging comes from ToMe (arXiv 2210.09461), which
reports little loss of accuracy for up to twice the speed on whole videos. Direction to expect: less
time, and a loss that grows with the share, since 90 % of the tubes are gone already; with it, how
redundant visible tubes still are.

Command: `python sweeps/run.py token_merging` (none and a half), `--full-grid` (a quarter as well).
Cost: a run of the recipe for each cell and seed, less what the encoder is spared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment

NONE, HALF = "a token each", "a half merged"


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    shares = {NONE: 0.0, "a quarter merged": 0.25, HALF: 0.5}
    return {name: {"model.token_merge_ratio": share} for name, share in shares.items()}


def small(base: Experiment) -> Sequence[str]:
    return (NONE, HALF)


STUDY = Variants(
    name="token_merging",
    title="Visible tubes that share a token",
    question="Can visible tubes that look alike go through the encoder as one token?",
    paper_says="Each visible tube has a token of its own. No figure for fewer is known.",
    label="visible tubes in the encoder",
    cells=cells,
    small=small,
    short="merging",
)
build = STUDY.build
