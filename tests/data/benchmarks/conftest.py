"""Annotation files of each benchmark, made once a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.benchmarks.made import (
    MADE,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a benchmark, made once. Tests that change files copy it."""
    folder = tmp_path_factory.mktemp("benchmarks")

    def get(name: str) -> Path:
        if not (folder / name).exists():
            MADE[name](folder / name)
        return folder / name

    return get
