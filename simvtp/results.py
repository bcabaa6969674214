"""A figure with its protocol. A score without its split, frames, views and direction is not a score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """How a score was obtained. Two scores may share a column only if all but `seed` and `checkpoint` agree."""

    task: str  # retrieval
    dataset: str
    split: str
    setting: str  # zero-shot | finetuned | finetuned, selected on test
    direction: str  # t2v | v2t
    frames: int
    segments: int
    crops: int
    ties: str  # pessimistic: a tied candidate counts as ranked before the right one
    seed: int
    checkpoint: str  # sha256 of the weights that were scored


@dataclass(frozen=True)
class Result:
    """Metrics of one protocol, with the size of the test and what guessing would give.

    `metrics` and `chance` have the keys R1, R5, R10, R50 (per cent), MdR, MnR (ranks from 1). `ranks` holds the rank of each
    query, for paired tests later.
    """

    protocol: Protocol
    metrics: dict[str, float]
    chance: dict[str, float]
    queries: int
    gallery: int
    ranks: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ranks": list(self.ranks)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Result:
        return Result(**{**values, "protocol": Protocol(**values["protocol"]), "ranks": tuple(values["ranks"])})

    @property
    def key(self) -> str:
        """Prefix of the tracked metric names, for example `test/finetuned/t2v` (MLflow forbids '@' and ',')."""
        setting = self.protocol.setting.replace(", ", "-").replace(" ", "-")
        return f"{self.protocol.split}/{setting}/{self.protocol.direction}"

    @property
    def line(self) -> str:
        """`test/finetuned/t2v: R1 21.5  R5 53.5 ...`"""
        return f"{self.key}: " + "  ".join(f"{name} {value:.1f}" for name, value in self.metrics.items())
