"""Writes files that are complete or absent, and reads the JSON files of run directories."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from simvtp.errors import DamagedFile, UserError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

TEMPORARY = ".tmp"  # ending of files that are being written
# what a network file system says while its server is away or has restarted
TRANSIENT = tuple(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "EHOSTDOWN")
    if hasattr(errno, name)
)
RETRY_FOR_S = 60.0
RETRY_EVERY_S = 1.0
OWNED_FILES = ("status.json", "results.json", "journal.jsonl", "experiment.json")
OWNED_FOLDERS = ("checkpoints", "stages", "figures")
ADVICE = "move the file away and run the command again."


def write_atomically(
    path: Path, content: bytes | str, check_ownership: Callable[[], None] | None = None
) -> None:
    """Writes to a temporary file in the same folder, flushes it to disk and renames it.

    Args:
        path: the file to create or replace; missing folders are created.
        content: bytes, or text that is stored as UTF-8.
        check_ownership: called right before the rename; may raise to prevent it (see
            `simvtp.runs.lease`).

    Raises:
        UserError: the file cannot be written, for example on a full disk.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if check_ownership is not None:
            check_ownership()
        os.replace(temporary, path)

    try:
        retry_io(write, path)
    except UserError:
        _remove(temporary)
        raise
    except OSError as error:
        _remove(temporary)
        raise cannot_write(path, error) from error


def retry_io(action: Callable[[], T], path: Path, for_s: float | None = None) -> T:
    """Returns `action()`; errors of a network file system are waited for and retried.

    Args:
        action: does the work from its start each time.
        path: the file that it works on, for the log.
        for_s: seconds; None = RETRY_FOR_S.

    Raises OSError: the last one, if they go on for so long; any other one at once.
    """
    limit = RETRY_FOR_S if for_s is None else for_s
    deadline, noted = time.monotonic() + limit, False
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno not in TRANSIENT or time.monotonic() > deadline:
                raise
            if not noted:
                noted = True
                _LOG.warning("%s: %s; trying again for %.0f s", path, error.strerror, limit)
        time.sleep(RETRY_EVERY_S)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Returns the error to raise when a file cannot be written: reason and advice."""
    return UserError(f"cannot write {path}: {error.strerror or error}; {_advice(error)}")


def cannot_read(path: Path, error: OSError) -> UserError:
    """Returns the error to raise when a file cannot be read: reason and advice."""
    return UserError(f"cannot read {path}: {error.strerror or error}; {_advice(error)}")


def _advice(error: OSError) -> str:
    if error.errno in TRANSIENT:
        return (
            f"the file system failed for {RETRY_FOR_S:.0f} s (a network file system that does not "
            "answer, or a broken disk): run the command again once it works."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "you may not write there: choose another runtime.root."
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT):
        return "choose another runtime.root."
    return "free some space or choose another runtime.root."


def remove_leftovers(directory: Path) -> None:
    """Removes files that killed attempts left half-written in a run directory.

    Only those of files that the owner of the directory writes: others may be being written. A
    frozen attempt that thaws right before its rename then has nothing to rename.
    """
    owned = [directory.glob(f".{name}.*{TEMPORARY}") for name in OWNED_FILES]
    owned += [(directory / name).rglob(f".*{TEMPORARY}") for name in OWNED_FOLDERS]
    for found in owned:
        for temporary in found:
            _remove(temporary)


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def read_json(path: Path, shape: type = object, advice: str = ADVICE) -> Any:
    """Returns the content of a JSON file.

    Args:
        path: the file.
        shape: the expected type of the content, for example dict; any by default.
        advice: what the user should do if the file is damaged, a clause that ends with a period.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: the content is not JSON or not of the expected type.
    """
    try:
        content = json.loads(retry_io(lambda: path.read_text(encoding="utf-8"), path))
    except ValueError as error:  # no JSON, or no UTF-8
        raise DamagedFile(path, f"not JSON: {error}", advice) from error
    if not isinstance(content, shape):
        reason = f"a JSON {type(content).__name__} where a {shape.__name__} is expected"
        raise DamagedFile(path, reason, advice)
    return content


def read_json_or_none(path: Path, shape: type = object) -> Any:
    """Returns the content of a JSON file; None if it is missing, unreadable or of another type."""
    try:
        return read_json(path, shape)
    except (OSError, DamagedFile):
        return None
