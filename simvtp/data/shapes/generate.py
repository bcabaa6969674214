"""The embedded data set: short clips of moving, textured objects with captions, made on first use.

`ensure_shapes` writes real H.264 files and, beside them, what is known of each clip:

    shapes-v1-<digest>/
      manifest.csv    videoid, path, caption, split         (a row a caption; one or two captions a training clip, else exactly one)
      records.jsonl   the scene: background, objects, events with their frame spans, what each caption states
      questions.csv   videoid, question, answer, kind, split
      actions.csv     videoid, label, split                  (motion of the only large object; clips without one have no row)
      grounding.csv   videoid, sentence, start_s, end_s, split
      clips/<split>/<number>.mp4

What is asked of the splits: a caption's content (not its wording) is said in one split only; within
val and within test each caption fits its own clip and no other, so a perfect retriever reaches R@1
= 100 %.

Clip i of a split depends on (configuration, split, i), and in val and test also on the clips before
it, with which it must not be confused; more clips of a split therefore never change the first ones.
See `shapes_scene` for why objects have their sizes.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from simvtp.config.data_config import SHAPES_VERSION, ShapesConfig
from simvtp.data.loading.decode_workers import main_script_hidden, stop_signals_blocked
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, wait_for_lock
from simvtp.data.shapes import questions as shapes_questions
from simvtp.data.shapes.grammar import Statement, draw_caption, satisfies
from simvtp.data.shapes.questions import GRAMMAR_WORDS
from simvtp.data.shapes.render_scene import render
from simvtp.data.shapes.scene import FPS, SPLITS, Draw, Scene, draw_scene, place
from simvtp.data.video.encode import encode_h264
from simvtp.errors import ConfigError, DataError

__all__ = ["GRAMMAR_WORDS", "SHAPES_VERSION", "ensure_shapes", "plan", "shapes_folder"]

TABLES = (
    "records.jsonl",
    "questions.csv",
    "actions.csv",
    "grounding.csv",
    "manifest.csv",
)  # manifest last
PURPOSE_SCENE, PURPOSE_SECOND_CAPTION, PURPOSE_LAYOUT, PURPOSE_PIXELS, PURPOSE_TASKS = range(5)
CHUNK = 16  # clips that a worker makes between two reports
MAX_ATTEMPTS = 5000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PlannedClip:
    """One clip before it is drawn: its scene and its captions."""

    id: str
    split: str
    index: int
    scene: Scene
    statements: tuple[Statement, ...]
    captions: tuple[str, ...]

    @property
    def path(self) -> str:
        """Relative to the manifest."""
        return f"clips/{self.split}/{self.index:06d}.mp4"


def shapes_folder(config: ShapesConfig, cache: Path) -> Path:
    """Where the clips of this configuration lie; another configuration or version has another
    folder.
    """
    tree = {**asdict(config), "difficulty": float(config.difficulty), "version": SHAPES_VERSION}
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
    """Make what is missing of the embedded data set and return the path of its manifest.

    Args:
        config: which clips.
        cache: folder that holds the data sets; created if need be.
        workers: processes that draw and encode; 0 = one for each core that this process may use.
        say: takes a line of text now and then.
        progress: takes (clips there, clips in all), after every few clips; may raise to end the
            work.
        check: asked while another process makes them; may raise to end the wait.

    Safe to kill (each file appears whole or not at all, the next call makes the rest) and to call
    from several processes at once (one works, the others wait for it).

    Raises:
        ConfigError: a frame size that cannot be made, or more clips in val or test than can be told
            apart.
        DataError: the cache cannot be written, the disk is full, or a worker was killed.
    """
    _check(config)
    say = say or (lambda line: None)
    folder = shapes_folder(config, cache)
    if not _missing(folder, config):
        return folder / "manifest.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder, say, check):
            if _missing(folder, config):  # another process may just have made them
                _generate(
                    config,
                    folder,
                    workers or len(os.sched_getaffinity(0)),
                    say,
                    progress or (lambda done, total: None),
                    check,
                )
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise DataError(
            f"the embedded data set cannot be written to {folder}: {what}; free some space there or set runtime.cache to another folder."
        ) from error
    return folder / "manifest.csv"


def _check(config: ShapesConfig) -> None:
    if config.image_size % 2 or config.image_size < 32:
        raise ConfigError(
            f"data.shapes.image_size={config.image_size}: must be even (H.264) and at least 32 (objects must be seen)."
        )


def _missing(folder: Path, config: ShapesConfig) -> list[str]:
    """Names of what is not there, relative to the folder."""
    there = {name for name in TABLES if (folder / name).is_file()}
    for split in SPLITS:
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(folder / "clips" / split) as entries,
        ):
            there.update(f"clips/{split}/{entry.name}" for entry in entries)
    wanted = [
        f"clips/{split}/{index:06d}.mp4"
        for split in SPLITS
        for index in range(getattr(config, split))
    ]
    return [name for name in (*wanted, *TABLES) if name not in there]


@contextlib.contextmanager
def _only_one(folder: Path, say: LogFn, check: CancelCheck) -> Iterator[None]:
    """Hold the folder's lock. The system lets it go when its holder ends, however that happens."""
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
                f"{folder} has no file locks: if several processes make the embedded data set there, they repeat each other's work"
            )
        yield


