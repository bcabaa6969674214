"""The folder of a sqlite store is moved or copied."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from simvtp.tracking.store import Store


def _uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.mark.parametrize("copied", [False, True])
def test_artifacts_are_found_and_written_after_a_move(
    tmp_path: Path, copied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = tmp_path / "old runs", tmp_path / "elsewhere" / "new runs"
    other_folder = tmp_path / "old runs 2"  # its name begins as that of the moved folder
    store = Store(_uri(old))
    experiment = store.experiment("tests")
    run = store.create(experiment, "one", 0, {})
    store.upload_text(run.run_id, "[1]", "before.json")
    outside = store._client.create_experiment("outside", artifact_location=other_folder.as_uri())
    apart = store.create(outside, "two", 0, {})
    store.upload_text(apart.run_id, "[2]", "apart.json")

    shutil.copytree(old, new)
    if not copied:
        shutil.rmtree(old)
    files = sorted(old.rglob("*"))
    with caplog.at_level(logging.WARNING):
        moved = Store(_uri(new))
    assert [record.name for record in caplog.records].count("simvtp.tracking.moved_store") == 1
    assert moved.artifact_json(run.run_id, "before.json") == [1]
    assert moved.artifact_json(apart.run_id, "apart.json") == [2]
    place = moved._client.get_run(run.run_id).info.artifact_uri
    assert place.startswith((new / "mlflow-artifacts").as_uri())
    later = moved.create(moved.experiment("tests"), "three", 0, {})
    moved.upload_text(later.run_id, "[4]", "later.json")
    assert {path.name for path in new.rglob("*.json")} == {"before.json", "later.json"}
    assert sorted(old.rglob("*")) == files, "nothing is written to the old folder"

    caplog.clear()
    Store(_uri(new))
    assert not [r for r in caplog.records if r.name == "simvtp.tracking.moved_store"]
