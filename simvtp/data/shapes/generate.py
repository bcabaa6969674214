"""The embedded data set: short clips of moving, textured objects with captions.

It is made on first use: `ensure_shapes` writes real H.264 files, and tables of what each shows:

    shapes-v1-<digest>/
      manifest.csv    videoid, path, caption, split (a row a caption; one or two captions a training
                      clip, else exactly one)
      records.jsonl   the scene: background, objects, events with their frame spans, content of each
                      caption
      questions.csv   videoid, question, answer, kind, split
      actions.csv     videoid, label, split (motion of the only large object; clips without one have
                      no row)
      grounding.csv   videoid, sentence, start_s, end_s, split
      checksums.json  size and CRC-32 of each file, written last (see checksums.py)
      clips/<split>/<number>.mp4

What is asked of the splits: a caption's content (not its wording) is said in one split only; within
val and within test each caption fits its own clip and no other, so a perfect retriever reaches R@1
= 100 %. See `scene` for why objects have their sizes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from simvtp.config.data_config import SHAPES_VERSION, ShapesConfig
from simvtp.data.prepare.encode import encode_h264
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, wait_for_lock
from simvtp.data.shapes.annotation_tables import TABLES, tables
from simvtp.data.shapes.checksums import (
    damaged_files,
    undecodable_clips,
    write_checksums,
    write_durably,
)
from simvtp.data.shapes.plan_clips import PlannedClip, Purpose, clip_path, plan
from simvtp.data.shapes.render_scene import render
from simvtp.data.shapes.scene import FPS, SPLITS, Draw
from simvtp.data.video.decode_workers import main_script_hidden, stop_signals_blocked
from simvtp.errors import ConfigError, DataError

CHUNK = 16  # clips that a worker makes between two reports

Progress = Callable[[int, int], None]


def shapes_folder(config: ShapesConfig, cache: Path) -> Path:
    """Returns the folder of the clips of this configuration.

    Another configuration or version has another folder.
    """
    tree = {**asdict(config), "difficulty": float(config.difficulty), "version": SHAPES_VERSION}
    if config.level == "scenes":  # older than the levels: its folders keep their names
        del tree["level"]
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    return Path(cache) / f"shapes-v{SHAPES_VERSION}-{digest[:12]}"


def ensure_shapes(
    config: ShapesConfig,
    cache: Path,
    workers: int = 0,
    say: LogFn | None = None,
    progress: Progress | None = None,
    check: CancelCheck = never_cancelled,
) -> Path:
    """Makes what is missing or damaged of the embedded data set.

    Safe to kill (each file appears whole or not at all, the next call makes the rest) and to call
    from several processes at once (one works, the others wait for it).

    Args:
        config: which clips.
        cache: folder that holds the data sets; created if needed.
        workers: processes that draw and encode; 0 = one for each core that this process may use.
        say: takes a line of text now and then.
        progress: takes (clips there, clips in all), after every few clips; may raise to end the
            work.
        check: asked while another process makes them; may raise to end the wait.

    Returns:
        The path of the manifest.

    Raises:
        ConfigError: a frame size that cannot be made, more clips in val or test than can be
            distinguished, or a negative number of workers.
        DataError: the cache cannot be written, the disk is full, or a worker was killed.
    """
    _check(config, workers)
    say = say or (lambda line: None)
    folder = shapes_folder(config, cache)
    try:
        if not damaged_files(folder, _files(config)):
            return folder / "manifest.csv"
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, say, check):
            damaged = damaged_files(folder, _files(config))
            if damaged:  # else another process has just made them
                count = workers or len(os.sched_getaffinity(0))
                report = progress or (lambda done, total: None)
                _generate(config, folder, damaged, count, say, report, check)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise DataError(
            f"the embedded data set cannot be written to {folder}: {what}; free some space there "
            "or set runtime.cache to another folder."
        ) from error
    return folder / "manifest.csv"


def _check(config: ShapesConfig, workers: int) -> None:
    if workers < 0:
        raise ConfigError(f"workers={workers}: must be 0 (one for each core) or more.")
    if config.image_size % 2 or config.image_size < 32:
        raise ConfigError(
            f"data.shapes.image_size={config.image_size}: must be even (H.264) and at least 32 "
            "(smaller objects cannot be recognised)."
        )


def _files(config: ShapesConfig) -> list[str]:
    """Returns the names of all files but the checksums, relative to the folder."""
    clips = [clip_path(split, i) for split in SPLITS for i in range(getattr(config, split))]
    return [*clips, *TABLES]


@contextlib.contextmanager
def _locked(folder: Path, say: LogFn, check: CancelCheck) -> Iterator[None]:
    """Holds the folder's lock, which the system releases when its holder ends, however it ends."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making the embedded data set in {folder}: waiting for it")
            wait_for_lock(lock, check)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            say(
                f"{folder} has no file locks: if several processes make the embedded data set "
                "there, they repeat each other's work"
            )
        yield


