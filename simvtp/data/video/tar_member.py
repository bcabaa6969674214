"""Reads videos that lie inside tar shards by names like those of files.

`train-000003.tar#1536+20480:9f86d081884c7d65` says where the bytes are (from byte 1536, 20480 of
them) and how their sha256 begins. So a clip of a shard goes wherever a path goes, is read by
`pread` without unpacking anything, and bytes that changed since are noticed before a decoder makes
frames of them. Shards that others made have no digest in their names.

`train-000003.tar#frames=120+34:9f86d081884c7d65` names 34 pictures that are a clip: those of the
records 120 to 153 in the file `train-000003.frames`, which say where each lies and what its sha256
is; the digits are those of the records.

A name that ends in `@250x256x340` is that of raw pixels: 250 frames of 256 x 340, RGB, uint8. Of
these only the wanted frames are read, so their checksum is compared when the whole clip is looked
at (`data check`), not at each read.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from simvtp.errors import DataError
from simvtp.runs.atomic_files import retry_io

# Seconds for which a file system that fails is asked again; below runtime.decode_timeout_s.
READ_AGAIN_S = 10.0
DIGITS = 16  # of the sha256 (as in MEMBER): a change goes unnoticed once in 2**64
MEMBER = re.compile(
    r"(?P<shard>.+\.tar)#(?P<offset>\d+)\+(?P<length>\d+)(?::(?P<digest>[0-9a-f]{16}))?"
    r"(?:@(?P<frames>\d+)x(?P<height>\d+)x(?P<width>\d+))?",
    re.DOTALL,
)
FRAMES = re.compile(
    r"(?P<shard>.+\.tar)#frames=(?P<first>\d+)\+(?P<count>\d+):(?P<digest>[0-9a-f]{16})", re.DOTALL
)
FRAME_RECORD = struct.Struct(">QQ32s")  # of a picture: first byte, length, sha256
FRAMES_ENDING = ".frames"  # of the file of these records, next to its tar file
Shape = tuple[int, int, int]  # frames, height, width


def member_path(
    shard: Path, offset: int, length: int, sha256: str, raw: Shape | None = None
) -> Path:
    """Returns the name of the bytes [offset, offset + length) of a shard.

    Args:
        shard: the tar file.
        offset: of the first byte.
        length: in bytes.
        sha256: of the bytes; empty = unknown, they are not compared.
        raw: they are pixels of that shape.
    """
    shape = f"@{raw[0]}x{raw[1]}x{raw[2]}" if raw else ""
    digest = f":{sha256[:DIGITS]}" if sha256 else ""
    return shard.with_name(f"{shard.name}#{offset}+{length}{digest}{shape}")


def file_of(path: Path) -> Path:
    """Returns the file on disk that holds a video: the shard of a member, else the path itself."""
    found = MEMBER.fullmatch(str(path)) or FRAMES.fullmatch(str(path))
    return Path(found["shard"]) if found else path


def member_bytes(path: Path) -> io.BytesIO | None:
    """Returns the content of a member, or None if `path` names an ordinary file.

    Raises:
        DataError: the shard is not there, too short, or its bytes are not those that were written.
    """
    found = MEMBER.fullmatch(str(path))
    if found is None:
        return None
    content = _bytes(path, found, 0, int(found["length"]))
    if not hashlib.sha256(content).hexdigest().startswith(found["digest"] or ""):
        raise DataError(
            f"{path} does not decode (its bytes are not those that were written: another checksum)."
        )
    return io.BytesIO(content)


def member_part(path: Path, first: int, end: int) -> bytes:
    """Returns the bytes [first, end) of a member whose checksum was compared before.

    Errors are those of `member_bytes`.
    """
    found = MEMBER.fullmatch(str(path))
    if found is None or not 0 <= first <= end <= int(found["length"]):
        raise DataError(f"{path} does not decode (it has no bytes {first} to {end}).")
    return _bytes(path, found, first, end)


def _bytes(path: Path, found: re.Match[str], first: int, end: int) -> bytes:
    shard = Path(found["shard"])

    def read() -> bytes:
        with open(shard, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - first, int(found["offset"]) + first)

    try:
        content = retry_io(read, shard, READ_AGAIN_S)
    except OSError as error:
        raise DataError(f"{path} does not decode (its shard: {error.strerror or error}).") from None
    if len(content) != end - first:
        raise DataError(
            f"{path} does not decode (its shard ends after {len(content)} of {end - first} bytes)."
        )
    return content


@dataclass(frozen=True)
class RawClip:
    """Uncompressed frames inside a shard.

    They are read by `pread`: a file that became shorter is an error here, while a memory map would
    end the process.

    Attributes:
        digest: how the sha256 begins.
    """

    shard: Path
    offset: int
    frames: int
    height: int
    width: int
    digest: str

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]; frames that follow each other are read at once."""
        if indices and not 0 <= min(indices) <= max(indices) < self.frames:
            raise DataError(
                f"{self.shard} does not decode (frame {max(indices)} of {self.frames})."
            )
        size = self.height * self.width * 3
        out = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        rows = out.reshape(-1).data

        def read() -> None:
            first = 0
            with open(self.shard, "rb", buffering=0) as file:
                while first < len(indices):
                    last = first + 1
                    while last < len(indices) and indices[last] == indices[last - 1] + 1:
                        last += 1
                    self._fill(
                        file.fileno(),
                        rows[first * size : last * size],
                        self.offset + indices[first] * size,
                    )
                    first = last

        try:
            retry_io(read, self.shard, READ_AGAIN_S)
        except OSError as error:
            raise DataError(f"{self.shard} does not decode ({error.strerror or error}).") from None
        return out

    def _fill(self, file: int, target: memoryview, offset: int) -> None:
        done = 0
        while done < len(target):  # one call gives 2 GiB at most
            got = os.preadv(file, [target[done:]], offset + done)
            if not got:
                raise DataError(
                    f"{self.shard} does not decode (it ends before byte {offset + done}, "
                    "where a frame lies)."
                )
            done += got

    def verify(self) -> None:
        """Raises DataError if the bytes are not those that were written."""
        sha = hashlib.sha256()
        for first in range(0, self.frames, 64):
            sha.update(self.read(range(first, min(first + 64, self.frames))).data)
        if not sha.hexdigest().startswith(self.digest):
            raise DataError(
                f"{self.shard} does not decode (its bytes are not those that were written: "
                "another checksum)."
            )


