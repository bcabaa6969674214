"""A sequence of clips that lie in columns: each is made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from simvtp.data.clips.clip_columns import SPLIT_NAMES, ClipColumns
from simvtp.data.clips.clip_records import Clip
from simvtp.data.clips.shared_memory import SharedInts

Ratios = tuple[float, float, float]


class ClipView(Sequence[Clip]):
    """Some or all clips of a file of columns, in an order of their own.

    Picklable while a worker process is being started; the worker then shares file and rows.

    Args:
        columns: of all clips.
        rows: of the clips of this view; None: all, in the order of the file.
        ratios: of train, val and test, where splits are assigned by the column of positions; None:
            splits are those of the file.
        captions_of: for each clip the row whose captions it has; None: its own.
    """

    def __init__(
        self,
        columns: ClipColumns,
        rows: SharedInts | None = None,
        ratios: Ratios | None = None,
        captions_of: SharedInts | None = None,
    ) -> None:
        self.columns, self._rows, self._ratios = columns, rows, ratios
        self._captions_of = captions_of

    def __len__(self) -> int:
        return len(self.columns) if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} clips of {self.columns.file.name}>"

    def __eq__(self, other: object) -> bool:
        """Returns whether another sequence has equal clips in the same order."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @property
    def whole(self) -> bool:
        """Returns whether this is all of the file, in its order, with its own splits."""
        return self._rows is None and self._ratios is None and self._captions_of is None

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> ClipView: ...
    def __getitem__(self, index: int | slice) -> Clip | ClipView:
        if isinstance(index, slice):
            return self.taken(np.arange(len(self))[index])
        number = range(len(self))[index]  # IndexError where there is none
        columns, row = self.columns, self.row(number)
        said = row if self._captions_of is None else int(self._captions_of.array[number])
        return Clip(
            columns.id(row),
            columns.path(row),
            columns.captions(said),
            self._split(row),
            *columns.part(row),
            columns.measured(row),
        )

    def __iter__(self) -> Iterator[Clip]:
        return (self[number] for number in range(len(self)))

    def row(self, number: int) -> int:
        """Returns the row of clip `number` in the columns."""
        return number if self._rows is None else int(self._rows.array[number])

    def path(self, number: int) -> Path:
        """Returns the path of clip `number`, without reading the rest of it."""
        return self.columns.path(self.row(number))

    def part(self, number: int) -> tuple[float | None, float | None]:
        """Returns start and end of clip `number`, in seconds."""
        return self.columns.part(self.row(number))

    def measured(self, number: int) -> tuple[int, float, int, int] | None:
        """Returns frames, rate, height and width of clip `number`, where they are known."""
        return self.columns.measured(self.row(number))

    def ids(self) -> Iterator[str]:
        """Yields the ids of all clips, in order."""
        for first in range(0, len(self), 4096):
            numbers = np.arange(first, min(first + 4096, len(self)))
            rows = numbers if self._rows is None else self._rows.array[numbers]
            yield from self.columns.ids(rows)

    def places(self) -> ClipView:
        """Returns the view without its captions' order, which readers of videos do not need."""
        return ClipView(self.columns, self._rows)

    def taken(self, numbers: np.ndarray) -> ClipView:
        """Returns a view of some clips of this one, int64 [n], in that order."""
        rows = numbers if self._rows is None else self._rows.array[numbers]
        said = None if self._captions_of is None else self._captions_of.array[numbers]
        return ClipView(
            self.columns,
            SharedInts(rows),
            self._ratios,
            None if said is None else SharedInts(said),
        )

    def with_captions_of(self, numbers: np.ndarray) -> ClipView:
        """Returns the same clips, number i with the captions of number `numbers[i]`."""
        said = self._rows if self._captions_of is None else self._captions_of
        rows = numbers if said is None else said.array[numbers]
        return ClipView(self.columns, self._rows, self._ratios, SharedInts(rows))

    def with_ratios(self, ratios: Ratios) -> ClipView:
        """Returns the same clips with splits by their positions."""
        return ClipView(self.columns, self._rows, ratios, self._captions_of)

    def split_codes(self) -> np.ndarray:
        """Returns the split of each clip, uint8 [n], as index of SPLIT_NAMES."""
        codes = np.zeros(len(self.columns), np.uint8)
        column = "position" if self._ratios else "split" if self.columns.has_splits else ""
        first = 0
        for block in self.columns.file.numbers(column) if column else ():
            part = codes[first : first + len(block)]
            part[:] = block if self._ratios is None else _codes(block, self._ratios)
            first += len(block)
        return codes if self._rows is None else codes[self._rows.array]

    def _split(self, row: int) -> str:
        if self._ratios is None:
            return self.columns.split(row)
        position = self.columns.file.value("position", row)
        return SPLIT_NAMES[int(_codes(np.array([position]), self._ratios)[0])]


def _codes(positions: np.ndarray, ratios: Ratios) -> np.ndarray:
    """Returns the split at each position, as index of SPLIT_NAMES."""
    train, val, _ = ratios
    after_val = train + val
    codes = np.full(len(positions), SPLIT_NAMES.index("test"), np.uint8)
    codes[positions < after_val] = SPLIT_NAMES.index("val")
    codes[positions < train] = SPLIT_NAMES.index("train")
    return codes
