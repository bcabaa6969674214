"""The sha256 of a file, remembered for large files, so that each start does not read them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from simvtp.errors import DataError, UserError
from simvtp.runs.atomic_files import read_json_or_none, write_atomically

SMALL_BYTES = 2**22  # files up to this size are read each time
# A file that changed so shortly before it was read may change again without another time stamp.
SETTLED_S = 2.0
FOLDER = "manifests"
ATTEMPTS = 3


@dataclass(frozen=True)
class FileState:
    """Size and times of a file, and which file it is: what changes when it is written to."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Returns the state of a file; OSError if there is none."""
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def default_cache() -> Path:
    """Returns the folder of generated data: $SIMVTP_CACHE, else one in the user's cache folder."""
    if os.environ.get("SIMVTP_CACHE"):
        return Path(os.environ["SIMVTP_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "simvtp"


def content_digest(path: Path, cache: Path | None = None) -> str:
    """Returns the sha256 of a file's content.

    That of a large file is noted in the cache, and believed as long as size, times and inode of the
    file are those of then.

    Args:
        path: the file.
        cache: folder of generated data; None: the default one. If it cannot be written, the file is
            read each time.

    Raises:
        DataError: the file cannot be read, or changes all the time.
    """
    try:
        before = FileState.of(path)
        if before.size <= SMALL_BYTES:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        note = (cache or default_cache()) / FOLDER / f"{name}.digest.json"
        known = read_json_or_none(note, dict) or {}
        digest = known.get("sha256")
        if known.get("state") == asdict(before) and isinstance(digest, str):
            return digest
        began = time.time()
        digest, state = _digest(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    if max(state.mtime_ns, state.ctime_ns) < (began - SETTLED_S) * 1e9:
        with contextlib.suppress(UserError):  # it only saves time
            write_atomically(note, json.dumps({"sha256": digest, "state": asdict(state)}))
    return digest


def _digest(path: Path) -> tuple[str, FileState]:
    for _ in range(ATTEMPTS):
        before = FileState.of(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if FileState.of(path) == before:
            return digest, before
    raise DataError(f"{path} changes while it is being read; wait until it is complete.")
