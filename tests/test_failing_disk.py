"""A file system that fails for a while: films are read once it works, and are not called damaged.

Reading /proc/self/mem at its beginning gives EIO: a real file that cannot be read.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from simvtp.data.video import readers, tar_member
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.data.video.tar_member import member_bytes, member_path
from simvtp.errors import DataError, UserError
from simvtp.runs import atomic_files
from simvtp.runs.atomic_files import read_json
from simvtp.runs.journal import Journal, read_journal
from simvtp.training.checkpointing.checkpoint import read_state, write_state
from tests.data.numbered_films import FRAMES, film, numbers

FAILING = Path("/proc/self/mem")


def fails_here() -> bool:
    """Returns whether this system fails as it should here."""
    try:
        FAILING.read_bytes()
    except OSError as error:
        return error.errno == errno.EIO
    return False


pytestmark = pytest.mark.skipif(not fails_here(), reason="no file that gives EIO on this system")


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "READ_EVERY_S", 0.02)
    monkeypatch.setattr(readers, "READ_AGAIN_S", 20.0)
    monkeypatch.setattr(tar_member, "READ_AGAIN_S", 20.0)
    monkeypatch.setattr(atomic_files, "RETRY_EVERY_S", 0.02)
    monkeypatch.setattr(atomic_files, "RETRY_FOR_S", 20.0)


def failing_for_a_while(path: Path, seconds: float = 0.3) -> threading.Timer:
    """Makes a file unreadable for some time; returns the clock that ends it."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    path.symlink_to(FAILING)
    timer = threading.Timer(seconds, lambda: os.replace(kept, path))
    timer.start()
    return timer


@pytest.mark.parametrize("name", ["fast", "pyav", "decord"])
def test_a_film_is_read_once_its_disk_works(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "film.mp4")
    reader = get_reader(name)
    timer = failing_for_a_while(path)
    info = probe(path, reader)
    timer.join()
    timer = failing_for_a_while(path)
    assert numbers(read_frames(path, range(info.frames), reader)) == list(range(FRAMES))
    timer.join()
    assert f"{path}: Input/output error; trying again for 20 s" in caplog.text


def test_a_disk_that_goes_on_failing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "READ_AGAIN_S", 0.1)
    (tmp_path / "film.mp4").symlink_to(FAILING)
    with pytest.raises(DataError, match="cannot be read: Input/output error; the file system"):
        probe(tmp_path / "film.mp4", get_reader("fast"))


def test_a_film_that_is_damaged_is_not_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"no film" * 1000)
    with pytest.raises(DataError, match="does not decode"):
        probe(path, get_reader("fast"))
    assert "trying again" not in caplog.text


def test_a_member_of_a_shard_is_read_once_its_disk_works(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(bytes(range(200)))
    timer = failing_for_a_while(shard)
    content = member_bytes(member_path(shard, 10, 20, ""))
    timer.join()
    assert content is not None and content.getvalue() == bytes(range(10, 30))


def test_files_of_a_run_are_read_once_the_disk_works(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text('{"state": "running"}')
    timer = failing_for_a_while(path)
    assert read_json(path) == {"state": "running"}
    timer.join()
    path = tmp_path / "step_1.pt"
    write_state(path, {"format": 0, "values": np.arange(3).tolist()})
    timer = failing_for_a_while(path)
    with pytest.raises(UserError, match="has format 0"):  # it was read, then judged
        read_state(path)
    timer.join()
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("event", message="one")
    journal.close()
    timer = failing_for_a_while(journal.path)
    assert [line["message"] for _, line in read_journal(journal.path)] == ["one"]
    timer.join()


def test_lines_of_a_journal_that_cannot_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "RETRY_FOR_S", 0.1)
    path = tmp_path / "journal.jsonl"
    path.symlink_to(FAILING)
    with pytest.raises(UserError, match="cannot write .*Input/output error; the file system"):
        Journal(path)
