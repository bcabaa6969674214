"""Reads manifests.

A manifest is a CSV or Parquet file with the columns `videoid`, `path`, `caption` and optionally
`split` (train, val or test). Several rows of one video are several captions of it. Paths are
relative to the manifest's folder (`~` is the home folder); a folder of pictures, or a pattern as in
`frames/%05d.jpg`, is a clip, too. The columns `start_s` and `end_s` say which part of the video is
meant, in seconds (empty = from its beginning, to its end). Other columns are ignored. A folder of
shards (`simvtp.data.shards`) is read like a manifest.

A table becomes columns (`build_columns`): of a small table they lie in memory, each time; those of
a large one lie in the cache folder, are built once, and are found again by the content of the table
and its folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from simvtp.data.clips import (
    ClipColumns,
    ClipView,
    ColumnFile,
    FileProof,
    Manifest,
    MappedFile,
    SharedBytes,
)
from simvtp.data.clips.column_file import arrow
from simvtp.data.manifest.build_columns import BuildOptions, build_columns
from simvtp.data.manifest.column_cache import cached_columns
from simvtp.data.manifest.content_digest import (
    ATTEMPTS,
    FOLDER,
    SMALL_BYTES,
    FileState,
    content_digest,
    default_cache,
)
from simvtp.data.manifest.manifest_facts import ManifestFacts, table_name
from simvtp.data.manifest.table_cells import REQUIRED, open_table
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled
from simvtp.data.shards import index_foreign_shards, is_foreign, is_shards, read_shards
from simvtp.errors import DataError

FORMAT = 1  # of the columns in the cache
MAX_PLACEHOLDER_RATIO = 0.1  # of the rows


def read_manifest(
    path: Path | str,
    collect_conflicts: bool = False,
    max_placeholder_ratio: float = MAX_PLACEHOLDER_RATIO,
    cache: Path | None = None,
    say: LogFn | None = None,
    check: CancelCheck = never_cancelled,
) -> Manifest:
    """Reads a manifest.

    Args:
        path: CSV or Parquet (by the ending `.parquet` or `.pq`), or a folder of shards.
        collect_conflicts: list ids with several paths or splits in `conflicts` (their first row
            counts) rather than raise.
        max_placeholder_ratio: rows whose caption says nothing (nan, None, N/A, no letter or digit)
            are left out; more than this ratio of all is an error.
        cache: folder of generated data, for the columns of large tables; None: the default one.
        say: takes progress while a large table is read for the first time.
        check: called now and then meanwhile; may raise to end it.

    Raises:
        DataError: the file is missing, unreadable or empty, lacks a column, does not add up or
            contradicts itself, or no video is where it says; tells what to do.
        UserError: the cache folder cannot be written.
    """
    path = Path(path).expanduser()
    if is_foreign(path):
        index_foreign_shards(path, say, check)
    if is_shards(path):
        return read_shards(path)
    if not path.is_file():
        raise DataError(
            f"{table_name(path)}: there is no such file; give a CSV or Parquet file with the "
            f"columns {', '.join(REQUIRED)}."
        )
    if path.stat().st_size <= SMALL_BYTES:
        clips, facts = columns_in_memory(path, BuildOptions(check=check))
    else:
        options = BuildOptions(say or (lambda line: None), check)
        clips, facts = columns_in_cache(path, cache or default_cache(), options)
    facts.judge(table_name(path), clips, collect_conflicts, max_placeholder_ratio)
    return Manifest(
        path,
        clips,
        facts.has_splits,
        facts.empty,
        facts.uncaptioned,
        conflicts=facts.conflicts,
        rows=facts.table_rows,
        shared=facts.shared,
    )


def columns_in_memory(path: Path, options: BuildOptions) -> tuple[ClipView, ManifestFacts]:
    """Returns the clips of a table, whose columns lie in shared memory."""
    rows, clips = io.BytesIO(), io.BytesIO()
    folder = path.resolve().parent
    proof, facts = build_columns(
        open_table(path, table_name(path)),
        folder,
        clips,
        rows,
        lambda proof: ColumnFile(SharedBytes(rows.getbuffer()), proof, "rows in memory"),
        options,
    )
    file = ColumnFile(SharedBytes(clips.getbuffer()), proof, f"the columns of {path} in memory")
    return ClipView(ClipColumns(file, folder)), facts


def columns_in_cache(
    path: Path, cache: Path, options: BuildOptions
) -> tuple[ClipView, ManifestFacts]:
    """Returns the clips of a table, whose columns lie in the cache folder.

    Raises:
        DataError: the table does not add up, or changes all the time.
        UserError: the cache folder cannot be written.
    """
    folder = path.resolve().parent
    for _ in range(ATTEMPTS):
        before, digest = FileState.of(path), content_digest(path, cache)

        def build(clips: IO[bytes], part: Path) -> tuple[FileProof, dict[str, Any]]:
            proof, facts = _with_rows_on_disk(path, clips, part, options)
            return proof, asdict(facts)

        found = cached_columns(cache / FOLDER, _key(path, digest), build, options.check)
        if FileState.of(path) == before:
            break
    else:
        raise DataError(f"{path} changes while it is being read; wait until it is complete.")
    file = ColumnFile(MappedFile(found.path), found.proof, str(found.path))
    return ClipView(ClipColumns(file, folder)), ManifestFacts.stored(found.facts)


def _with_rows_on_disk(
    path: Path, clips: IO[bytes], part: Path, options: BuildOptions
) -> tuple[FileProof, ManifestFacts]:
    """Builds columns; the rows as they come lie in a file next to them meanwhile."""
    place = part.with_name(f"{part.name}.rows")
    name = table_name(path)
    try:
        with open(place, "wb") as rows:

            def reopen(proof: FileProof) -> ColumnFile:
                rows.flush()
                return ColumnFile(MappedFile(place), proof, str(place))

            table = open_table(path, name)
            return build_columns(table, path.resolve().parent, clips, rows, reopen, options)
    finally:
        place.unlink(missing_ok=True)


def _key(path: Path, digest: str) -> str:
    """Returns the name of a table's columns: what they depend on."""
    parts = [
        FORMAT,
        arrow().__version__.split(".")[0],
        digest,
        str(path.resolve().parent),
        os.path.expanduser("~"),
        path.suffix.lower(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
