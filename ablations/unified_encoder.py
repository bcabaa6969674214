"""Ablation of the unified encoder: one encoder for video, text and pairs, or two.

Question: does sharing all weights between video and text help, and does it matter how early the two
sides of a pair meet?
The paper: one encoder (abstract, figure 2). Results for two are unknown.
Expected: with little data one encoder is as good with half the weights; late fusion loses some
matching and gains nothing in retrieval, which compares sides that were encoded separately.

Two encoders: each side has weights of its own in every block, and in a pair each token attends to
both sides from the first block on (`two`) or in the last third of the blocks only (`late fusion`).
So cells differ only in weight sharing and in where fusion starts; two encoders have twice the
weights at the same operations. No cell starts from a video checkpoint, which fits one encoder only.

Command: `python sweeps/run.py unified_encoder` (three cells), `--full-grid` (fusion in the last
block alone as well).
Cost: a run of the recipe for each cell and seed; memory for twice the weights of the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment

ONE, TWO, LATE = "one", "two", "late fusion"


def cells(base: Experiment) -> Cells:
    """Returns one encoder, two, and two with late fusion."""
    third = max(1, base.model.depth // 3)
    last = {"fusion in the last block": _wiring("two", 1)} if third > 1 else {}
    return {ONE: _wiring("one", 0), TWO: _wiring("two", 0), LATE: _wiring("two", third), **last}


def _wiring(encoders: str, fusion: int) -> Mapping[str, Any]:
    return {"model.encoders": encoders, "model.fusion_blocks": fusion, "model.init_video": ""}


STUDY = Variants(
    name="unified_encoder",
    title="One encoder or two",
    question="Does sharing all weights between video and text help, "
    "and how early should a pair meet?",
    paper_says="One encoder for video, text and pairs. No figure for two is known.",
    label="encoders",
    cells=cells,
    small=(ONE, TWO, LATE),
    short="encoders",
    retrieval_only=True,
)
build = STUDY.build
