"""Proof that the files of the embedded data set are complete: size and CRC-32 of each.

`checksums.json` is written last. A file that differs from its entry is damaged (a power failure or
a full disk can leave zeros under the right name); a file without an entry is unproven: it was made
by a process that was killed, or by a version that wrote no checksums.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from simvtp.data.progress import CancelCheck
from simvtp.errors import DataError

CHECKSUMS = "checksums.json"
FORMAT = 1


def damaged_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns {name: reason} of the files that are not proven complete.

    The reason is "missing", "damaged" or "unproven".

    Args:
        names: files, relative to the folder.
    """
    known = _read(folder / CHECKSUMS)
    reasons = {}
    for name in names:
        try:
            content = (folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            reasons[name] = "missing"
            continue
        if name not in known:
            reasons[name] = "unproven"
        elif known[name] != [len(content), zlib.crc32(content)]:
            reasons[name] = "damaged"
    return reasons


def write_checksums(folder: Path, names: Sequence[str]) -> None:
    """Writes the checksums of the files.

    The files need no flush to disk: the next check finds what a power failure took from them.
    """
    files = {}
    for name in names:
        content = (folder / name).read_bytes()
        files[name] = [len(content), zlib.crc32(content)]
    write_durably(folder / CHECKSUMS, json.dumps({"format": FORMAT, "files": files}, indent=0))


def write_durably(path: Path, text: str) -> None:
    """Writes a temporary file, flushes it to disk and renames it; the file is whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, list[int]]:
    """Returns the entries of a checksum file; none if it is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            return {}
        return {str(name): [int(size), int(crc)] for name, (size, crc) in content["files"].items()}
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def undecodable_clips(
    folder: Path, names: Iterable[str], frames: int, check: CancelCheck
) -> set[str]:
    """Returns the clips that do not decode to `frames` frames; other files count as such."""
    bad = set()
    for name in names:
        check()
        if not name.endswith(".mp4") or not _decodes(folder / name, frames):
            bad.add(name)
    return bad


def _decodes(path: Path, frames: int) -> bool:
    # They import torch, which the processes that only draw clips need not wait for.
    from simvtp.data.video.pyav_reader import PyavReader
    from simvtp.data.video.readers import probe, read_frames

    reader = PyavReader()
    try:
        read_frames(path, range(frames), reader)
        return probe(path, reader).frames == frames
    except DataError:
        return False
