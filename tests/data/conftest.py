"""Fixtures of the tests of data: one manifest and its shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data.helpers import make_clips
from tests.data.shard_files import SPLITS, shard, write_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write_manifest(
        make_clips(folder, 10, captions=2), folder / "clips.csv", split=list(SPLITS)
    )


@pytest.fixture(scope="module")
def shards(manifest: Path) -> Path:
    out = manifest.parent / "shards"
    assert shard(manifest, out).written == 10
    return out


@pytest.fixture
def own_shards(shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shards, tmp_path / "own")
