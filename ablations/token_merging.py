"""Ablation of token merging: visible tubes that look alike may become one token in the encoder.

Question: what is left to save in the few visible tubes, and what does it cost?
The paper: one token for each visible tube. Results for fewer are unknown; token merging comes from
ToMe (arXiv 2210.09461), which reports little loss of accuracy for up to twice the speed on whole
videos.
Expected: less time, and a loss that grows with the ratio, since 90 % of the tubes are already gone.

Command: `python sweeps/run.py token_merging` (none and a half), `--full-grid` (a quarter as well).
Cost: a run of the recipe for each cell and seed, less what the encoder saves.
"""

from __future__ import annotations

from ablations.variants import Variants, one_setting

NONE, QUARTER, HALF = "a token each", "a quarter merged", "a half merged"

STUDY = Variants(
    name="token_merging",
    title="Merging of visible tubes",
    question="Can visible tubes that look alike go through the encoder as one token?",
    paper_says="Each visible tube has a token of its own. No figure for fewer is known.",
    label="visible tubes in the encoder",
    cells=one_setting("model.token_merge_ratio", {NONE: 0.0, QUARTER: 0.25, HALF: 0.5}),
    small=(NONE, HALF),
    short="merging",
)
build = STUDY.build
