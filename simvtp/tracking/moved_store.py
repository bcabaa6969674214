"""Artifacts of a sqlite store whose folder was moved or copied.

MLflow records the absolute place of artifacts with each experiment and run. So after a move they
would be looked for, and new ones written, in the old folder.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import urllib.parse
import urllib.request
from pathlib import Path

_LOG = logging.getLogger(__name__)
_ROOT = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
_UPDATES = (
    "UPDATE experiments SET artifact_location = :new || substr(artifact_location, :length + 1)"
    " WHERE substr(artifact_location, 1, :length) = :old",
    "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, :length + 1)"
    " WHERE substr(artifact_uri, 1, :length) = :old",
)
_WAIT_S = 60.0  # for other writers of the same file


def follow_move(database: Path, artifacts: Path) -> None:
    """Rewrites places in the folder that the store had for artifacts to `artifacts`.

    The store's first experiment, made with the store, tells that folder. Places outside of it, and
    stores that keep artifacts elsewhere (on a server, for example), are left as they are.

    Raises sqlite3.Error if the file cannot be read or written.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection, connection:
        row = connection.execute(_ROOT).fetchone()
        before = _folder(row[0]) if row and row[0] else None
        if before is None or before == artifacts or before.name != artifacts.name:
            return
        for old, new in ((str(before), str(artifacts)), (before.as_uri(), artifacts.as_uri())):
            values = {"old": f"{old}/", "new": f"{new}/", "length": len(old) + 1}
            for update in _UPDATES:
                connection.execute(update, values)
    _LOG.warning(
        "the tracker's file %s was moved or copied: artifacts recorded in %s are looked for in %s",
        database,
        before,
        artifacts,
    )


def _folder(location: str) -> Path | None:
    """Returns the folder that holds the location of an experiment; None if it is no local one."""
    if location.startswith("file:"):
        location = urllib.request.url2pathname(urllib.parse.urlsplit(location).path)
    return Path(location).parent if Path(location).is_absolute() else None