def _generate(
    config: ShapesConfig,
    folder: Path,
    damaged: dict[str, str],
    workers: int,
    say: LogFn,
    progress: Progress,
    check: CancelCheck,
) -> None:
    """Makes damaged and missing files, then the checksums.

    Args:
        damaged: {name: reason} of `damaged_files`.
    """
    for leftover in folder.rglob(".*.tmp"):  # of a killed process; the lock is ours
        leftover.unlink(missing_ok=True)
    started = time.monotonic()
    clips = plan(config)
    # A clip without a checksum is complete if it decodes: it was renamed after its last byte.
    unproven = [name for name, reason in damaged.items() if reason == "unproven"]
    proven = set(unproven) - undecodable_clips(folder, unproven, config.frames, check)
    todo = [clip for clip in clips if clip.path in damaged and clip.path not in proven]
    bad = sorted(name for name, reason in damaged.items() if reason == "damaged")
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        say(f"embedded data set: damaged and made again in {folder}: {bad[0]}{more}")
    if todo:
        say(f"embedded data set: making {len(todo)} of {len(clips)} clips in {folder}")

        def report(done: int) -> None:
            progress(len(clips) - len(todo) + done, len(clips))

        _make_clips(todo, config, folder, workers, report, check)
    for name, text in tables(clips, config).items():
        if name in damaged or todo:
            write_durably(folder / name, text)
    write_checksums(folder, _files(config))
    say(f"embedded data set: {len(clips)} clips are ready ({time.monotonic() - started:.0f} s)")


def _make_clips(
    todo: Sequence[PlannedClip],
    config: ShapesConfig,
    folder: Path,
    workers: int,
    report: Callable[[int], None],
    check: CancelCheck,
) -> None:
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    done = 0
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            done += _make_chunk(chunk, config, folder)
            report(done)
        return
    # A fork would copy the threads' locks of torch and of the tracker.
    context = multiprocessing.get_context("spawn")
    with main_script_hidden(), stop_signals_blocked():
        pool = ProcessPoolExecutor(
            min(workers, len(chunks)), mp_context=context, initializer=_end_with_parent
        )
        futures = [pool.submit(_make_chunk, chunk, config, folder) for chunk in chunks]
    with pool:
        try:
            for finished in as_completed(futures):
                done += finished.result()
                report(done)
        except BrokenProcessPool as error:
            check()  # SIGTERM may have gone to every process of the job
            raise DataError(
                f"a process that made clips in {folder} was killed (out of memory?): run the "
                "command again to make the rest."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Lets a worker end when its parent is killed, and lets the pool end it.

    Otherwise it would wait for work for ever.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()

    def wait_and_end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def _make_chunk(chunk: Sequence[PlannedClip], config: ShapesConfig, folder: Path) -> int:
    for clip in chunk:
        draw = Draw(config.seed, clip.split, clip.index, 0, Purpose.PIXELS)
        frames = render(clip.scene, config.image_size, config.difficulty, draw)
        encode_h264(frames, folder / clip.path, FPS)
    return len(chunk)
