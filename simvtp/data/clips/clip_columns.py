"""Clips as columns: a fraction of the memory of Python objects, and shared by all processes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from simvtp.data.clips.clip_records import Clip
from simvtp.data.clips.column_file import BLOCK_ROWS, ColumnFile, ColumnWriter, FileProof, arrow
from simvtp.data.clips.shared_memory import SharedBytes

SPLIT_NAMES = ("", "train", "val", "test")  # by their codes in a file
MEASURED = ("frames", "fps", "height", "width")


@dataclass(frozen=True)
class ClipFields:
    """Columns that a file of clips has on top of id, place and captions.

    Attributes:
        splits: the split of each clip.
        parts: start and end in seconds.
        positions: a number in [0, 1) that says, with the ratios of the splits, in which split a
            clip is (`simvtp.data.manifest.splits`).
        measured: frames, frames per second, height and width.
    """

    splits: bool = False
    parts: bool = False
    positions: bool = False
    measured: bool = False

    def schema(self) -> Any:
        """Returns Arrow's schema."""
        pa = arrow()
        text = pa.binary()  # UTF-8, and what the names of files may hold that is none
        columns = [("id", text), ("place", text), ("captions", pa.list_(text))]
        columns += [("split", pa.uint8())] if self.splits else []
        columns += [("start_s", pa.float64()), ("end_s", pa.float64())] if self.parts else []
        columns += [("position", pa.float64())] if self.positions else []
        columns += [(name, pa.float64()) for name in MEASURED] if self.measured else []
        return pa.schema(columns)


def encoded(text: str) -> bytes:
    """Returns a text as it lies in a column."""
    return text.encode("utf-8", "surrogatepass")


def decoded(content: bytes) -> str:
    """Returns a text from what lies in a column."""
    return content.decode("utf-8", "surrogatepass")


class ClipWriter:
    """Writes the columns of clips, block by block.

    Args:
        file: open for writing.
        fields: columns that are written.
    """

    def __init__(self, file: IO[bytes], fields: ClipFields, block_rows: int = BLOCK_ROWS) -> None:
        self._columns = ColumnWriter(file, fields.schema(), block_rows)
        self.block_rows = block_rows

    def write(
        self,
        ids: Sequence[str],
        places: Sequence[str],
        captions: Sequence[Sequence[str]],
        more: Mapping[str, Sequence[Any]],
    ) -> None:
        """Appends a block of clips; `more` holds the values of the other columns by name."""
        texts = [list(map(encoded, several)) for several in captions]
        self._columns.write(
            {
                **more,
                "id": list(map(encoded, ids)),
                "place": list(map(encoded, places)),
                "captions": texts,
            }
        )

    def close(self) -> FileProof:
        """Completes the file; returns what it is known by."""
        return self._columns.close()


class ClipColumns:
    """Clips by the number of their row. Picklable, without a copy of what is in it.

    Args:
        file: of columns.
        folder: the folder of a table, to which places are relative; None: places are paths.
    """

    def __init__(self, file: ColumnFile, folder: Path | None = None) -> None:
        self.file, self.folder = file, folder
        self.has_parts = "start_s" in file.names
        self.has_splits = "split" in file.names
        self.has_positions = "position" in file.names
        self.has_measured = "frames" in file.names

    def __len__(self) -> int:
        return len(self.file)

    def id(self, row: int) -> str:
        return decoded(self.file.value("id", row))

    def ids(self, rows: np.ndarray) -> list[str]:
        """Returns the ids of some rows."""
        return list(map(decoded, self.file.values("id", rows)))

    def path(self, row: int) -> Path:
        """Returns where the video is."""
        place = decoded(self.file.value("place", row))
        return Path(place) if self.folder is None else located(self.folder, place)

    def captions(self, row: int) -> tuple[str, ...]:
        return tuple(map(decoded, self.file.value("captions", row)))

    def split(self, row: int) -> str:
        """Returns the split; empty if the file has none."""
        return SPLIT_NAMES[self.file.value("split", row)] if self.has_splits else ""

    def part(self, row: int) -> tuple[float | None, float | None]:
        """Returns start and end in seconds; None = the video's own."""
        if not self.has_parts:
            return None, None
        return self.file.value("start_s", row), self.file.value("end_s", row)

    def measured(self, row: int) -> tuple[int, float, int, int] | None:
        """Returns frames, frames per second, height and width, where they are known."""
        if not self.has_measured:
            return None
        frames, fps, height, width = (self.file.value(name, row) for name in MEASURED)
        return None if frames is None else (int(frames), fps, int(height), int(width))


def located(folder: Path, place: str) -> Path:
    """Returns the path that a table in `folder` writes as `place`."""
    return folder / Path(place).expanduser() if place.startswith("~") else folder / place


def shared_columns(clips: Sequence[Clip], block_rows: int = BLOCK_ROWS) -> ClipColumns:
    """Returns columns in shared memory of where clips lie: paths, parts and measures.

    Ids and captions, which readers of videos do not need, are empty.
    """
    buffer = io.BytesIO()
    fields = ClipFields(
        parts=any(clip.start_s is not None or clip.end_s is not None for clip in clips),
        measured=any(clip.measured is not None for clip in clips),
    )
    writer = ClipWriter(buffer, fields, block_rows)
    for block in _batched(clips, block_rows):
        nothing: list[Any] = [""] * len(block)
        more: dict[str, list[Any]] = {
            "start_s": [clip.start_s for clip in block],
            "end_s": [clip.end_s for clip in block],
        }
        for number, name in enumerate(MEASURED):
            more[name] = [clip.measured and clip.measured[number] for clip in block]
        places = [str(clip.path) for clip in block]
        writer.write(nothing, places, [()] * len(block), more)
    proof = writer.close()
    source = SharedBytes(buffer.getbuffer())
    return ClipColumns(ColumnFile(source, proof, "the list of clips in shared memory"))


def _batched(clips: Iterable[Clip], size: int) -> Iterator[list[Clip]]:
    remaining = iter(clips)
    while block := list(itertools.islice(remaining, size)):
        yield block
