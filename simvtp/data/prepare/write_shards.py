"""Writes the tar shards (`simvtp.data.shards`) of a manifest or benchmark.

Worker processes make one shard each; a clip on which the decoder hangs or crashes costs its worker,
and the shard is made again without it. A shard appears complete or not at all, and one whose index
exists is never touched again: after a kill the same command resumes and ends with the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from simvtp.data.benchmarks import BENCHMARKS, open_benchmark
from simvtp.data.clips import BenchmarkOrigin, Manifest
from simvtp.data.manifest import read_manifest
from simvtp.data.prepare.shard_writer import Encode, PlannedShard, ShardJob, ShardWriter
from simvtp.data.prepare.transcode import FASTEST, KINDS, TranscodeTarget, transcode
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, wait_for_lock
from simvtp.data.shards import FAILURES, FORMAT, PLAN, SUMMARY
from simvtp.data.video.decode_workers import WorkerDied, map_in_workers
from simvtp.errors import ConfigError, DataError, UserError
from simvtp.runs.atomic_files import read_json, write_atomically

MAX_PER_SHARD = 1000


@dataclass
class ShardingResult:
    """Counts of what was made, now or before.

    Attributes:
        clips: of the manifest.
        failed: kind of failure -> clips.
        made_now: shards that did not exist before.
    """

    clips: int = 0
    written: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    shards: int = 0
    made_now: int = 0

    def lines(self) -> list[str]:
        """Returns the counts as text."""
        why = [f"  {count} {kind}: {KINDS[kind]}" for kind, count in sorted(self.failed.items())]
        failed = sum(self.failed.values())
        return [
            f"{self.written} of {self.clips} clips in {self.shards} shards, {failed} failed",
            *why,
        ]


def of_benchmark(name: str, root: Path | str, protocol: str = "") -> Manifest:
    """Returns the captioned videos of a benchmark, in all its splits.

    Raises:
        ConfigError: there is no such benchmark or protocol, or it is annotated with other things
            than captions: what it asks about its videos is not part of shards, so nothing could be
            done with them.
        DataError: an annotation file is missing or changed.
    """
    benchmark = open_benchmark(name, root, protocol)
    if not benchmark.clips:
        raise ConfigError(
            f"{name} is annotated for {benchmark.task}, not with captions: shards hold videos "
            "with captions."
        )
    several = len(BENCHMARKS[name].protocols) > 1
    source = BenchmarkOrigin(name, benchmark.protocol if several else "", benchmark.notes)
    return Manifest(Path(root).expanduser() / name, benchmark.clips, True, 0, (), source=source)


def parse_target(
    text: str, fps: float = 0.0, crf: int = 18, store: str = "h264"
) -> TranscodeTarget:
    """Returns a target from `256` (short side) or `320x240` (width x height, cropped to fit).

    Raises:
        ConfigError: there is no such thing.
    """
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or min(sides) < 16 or any(side % 2 for side in sides):
        raise ConfigError(
            f"--size {text}: give the short side (256) or WIDTHxHEIGHT (320x240), "
            "even numbers from 16 on."
        )
    if not (fps == 0 or 0.1 <= fps <= FASTEST):
        raise ConfigError(f"--fps {fps:g}: must be 0 (as the source) or from 0.1 to {FASTEST}.")
    if not 0 <= crf <= 51:
        raise ConfigError(f"--crf {crf}: must be from 0 to 51.")
    short, width, height = (sides[0], 0, 0) if len(sides) == 1 else (0, sides[0], sides[1])
    if store not in ("h264", "raw"):
        raise ConfigError(f"--store {store}: must be h264 or raw.")
    return TranscodeTarget(
        short=short,
        height=height,
        width=width,
        fps=fps,
        crf=crf,
        store=cast(Literal["h264", "raw"], store),
    )


def write_shards(
    manifest: Path | str | Manifest,
    out: Path | str,
    target: TranscodeTarget | None = None,
    max_per_shard: int = MAX_PER_SHARD,
    workers: int = 2,
    timeout_s: float = 60.0,
    say: LogFn = print,
    check: CancelCheck = never_cancelled,
    encode: Encode = transcode,
) -> ShardingResult:
    """Makes the shards of a manifest that do not exist yet.

    Args:
        manifest: as `read_manifest` takes it, or read already (`of_benchmark`); with columns
            start_s and end_s only that part of each video is stored.
        out: folder of the shards; created.
        target: size, rate and quality of the clips; None: short side 256, the source's rate.
        max_per_shard: clips in a shard at most; the clips of a split are spread evenly.
        workers: processes (0 = this one, without protection from decoders that hang or crash).
        timeout_s: seconds after which a stretch of 32 frames counts as hanging.
        say: takes progress and the counts.
        check: called after each shard; may raise to end the work.
        encode: makes the small clips; must be picklable.

    Raises:
        DataError: the manifest cannot be used.
        UserError: `out` holds shards of something else, or cannot be written.
    """
    if max_per_shard < 1:
        raise ConfigError(f"--max-per-shard {max_per_shard}: must be at least 1.")
    source = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    folder, target = Path(out).expanduser(), target or TranscodeTarget()
    shards = list(plan(source, max_per_shard))
    document = _plan_document(source, target, max_per_shard, shards)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            wait_for_lock(lock, check)
            _claim(folder, document)
            # Of an attempt that was killed; a worker that outlived it loses its file, and ends.
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)
            missing = [shard for shard in shards if not (folder / f"{shard.name}.json").is_file()]
            if len(missing) < len(shards):
                say(f"{len(shards) - len(missing)} of {len(shards)} shards are there already")
            _make(ShardWriter(folder, target, encode), missing, workers, timeout_s, say, check)
            result = _conclude(folder, source, shards)
    except OSError as error:
        raise UserError(
            f"cannot write shards to {folder}: {error.strerror or error}; "
            "free some space or choose another folder."
        ) from error
    result.made_now = len(missing)
    for line in result.lines():
        say(line)
    return result


def plan(manifest: Manifest, max_per_shard: int) -> Iterator[PlannedShard]:
    """Yields the shards: clips of one split in the manifest's order, filled evenly."""
    for split in sorted({clip.split for clip in manifest.clips}):
        members = [
            (number, clip) for number, clip in enumerate(manifest.clips) if clip.split == split
        ]
        count = math.ceil(len(members) / max_per_shard)
        for i in range(count):
            part = members[i * len(members) // count : (i + 1) * len(members) // count]
            yield PlannedShard(f"{split or 'clips'}-{i:06d}", tuple(part))


def digest_of(manifest: Manifest) -> str:
    """Returns the sha256 of a manifest, paths relative to its folder where they lie in it."""
    sha, folder = hashlib.sha256(), manifest.path.resolve().parent
    for clip in manifest.clips:
        path = clip.path.relative_to(folder) if clip.path.is_relative_to(folder) else clip.path
        row = [clip.id, str(path), clip.captions, clip.split, clip.start_s, clip.end_s]
        sha.update(json.dumps(row).encode() + b"\n")
    return sha.hexdigest()


def _plan_document(
    source: Manifest, target: TranscodeTarget, max_per_shard: int, shards: Sequence[PlannedShard]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "manifest": digest_of(source),
        "target": _target_document(target),
        "max_per_shard": max_per_shard,
        "shards": [shard.name for shard in shards],
    }


def _target_document(target: TranscodeTarget) -> dict[str, Any]:
    """Returns the target as the plan records it.

    Raw stores keep the document of the first version, whatever H.264 is like today, so that
    unfinished ones can be resumed.
    """
    values = asdict(target)
    if target.store == "raw":
        del values["fastdecode"]
        return {**values, "gop": 8}
    return {
        key: value
        for key, value in values.items()
        if (key, value) not in (("store", "h264"), ("fastdecode", False))
    }


def _claim(folder: Path, document: dict[str, Any]) -> None:
    """Writes the plan, or raises UserError if the shards in `folder` were begun by another one."""
    there = read_json(folder / PLAN) if (folder / PLAN).is_file() else None
    if there is None:
        strangers = sorted(path.name for path in folder.glob("*.tar"))
        if strangers:
            raise UserError(
                f"{folder} holds {strangers[0]}, which this command did not make: "
                "choose another folder."
            )
        write_atomically(folder / PLAN, json.dumps(document, indent=1))
    elif there != document:
        changed = ", ".join(key for key in document if there.get(key) != document[key])
        raise UserError(
            f"{folder} was begun with another {changed}: choose another folder, or remove this one."
        )


def _make(
    task: ShardWriter,
    shards: Sequence[PlannedShard],
    workers: int,
    timeout_s: float,
    say: LogFn,
    check: CancelCheck,
) -> None:
    """Makes the shards, and again without its clip each one whose worker died."""
    began = time.monotonic()
    fatal: dict[str, dict[int, str]] = {shard.name: {} for shard in shards}
    total, done = sum(len(shard.clips) for shard in shards), 0
    pending = list(shards)
    while pending:
        check()
        died = []
        jobs = [ShardJob(shard, dict(fatal[shard.name])) for shard in pending]
        for number, answer in map_in_workers(task, jobs, min(workers, len(jobs)), timeout_s):
            check()
            shard = pending[number]
            if isinstance(answer, WorkerDied):
                fatal[shard.name][_fatal_clip(answer)] = answer.reason
                name = shard.clips[_fatal_clip(answer)][1].id
                say(f"{shard.name} is made again without {name}: {answer.reason}")
                died.append(shard)
                continue
            done += len(shard.clips)
            left = (time.monotonic() - began) / done * (total - done)
            say(
                f"{shard.name}: {answer} of {len(shard.clips)} clips; "
                f"{done} of {total} done, {left:.0f} s left"
            )
        pending = died


def _fatal_clip(death: WorkerDied) -> int:
    if death.clip < 0:
        raise UserError(
            f"a worker ended while it was not decoding ({death.reason}); "
            "if memory ran out, use fewer --workers."
        )
    return death.clip


def _conclude(folder: Path, source: Manifest, shards: Sequence[PlannedShard]) -> ShardingResult:
    """Counts what the indexes say; writes failures.csv and summary.json."""
    result, listed, failures = ShardingResult(len(source.clips), shards=len(shards)), [], []
    for shard in shards:
        path = folder / f"{shard.name}.json"
        index = read_json(path)
        if len(index["clips"]) + len(index["failed"]) != len(shard.clips):
            raise DataError(
                f"{path} lists other clips than the manifest: remove it, and run the command again."
            )
        result.written += len(index["clips"])
        result.failed.update(entry["kind"] for entry in index["failed"])
        failures += index["failed"]
        listed.append(
            {
                "name": shard.name,
                "split": shard.clips[0][1].split,
                "clips": len(index["clips"]),
                "failed": len(index["failed"]),
                "bytes": index["bytes"],
                "index_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    columns = ("number", "id", "kind", "reason")
    writer.writerow(columns)
    failures.sort(key=lambda entry: entry["number"])
    for entry in failures:
        writer.writerow([entry[column] for column in columns])
    write_atomically(folder / FAILURES, table.getvalue())
    summary = {
        "format": FORMAT,
        "clips": result.clips,
        "written": result.written,
        "failed": dict(sorted(result.failed.items())),
        "has_splits": source.has_splits,
        **({"benchmark": asdict(source.source)} if source.source else {}),
        "rows_without_caption": source.empty_captions,
        "videos_without_caption": len(source.uncaptioned),
        "bytes": sum(shard["bytes"] for shard in listed),
        "shards": listed,
    }
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1))
    return result
