"""A video that lies inside a tar shard, named like a file: `train-000003.tar#1536+20480:9f86d081884c7d65`.

The name says where its bytes are (from byte 1536, 20480 of them) and how their sha256 begins. So a clip of a shard goes wherever a path
goes, is read by one `pread` without unpacking anything, and bytes that changed since are noticed before a decoder makes frames of them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path

from simvtp.errors import DataError

DIGITS = 16  # of the sha256 (as in MEMBER): a change goes unnoticed once in 2**64
MEMBER = re.compile(r"(?P<shard>.+\.tar)#(?P<offset>\d+)\+(?P<length>\d+):(?P<digest>[0-9a-f]{16})", re.DOTALL)


def member_path(shard: Path, offset: int, length: int, sha256: str) -> Path:
    """The name of the bytes [offset, offset + length) of a shard."""
    return shard.with_name(f"{shard.name}#{offset}+{length}:{sha256[:DIGITS]}")


def file_of(path: Path) -> Path:
    """The file on disk that holds a video: the shard of a member, else the path itself."""
    found = MEMBER.fullmatch(str(path))
    return Path(found["shard"]) if found else path


def member_bytes(path: Path) -> io.BytesIO | None:
    """The content of a member, or None if `path` names an ordinary file.

    Raises:
        DataError: the shard is not there, too short, or its bytes are not those that were written.
    """
    found = MEMBER.fullmatch(str(path))
    if found is None:
        return None
    try:
        with open(found["shard"], "rb", buffering=0) as file:
            content = os.pread(file.fileno(), int(found["length"]), int(found["offset"]))
    except OSError as error:
        raise DataError(f"{path} does not decode (its shard: {error.strerror or error}).") from None
    if len(content) != int(found["length"]):
        raise DataError(f"{path} does not decode (its shard ends after {len(content)} of {found['length']} bytes).")
    if not hashlib.sha256(content).hexdigest().startswith(found["digest"]):
        raise DataError(f"{path} does not decode (its bytes are not those that were written: another checksum).")
    return io.BytesIO(content)
