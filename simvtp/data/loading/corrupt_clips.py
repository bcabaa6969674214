"""Clips that do not decode: counted, logged once each, and a reason to stop when there are too
many.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from simvtp.config.schema import DataConfig
from simvtp.data.clips import Clip
from simvtp.errors import DataError

log = logging.getLogger(__name__)

JUDGED_FROM = 100  # clips seen before the share of corrupt ones is judged


@dataclass
class Counters:
    """What the loader noticed so far, in this process."""

    replaced: int = 0  # samples for which another clip had to step in
    corrupt: int = 0  # distinct clips that do not decode
    wait_s: float = 0.0  # time the main process waited for data

    def metrics(self) -> dict[str, float]:
        return {
            "data/replaced": float(self.replaced),
            "data/corrupt": float(self.corrupt),
            "data/wait_s": self.wait_s,
        }


@dataclass
class Health:
    """Counts corrupt clips, logs each once, and stops the run when there are too many."""

    clips: Sequence[Clip]
    data: DataConfig
    judged_from: int
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._corrupt: dict[int, str] = {}
        self._seen = np.zeros(len(self.clips), bool)

    def note(self, seen: np.ndarray, failures: Sequence[tuple[int, str]]) -> None:
        """Take notice of clips that were asked for and of failures (clip, reason); raises DataError
        if it is too much.
        """
        self._seen[seen] = True
        for clip, reason in failures:
            self._seen[clip] = True
            if clip in self._corrupt:
                continue
            if self.data.on_corrupt == "raise":
                raise DataError(
                    f"{reason} Remove it from the manifest, or set data.on_corrupt=replace."
                )
            self._corrupt[clip] = reason
            self.counters.corrupt += 1
            log.warning("clip %s is replaced: %s", self.clips[clip].id, reason)
        looked_at = int(self._seen.sum())
        if (
            looked_at >= self.judged_from
            and len(self._corrupt) > self.data.max_corrupt_share * looked_at
        ):
            raise DataError(
                f"{len(self._corrupt)} of the {looked_at} clips seen so far do not decode, more than data.max_corrupt_share="
                f"{self.data.max_corrupt_share:g} allows; the first: {next(iter(self._corrupt.values()))} "
                "See them all with `python -m simvtp data check MANIFEST`."
            )
