"""From a manifest to tar shards (`simvtp.data.shards`): clips cut to their part and encoded at the
training size.

Worker processes make one shard each; a clip on which the decoder hangs or crashes costs its worker,
and the shard is made again without it. A shard appears whole or not at all, and one whose index is
there is never touched again: after a kill the same command goes on and ends with the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from simvtp.data.benchmarks import BENCHMARKS, open_benchmark
from simvtp.data.clips import BenchmarkOrigin, Clip, Manifest
from simvtp.data.loading.decode_workers import DecodeWatchdog, WorkerDied, map_in_workers
from simvtp.data.manifest import read_manifest
from simvtp.data.prepare.transcode import (
    FASTEST,
    KINDS,
    Steps,
    Transcoded,
    TranscodeTarget,
    UnusableVideo,
    transcode,
)
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, wait_for_lock
from simvtp.data.shards import FAILURES, FORMAT, PLAN, RAW_ENDING, SUMMARY
from simvtp.errors import ConfigError, DataError, UserError
from simvtp.runs.atomic_files import read_json, write_atomically

Encode = Callable[[Path, TranscodeTarget, float | None, float | None], Steps]

MAX_PER_SHARD = 1000
NAME_LENGTH = 60  # of an id inside a key


@dataclass(frozen=True)
class PlannedShard:
    """One shard before it is made."""

    name: str
    clips: tuple[tuple[int, Clip], ...]  # (place in the manifest, clip)


@dataclass
class ShardingResult:
    """Counts of what was made, now or before."""

    clips: int = 0
    written: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # kind -> clips
    shards: int = 0
    made_now: int = 0  # shards that were not there yet

    def lines(self) -> list[str]:
        """The counts as text."""
        why = [f"  {count} {kind}: {KINDS[kind]}" for kind, count in sorted(self.failed.items())]
        return [
            f"{self.written} of {self.clips} clips in {self.shards} shards, {sum(self.failed.values())} failed",
            *why,
        ]


def of_benchmark(name: str, root: Path | str, protocol: str = "") -> Manifest:
    """The captioned videos of a benchmark, in all its splits.

    Raises:
        ConfigError: there is no such benchmark or protocol, or it is annotated with other things
            than captions: what it asks about its videos is not part of shards, so nothing could be
            done with them.
        DataError: an annotation file is missing or changed.
    """
    benchmark = open_benchmark(name, root, protocol)
    if not benchmark.clips:
        raise ConfigError(
            f"{name} is annotated for {benchmark.task}, not with captions: shards hold videos with captions."
        )
    several = len(BENCHMARKS[name].protocols) > 1
    source = BenchmarkOrigin(name, benchmark.protocol if several else "", benchmark.notes)
    return Manifest(Path(root).expanduser() / name, benchmark.clips, True, 0, (), source=source)


def parse_target(
    text: str, fps: float = 0.0, crf: int = 18, store: str = "h264"
) -> TranscodeTarget:
    """A TranscodeTarget from `256` (short side) or `320x240` (width x height, cut to fit); ConfigError if
    there is no such thing.
    """
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or min(sides) < 16 or any(side % 2 for side in sides):
        raise ConfigError(
            f"--size {text}: give the short side (256) or WIDTHxHEIGHT (320x240), even numbers from 16 on."
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
    """Make the shards of a manifest that are not there yet.

    Args:
        manifest: as `read_manifest` takes it, or read already (`of_benchmark`); with columns
            start_s and end_s only that part of each video is kept.
        out: folder of the shards; created.
        target: size, rate and quality of the clips; None: short side 256, the source's rate.
        max_per_shard: clips in a shard at most; the clips of a split are spread evenly.
        workers: processes (0 = this one, without protection from decoders that hang or crash).
        timeout_s: seconds after which a stretch of 32 frames counts as hanging.
        check: asked after each shard; may raise to end the work.
        encode: what makes the small clips; must be picklable.

    Raises:
        DataError: the manifest cannot be used.
        UserError: `out` holds shards of something else, or cannot be written.
    """
    if max_per_shard < 1:
        raise ConfigError(f"--max-per-shard {max_per_shard}: must be at least 1.")
    source = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    folder, target = Path(out).expanduser(), target or TranscodeTarget()
    shards = list(plan(source, max_per_shard))
    document = {
        "format": FORMAT,
        "manifest": digest_of(source),
        "target": _in_plan(target),
        "max_per_shard": max_per_shard,
        "shards": [shard.name for shard in shards],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            wait_for_lock(lock, check)
            _claim(folder, document)
            for part in folder.glob(
                ".*.part"
            ):  # of an attempt that was killed; a worker that outlived it loses its file, and ends
                part.unlink(missing_ok=True)
            missing = [shard for shard in shards if not (folder / f"{shard.name}.json").is_file()]
            if len(missing) < len(shards):
                say(f"{len(shards) - len(missing)} of {len(shards)} shards are there already")
            _make(_ShardTask(folder, target, encode), missing, workers, timeout_s, say, check)
            outcome = _conclude(folder, source, shards)
    except OSError as error:
        raise UserError(
            f"cannot write shards to {folder}: {error.strerror or error}; free some space or choose another folder."
        ) from error
    outcome.made_now = len(missing)
    for line in outcome.lines():
        say(line)
    return outcome


def plan(manifest: Manifest, max_per_shard: int) -> Iterator[PlannedShard]:
    """The shards: clips of one split in the manifest's order, as evenly filled as can be."""
    for split in sorted({clip.split for clip in manifest.clips}):
        members = [
            (number, clip) for number, clip in enumerate(manifest.clips) if clip.split == split
        ]
        count = math.ceil(len(members) / max_per_shard)
        for i in range(count):
            part = members[i * len(members) // count : (i + 1) * len(members) // count]
            yield PlannedShard(f"{split or 'clips'}-{i:06d}", tuple(part))


def digest_of(manifest: Manifest) -> str:
    """sha256 of what the manifest says, with paths relative to its folder where they lie in it."""
    sha, folder = hashlib.sha256(), manifest.path.resolve().parent
    for clip in manifest.clips:
        path = clip.path.relative_to(folder) if clip.path.is_relative_to(folder) else clip.path
        sha.update(
            json.dumps(
                [clip.id, str(path), clip.captions, clip.split, clip.start_s, clip.end_s]
            ).encode()
            + b"\n"
        )
    return sha.hexdigest()


def key_of(number: int, name: str) -> str:
    """The name of a clip inside its shard: unique by its number; no dot (it would begin the
    extension), no slash, ASCII.
    """
    return f"{number:08d}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:NAME_LENGTH]}"


def _in_plan(target: TranscodeTarget) -> dict[str, Any]:
    """What the plan says of the target. Of uncompressed frames it says what it always has, whatever
    H.264 is like today, so that shards which were begun before can be gone on with."""
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
    """Write the plan, or see that it is the one by which the shards in `folder` were begun."""
    there = read_json(folder / PLAN) if (folder / PLAN).is_file() else None
    if there is None:
        strangers = sorted(path.name for path in folder.glob("*.tar"))
        if strangers:
            raise UserError(
                f"{folder} holds {strangers[0]}, which this command did not make: choose another folder."
            )
        write_atomically(folder / PLAN, json.dumps(document, indent=1))
    elif there != document:
        changed = ", ".join(key for key in document if there.get(key) != document[key])
        raise UserError(
            f"{folder} was begun with another {changed}: choose another folder, or remove this one."
        )


# ---- one shard -----------------------------------------------------------------------------------


Job = tuple[
    PlannedShard, dict[int, str]
]  # the shard, and the clips (by place in it) that ended a worker, with the reason


@dataclass(frozen=True)
class _ShardTask:
    folder: Path
    target: TranscodeTarget
    encode: Encode

    def __call__(self, job: Job, watchdog: DecodeWatchdog) -> int:
        """Write the shard and its index; the number of clips in it."""
        shard, bad = job
        tar, part = (
            self.folder / f"{shard.name}.tar",
            self.folder / f".{shard.name}.tar.{os.getpid()}.part",
        )
        entries: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        with open(part, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for place, (number, clip) in enumerate(shard.clips):
                    try:
                        if place in bad:
                            raise UnusableVideo("decoder", bad[place])
                        made = self._encoded(place, clip, watchdog)
                        entries.append(
                            _add(
                                archive,
                                number,
                                clip,
                                made,
                                RAW_ENDING if self.target.store == "raw" else ".mp4",
                            )
                        )
                    except UnusableVideo as error:
                        failed.append(
                            {
                                "number": number,
                                "id": clip.id,
                                "kind": error.kind,
                                "reason": error.reason,
                            }
                        )
            file.flush()
        content = {
            "format": FORMAT,
            "shard": tar.name,
            "bytes": part.stat().st_size,
            "clips": entries,
            "failed": failed,
        }
        _durable(part, tar)
        write_atomically(self.folder / f"{shard.name}.json", json.dumps(content))
        return len(entries)

    def _encoded(self, place: int, clip: Clip, watchdog: DecodeWatchdog) -> Transcoded:
        """The small clip, each stretch of the work watched."""
        steps = self.encode(clip.path, self.target, clip.start_s, clip.end_s)
        while True:
            with watchdog.decoding(place):
                try:
                    next(steps)
                except StopIteration as end:
                    made: Transcoded = end.value
                    return made


def _add(
    archive: tarfile.TarFile, number: int, clip: Clip, made: Transcoded, ending: str
) -> dict[str, Any]:
    """Append the video and its text; what the index says of them."""
    key = key_of(number, clip.id)
    about = {"id": clip.id, "captions": clip.captions, "split": clip.split}
    part = (
        {"start_s": clip.start_s, "end_s": clip.end_s}
        if clip.start_s is not None or clip.end_s is not None
        else {}
    )
    video = {"frames": made.frames, "fps": made.fps, "height": made.height, "width": made.width}
    return {
        "key": key,
        "number": number,
        **about,
        **part,
        "video": {**_append(archive, key + ending, made.content), **video},
        "text": _append(archive, f"{key}.json", json.dumps({**about, **part, **video}).encode()),
    }


def _append(archive: tarfile.TarFile, name: str, content: bytes) -> dict[str, Any]:
    header = tarfile.TarInfo(name)  # time 0, user 0: equal clips give equal bytes
    header.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(header, io.BytesIO(content))
    return {
        "name": name,
        "offset": offset,
        "length": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _durable(part: Path, final: Path) -> None:
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, final)


# ---- all shards ----------------------------------------------------------------------------------


def _make(
    task: _ShardTask,
    shards: Sequence[PlannedShard],
    workers: int,
    timeout_s: float,
    say: LogFn,
    check: CancelCheck,
) -> None:
    began = time.monotonic()
    bad: dict[str, dict[int, str]] = {shard.name: {} for shard in shards}
    total, done = sum(len(shard.clips) for shard in shards), 0
    pending = list(shards)
    while pending:
        check()
        died = []
        jobs = [(shard, dict(bad[shard.name])) for shard in pending]
        for number, answer in map_in_workers(task, jobs, min(workers, len(jobs)), timeout_s):
            check()
            shard = pending[number]
            if isinstance(answer, WorkerDied):
                if answer.clip < 0:
                    raise UserError(
                        f"a worker ended while it was not decoding ({answer.reason}); if memory ran out, use fewer --workers."
                    )
                bad[shard.name][answer.clip] = answer.reason
                say(
                    f"{shard.name} is made again without {shard.clips[answer.clip][1].id}: {answer.reason}"
                )
                died.append(shard)
                continue
            done += len(shard.clips)
            spent = time.monotonic() - began
            say(
                f"{shard.name}: {answer} of {len(shard.clips)} clips; {done} of {total} done, {spent / done * (total - done):.0f} s left"
            )
        pending = died


def _conclude(folder: Path, source: Manifest, shards: Sequence[PlannedShard]) -> ShardingResult:
    """Count what the indexes say; write failures.csv and summary.json."""
    outcome, listed, failures = ShardingResult(len(source.clips), shards=len(shards)), [], []
    for shard in shards:
        path = folder / f"{shard.name}.json"
        index = read_json(path)
        if len(index["clips"]) + len(index["failed"]) != len(shard.clips):
            raise DataError(
                f"{path} speaks of other clips than the manifest: remove it, and give the command again."
            )
        outcome.written += len(index["clips"])
        outcome.failed.update(entry["kind"] for entry in index["failed"])
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
    writer.writerow(["number", "id", "kind", "reason"])
    writer.writerows(
        [entry["number"], entry["id"], entry["kind"], entry["reason"]]
        for entry in sorted(failures, key=lambda e: e["number"])
    )
    write_atomically(folder / FAILURES, table.getvalue())
    summary = {
        "format": FORMAT,
        "clips": outcome.clips,
        "written": outcome.written,
        "failed": dict(sorted(outcome.failed.items())),
        "has_splits": source.has_splits,
        **({"benchmark": asdict(source.source)} if source.source else {}),
        "rows_without_caption": source.empty_captions,
        "videos_without_caption": len(source.uncaptioned),
        "bytes": sum(shard["bytes"] for shard in listed),
        "shards": listed,
    }
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1))
    return outcome
