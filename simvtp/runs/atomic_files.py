"""Writes files that are complete or absent, and reads the JSON files of run directories."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simvtp.errors import DamagedFile, UserError

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if check_ownership is not None:
            check_ownership()
        os.replace(temporary, path)
    except UserError:
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space or choose another runtime.root."
        ) from error


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
        content = json.loads(path.read_text(encoding="utf-8"))
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
