"""Decoded frames of a small data set, kept in one memory-mapped file, so that small experiments do
not wait for the decoder.

Every frame of every clip, with its short side at the size that training reads
(`transforms.read_side`): a sample is then a slice. What comes out is the same as without the cache,
bit for bit. The file's name is a digest of the clips (path, size, time of change), the reader and
the sizes, so another data set never meets it, and experiments that run side by side share it: one
builds, the others wait.

    <cache>/decoded/<digest>.u8    the frames, clip after clip, uint8 [frames, height, width, 3] each
    <cache>/decoded/<digest>.npz   where each clip starts and what it measures; written last
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.config.data_config import SAME_FRAMES
from simvtp.data.loading.decode_workers import DecodeWatchdog, WorkerDied, map_in_workers
from simvtp.data.progress import CancelCheck, never_cancelled, wait_for_lock
from simvtp.data.video.readers import fit_short_side, probe, read_frames
from simvtp.data.video.tar_member import file_of
from simvtp.data.video.video_reader import Reader, VideoInfo
from simvtp.errors import DataError, UserError
from simvtp.runs.atomic_files import write_atomically

FORMAT = 1
LARGEST_BYTES = 20 * 2**30
UNKNOWN, DECODED, DIRECT, DEAD = (
    0,
    1,
    2,
    3,
)  # state of a clip; DIRECT: not all frames decode, read it from its file each time

Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass
class DecodedCache:
    """A finished cache. Picklable; each process maps the file on first use."""

    path: Path
    state: np.ndarray  # uint8 [clips]
    start: np.ndarray  # int64 [clips], bytes
    shape: np.ndarray  # int64 [clips, 3]: frames, height, width
    reasons: dict[int, str]  # of clips that ended their decoder
    _map: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def holds(self, clip: int) -> bool:
        """Whether the clip can be read here; DataError if it must not be read at all."""
        if self.state[clip] == DEAD:
            raise DataError(self.reasons[clip])
        return bool(self.state[clip] == DECODED)

    def length(self, clip: int) -> int:
        return int(self.shape[clip, 0])

    def read(self, clip: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3], a copy."""
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        frames, height, width = (int(n) for n in self.shape[clip])
        start = int(self.start[clip])
        whole = self._map[start : start + frames * height * width * 3].reshape(
            frames, height, width, 3
        )
        return np.asarray(whole[np.asarray(indices)])


@dataclass(frozen=True)
class _ProbeTask:
    paths: tuple[Path, ...]
    reader: Reader

    def __call__(self, clip: int, watchdog: DecodeWatchdog) -> VideoInfo | str:
        try:
            with watchdog.decoding(clip):
                return probe(self.paths[clip], self.reader)
        except DataError as error:
            return str(error)


@dataclass(frozen=True)
class _DecodeTask:
    paths: tuple[Path, ...]
    reader: Reader
    file: Path
    start: np.ndarray
    shape: np.ndarray

    def __call__(self, clip: int, watchdog: DecodeWatchdog) -> bool:
        """Write one clip into the file; whether all of it decoded."""
        frames, height, width = (int(n) for n in self.shape[clip])
        try:
            with watchdog.decoding(clip):
                decoded = read_frames(self.paths[clip], range(frames), self.reader, (height, width))
        except DataError:
            return False
        target = np.memmap(self.file, np.uint8, "r+", offset=0)
        start = int(self.start[clip])
        target[start : start + decoded.size] = decoded.reshape(-1)
        return True


def open_cache(
    paths: Sequence[Path],
    reader: Reader,
    side: int,
    folder: Path,
    workers: int,
    timeout_s: float,
    progress: Progress | None = None,
    check: CancelCheck = never_cancelled,
) -> DecodedCache:
    """The cache of these clips, built (in parallel, continued if it was interrupted) if it is not
    there.

    Args:
        paths: the clips, in the order in which they will be asked for.
        side: short side of the kept frames; smaller videos are kept as they are.
        folder: where caches lie (`cache_dir(runtime) / "decoded"`).
        workers: processes that decode (0 = this one, without a time-out).
        check: asked while another process builds it; may raise to end the wait.

    Raises:
        DataError: it would take more than 20 GiB.
        UserError: the disk is full or cannot be written.
    """
    report = progress or (lambda what, done, total: None)
    unique = sorted(set(paths))
    identity = _identity(unique, reader)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / f"{identity}.lock", check):
            info, reasons = _probed(
                unique, reader, folder / f"{identity}-info.npz", workers, timeout_s, report
            )
            shape = np.array(
                [(n, *fit_short_side(h, w, side)) if n else (0, 0, 0) for n, h, w in info.tolist()],
                np.int64,
            ).reshape(-1, 3)
            digest = hashlib.sha256(identity.encode() + shape.tobytes()).hexdigest()[:20]
            built = _load(folder / digest) or _build(
                unique, reader, shape, reasons, folder / digest, workers, timeout_s, report
            )
    except OSError as error:
        raise UserError(
            f"cannot keep decoded frames in {folder}: {error.strerror or error}; set runtime.cache to another disk or runtime.decoded_cache=false."
        ) from error
    rows = {path: number for number, path in enumerate(unique)}
    order = np.array([rows[path] for path in paths], np.int64)
    reasons = {
        clip: built.reasons[row] for clip, row in enumerate(order.tolist()) if row in built.reasons
    }  # a clip may be listed often
    return DecodedCache(
        built.path, built.state[order], built.start[order], built.shape[order], reasons
    )


