"""Columns that were built once, in the cache folder: found by what they were built of, and whole.

A file of columns lies next to a note with its checksums and the facts about its table; the note is
written last. Files appear by a rename after they are on disk, so a build that was killed leaves
nothing that counts; of several processes one builds and the others wait, and where locks do not
work, each builds the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from simvtp.data.clips import FileProof, MappedFile
from simvtp.data.manifest.content_digest import FileState
from simvtp.data.progress import CancelCheck, wait_for_lock
from simvtp.errors import UserError
from simvtp.runs.atomic_files import read_json_or_none, write_atomically


@dataclass(frozen=True)
class CachedColumns:
    """A file of columns in the cache.

    Attributes:
        path: of the file.
        proof: what it is known by.
        facts: about its table, as they were stored.
    """

    path: Path
    proof: FileProof
    facts: dict[str, Any]


# Writes columns into the file; may keep others in the folder meanwhile. Returns proof and facts.
Build = Callable[[IO[bytes], Path], tuple[FileProof, dict[str, Any]]]


def cached_columns(folder: Path, key: str, build: Build, check: CancelCheck) -> CachedColumns:
    """Returns the columns of a key; builds them if they are not there, or not whole.

    Args:
        folder: of the cache; created.
        key: name of the columns.
        build: makes them.
        check: called while another process builds them; may raise to end the wait.

    Raises:
        UserError: the folder cannot be written.
        DataError: whatever `build` raises.
    """
    found = _whole(folder, key)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{key}.lock", check):
            return _whole(folder, key) or _built(folder, key, build)
    except OSError as error:
        raise UserError(
            f"cannot keep the columns of a manifest in {folder}: {error.strerror or error}; free "
            "some space, or set runtime.cache (or SIMVTP_CACHE) to another folder."
        ) from error


@contextlib.contextmanager
def _locked(path: Path, check: CancelCheck) -> Iterator[None]:
    with open(path, "w") as file:
        wait_for_lock(file, check)
        yield


def _built(folder: Path, key: str, build: Build) -> CachedColumns:
    for left in folder.glob(f".{key}.*"):  # of builds that were killed: the lock is ours
        left.unlink(missing_ok=True)
    path = folder / f"{key}.arrow"
    number, name = tempfile.mkstemp(dir=folder, prefix=f".{key}.")
    part = Path(name)
    try:
        with open(number, "wb") as file:
            proof, facts = build(file, part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    found = CachedColumns(path, proof, facts)
    _write_note(folder, key, found)
    return found


def _write_note(folder: Path, key: str, found: CachedColumns) -> None:
    content = {
        "state": asdict(FileState.of(found.path)),
        "proof": asdict(found.proof),
        "facts": found.facts,
    }
    text = json.dumps(content)
    whole = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text}
    write_atomically(folder / f"{key}.json", json.dumps(whole))


def _whole(folder: Path, key: str) -> CachedColumns | None:
    """Returns columns that are there and whole.

    A file whose size, times and inode are those of when it was proven is not read again.
    """
    path = folder / f"{key}.arrow"
    note = read_json_or_none(folder / f"{key}.json", dict) or {}
    text = note.get("content")
    if not isinstance(text, str) or not path.is_file():
        return None
    if hashlib.sha256(text.encode()).hexdigest() != note.get("sha256"):
        return None
    content = json.loads(text)
    proof = content["proof"]
    found = CachedColumns(
        path,
        FileProof(
            proof["rows"], proof["block_rows"], tuple(proof["ends"]), tuple(proof["checksums"])
        ),
        content["facts"],
    )
    if content["state"] == asdict(FileState.of(path)):
        return found
    if not path.stat().st_size or not found.proof.holds(MappedFile(path)):
        return None
    with contextlib.suppress(UserError):  # it only saves time
        _write_note(folder, key, found)
    return found
