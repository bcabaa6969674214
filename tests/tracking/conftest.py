"""Store that the tests of one module share."""

import pytest


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests of this module."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