def _identity(paths: Sequence[Path], reader: Reader) -> str:
    digest = hashlib.sha256(f"{FORMAT} {SAME_FRAMES.get(reader.name, reader.name)}".encode())
    for path in paths:
        try:
            stat = file_of(path).stat()
            digest.update(f"\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
        except OSError:
            digest.update(f"\0{path}\0missing".encode())
    return digest.hexdigest()[:20]


@contextlib.contextmanager
def _only_one(path: Path, check: CancelCheck) -> Iterator[None]:
    """Hold a file lock; the kernel gives it up when the process ends, however it ends."""
    with open(path, "w") as file:
        wait_for_lock(file, check)
        yield


def _probed(
    paths: Sequence[Path],
    reader: Reader,
    file: Path,
    workers: int,
    timeout_s: float,
    report: Progress,
) -> tuple[np.ndarray, dict[int, str]]:
    """int64 [clips, 3] of frames, height, width (zeros: cannot be opened), and the reasons of clips
    that ended their decoder.
    """
    if file.exists():
        with np.load(file) as stored:
            return stored["info"], _reasons(stored)
    info = np.zeros((len(paths), 3), np.int64)
    reasons: dict[int, str] = {}
    jobs = range(len(paths))
    for done, (clip, answer) in enumerate(
        map_in_workers(_ProbeTask(tuple(paths), reader), jobs, workers, timeout_s), start=1
    ):
        if isinstance(answer, WorkerDied):
            reasons[clip] = f"{paths[clip]} does not decode ({answer.reason})."
        elif isinstance(answer, VideoInfo):
            info[clip] = answer.frames, answer.height, answer.width
        report("measuring clips", done, len(paths))
    _save(file, info=info, reasons=reasons)
    return info, reasons


def _build(
    paths: Sequence[Path], reader: Reader, shape: np.ndarray, reasons: dict[int, str], stem: Path, workers: int, timeout_s: float, report: Progress
) -> DecodedCache:  # fmt: skip
    sizes = shape.prod(axis=1) * 3
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    total = int(sizes.sum())
    if total > LARGEST_BYTES:
        raise DataError(
            f"runtime.decoded_cache would keep {total / 2**30:.0f} GiB of frames for {len(paths)} clips (limit {LARGEST_BYTES / 2**30:.0f} GiB): "
            "set runtime.decoded_cache=false."
        )
    part, marks = stem.with_suffix(".part"), stem.with_suffix(".state")
    with open(part, "ab") as file:
        if total > file.seek(0, os.SEEK_END):
            os.posix_fallocate(
                file.fileno(), 0, total
            )  # a full disk is found out now, not by a crash while writing through the map
    if not marks.exists() or marks.stat().st_size != len(paths):
        write_atomically(marks, bytes(len(paths)))
    state = np.memmap(marks, np.uint8, "r+")
    state[sizes == 0] = DIRECT
    state[list(reasons)] = DEAD
    jobs = np.flatnonzero(state == UNKNOWN).tolist()
    before = len(paths) - len(jobs)
    task = _DecodeTask(tuple(paths), reader, part, start, shape)
    for done, (number, answer) in enumerate(
        map_in_workers(task, jobs, workers, timeout_s), start=before + 1
    ):
        clip = jobs[number]
        if isinstance(answer, WorkerDied):
            reasons[clip] = f"{paths[clip]} does not decode ({answer.reason})."
        state[clip] = DEAD if isinstance(answer, WorkerDied) else DECODED if answer else DIRECT
        report("decoding clips", done, len(paths))
    for clip in np.flatnonzero(state == DEAD).tolist():
        reasons.setdefault(clip, f"{paths[clip]} does not decode (it ended its decoder).")
    state.flush()
    os.replace(part, stem.with_suffix(".u8"))
    _save(
        stem.with_suffix(".npz"), state=np.array(state), start=start, shape=shape, reasons=reasons
    )
    marks.unlink()
    return DecodedCache(stem.with_suffix(".u8"), np.array(state), start, shape, reasons)


def _load(stem: Path) -> DecodedCache | None:
    if not (stem.with_suffix(".npz").exists() and stem.with_suffix(".u8").exists()):
        return None
    with np.load(stem.with_suffix(".npz")) as stored:
        return DecodedCache(
            stem.with_suffix(".u8"),
            stored["state"],
            stored["start"],
            stored["shape"],
            _reasons(stored),
        )


def _reasons(stored: Any) -> dict[int, str]:
    return dict(zip(stored["reason_of"].tolist(), stored["reason"].tolist(), strict=True))


def _save(path: Path, reasons: dict[int, str], **arrays: np.ndarray) -> None:
    everything: dict[str, Any] = {
        **arrays,
        "reason_of": np.array(list(reasons), np.int64),
        "reason": np.array(list(reasons.values()), np.str_),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **everything)
    write_atomically(path, buffer.getvalue())
