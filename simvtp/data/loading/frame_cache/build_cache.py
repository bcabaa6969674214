"""Cache of the decoded frames of a small data set, in one memory-mapped file.

Small experiments then do not wait for the decoder. The cache holds every frame of every clip, with
its short side at the size that training reads (`transforms.read_side`): a sample is then a slice.
The pixels are the same as without the cache, bit for bit. The file's name is a digest of the clips
(path, size, time of change), the reader and the sizes, so another data set never finds it, and
experiments that run at the same time share it: one builds, the others wait.

    <cache>/decoded/<digest>.u8    the frames, clip after clip, uint8 [frames, height, width, 3]
    <cache>/decoded/<digest>.npz   where each clip starts, its size, the CRC-32 of each frame;
                                   written last, after the frames are on disk

A process compares the checksum of each frame when it reads it first. Frames that differ (a power
failure or a bad disk) are decoded again from their file, and the cache is repaired.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.config.data_config import SAME_FRAMES
from simvtp.data.loading.frame_cache.decoded_cache import ClipState, DecodedCache, write_frames
from simvtp.data.progress import CancelCheck, never_cancelled, wait_for_lock
from simvtp.data.video.decode_workers import DecodeWatchdog, SharedTexts, WorkerDied, map_in_workers
from simvtp.data.video.readers import fit_short_side, probe, read_frames
from simvtp.data.video.tar_member import file_of
from simvtp.data.video.video_reader import Reader, VideoInfo
from simvtp.errors import DataError, UserError
from simvtp.runs.atomic_files import write_atomically

FORMAT = 2
LARGEST_BYTES = 20 * 2**30

Progress = Callable[[str, int, int], None]  # (what, done, total)
Arrays = dict[str, np.ndarray]


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

    def __call__(self, clip: int, watchdog: DecodeWatchdog) -> np.ndarray | None:
        """Writes one clip into the file.

        Returns:
            The CRC-32 of each frame, uint32 [frames]; None if not all of them decode.
        """
        frames, height, width = (int(n) for n in self.shape[clip])
        try:
            with watchdog.decoding(clip):
                decoded = read_frames(self.paths[clip], range(frames), self.reader, (height, width))
        except DataError:
            return None
        write_frames(self.file, int(self.start[clip]), decoded)
        return np.array([zlib.crc32(frame) for frame in decoded], np.uint32)


@dataclass(frozen=True)
class _Layout:
    """Positions of the clips in the file of frames; see `DecodedCache`."""

    shape: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        return self.shape.prod(axis=1) * 3

    @property
    def start(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @property
    def first(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.shape[:, 0])[:-1]]).astype(np.int64)

    @property
    def bytes(self) -> int:
        return int(self.sizes.sum())

    @property
    def frames(self) -> int:
        return int(self.shape[:, 0].sum())


@dataclass(frozen=True)
class _Index:
    """Index of a finished cache; see `DecodedCache`."""

    state: np.ndarray
    checksums: np.ndarray
    reasons: dict[int, str]


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
    """Returns the cache of these clips.

    It is built in parallel if it does not exist or its index is damaged; an interrupted build is
    continued.

    Args:
        paths: the clips, in the order in which they will be asked for.
        side: short side of the cached frames; smaller videos are cached as they are.
        folder: folder of the caches (`cache_dir(runtime) / "decoded"`).
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
        with _locked(folder / f"{identity}.lock", check):
            info, reasons = _probed(
                unique, reader, folder / f"{identity}-info.npz", workers, timeout_s, report
            )
            shape = [(n, *fit_short_side(h, w, side)) if n else (0, 0, 0) for n, h, w in info]
            layout = _Layout(np.array(shape, np.int64).reshape(-1, 3))
            digest = hashlib.sha256(identity.encode() + layout.shape.tobytes()).hexdigest()[:20]
            stem = folder / digest
            if _load(stem, layout) is None:
                _build(unique, reader, layout, reasons, stem, workers, timeout_s, report)
            index = _load(stem, layout)
    except OSError as error:
        raise UserError(
            f"cannot keep decoded frames in {folder}: {error.strerror or error}; set runtime.cache "
            "to another disk or runtime.decoded_cache=false."
        ) from error
    if index is None:
        raise UserError(f"{stem}.npz is damaged right after it was written: check the disk.")
    return _in_order(paths, unique, reader, stem, layout, index)


def _in_order(
    paths: Sequence[Path],
    unique: Sequence[Path],
    reader: Reader,
    stem: Path,
    layout: _Layout,
    index: _Index,
) -> DecodedCache:
    """Returns the cache with the clips in the order of `paths`."""
    rows = {path: number for number, path in enumerate(unique)}
    order = np.array([rows[path] for path in paths], np.int64)  # a clip may be listed often
    return DecodedCache(
        path=stem.with_suffix(".u8"),
        paths=SharedTexts([str(path) for path in paths]),
        reader=reader,
        state=index.state[order],
        start=layout.start[order],
        shape=layout.shape[order],
        first=layout.first[order],
        checksums=index.checksums,
        reasons={
            clip: index.reasons[row]
            for clip, row in enumerate(order.tolist())
            if row in index.reasons
        },
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
def _locked(path: Path, check: CancelCheck) -> Iterator[None]:
    """Holds a file lock; the kernel releases it when the process ends, however it ends."""
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
) -> tuple[list[list[int]], dict[int, str]]:
    """Returns frames, height and width of each clip, and reasons of clips that ended their decoder.

    Zeros stand for a clip that cannot be opened.
    """
    stored = _read_arrays(file, "info")
    if stored is not None and stored["info"].shape == (len(paths), 3):
        return stored["info"].tolist(), _reasons(stored)
    info = np.zeros((len(paths), 3), np.int64)
    reasons: dict[int, str] = {}
    task = _ProbeTask(tuple(paths), reader)
    answers = map_in_workers(task, range(len(paths)), workers, timeout_s)
    for done, (clip, answer) in enumerate(answers, start=1):
        if isinstance(answer, WorkerDied):
            reasons[clip] = f"{paths[clip]} does not decode ({answer.reason})."
        elif isinstance(answer, VideoInfo):
            info[clip] = answer.frames, answer.height, answer.width
        report("measuring clips", done, len(paths))
    _save(file, info=info, reasons=reasons)
    return info.tolist(), reasons


