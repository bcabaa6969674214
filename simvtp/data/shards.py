"""Tar shards: many small clips in a few large files, read by offset.

    OUT/
      plan.json             what goes into which shard, and how clips are encoded; written first
      train-000000.tar      members <key>.mp4 and <key>.json {"id", "captions", "split", ...}, as the `webdataset` package reads them;
                            <key>.u8 in place of the video where frames are stored uncompressed
      train-000000.json     index: offset, length and sha256 of each member; which clips failed and why; written when the shard is whole
      failures.csv          every clip that failed
      summary.json          counts, and the sha256 of each index; written last: no summary, not finished

A shard holds clips of one split (`clips-...` where the manifest has no splits). Nothing in these
files tells when or where they were made, so the digest of the summary is that of the content,
wherever the folder lies. `simvtp.data.prepare.write_shards` writes them.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from simvtp.data.clips import BenchmarkOrigin, Clip, Manifest
from simvtp.data.video.tar_member import member_path
from simvtp.errors import DamagedFile, DataError
from simvtp.runs.atomic_files import read_json

log = logging.getLogger(__name__)

FORMAT = 1
PLAN, SUMMARY, FAILURES = "plan.json", "summary.json", "failures.csv"
RAW_ENDING = (
    ".u8"  # of a member that holds uncompressed frames: uint8 [frames, height, width, 3], RGB
)


def is_shards(path: Path) -> bool:
    """Whether this is a folder of shards, finished or not, or the summary of one."""
    return (_folder(path) / PLAN).is_file()


def summary_path(path: Path) -> Path:
    """The file that stands for the content of a folder of shards: its digest is theirs."""
    return _folder(path) / SUMMARY


def _folder(path: Path) -> Path:
    return path.parent if path.name == SUMMARY else path


def read_summary(path: Path) -> dict[str, Any]:
    """What `summary.json` says; DataError if the shards are not finished or of another format."""
    folder = _folder(path)
    if not is_shards(path):
        raise DataError(
            f"{folder} holds no shards; make some with `python -m simvtp data shard MANIFEST {folder}`."
        )
    if not (folder / SUMMARY).is_file():
        raise DataError(
            f"the shards in {folder} are not finished: give the command again that made them, and it goes on."
        )
    summary: dict[str, Any] = _json(folder / SUMMARY)
    if summary.get("format") != FORMAT:
        raise DataError(
            f"the shards in {folder} have format {summary.get('format')}, this version reads {FORMAT}: make them again."
        )
    return summary


def read_shards(path: Path) -> Manifest:
    """The clips of a folder of shards, in the order of the manifest that they were made from;
    failed ones are not among them.

    Args:
        path: the folder, or the summary in it.

    Raises:
        DataError: it holds no shards, or unfinished ones, or an index is missing or damaged. A
            damaged shard is found out by its clips.
    """
    folder, summary = _folder(path), read_summary(path)
    clips: list[tuple[int, Clip]] = []
    for shard in summary["shards"]:
        place = folder / f"{shard['name']}.json"
        index = _json(place)
        if hashlib.sha256(place.read_bytes()).hexdigest() != shard["index_sha256"]:
            raise DataError(
                f"{place} is not the one that {folder / SUMMARY} speaks of: copy the folder of shards again, or make them again."
            )
        tar = folder.resolve() / f"{shard['name']}.tar"
        for entry in index["clips"]:
            video = entry["video"]
            raw = (
                (video["frames"], video["height"], video["width"])
                if video["name"].endswith(RAW_ENDING)
                else None
            )
            path_in_tar = member_path(tar, video["offset"], video["length"], video["sha256"], raw)
            measured = video["frames"], video["fps"], video["height"], video["width"]
            clips.append(
                (
                    entry["number"],
                    Clip(
                        entry["id"],
                        path_in_tar,
                        tuple(entry["captions"]),
                        entry["split"],
                        measured=measured,
                    ),
                )
            )
    if not clips:
        raise DataError(
            f"the shards in {folder} hold no clip: all {summary['clips']} failed, see {folder / FAILURES}."
        )
    clips.sort(key=lambda numbered: numbered[0])
    failed = summary["clips"] - summary["written"]
    if failed:
        log.warning(
            "%s: %d of %d clips were left out when the shards were made, see %s",
            folder,
            failed,
            summary["clips"],
            FAILURES,
        )
    return Manifest(
        folder,
        tuple(clip for _, clip in clips),
        summary["has_splits"],
        0,
        (),
        source=_source(summary),
    )


def _source(summary: dict[str, Any]) -> BenchmarkOrigin | None:
    """The benchmark that the shards were made of; its notes say which splits are not whole."""
    of = summary.get("benchmark")
    if of is None:
        return None
    lost: Counter[str] = Counter()
    for shard in summary["shards"]:
        lost[shard["split"]] += shard["failed"]
    notes = [
        f"{count} {split} videos were left out when the shards were made"
        for split, count in lost.items()
        if count
    ]
    return BenchmarkOrigin(of["name"], of["protocol"], (*of["notes"], *notes))


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, DamagedFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}): copy the folder of shards again, or make them again."
        ) from error
