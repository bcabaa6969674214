"""Fixtures of all tests. One torch thread: the machines that run this have few cores."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shapes_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cache folder in which the embedded data set of the small experiment is made once."""
    yield tmp_path_factory.mktemp("cache")
