"""Collects the moments of a grounding benchmark.

Unusable moments are counted and reported, never dropped silently.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from simvtp.data.benchmarks import annotation_files
from simvtp.data.benchmarks.records import Benchmark, Moment, Span

ROUNDING_S = 0.01  # times are given in hundredths of a second


class MomentCollector:
    """Collects moments as they are read.

    A span that reaches beyond the video is clipped at its end. A span that ends before it starts,
    or starts after the video ends, cannot be found by any model and is left out (as in the
    published code for these files). Both are counted in the notes.
    """

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.videos: defaultdict[str, dict[str, None]] = defaultdict(
            dict
        )  # by split, in the order of the file
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._read: Counter[str] = Counter()
        self._cut: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def add(
        self,
        split: str,
        video: str,
        sentence: str,
        start_s: float,
        end_s: float,
        duration_s: float | None,
    ) -> None:
        self._read[split] += 1
        self.videos[split].setdefault(video)
        number = self._numbers[split, video]
        self._numbers[split, video] += 1
        if duration_s is not None and end_s > duration_s:
            self._cut[split] += end_s > duration_s + ROUNDING_S
            end_s = duration_s
        start_s = max(start_s, 0.0)
        if end_s <= start_s or not sentence.strip():
            self._left_out[split] += 1
            return
        self.moments.append(
            Moment(
                f"{split}:{video}#{number}",
                video,
                sentence.strip(),
                Span(start_s, end_s),
                duration_s,
                split,
            )
        )

    def benchmark(
        self, name: str, protocol: str, videos: Mapping[str, Path], notes: tuple[str, ...] = ()
    ) -> Benchmark:
        """Returns all that was collected; some training videos become val if there is none."""
        said = list(notes)
        for split in self._read:
            if self._left_out[split]:
                said.append(
                    f"{split}: {self._left_out[split]} of {self._read[split]} sentences left out "
                    "(no span of positive length, or no words)"
                )
            if self._cut[split]:
                said.append(
                    f"{split}: {self._cut[split]} of {self._read[split]} spans reach beyond the "
                    "video and are cut at its end"
                )
        moments = tuple(self.moments)
        if "val" not in self._read:
            train = list(self.videos["train"])
            held = annotation_files.hold_out(train)
            moments = tuple(
                replace(m, split="val") if m.split == "train" and m.video in held else m
                for m in moments
            )
            said.append(annotation_files.held_out_note(len(held), len(train)))
        return Benchmark(
            name,
            "grounding",
            protocol,
            videos,
            moments=moments,
            notes=tuple(said),
            read=dict(self._read),
        )