def _build(
    paths: Sequence[Path],
    reader: Reader,
    layout: _Layout,
    reasons: dict[int, str],
    stem: Path,
    workers: int,
    timeout_s: float,
    report: Progress,
) -> None:
    """Decodes the clips into `<stem>.part`, then renames it and writes the index."""
    if layout.bytes > LARGEST_BYTES:
        raise DataError(
            f"runtime.decoded_cache would keep {layout.bytes / 2**30:.0f} GiB of frames for "
            f"{len(paths)} clips (limit {LARGEST_BYTES / 2**30:.0f} GiB): set "
            "runtime.decoded_cache=false."
        )
    part = stem.with_suffix(".part")
    _allocate(part, layout.bytes)
    checksums = _progress_file(stem.with_suffix(".crc"), layout.frames, np.uint32)
    state = _progress_file(stem.with_suffix(".state"), len(paths), np.uint8)
    state[state > max(ClipState)] = ClipState.UNKNOWN
    state[layout.sizes == 0] = ClipState.DIRECT
    state[list(reasons)] = ClipState.DEAD
    jobs = np.flatnonzero(state == ClipState.UNKNOWN).tolist()
    before = len(paths) - len(jobs)
    task = _DecodeTask(tuple(paths), reader, part, layout.start, layout.shape)
    answers = map_in_workers(task, jobs, workers, timeout_s)
    for done, (number, answer) in enumerate(answers, start=before + 1):
        clip = jobs[number]
        if isinstance(answer, WorkerDied):
            reasons[clip] = f"{paths[clip]} does not decode ({answer.reason})."
            state[clip] = ClipState.DEAD
        elif answer is None:
            state[clip] = ClipState.DIRECT
        else:
            first = int(layout.first[clip])
            checksums[first : first + len(answer)] = answer
            state[clip] = ClipState.DECODED
        report("decoding clips", done, len(paths))
    for clip in np.flatnonzero(state == ClipState.DEAD).tolist():
        reasons.setdefault(clip, f"{paths[clip]} does not decode (it ended its decoder).")
    _flush(part)
    os.replace(part, stem.with_suffix(".u8"))
    _flush(stem.parent)
    index = {"state": np.array(state), "shape": layout.shape, "checksums": np.array(checksums)}
    _save(stem.with_suffix(".npz"), reasons, **index)
    for suffix in (".state", ".crc"):
        stem.with_suffix(suffix).unlink()


def _allocate(path: Path, size: int) -> None:
    """Makes a file as long as `size`, so that a full disk is noticed before anything is mapped."""
    with open(path, "ab") as file:
        if size > file.seek(0, os.SEEK_END):
            os.posix_fallocate(file.fileno(), 0, size)


def _progress_file(path: Path, length: int, kind: type[np.generic]) -> np.ndarray:
    """Returns an array in a file, which survives the process; zeros if there is none."""
    size = max(1, length) * np.dtype(kind).itemsize
    if not path.exists() or path.stat().st_size != size:
        write_atomically(path, bytes(size))
    return np.memmap(path, kind, "r+")[:length]


def _flush(path: Path) -> None:
    """Waits until a file or the entries of a folder are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _load(stem: Path, layout: _Layout) -> _Index | None:
    """Returns the index of a finished cache; None if it must be built.

    A file of frames that is too short is made longer: its missing frames then differ from their
    checksums and are decoded when they are read.
    """
    frames, stored = stem.with_suffix(".u8"), _read_arrays(stem.with_suffix(".npz"), "checksums")
    if stored is None or not frames.exists():
        return None
    state, checksums = stored["state"], stored["checksums"]
    if not np.array_equal(stored["shape"], layout.shape):
        return None
    if state.shape != (len(layout.shape),) or checksums.shape != (layout.frames,):
        return None
    _allocate(frames, layout.bytes)
    return _Index(state, checksums, _reasons(stored))


def _reasons(stored: Arrays) -> dict[int, str]:
    return dict(zip(stored["reason_of"].tolist(), stored["reason"].tolist(), strict=True))


def _read_arrays(path: Path, needed: str) -> Arrays | None:
    """Returns the arrays of an .npz file; None if it is missing, damaged or lacks `needed`."""
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError):
        return None
    except (zipfile.BadZipFile, zlib.error):
        return None
    return arrays if {needed, "reason_of", "reason"} <= set(arrays) else None


def _save(path: Path, reasons: dict[int, str], **arrays: np.ndarray) -> None:
    buffer = io.BytesIO()
    everything: dict[str, Any] = {
        **arrays,
        "reason_of": np.array(list(reasons), np.int64),
        "reason": np.array(list(reasons.values()), np.str_),
    }
    np.savez(buffer, **everything)
    write_atomically(path, buffer.getvalue())
