"""Writes one tar shard with its index."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simvtp.data.clips import Clip
from simvtp.data.prepare.transcode import Steps, Transcoded, TranscodeTarget, UnusableVideo
from simvtp.data.shards import FORMAT, RAW_ENDING
from simvtp.data.video.decode_workers import DecodeWatchdog
from simvtp.runs.atomic_files import write_atomically

Encode = Callable[[Path, TranscodeTarget, float | None, float | None], Steps]

NAME_LENGTH = 60  # of an id inside a key


@dataclass(frozen=True)
class PlannedShard:
    """One shard before it is made.

    Attributes:
        clips: (index in the manifest, clip).
    """

    name: str
    clips: tuple[tuple[int, Clip], ...]


@dataclass(frozen=True)
class ShardJob:
    """A shard that is to be made.

    Attributes:
        fatal: clips (by index in the shard) that ended a worker, with the reason.
    """

    shard: PlannedShard
    fatal: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardWriter:
    """The task of a worker that makes shards. Picklable."""

    folder: Path
    target: TranscodeTarget
    encode: Encode

    def __call__(self, job: ShardJob, watchdog: DecodeWatchdog) -> int:
        """Writes the shard and its index; returns the number of clips in it."""
        shard = job.shard
        tar = self.folder / f"{shard.name}.tar"
        part = self.folder / f".{shard.name}.tar.{os.getpid()}.part"
        ending = RAW_ENDING if self.target.store == "raw" else ".mp4"
        entries: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        with open(part, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for index, (number, clip) in enumerate(shard.clips):
                    try:
                        if index in job.fatal:
                            raise UnusableVideo("decoder", job.fatal[index])
                        made = self._encoded(index, clip, watchdog)
                        entries.append(_add(archive, number, clip, made, ending))
                    except UnusableVideo as error:
                        about = {"number": number, "id": clip.id}
                        failed.append({**about, "kind": error.kind, "reason": error.reason})
            file.flush()
        content = {
            "format": FORMAT,
            "shard": tar.name,
            "bytes": part.stat().st_size,
            "clips": entries,
            "failed": failed,
        }
        _durable(part, tar)
        write_atomically(self.folder / f"{shard.name}.json", json.dumps(content))
        return len(entries)

    def _encoded(self, index: int, clip: Clip, watchdog: DecodeWatchdog) -> Transcoded:
        """Returns the small clip; the watchdog sees each stretch of the work."""
        steps = self.encode(clip.path, self.target, clip.start_s, clip.end_s)
        while True:
            with watchdog.decoding(index):
                try:
                    next(steps)
                except StopIteration as end:
                    made: Transcoded = end.value
                    return made


def key_of(number: int, name: str) -> str:
    """Returns the name of a clip inside its shard.

    It is unique by its number, and ASCII without slash and without dot (which would begin the
    extension).
    """
    return f"{number:08d}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:NAME_LENGTH]}"


def _add(
    archive: tarfile.TarFile, number: int, clip: Clip, made: Transcoded, ending: str
) -> dict[str, Any]:
    """Appends the video and its text; returns the entry of the index."""
    key = key_of(number, clip.id)
    about = {"id": clip.id, "captions": clip.captions, "split": clip.split}
    part: dict[str, Any] = {}
    if clip.start_s is not None or clip.end_s is not None:
        part = {"start_s": clip.start_s, "end_s": clip.end_s}
    video = {"frames": made.frames, "fps": made.fps, "height": made.height, "width": made.width}
    text = json.dumps({**about, **part, **video}).encode()
    return {
        "key": key,
        "number": number,
        **about,
        **part,
        "video": {**_append(archive, key + ending, made.content), **video},
        "text": _append(archive, f"{key}.json", text),
    }


def _append(archive: tarfile.TarFile, name: str, content: bytes) -> dict[str, Any]:
    header = tarfile.TarInfo(name)  # time 0, user 0: equal clips give equal bytes
    header.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(header, io.BytesIO(content))
    return {
        "name": name,
        "offset": offset,
        "length": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _durable(part: Path, final: Path) -> None:
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, final)
