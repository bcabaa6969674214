"""A small embedded data set and readers of its files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from simvtp.config.data_config import ShapesConfig

ROOT = Path(__file__).parents[3]
SMALL = ShapesConfig(train=24, val=5, test=7)
CALL = """
import sys
from pathlib import Path
from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.generate import ensure_shapes
if __name__ == "__main__":
    config = ShapesConfig(train=int(sys.argv[2]), val=5, test=7)
    say = lambda line: print(line, flush=True)
    ensure_shapes(config, Path(sys.argv[1]), workers=int(sys.argv[3]), say=say)
"""


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def records(folder: Path) -> dict[str, dict]:
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["videoid"]: record for record in map(json.loads, lines)}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def decode(path: Path) -> np.ndarray:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
