"""Clips that do not decode: counts them, logs each once, ends the run when they are too many."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simvtp.config.data_config import DataConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.chunk_pipeline import ClipFailure
from simvtp.errors import DataError

log = logging.getLogger(__name__)

JUDGED_FROM = 100  # clips seen before the fraction of corrupt ones is judged


@dataclass
class Counters:
    """Counters of a loader in this process.

    Attributes:
        replaced: samples replaced by another clip.
        corrupt: distinct clips that do not decode.
        wait_s: time that the main process waited for data.
    """

    replaced: int = 0
    corrupt: int = 0
    wait_s: float = 0.0

    def metrics(self) -> dict[str, float]:
        """Returns the counters under the names of their tracked metrics."""
        return {
            "data/replaced": float(self.replaced),
            "data/corrupt": float(self.corrupt),
            "data/wait_s": self.wait_s,
        }


@dataclass
class CorruptClips:
    """Counts corrupt clips, logs each once, and ends the run when there are too many.

    Attributes:
        judged_from: clips that must have been seen before their fraction is judged.
    """

    clips: Sequence[Clip]
    data: DataConfig
    judged_from: int
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._reasons: dict[int, str] = {}
        self._seen = np.zeros(len(self.clips), bool)

    @property
    def reasons(self) -> Mapping[int, str]:
        """Reasons why clips cannot be used, by their number."""
        return self._reasons

    def record(self, seen: np.ndarray, failures: Sequence[ClipFailure]) -> None:
        """Records clips that were read and those that do not decode.

        Raises:
            DataError: a clip is corrupt and data.on_corrupt=raise, or too many are.
        """
        self._seen[seen] = True
        for failure in failures:
            self._seen[failure.clip] = True
            if failure.clip in self._reasons:
                continue
            if self.data.on_corrupt == "raise":
                raise DataError(
                    f"{failure.reason} Remove it from the manifest, or set data.on_corrupt=replace."
                )
            self._reasons[failure.clip] = failure.reason
            self.counters.corrupt += 1
            log.warning("clip %s cannot be used: %s", self.clips[failure.clip].id, failure.reason)
        seen_count, corrupt = int(self._seen.sum()), len(self._reasons)
        # A quotient of whole numbers is rounded like the limit, so 29 of 100 do not exceed 0.29.
        exceeds = seen_count > 0 and corrupt / seen_count > self.data.max_corrupt_ratio
        if seen_count >= self.judged_from and exceeds:
            raise DataError(
                f"{corrupt} of the {seen_count} clips seen so far do not decode, more than "
                f"data.max_corrupt_ratio={self.data.max_corrupt_ratio:g} allows; the first: "
                f"{next(iter(self._reasons.values()))} "
                "See them all with `python -m simvtp data check MANIFEST`."
            )
