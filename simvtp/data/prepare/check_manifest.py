"""Check a manifest before a long run meets its faults: decode every frame of every clip and list
what is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simvtp.data.loading.decode_workers import DecodeWatchdog, WorkerDied, map_in_workers
from simvtp.data.manifest import read_manifest
from simvtp.data.video.readers import fit_short_side, get_reader, probe, read_frames
from simvtp.data.video.tar_member import file_of
from simvtp.data.video.video_reader import Reader, VideoInfo
from simvtp.errors import DataError

CHECKED_SIDE = 64  # frames are looked at this small, so that a long film fits in memory
CHECKED_AT_ONCE = 512  # frames
SAY_EVERY_S = 2.0


@dataclass(frozen=True)
class CheckReport:
    """What `check_manifest` found. Each fault is a line of text that names the clip."""

    manifest: Path
    videos: int
    captions: int
    missing: tuple[str, ...]  # no such file
    corrupt: tuple[str, ...]  # does not decode to its end
    short: tuple[str, ...]  # decodes, but has fewer frames than asked for
    uncaptioned: tuple[str, ...]  # ids without any caption
    duplicated: tuple[str, ...]  # ids that stand for several paths or splits
    empty_captions: int = 0  # rows without a caption, of videos that may have others

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        return {
            "missing": self.missing,
            "corrupt": self.corrupt,
            "too short": self.short,
            "uncaptioned": self.uncaptioned,
            "duplicated id": self.duplicated,
        }

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.faults.values()) and not self.empty_captions

    def lines(self) -> list[str]:
        """The report as text: every fault, then the counts."""
        listed = [f"{kind}: {entry}" for kind, entries in self.faults.items() for entry in entries]
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in self.faults.items())
        rows = f", {self.empty_captions} rows without a caption" if self.empty_captions else ""
        verdict = "all is well" if self.ok else counts + rows
        return [
            *listed,
            f"{self.manifest}: {self.videos} videos, {self.captions} captions: {verdict}",
        ]


@dataclass(frozen=True)
class _CheckTask:
    paths: tuple[Path, ...]
    reader: Reader

    def __call__(self, clip: int, watchdog: DecodeWatchdog) -> VideoInfo | str:
        """What the clip holds, or why it does not decode."""
        path = self.paths[clip]
        try:
            with watchdog.decoding(clip):
                info = probe(path, self.reader)
            size = fit_short_side(info.height, info.width, CHECKED_SIDE)
            for first in range(0, info.frames, CHECKED_AT_ONCE):
                with watchdog.decoding(clip):
                    read_frames(
                        path,
                        range(first, min(first + CHECKED_AT_ONCE, info.frames)),
                        self.reader,
                        size,
                    )
        except DataError as error:
            return str(error)
        return info


def check_manifest(
    path: Path | str,
    reader: str | Reader = "fast",
    timeout: float = 30.0,
    workers: int = 2,
    frames: int = 16,
    say: Callable[[str], None] = print,
) -> CheckReport:
    """Decode every clip of a manifest, in worker processes that are ended when one decode hangs.

    Args:
        path: the manifest.
        reader: back-end to decode with, by name.
        timeout: seconds after which a decode (of at most 512 frames) counts as hanging.
        workers: processes; 0 = this one, without a time-out.
        frames: clips with fewer frames are reported as too short.
        say: takes progress and, at the end, the report, line by line.

    Raises:
        DataError: the manifest itself cannot be read.
    """
    manifest = read_manifest(path, collect_conflicts=True)
    clips = manifest.clips
    missing = [number for number, clip in enumerate(clips) if not file_of(clip.path).is_file()]
    there = [number for number in range(len(clips)) if number not in set(missing)]
    say(f"checking {len(there)} clips of {manifest.path}")
    answers = decode_all([clips[number].path for number in there], reader, timeout, workers, say)
    corrupt: dict[int, str] = {}
    short: dict[int, str] = {}
    for number, answer in answers.items():
        clip = clips[there[number]]
        if isinstance(answer, str):
            corrupt[number] = f"{clip.id}: {answer}"
        elif answer.frames < frames:
            short[number] = (
                f"{clip.id}: {clip.path} has {answer.frames} frames, fewer than {frames}."
            )
    report = CheckReport(
        manifest=manifest.path,
        videos=len(clips) + len(manifest.uncaptioned),
        captions=sum(len(clip.captions) for clip in clips),
        missing=tuple(f"{clips[number].id}: {clips[number].path}" for number in missing),
        corrupt=_in_order(corrupt),
        short=_in_order(short),
        uncaptioned=manifest.uncaptioned,
        duplicated=manifest.conflicts,
        empty_captions=manifest.empty_captions,
    )
    for line in report.lines():
        say(line)
    return report


def decode_all(
    paths: Sequence[Path],
    reader: str | Reader,
    timeout: float,
    workers: int,
    say: Callable[[str], None],
) -> dict[int, VideoInfo | str]:
    """What each file holds, or why it does not decode to its end; by its number in `paths`.
    Arguments as for `check_manifest`.
    """
    task = _CheckTask(tuple(paths), get_reader(reader) if isinstance(reader, str) else reader)
    answers: dict[int, VideoInfo | str] = {}
    for number, answer in _with_progress(task, len(paths), workers, timeout, say):
        if isinstance(answer, WorkerDied):
            answer = f"{paths[number]} does not decode ({answer.reason})."
        answers[number] = answer
    return answers


def _in_order(entries: dict[int, str]) -> tuple[str, ...]:
    return tuple(entries[number] for number in sorted(entries))


def _with_progress(
    task: _CheckTask, count: int, workers: int, timeout: float, say: Callable[[str], None]
) -> Sequence[tuple[int, VideoInfo | str | WorkerDied]]:
    answers = []
    began = last = time.monotonic()
    for done, answer in enumerate(map_in_workers(task, range(count), workers, timeout), start=1):
        answers.append(answer)
        if time.monotonic() - last > SAY_EVERY_S:
            last = time.monotonic()
            say(
                f"{done} of {count} clips, {done / (last - began):.1f} a second, {(count - done) * (last - began) / done:.0f} s left"
            )
    return answers
