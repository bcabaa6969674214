"""The small embedded data set, made once in this process."""

from pathlib import Path

import pytest

from simvtp.data.shapes.generate import ensure_shapes
from tests.data.shapes.small_shapes import SMALL


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small data set, made once in this process."""
    return ensure_shapes(SMALL, tmp_path_factory.mktemp("cache"), workers=1).parent
