"""The embedded data set: what is said is what is seen, splits share nothing, and generation
survives anything.
"""

import csv
import dataclasses
import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes import generate
from simvtp.data.shapes.generate import GRAMMAR_WORDS, ensure_shapes, plan, shapes_folder
from simvtp.data.shapes.grammar import ADJECTIVES, MAX_WORDS, MIN_WORDS, NOUNS, words_of
from simvtp.data.shapes.questions import counting
from simvtp.data.shapes.render_scene import render
from simvtp.data.shapes.scene import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Background,
    Draw,
    Event,
    Scene,
    Thing,
)
from simvtp.errors import ConfigError, DataError

SMALL = ShapesConfig(train=24, val=5, test=7)
CALL = """
import sys
from pathlib import Path
from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.generate import ensure_shapes
if __name__ == "__main__":
    config = ShapesConfig(train=int(sys.argv[2]), val=5, test=7)
    ensure_shapes(config, Path(sys.argv[1]), workers=int(sys.argv[3]), say=lambda line: print(line, flush=True))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small data set, made once in this process."""
    return ensure_shapes(SMALL, tmp_path_factory.mktemp("cache"), workers=1).parent


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def records(folder: Path) -> dict[str, dict]:
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["videoid"]: record for record in map(json.loads, lines)}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def decode(path: Path) -> np.ndarray:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# ---- files ---------------------------------------------------------------------------------------


def test_every_clip_is_a_real_video_of_the_asked_size_that_shows_its_scene(made: Path) -> None:
    clips = plan(SMALL)
    assert len(clips) == 36
    for clip in clips[::5]:
        path = made / clip.path
        assert path.read_bytes()[4:8] == b"ftyp"
        frames = decode(path)
        assert frames.shape == (16, 64, 64, 3)
        drawn = render(
            clip.scene,
            64,
            SMALL.difficulty,
            Draw(SMALL.seed, clip.split, clip.index, 0, generate.PURPOSE_PIXELS),
        )
        assert (
            np.abs(frames.astype(int) - drawn).mean() < 8
        )  # what the codec loses, mostly in colour


def test_decord_reads_the_clips(made: Path) -> None:
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(made / "clips/test/000000.mp4"), num_threads=1)
    assert (
        len(reader) == 16
        and reader.get_avg_fps() == 8
        and reader[15].asnumpy().shape == (64, 64, 3)
    )


def test_manifest_lists_each_clip_with_its_captions(made: Path) -> None:
    rows = table(made, "manifest.csv")
    assert list(rows[0]) == ["videoid", "path", "caption", "split"]
    by_split = {
        split: [row for row in rows if row["split"] == split] for split in ("train", "val", "test")
    }
    for split, count in (("train", 24), ("val", 5), ("test", 7)):
        assert len({row["videoid"] for row in by_split[split]}) == count
    assert 24 < len(by_split["train"]) <= 48  # one or two captions
    assert len(by_split["val"]) == 5 and len(by_split["test"]) == 7  # exactly one
    assert all((made / row["path"]).is_file() for row in rows)
    assert {row["caption"] for row in rows} == {
        said["caption"] for record in records(made).values() for said in record["captions"]
    }


