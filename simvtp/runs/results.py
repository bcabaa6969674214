"""A figure with its protocol. A score without its split, frames, views and direction is not a
score.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

LOWER_IS_BETTER = ("MdR", "MnR", "MSE", "MSE-raw")  # metrics; of all others more is better


def slug(text: str) -> str:
    """The text as part of a metric's name: what MLflow forbids there, spaces and '/' become '-'
    (`what?` and `what` are one name).
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")


@dataclass(frozen=True)
class Protocol:
    """How a score was obtained. Two scores may share a column only if all but `seed` and
    `checkpoint` agree.
    """

    task: str  # retrieval | image_text | choice | qa | grounding | action
    dataset: str
    split: str
    # zero-shot | finetuned | finetuned, selected on test; after a comma what was done to the
    # scores: re-ranked top 16, dual-softmax
    setting: str
    direction: str  # t2v | v2t, for images t2i | i2t; empty where a task has none
    frames: int
    segments: int
    crops: int
    ties: str  # pessimistic: a tied wrong candidate counts as ranked before the right one
    seed: int
    checkpoint: str  # sha256 of the weights that were scored
    # of the benchmark or the measure, where there are several: 1k-A, open-ended, count, NMS 0.5
    variant: str = ""


@dataclass(frozen=True)
class Result:
    """Metrics of one protocol, with the size of the test and what guessing would give.

    Attributes:
        metrics: retrieval: R1, R5, R10, R50 (per cent), MdR, MnR (ranks from 1); for other tasks
            see simvtp/evaluation/answers.py and spans.py. A name holds letters, digits, '_', '-'
            and '.' only, no '/'.
        chance: what guessing gives, same names.
        queries: captions, videos or questions that were asked.
        gallery: candidates of each, 0 where there is no fixed number.
        ranks: rank of each query's right candidate, for paired tests later; empty where there are
            no candidates.
        scores: figure of each query where there are no ranks: IoU of the first span, predicted
            count.
        baselines: what other ways of knowing nothing of the video give, {name: metrics}: `prior` =
            most frequent answer of training.
        seconds: of re-ranked figures, wall-clock seconds per query: `first_stage_s`,
            `second_stage_s` (see evaluation/rerank.py).
    """

    protocol: Protocol
    metrics: dict[str, float]
    chance: dict[str, float]
    queries: int
    gallery: int
    ranks: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `seconds` only where there are some, so that records of other figures are
        what they were.
        """
        values = asdict(self) | {"ranks": list(self.ranks), "scores": list(self.scores)}
        return {key: value for key, value in values.items() if value or key != "seconds"}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Result:
        """Also of records that were written before `variant`, `scores` and `baselines` were there."""
        lists = {name: tuple(values.get(name, ())) for name in ("ranks", "scores")}
        return Result(**{**values, **lists, "protocol": Protocol(**values["protocol"])})

    @property
    def key(self) -> str:
        """Prefix of the tracked metric names (MLflow forbids '@' and ','): split, setting, then the
        direction, or else task and variant.

        `test/finetuned/t2v`, `test/zero-shot-re-ranked-top-16/t2v`, `test/finetuned/qa/open-ended`.
        A variant of retrieval is not part of its key, so that a metric has one name on all data
        sets: that two variants share no column is checked with the protocol.
        """
        protocol = self.protocol
        last = (
            (protocol.direction,) if protocol.direction else (protocol.task, slug(protocol.variant))
        )
        return "/".join(part for part in (protocol.split, slug(protocol.setting), *last) if part)

    @property
    def line(self) -> str:
        """`test/finetuned/t2v: R1 21.5  R5 53.5 ...`"""
        return f"{self.key}: " + "  ".join(
            f"{name} {value:.1f}" for name, value in self.metrics.items()
        )


def rate_text(per_second: float) -> str:
    """A rate for people: whole numbers from 10 on, below that two digits that count, so that a slow
    run is not told to stand still.
    """
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"
