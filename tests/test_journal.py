"""The journal: appended, truncated, never extended, and repeated after errors of a file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from simvtp.errors import UserError
from simvtp.runs import atomic_files
from simvtp.runs.atomic_files import DamagedFile, read_json, read_json_or_none, write_atomically
from simvtp.runs.journal import Journal, read_journal


def messages(path: Path) -> list[str]:
    return [line["message"] for _, line in read_journal(path)]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_files, "RETRY_EVERY_S", 0.01)
    monkeypatch.setattr(atomic_files, "RETRY_FOR_S", 1.0)


class Failing:
    """Stands for a function of `os`; its first calls fail with an error of a file server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int) -> None:
        self.real, self.number, self.left = getattr(os, name), number, times
        monkeypatch.setattr(os, name, self)

    def __call__(self, *arguments: int) -> int | None:
        if self.left:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number))
        result: int | None = self.real(*arguments)
        return result


@pytest.mark.parametrize("rest", [0, 1, 200, 251], ids=lambda rest: f"{rest} bytes")
def test_a_journal_shorter_than_a_stage_noted_is_not_extended(tmp_path: Path, rest: int) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for number in range(10):
        journal.write("event", message=str(number))
    noted = journal.length()
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes()[:rest])  # a copy made while it was written
    journal = Journal(journal.path)
    journal.truncate(noted)
    journal.write("event", message="afterwards")
    journal.close()
    assert b"\0" not in journal.path.read_bytes()
    *_, mismatch, last = messages(journal.path)
    assert mismatch.startswith("damaged: ") and last == "afterwards"


def test_a_position_inside_a_line_truncates_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("event", message="one")
    journal.write("event", message="two")
    journal.truncate(journal.length() - 5)
    one, two, mismatch = messages(journal.path)
    assert (one, two) == ("one", "two") and mismatch.startswith("damaged: ")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_lines_are_written_again_after_a_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("event", message="synced")
    journal.length()
    journal.write("event", message="unsynced")
    Failing(monkeypatch, "fsync", number, times=3)
    journal.length()
    journal.write("event", message="later")
    assert messages(journal.path) == ["synced", "unsynced", "later"]


def test_an_error_that_lasts_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, "fsync", errno.EIO, times=10**6)
    with pytest.raises(
        UserError, match=r"Input/output error; the file system failed for 1 s .*run"
    ):
        write_atomically(tmp_path / "status.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, "fsync", errno.ENOSPC, times=10)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        write_atomically(tmp_path / "status.json", "{}")
    assert failing.left == 9


def test_a_file_is_complete_after_the_file_server_came_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, "replace", errno.ESTALE, times=3)
    write_atomically(tmp_path / "status.json", '{"state": "running"}')
    assert read_json(tmp_path / "status.json") == {"state": "running"}


def test_json_is_read_or_named_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert read_json_or_none(path) is None
    for content in (b"", b"{", b"\xff", b"\0\0"):
        path.write_bytes(content)
        assert read_json_or_none(path) is None
        with pytest.raises(DamagedFile, match=r"damaged: .*file\.json .*; move the file away"):
            read_json(path)
    path.write_text("[1]")
    assert read_json(path) == [1] and read_json_or_none(path, dict) is None
    with pytest.raises(DamagedFile, match="a JSON list where a dict is expected"):
        read_json(path, dict)