def test_same_configuration_gives_the_same_bytes_whoever_makes_them(
    made: Path, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    again = ensure_shapes(
        SMALL, tmp_path, workers=2, progress=lambda done, total: calls.append((done, total))
    )
    assert again.parent.name == made.name
    assert contents(again.parent) == contents(made)
    assert calls[-1] == (36, 36) and [done for done, _ in calls] == sorted(
        done for done, _ in calls
    )


def test_configurations_do_not_collide(tmp_path: Path) -> None:
    changed = {
        "train": 25,
        "val": 6,
        "test": 8,
        "image_size": 96,
        "frames": 24,
        "difficulty": 0.25,
        "seed": 1,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(ShapesConfig)}
    others = [dataclasses.replace(SMALL, **{key: value}) for key, value in changed.items()]
    assert len({shapes_folder(config, tmp_path) for config in (SMALL, *others)}) == 1 + len(others)
    assert shapes_folder(dataclasses.replace(SMALL, difficulty=1), tmp_path) == shapes_folder(
        dataclasses.replace(SMALL, difficulty=1.0), tmp_path
    )


def test_other_sizes_and_lengths(tmp_path: Path) -> None:
    for size, frames in ((96, 24), (48, 8), (32, 1)):
        manifest = ensure_shapes(
            ShapesConfig(train=1, val=1, test=1, image_size=size, frames=frames),
            tmp_path,
            workers=1,
        )
        assert decode(manifest.parent / "clips/train/000000.mp4").shape == (frames, size, size, 3)


# ---- interruption and company --------------------------------------------------------------------


def test_only_what_is_missing_is_made_again(made: Path, tmp_path: Path) -> None:
    folder = ensure_shapes(SMALL, tmp_path, workers=1).parent
    gone = ["clips/train/000003.mp4", "clips/test/000006.mp4", "actions.csv"]
    before = {name: os.stat(folder / name).st_mtime_ns for name in contents(folder)}
    for name in gone:
        (folder / name).unlink()
    (folder / "clips/train/.000003.mp4.1.tmp").write_bytes(b"half a clip")
    calls: list[tuple[int, int]] = []
    ensure_shapes(
        SMALL, tmp_path, workers=1, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(36, 36)]  # 34 were there
    assert contents(folder) == contents(made)
    untouched = [name for name in before if name.startswith("clips") and name not in gone]
    assert len(untouched) == 34 and all(
        os.stat(folder / name).st_mtime_ns == before[name] for name in untouched
    )
    ensure_shapes(
        SMALL, tmp_path, workers=1, progress=lambda done, total: calls.append((done, total))
    )
    assert len(calls) == 1  # nothing to do, nothing said


def start(cache: Path, train: int, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CALL, str(cache), str(train), str(workers)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_two_processes_at_once_do_the_work_once(made: Path, tmp_path: Path) -> None:
    pair = [start(tmp_path, 24, 1), start(tmp_path, 24, 1)]
    said = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert sum(text.count("making 36 of 36 clips") for text in said) == 1
    assert contents(tmp_path / made.name) == contents(made)


def test_a_waiting_process_says_so(tmp_path: Path) -> None:
    config = ShapesConfig(train=1, val=1, test=1)
    folder = shapes_folder(config, tmp_path)
    folder.mkdir(parents=True)
    lines: list[str] = []
    with open(folder / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=ensure_shapes, args=(config, tmp_path, 1, lines.append))
        waiting.start()
        deadline = time.monotonic() + 60
        while not lines and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lines and "waiting" in lines[0] and str(folder) in lines[0]
        assert not (folder / "manifest.csv").exists()
    waiting.join(timeout=120)
    assert (folder / "manifest.csv").is_file()


def test_killed_half_way_leaves_whole_files_no_workers_and_is_completed(tmp_path: Path) -> None:
    process = start(tmp_path, 120, 2)
    folder = shapes_folder(ShapesConfig(train=120, val=5, test=7), tmp_path)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("clips/*/*.mp4"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) >= 2 and not any(alive(pid) for pid in children)

    whole = {path: path.read_bytes() for path in folder.glob("clips/*/*.mp4")}
    assert 20 <= len(whole) < 132 and not (folder / "manifest.csv").exists()
    assert all(decode(path).shape == (16, 64, 64, 3) for path in whole)
    calls: list[tuple[int, int]] = []
    ensure_shapes(
        ShapesConfig(train=120, val=5, test=7),
        tmp_path,
        workers=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[0][0] > len(whole) and calls[-1] == (132, 132)
    assert all(path.read_bytes() == data for path, data in whole.items())
    assert not list(folder.rglob("*.tmp"))


class Enough(Exception):
    pass


def test_a_request_to_stop_ends_the_work_and_the_wait(made: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise Enough

    folder = shapes_folder(SMALL, tmp_path)
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as held, pytest.raises(Enough):
        fcntl.flock(held, fcntl.LOCK_EX)
        ensure_shapes(SMALL, tmp_path, workers=1, check=stop)
    with pytest.raises(Enough):
        ensure_shapes(SMALL, tmp_path, workers=2, progress=lambda done, total: stop())
    assert not (folder / "manifest.csv").exists() and list(folder.glob("clips/*/*.mp4"))
    ensure_shapes(SMALL, tmp_path, workers=1)
    assert contents(folder) == contents(made)


GROUP = """
import signal, sys, time
from pathlib import Path
from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.generate import ensure_shapes
asked = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: asked.append(number))
def check(*progress):
    if asked:
        print("stopped", flush=True)
        raise SystemExit(3)
ensure_shapes(ShapesConfig(train=400, val=5, test=7), Path(sys.argv[1]), workers=2, say=lambda line: print(line, flush=True), progress=check, check=check)
"""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_no_defect_of_the_workers(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", GROUP, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=root,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/clips/*/*.mp4")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, number)
        asked = time.monotonic()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and said.splitlines()[-1] == "stopped", said
    assert time.monotonic() - asked < 20


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [33, 16])
def test_frame_sizes_that_cannot_be_made_are_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"image_size={size}"):
        ensure_shapes(dataclasses.replace(SMALL, image_size=size), tmp_path)


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot be written.*runtime\.cache"):
        ensure_shapes(SMALL, tmp_path / "file", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_no_more_is_one_clear_sentence_and_leaves_nothing_partial(
    workers: int, tmp_path: Path
) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
    command = [sys.executable, "-c", limit + CALL, str(tmp_path), "24", str(workers)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert ended.returncode != 0
    assert "DataError: the embedded data set cannot be written" in ended.stderr
    assert not list(tmp_path.rglob("*.mp4")) and not list(tmp_path.rglob("*.tmp"))


# ---- captions and splits -------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_no_caption_is_shared_and_each_test_caption_fits_its_clip_only(difficulty: float) -> None:
    clips = plan(ShapesConfig(train=300, val=40, test=80, difficulty=difficulty))
    said = {
        split: {c for clip in clips if clip.split == split for c in clip.captions}
        for split in ("train", "val", "test")
    }
    content = {
        split: {s.key for clip in clips if clip.split == split for s in clip.statements}
        for split in said
    }
    for a, b in itertools.combinations(said, 2):
        assert not said[a] & said[b] and not content[a] & content[b]
    for split in ("val", "test"):
        ours = [clip for clip in clips if clip.split == split]
        fits = np.array(
            [[accepts(asking.statements[0], shown.scene) for shown in ours] for asking in ours]
        )
        assert (fits == np.eye(len(ours), dtype=bool)).all()
    for clip in clips:
        assert all(accepts(statement, clip.scene) for statement in clip.statements)
        assert len(set(clip.captions)) == len(clip.captions)


def accepts(statement, scene: Scene) -> bool:
    """Written apart from the generator: does some choice of objects make every mention true?"""
    if statement.background and statement.background != (
        scene.background.kind,
        scene.background.colour,
    ):
        return False

    def fits(mention, thing: Thing) -> bool:
        happened = thing.event is not None and (thing.event.kind, thing.event.value) == (
            mention.event,
            mention.value,
        )
        colours = {thing.colour} | (
            {thing.event.value} if thing.event and thing.event.kind == "recolour" else set()
        )
        sizes = {thing.size} | (
            {thing.event.value} if thing.event and thing.event.kind in ("grow", "shrink") else set()
        )
        asked = [
            not mention.colour or mention.colour in colours,
            not mention.size or mention.size in sizes,
            not mention.shape or mention.shape == thing.shape,
            not mention.texture or mention.texture == thing.texture,
            not mention.motion or mention.motion == thing.motion,
            not mention.event or happened,
        ]
        return all(asked)

    def assign(mentions: tuple, left: tuple) -> bool:
        if not mentions:
            return True
        return any(
            fits(mentions[0], thing) and assign(mentions[1:], left[:i] + left[i + 1 :])
            for i, thing in enumerate(left)
        )

    return assign(statement.mentions, scene.things)


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_captions_use_known_words_have_the_asked_length_and_say_only_what_is_there(
    difficulty: float,
) -> None:
    meaning = {
        word: value
        for table in (NOUNS, ADJECTIVES)
        for value, words in table.items()
        for word in words
        if value
    }
    background_only = {"grey", "dark", "brown", "olive"}
    for clip in plan(ShapesConfig(train=120, val=10, test=20, difficulty=difficulty)):
        there = {
            v
            for thing in clip.scene.things
            for v in (*thing.colours, *thing.sizes, thing.shape, thing.texture)
        }
        for caption in clip.captions:
            words = words_of(caption)
            assert MIN_WORDS <= len(words) <= MAX_WORDS and set(words) <= set(GRAMMAR_WORDS)
            assert caption == caption.lower() and "  " not in caption and "{" not in caption
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption)
            told = {meaning[word] for word in words if word in meaning}
            told -= (
                {"large", "small"}
                if {"grow", "shrink"} & {t.event.kind for t in clip.scene.things if t.event}
                else set()
            )
            assert told - background_only - {"circle", "cross"} <= there, (
                caption,
                clip.scene,
            )  # "circle" is also a motion
            assert told & background_only <= {clip.scene.background.colour}


def test_difficulty_leaves_out_more_and_varies_more() -> None:
    named, words, objects = [], [], []
    for difficulty in (0.0, 0.5, 1.0):
        clips = plan(ShapesConfig(train=150, val=1, test=1, difficulty=difficulty))
        mentions = [
            mention
            for clip in clips
            for statement in clip.statements
            for mention in statement.mentions
        ]
        named.append(
            np.mean(
                [sum(bool(v) for v in (m.colour, m.shape, m.size, m.texture)) for m in mentions]
            )
        )
        words.append(
            len({word for clip in clips for caption in clip.captions for word in words_of(caption)})
        )
        objects.append(np.mean([len(clip.scene.things) for clip in clips]))
    assert named[0] > 3.7 and named[0] > named[1] + 0.5 > named[2] + 1.0
    assert (
        words[0] + 20 < words[1]
        and words[0] + 20 < words[2]
        and objects[0] == 2 < objects[1] < objects[2]
    )


def test_more_clips_leave_the_first_ones_as_they_are() -> None:
    few, many = (
        plan(ShapesConfig(train=10, val=5, test=10)),
        plan(ShapesConfig(train=20, val=6, test=30)),
    )
    kept = {clip.id: clip for clip in many}
    assert all(kept[clip.id] == clip for clip in few)
    assert not {clip.captions for clip in few} & {
        clip.captions for clip in plan(ShapesConfig(train=10, val=5, test=10, seed=1))
    }


def test_more_test_clips_than_can_be_told_apart_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        generate, "MAX_ATTEMPTS", 3
    )  # so that this comes soon; a tenth of all statements are test
    with pytest.raises(ConfigError, match=r"data\.shapes\.test=50: only \d+ clips"):
        plan(ShapesConfig(train=1, val=1, test=50))


def test_the_vocabulary_of_the_builtin_tokenizer_holds_every_word() -> None:
    path = Path(generate.__file__).parents[1] / "text" / "vocabulary.txt"
    assert not set(GRAMMAR_WORDS) - set(path.read_text(encoding="utf-8").split())


# ---- what is seen --------------------------------------------------------------------------------


def seen(thing: Thing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area [F] and centroid x, y [F] of a scene's only object, found by its distance from the
    background.
    """
    scene = Scene(16, Background("plain", "dark", 0.0, 0.0), (thing,))
    frames = render(scene, 64, 0.0, Draw(0, "train", 0)).astype(float)
    mask = np.abs(frames - (40, 42, 50)).sum(-1) > 60
    area = mask.sum((1, 2))
    grid = np.arange(64)
    with np.errstate(invalid="ignore"):
        return area, (mask.sum(1) * grid).sum(1) / area, (mask.sum(2) * grid).sum(1) / area


def thing(
    motion: str, event: Event | None = None, size: str = "small", shape: str = "square"
) -> Thing:
    return Thing(
        "red", shape, size, "plain", motion, event, diameter=0.28 if size == "small" else 0.42
    )


@pytest.mark.parametrize("motion", MOTIONS)
def test_objects_move_as_they_are_said_to(motion: str) -> None:
    _, x, y = seen(thing(motion))
    if motion in DIRECTIONS:
        step_x, step_y = DIRECTIONS[motion]
        assert (np.diff(x) * step_x > 0.5).all() if step_x else np.ptp(x) < 0.5
        assert (np.diff(y) * step_y > 0.5).all() if step_y else np.ptp(y) < 0.5
        assert 30 < np.ptp(x) + np.ptp(y) < 40
    elif motion == "circle":
        assert np.ptp(x) > 20 and np.ptp(y) > 20 and abs(x[0] - x[-1]) < 1
        assert np.ptp(np.hypot(x - 31.5, y - 31.5)) < 1.5
    elif motion == "bounce":
        assert (
            np.ptp(x) < 0.5
            and np.ptp(y) > 18
            and ((y[1:-1] < y[:-2]) & (y[1:-1] <= y[2:])).sum() == 2
        )  # two hops
    else:
        assert np.ptp(x) < 1 and np.ptp(y) < 1


def test_spinning_turns_the_object_and_standing_still_does_not() -> None:
    def change(motion: str) -> float:
        scene = Scene(16, Background("plain", "dark", 0.0, 0.0), (thing(motion, shape="star"),))
        frames = render(scene, 64, 0.0, Draw(0, "train", 0)).astype(float)
        return float(np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).min())

    assert change("spin") > 0.3 and change("still") == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_differ_in_outline_and_large_is_larger(shape: str) -> None:
    small, large = (
        seen(thing("still", shape=shape))[0][0],
        seen(thing("still", size="large", shape=shape))[0][0],
    )
    assert 60 < small < 330 and 1.8 < large / small < 2.8  # area grows by 1.5 squared
    others = [
        seen(thing("still", size="large", shape=other))[0][0] for other in SHAPES if other != shape
    ]
    assert all(other != large for other in others)


def test_events_happen_when_the_record_says() -> None:
    whole = seen(thing("still"))[0][0]
    grown = seen(thing("still", Event("grow", 6, 10, "large")))[0]
    assert (
        (grown[:6] == whole).all()
        and grown[9] > 2 * whole
        and (grown[9:] == grown[9]).all()
        and (np.diff(grown[5:10]) > 0).all()
    )
    appeared = seen(thing("spin", Event("appear", 6, 8, "")))[0]
    assert (appeared[:6] == 0).all() and (appeared[6:] > 0).all()
    gone = seen(thing("still", Event("disappear", 6, 8, "")))[0]
    assert (gone[:8] > 0).all() and (gone[8:] == 0).all()
    for motion, side in (("right", "left"), ("left", "right"), ("down", "top"), ("up", "bottom")):
        area, x, y = seen(thing(motion, Event("enter", 5, 11, side)))
        assert (
            (area[:5] == 0).all()
            and (area[5:] > 0).all()
            and 0 < area[5] < whole / 2
            and area[10] == pytest.approx(whole, abs=25)
        )
        first = {"left": x[5], "right": 63 - x[5], "top": y[5], "bottom": 63 - y[5]}[side]
        assert first < 6
        towards = {"right": "right", "left": "left", "down": "bottom", "up": "top"}[motion]
        area, x, y = seen(thing(motion, Event("leave", 5, 11, towards)))
        assert (
            (area[:11] > 0).all()
            and (area[11:] == 0).all()
            and area[5] == pytest.approx(whole, abs=25)
        )
        assert {"left": x[10], "right": 63 - x[10], "top": y[10], "bottom": 63 - y[10]}[towards] < 6


def test_colours_are_what_they_are_called() -> None:
    for colour, rgb in COLOURS.items():
        changed = dataclasses.replace(
            thing("still", Event("recolour", 6, 10, colour)),
            colour="red" if colour != "red" else "blue",
        )
        frames = render(
            Scene(16, Background("plain", "grey", 0.0, 0.0), (changed,)),
            64,
            0.0,
            Draw(0, "train", 0),
        ).astype(int)
        middle = frames[:, 30:34, 30:34].mean((1, 2))
        nearest = [min(COLOURS, key=lambda name: np.abs(m - COLOURS[name]).sum()) for m in middle]
        assert nearest[:6] == [changed.colour] * 6 and nearest[9:] == [colour] * 7, rgb


# ---- tables for later work -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def many() -> tuple[dict[str, list[dict[str, str]]], dict[str, dict]]:
    """The tables of 200 clips, without the clips."""
    config = ShapesConfig(train=180, val=10, test=10, difficulty=0.7)
    texts = generate._tables(plan(config), config)
    parsed = {
        name: list(csv.DictReader(text.splitlines()))
        for name, text in texts.items()
        if name.endswith(".csv")
    }
    return parsed, {
        record["videoid"]: record for record in map(json.loads, texts["records.jsonl"].splitlines())
    }


def answer_of(kind: str, question: str, record: dict) -> str:
    """Answers a question from the record alone, written apart from the generator."""
    objects = record["objects"]
    words = question.split()
    asked = [
        o
        for o in objects
        if all(w not in SHAPES or w == o["shape"] for w in words)
        and all(w not in COLOURS or w == o["colour"] for w in words)
    ]
    events = sorted((o["event"]["start"], o["event"]["kind"]) for o in objects if o["event"])
    verbs = {
        "enter": "enters",
        "leave": "leaves",
        "appear": "appears",
        "disappear": "disappears",
        "recolour": "changes",
        "grow": "grows",
        "shrink": "shrinks",
    }
    if kind == "count":
        return {2: "two", 3: "three"}[len(objects)]
    if kind == "count_motion":
        return ("none", "one", "two", "three")[sum(o["motion"] == "still" for o in objects)]
    if kind == "exists":
        return "yes" if asked else "no"
    if kind == "background":
        return record["background"]["kind"]
    if kind in ("first", "last"):
        return verbs[events[0 if kind == "first" else -1][1]]
    assert len(asked) == 1, question  # the question names one object
    (o,) = asked
    return {
        "colour": o["colour"],
        "first_colour": o["colour"],
        "last_colour": o["event"]["value"] if o["event"] else "",
        "shape": o["shape"],
        "texture": {"plain": "none", "striped": "stripes", "dotted": "dots", "checked": "checks"}[
            o["texture"]
        ],
        "size": o["size"],
        "motion": o["motion"],
        "direction": o["motion"],
        "event": verbs[o["event"]["kind"]] if o["event"] else "",
    }[kind]


def test_questions_are_answered_by_the_scene(many) -> None:
    tables, by_id = many
    rows = tables["questions.csv"]
    assert list(rows[0]) == ["videoid", "question", "answer", "kind", "split"]
    for row in rows:
        assert row["answer"] == answer_of(row["kind"], row["question"], by_id[row["videoid"]]), row
        assert set(words_of(row["question"])) | {row["answer"]} <= set(GRAMMAR_WORDS)
        assert row["split"] == by_id[row["videoid"]]["split"]
        assert row["kind"] != "colour" or "recolour" not in [
            o["event"]["kind"]
            for o in by_id[row["videoid"]]["objects"]
            if o["event"] and o["shape"] in row["question"].split()
        ]
        if row["kind"] == "size":
            assert not any(
                o["event"]
                and o["event"]["kind"] in ("grow", "shrink")
                and o["colour"] in row["question"].split()
                for o in by_id[row["videoid"]]["objects"]
            )
    assert len(rows) == 5 * len(by_id) == len({(row["videoid"], row["question"]) for row in rows})
    assert len({row["kind"] for row in rows}) == 15
    answers = [row["answer"] for row in rows if row["kind"] == "exists"]
    assert 0.3 < answers.count("yes") / len(answers) < 0.7


def test_counting_questions_are_answered_by_the_scene(many) -> None:
    _, by_id = many
    numbers: dict[str, set[int]] = {}
    for videoid, record in by_id.items():
        asked = list(counting(videoid, record["objects"]))
        assert asked == list(counting(videoid, record["objects"]))
        assert len({text for _, text, _ in asked}) == len(asked) and [
            kind for kind, *_ in asked[:2]
        ] == ["count", "count_motion"]
        for kind, text, number in asked:
            assert set(words_of(text)) <= set(GRAMMAR_WORDS)
            numbers.setdefault(kind, set()).add(number)
            if kind != "count_colour":
                assert ("none", "one", "two", "three")[number] == answer_of(kind, text, record)
                continue
            pair = {word for word in text.split() if word in COLOURS}
            assert len(pair) == 2 and number == sum(o["colour"] in pair for o in record["objects"])
            assert not any(o["event"] and pair & {o["event"]["value"]} for o in record["objects"])
    assert numbers["count"] == {2, 3} and numbers["count_colour"] == {0, 1, 2}


def test_actions_are_the_motion_of_the_only_large_object(many) -> None:
    tables, by_id = many
    labels = {row["videoid"]: row["label"] for row in tables["actions.csv"]}
    assert len(labels) == len(tables["actions.csv"]) > 80 and set(labels.values()) == set(MOTIONS)
    for videoid, record in by_id.items():
        sizes = [
            {
                o["size"],
                o["event"]["value"]
                if o["event"] and o["event"]["kind"] in ("grow", "shrink")
                else o["size"],
            }
            for o in record["objects"]
        ]
        ever_large = [
            o for o, size in zip(record["objects"], sizes, strict=True) if "large" in size
        ]
        clear = len(ever_large) == 1 and {"large"} in sizes
        assert labels.get(videoid) == (ever_large[0]["motion"] if clear else None)


def test_grounded_sentences_hold_in_their_span(many) -> None:
    tables, by_id = many
    meaning = {
        word: value
        for table in (NOUNS, ADJECTIVES)
        for value, words in table.items()
        for word in words
        if value
    }
    grounded = {
        videoid: [row for row in tables["grounding.csv"] if row["videoid"] == videoid]
        for videoid in by_id
    }
    for videoid, record in by_id.items():
        events = [(o, o["event"]) for o in record["objects"] if o["event"]]
        spans = {(float(row["start_s"]) * 8, float(row["end_s"]) * 8) for row in grounded[videoid]}
        assert {(e["start"], e["end"]) for _, e in events} <= spans
        for row in grounded[videoid]:
            assert 0 <= float(row["start_s"]) < float(row["end_s"]) <= 2.0
            assert set(words_of(row["sentence"])) <= set(GRAMMAR_WORDS)
            noun = [meaning[w] for w in words_of(row["sentence"])[:3] if w in meaning]
            about = [
                o
                for o in record["objects"]
                if o["colour"] in noun or (o["event"] and o["event"]["value"] in noun)
            ]
            assert any(o["shape"] in noun for o in about), row
            if row["sentence"].endswith("in view"):
                starts = {o["visible"][0] for o in about} | {o["event"]["end"] for o in about}
                assert float(row["start_s"]) * 8 in starts
        assert bool(events) == bool(grounded[videoid])


def test_records_hold_the_frames_in_which_things_are_seen(many) -> None:
    for record in many[1].values():
        assert record["fps"] == 8 and record["frames"] == 16 and 2 <= len(record["objects"]) <= 3
        assert len({o["colour"] for o in record["objects"]}) == len(record["objects"])
        for o in record["objects"]:
            event = o["event"]
            assert 0 <= o["visible"][0] < o["visible"][1] <= 16
            if event:
                assert 0 < event["start"] < event["end"] <= 16
                assert o["visible"][0] == (
                    event["start"] if event["kind"] in ("enter", "appear") else 0
                )
                assert o["visible"][1] == (
                    event["end"] if event["kind"] in ("leave", "disappear") else 16
                )
        assert any(o["visible"] == [0, 16] for o in record["objects"])
