"""Checks a manifest before a long run meets its faults: decodes every frame of every clip."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simvtp.console import printable
from simvtp.data.clips import Clip, Manifest, TableRows
from simvtp.data.manifest import files_in_several_splits, read_manifest
from simvtp.data.manifest.manifest_reader import MAX_PLACEHOLDER_RATIO
from simvtp.data.manifest.splits import file_key
from simvtp.data.video.decode_workers import DecodeWatchdog, WorkerDied, map_in_workers
from simvtp.data.video.frame_folder import video_exists
from simvtp.data.video.readers import (
    fit_short_side,
    get_reader,
    part_range,
    probe,
    read_frames,
    scan_film,
)
from simvtp.data.video.tar_member import file_of
from simvtp.data.video.video_reader import Reader, VideoInfo
from simvtp.errors import DataError

CHECKED_SIDE = 64  # frames are looked at this small, so that a long film fits in memory
CHECKED_AT_ONCE = 512  # frames between two looks at the clock
SOUGHT = 3  # frames of a film that are also looked for by seeking
LOG_EVERY_S = 2.0
HASHED_AT_ONCE = 2**22  # bytes

Part = tuple[float | None, float | None]


@dataclass(frozen=True)
class CheckReport:
    """The faults that `check_manifest` found. Each is a line of text that names the clip.

    Attributes:
        missing: no such file.
        corrupt: does not decode to its end, or gives other frames when they are sought.
        short: decodes, but has fewer frames than asked for.
        uncaptioned: ids without any caption.
        duplicated: ids that stand for several paths or splits.
        outside: parts that begin behind the end of their film.
        shared: files that are in several splits.
        empty_captions: rows without a caption, of videos that may have others.
        rows: of the table, read and used; None for shards.
        same_content: files with the same bytes under several paths (no fault by itself).
    """

    manifest: Path
    videos: int
    captions: int
    missing: tuple[str, ...]
    corrupt: tuple[str, ...]
    short: tuple[str, ...]
    uncaptioned: tuple[str, ...]
    duplicated: tuple[str, ...]
    outside: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    empty_captions: int = 0
    rows: TableRows | None = None
    same_content: tuple[str, ...] = ()

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        always = {
            "missing": self.missing,
            "corrupt": self.corrupt,
            "too short": self.short,
            "uncaptioned": self.uncaptioned,
            "duplicated id": self.duplicated,
        }
        rarely = {"part behind the end": self.outside, "in several splits": self.shared}
        return {**always, **{kind: entries for kind, entries in rarely.items() if entries}}

    @property
    def placeholders(self) -> Mapping[str, int]:
        """Returns captions that say nothing, with their numbers of rows."""
        return self.rows.placeholders if self.rows else {}

    @property
    def ok(self) -> bool:
        """Returns whether nothing is wrong."""
        return not any(self.faults.values()) and not self.empty_captions and not self.placeholders

    def lines(self) -> list[str]:
        """Returns the report as text: every fault, then the counts."""
        listed = [f"{kind}: {entry}" for kind, entries in self.faults.items() for entry in entries]
        notes = [f"the same bytes: {entry}" for entry in self.same_content]
        if self.placeholders:
            named = ", ".join(f"'{text}' {count}" for text, count in self.placeholders.items())
            notes.append(f"captions that say nothing: {named}")
        if self.rows:
            left_out = self.rows.read - self.rows.used
            notes.append(f"{self.rows.read} rows read, {self.rows.used} used, {left_out} left out")
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in self.faults.items())
        rows = f", {self.empty_captions} rows without a caption" if self.empty_captions else ""
        silent = sum(self.placeholders.values())
        rows += f", {silent} captions that say nothing" if silent else ""
        verdict = "all is well" if self.ok else counts + rows
        summary = f"{self.manifest}: {self.videos} videos, {self.captions} captions: {verdict}"
        return [*listed, *notes, summary]


@dataclass(frozen=True)
class CheckedFilm:
    """A film that decodes to its end.

    Attributes:
        frames: of the part that is meant.
        outside: why there is no such part; empty if there is.
    """

    info: VideoInfo
    frames: int
    outside: str = ""


@dataclass(frozen=True)
class _CheckTask:
    paths: tuple[Path, ...]
    parts: tuple[Part, ...]
    reader: Reader

    def __call__(self, clip: int, watchdog: DecodeWatchdog) -> CheckedFilm | str:
        """Returns the film, or why it does not decode."""
        path = self.paths[clip]
        try:
            with watchdog.decoding(clip):
                info = probe(path, self.reader)
            self._decode(clip, info, watchdog)
            with watchdog.decoding(clip):
                info = probe(path, self.reader)  # a table that was contradicted has been replaced
                return self._part(clip, info)
        except DataError as error:
            return str(error)

    def _decode(self, clip: int, info: VideoInfo, watchdog: DecodeWatchdog) -> None:
        """Decodes each frame once; a few are compared with the same ones found by seeking."""
        path, size = self.paths[clip], fit_short_side(info.height, info.width, CHECKED_SIDE)
        sought = {info.frames * (2 * n + 1) // (2 * SOUGHT) for n in range(SOUGHT)}
        found: dict[int, np.ndarray] = {}
        frames = scan_film(path, self.reader, size, info.frames)
        while True:
            with watchdog.decoding(clip):
                for _ in range(CHECKED_AT_ONCE):
                    item = next(frames, None)
                    if item is None:
                        break
                    if item[0] in sought:
                        found[item[0]] = item[1].copy()
            if item is None:
                break
        for position, pixels in found.items():
            with watchdog.decoding(clip):
                (again,) = read_frames(path, [position], self.reader, size)
            if not np.array_equal(again, pixels) and self.reader.name == "fast":
                raise DataError(f"{path} gives another frame {position} when it is sought.")

    def _part(self, clip: int, info: VideoInfo) -> CheckedFilm:
        try:
            first, last = part_range(self.paths[clip], self.reader, info, *self.parts[clip])
        except DataError as error:
            return CheckedFilm(info, 0, str(error))
        return CheckedFilm(info, last - first)


def check_manifest(
    path: Path | str,
    reader: str | Reader = "fast",
    timeout: float = 30.0,
    workers: int = 2,
    frames: int = 16,
    say: Callable[[str], None] = print,
    max_placeholder_ratio: float = MAX_PLACEHOLDER_RATIO,
) -> CheckReport:
    """Decodes every clip of a manifest, in worker processes that are ended when one decode hangs.

    Args:
        path: the manifest.
        reader: back-end to decode with, by name.
        timeout: seconds after which a decode (of at most 512 frames) counts as hanging.
        workers: processes; 0 = this one, without a time-out.
        frames: clips with fewer frames are reported as too short.
        say: takes progress and, at the end, the report, line by line.
        max_placeholder_ratio: see `read_manifest`.

    Raises:
        DataError: the manifest itself cannot be read.
    """
    manifest = read_manifest(path, True, max_placeholder_ratio)
    clips = manifest.clips
    missing = {number for number, clip in enumerate(clips) if not video_exists(clip.path)}
    there = [number for number in range(len(clips)) if number not in missing]
    say(f"checking {len(there)} clips of {manifest.path}")
    answers = decode_all(
        [clips[number].path for number in there],
        reader,
        timeout,
        workers,
        say,
        [(clips[number].start_s, clips[number].end_s) for number in there],
    )
    faults = _Faults()
    for number in sorted(answers):
        faults.add(clips[there[number]], answers[number], frames)
    contents = content_digests([clips[number] for number in there])
    report = CheckReport(
        manifest=manifest.path,
        videos=len(clips) + len(manifest.uncaptioned),
        captions=sum(len(clip.captions) for clip in clips),
        missing=tuple(_missing(clips[number]) for number in sorted(missing)),
        corrupt=tuple(faults.corrupt),
        short=tuple(faults.short),
        outside=tuple(faults.outside),
        shared=_shared(manifest, contents),
        uncaptioned=manifest.uncaptioned,
        duplicated=manifest.conflicts,
        empty_captions=manifest.empty_captions,
        rows=manifest.rows,
        same_content=_same_content(contents),
    )
    for line in report.lines():
        say(printable(line))
    return report


@dataclass
class _Faults:
    corrupt: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def add(self, clip: Clip, answer: CheckedFilm | str, frames: int) -> None:
        if isinstance(answer, str):
            self.corrupt.append(f"{clip.id}: {answer}")
        elif answer.outside:
            self.outside.append(f"{clip.id}: {answer.outside}")
        elif answer.frames < frames:
            self.short.append(
                f"{clip.id}: {clip.path} has {answer.frames} frames, fewer than {frames}."
            )


def _missing(clip: Clip) -> str:
    if clip.path.is_dir():
        return f"{clip.id}: {clip.path} (the folder holds no pictures)"
    return f"{clip.id}: {clip.path}"


def content_digests(clips: Sequence[Clip]) -> dict[str, str]:
    """Returns the sha256 of files that are as large as another one, by `file_key`.

    Members of shards and folders of pictures are known by their paths alone.
    """
    by_size: dict[int, dict[str, Path]] = {}
    for clip in clips:
        if file_of(clip.path) == clip.path and clip.path.is_file():
            size = clip.path.stat().st_size
            by_size.setdefault(size, {}).setdefault(file_key(clip), clip.path)
    return {
        key: _sha256(path)
        for files in by_size.values()
        if len(files) > 1
        for key, path in files.items()
    }


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while content := file.read(HASHED_AT_ONCE):
            sha.update(content)
    return sha.hexdigest()


def _same_content(contents: Mapping[str, str]) -> tuple[str, ...]:
    files: dict[str, list[str]] = {}
    for path, digest in contents.items():
        files.setdefault(digest, []).append(path)
    return tuple(" = ".join(paths) for paths in files.values() if len(paths) > 1)


def _shared(manifest: Manifest, contents: Mapping[str, str]) -> tuple[str, ...]:
    shared = files_in_several_splits(manifest.clips, contents)
    return tuple(f"{file} ({', '.join(splits)})" for file, splits in shared.items())


def decode_all(
    paths: Sequence[Path],
    reader: str | Reader,
    timeout: float,
    workers: int,
    say: Callable[[str], None],
    parts: Sequence[Part] = (),
) -> dict[int, CheckedFilm | str]:
    """Returns each film, or why it does not decode to its end, by its index in `paths`.

    Arguments are those of `check_manifest`; `parts` are start and end in seconds.
    """
    found = get_reader(reader) if isinstance(reader, str) else reader
    task = _CheckTask(tuple(paths), tuple(parts) or ((None, None),) * len(paths), found)
    answers: dict[int, CheckedFilm | str] = {}
    for number, answer in _with_progress(task, len(paths), workers, timeout, say):
        if isinstance(answer, WorkerDied):
            answer = f"{paths[number]} does not decode ({answer.reason})."
        answers[number] = answer
    return answers


def _with_progress(
    task: _CheckTask, count: int, workers: int, timeout: float, say: Callable[[str], None]
) -> Iterator[tuple[int, CheckedFilm | str | WorkerDied]]:
    began = last = time.monotonic()
    for done, answer in enumerate(map_in_workers(task, range(count), workers, timeout), start=1):
        yield answer
        if time.monotonic() - last > LOG_EVERY_S:
            last = time.monotonic()
            rate = done / (last - began)
            say(f"{done} of {count} clips, {rate:.1f} a second, {(count - done) / rate:.0f} s left")
