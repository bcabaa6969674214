"""Data that comes with a frame, of a kind that PyAV does not know yet.

FFmpeg 8 hands the EXIF data of a picture out with its frame. PyAV 18.1 has no name for that kind
and then gives none of the data at all: "31 is not a valid Type", for every photograph of a camera.

Remove when `av.sidedata.sidedata.Type` accepts a number that it has no name for.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


def accept_unknown_kinds(kinds: type[Enum]) -> None:
    """Gives each number that an enum lacks a member of its own, `UNKNOWN_<number>`, when it comes.

    Args:
        kinds: `av.sidedata.sidedata.Type`.
    """

    def unknown(cls: Any, value: object) -> Any:
        if not isinstance(value, int):
            return None
        member = object.__new__(cls)
        member._name_, member._value_ = f"UNKNOWN_{value}", value
        return cls._value2member_map_.setdefault(value, member)

    kinds._missing_ = classmethod(unknown)  # type: ignore[method-assign, assignment]