def _generate(
    config: ShapesConfig,
    folder: Path,
    workers: int,
    say: LogFn,
    progress: Progress,
    check: CancelCheck,
) -> None:
    for leftover in folder.rglob(
        ".*.tmp"
    ):  # of a killed process; nobody else writes, as the lock is ours
        leftover.unlink(missing_ok=True)
    started = time.monotonic()
    clips = plan(config)
    missing = set(_missing(folder, config))
    todo = [clip for clip in clips if clip.path in missing]
    if todo:
        say(f"embedded data set: making {len(todo)} of {len(clips)} clips in {folder}")
        _make_clips(
            todo,
            config,
            folder,
            workers,
            lambda done: progress(len(clips) - len(todo) + done, len(clips)),
            check,
        )
    for name, text in _tables(clips, config).items():
        if name in missing or todo:
            _write(folder / name, text)
    say(f"embedded data set: {len(clips)} clips are ready ({time.monotonic() - started:.0f} s)")


# ---- plan ----------------------------------------------------------------------------------------


def plan(config: ShapesConfig) -> list[PlannedClip]:
    """All clips of a configuration: a pure function, the same on every machine.

    Raises:
        ConfigError: val or test asks for more clips that can be told apart than were found.
    """
    clips = [clip for split in SPLITS for clip in _plan_split(config, split)]
    spoken: dict[str, str] = {}
    for clip in clips:
        for caption in clip.captions:
            if spoken.setdefault(caption, clip.split) != clip.split:
                raise RuntimeError(
                    f"the caption '{caption}' is in two splits: the wording does not determine the content"
                )
    return clips


def _plan_split(config: ShapesConfig, split: str) -> Iterator[PlannedClip]:
    earlier: list[PlannedClip] = []
    for index in range(getattr(config, split)):
        for attempt in range(MAX_ATTEMPTS):
            draw = Draw(config.seed, split, index, attempt, PURPOSE_SCENE)
            scene = draw_scene(draw, config)
            statement, caption = draw_caption(draw, scene, config.difficulty)
            if statement.split != split or (
                split != "train" and _confused(statement, scene, earlier)
            ):
                continue
            said = [(statement, caption)]
            if split == "train":
                said += _second_caption(config, index, scene, caption)
            placed = place(Draw(config.seed, split, index, attempt, PURPOSE_LAYOUT), scene)
            clip = PlannedClip(
                f"{split}_{index:06d}",
                split,
                index,
                placed,
                tuple(s for s, _ in said),
                tuple(c for _, c in said),
            )
            earlier.append(clip)
            yield clip
            break
        else:
            raise ConfigError(
                f"data.shapes.{split}={getattr(config, split)}: only {index} clips were found that no caption confuses; "
                f"ask for fewer, or lower data.shapes.difficulty={config.difficulty} so that captions name more."
            )


def _confused(statement: Statement, scene: Scene, earlier: Sequence[PlannedClip]) -> bool:
    """Whether the caption fits an earlier clip, or the caption of an earlier clip fits this one."""
    return any(
        satisfies(statement, clip.scene) or satisfies(clip.statements[0], scene) for clip in earlier
    )


def _second_caption(
    config: ShapesConfig, index: int, scene: Scene, first: str
) -> list[tuple[Statement, str]]:
    """Half of the training clips are captioned twice, in other words and with other attributes left
    out.
    """
    draw = Draw(config.seed, "train", index, 0, PURPOSE_SECOND_CAPTION)
    if draw.chance(0.5):
        return []
    tries = (draw_caption(draw, scene, config.difficulty) for _ in range(8))
    return [
        (statement, caption)
        for statement, caption in tries
        if statement.split == "train" and caption != first
    ][:1]


# ---- clips ---------------------------------------------------------------------------------------


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
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would copy the threads' locks of torch and of the tracker
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
                f"a process that made clips in {folder} was killed (out of memory?): start again to make the rest."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker must not outlive a killed parent: it would wait for work for ever. And the pool must
    be able to end it.
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
        draw = Draw(config.seed, clip.split, clip.index, 0, PURPOSE_PIXELS)
        encode_h264(
            render(clip.scene, config.image_size, config.difficulty, draw), folder / clip.path, FPS
        )
    return len(chunk)


# ---- tables --------------------------------------------------------------------------------------


def _tables(clips: Sequence[PlannedClip], config: ShapesConfig) -> dict[str, str]:
    """File name to content, in the order in which they are written."""
    records, questions, actions, grounding = [], [], [], []
    for clip in clips:
        draw = Draw(config.seed, clip.split, clip.index, 0, PURPOSE_TASKS)
        records.append(json.dumps(_record(clip), sort_keys=True))
        questions += [
            (clip.id, *question, clip.split)
            for question in shapes_questions.questions(draw, clip.scene)
        ]
        grounding += [
            (clip.id, *found, clip.split)
            for found in shapes_questions.grounded(draw, clip.scene, config.difficulty)
        ]
        if label := shapes_questions.action(clip.scene):
            actions.append((clip.id, label, clip.split))
    manifest = [
        (clip.id, clip.path, caption, clip.split) for clip in clips for caption in clip.captions
    ]
    return {
        "records.jsonl": "\n".join(records) + "\n",
        "questions.csv": _csv(("videoid", "question", "answer", "kind", "split"), questions),
        "actions.csv": _csv(("videoid", "label", "split"), actions),
        "grounding.csv": _csv(("videoid", "sentence", "start_s", "end_s", "split"), grounding),
        "manifest.csv": _csv(("videoid", "path", "caption", "split"), manifest),
    }


def _record(clip: PlannedClip) -> dict[str, object]:
    said = [
        {
            "caption": caption,
            "mentions": [asdict(mention) for mention in statement.mentions],
            "background": list(statement.background),
        }
        for statement, caption in zip(clip.statements, clip.captions, strict=True)
    ]
    things = [
        {**asdict(thing), "visible": list(thing.visible(clip.scene.frames))}
        for thing in clip.scene.things
    ]
    return {
        "videoid": clip.id,
        "path": clip.path,
        "split": clip.split,
        "fps": FPS,
        "frames": clip.scene.frames,
        "background": asdict(clip.scene.background),
        "objects": things,
        "captions": said,
    }


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