def raw_clip(path: Path) -> RawClip | None:
    """Returns the uncompressed frames that `path` names, or None."""
    found = MEMBER.fullmatch(str(path))
    if found is None or found["frames"] is None:
        return None
    frames, height, width = (int(found[name]) for name in ("frames", "height", "width"))
    return RawClip(
        Path(found["shard"]), int(found["offset"]), frames, height, width, found["digest"]
    )


def frames_path(shard: Path, first: int, count: int, sha256: str) -> Path:
    """Returns the name of `count` pictures of a tar file, which are a clip.

    Args:
        shard: the tar file.
        first: number of the record of the first picture.
        count: number of pictures.
        sha256: of their records.
    """
    return shard.with_name(f"{shard.name}#frames={first}+{count}:{sha256[:DIGITS]}")


class TarFrames(Sequence[Path]):
    """The names of the pictures of a clip inside a tar file, in their order.

    Args:
        path: as `frames_path` gives it.

    Raises:
        DataError: their records are not there, or not those that were written.
    """

    def __init__(self, path: Path) -> None:
        found = FRAMES.fullmatch(str(path))
        if found is None:
            raise DataError(f"{path} does not decode (it names no pictures of a tar file).")
        self._shard = Path(found["shard"])
        self._count, size = int(found["count"]), FRAME_RECORD.size
        file = self._shard.with_suffix(FRAMES_ENDING)
        try:
            with open(file, "rb", buffering=0) as records:
                self._records = os.pread(
                    records.fileno(), self._count * size, int(found["first"]) * size
                )
        except OSError as error:
            raise DataError(
                f"{path} does not decode ({file.name}: {error.strerror or error})."
            ) from None
        if not hashlib.sha256(self._records).hexdigest().startswith(found["digest"]):
            raise DataError(
                f"{path} does not decode (the records in {file.name} are not those that were "
                "written: another checksum)."
            )

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        at = range(self._count)[index] * FRAME_RECORD.size
        offset, length, sha256 = FRAME_RECORD.unpack_from(self._records, at)
        return member_path(self._shard, offset, length, sha256.hex())


def is_tar_frames(path: Path) -> bool:
    """Returns whether a path names pictures of a tar file that are a clip."""
    return FRAMES.fullmatch(str(path)) is not None
