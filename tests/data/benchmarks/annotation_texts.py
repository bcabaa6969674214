"""Writes text files of annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAIN = 60  # enough that 5 % by hash is not nobody


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    return write(path, json.dumps(content))


def tabbed(rows: Sequence[Sequence[Any]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def commas(rows: Sequence[Sequence[Any]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def lines(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def videos(*numbers: int) -> list[str]:
    return [f"video{number}" for number in range(*numbers)]


def movie_clip(n: int) -> str:
    return f"10{n // 10:02d}_A_Movie_00.00.{n:02d}.690-00.01.{n:02d}.013"


TIMES = ("00.00.01.000", "00.00.03.000", "00.00.00.500", "00.00.04.000")
