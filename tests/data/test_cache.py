"""The cache of decoded frames: the same bytes as without it, shared, continued, bounded."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.clip_source import CACHE_FROM
from simvtp.data.loading.frame_cache import build_cache as cache_module
from simvtp.data.loading.frame_cache.build_cache import open_cache
from simvtp.data.loading.frame_cache.decoded_cache import ClipState, DecodedCache
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.readers import get_reader, read_frames
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import DataError
from tests.data.helpers import TrickReader, damage, make_clips

MODEL = SimVTPConfig(image_size=32, frames=4, patch_size=8, text_length=8)
DATA = DataConfig(stride=2, max_corrupt_ratio=0.5, reader="pyav")
ROOT = Path(__file__).resolve().parents[2]


class CountingReader:
    """PyAV that counts decodes in this process."""

    name = "counting"

    def __init__(self) -> None:
        self.reads = 0

    def probe(self, path: Path) -> VideoInfo:
        return PyavReader().probe(path)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        self.reads += 1
        return PyavReader().read(path, indices, size)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "clips", 6)


def build(clips: list[Clip], folder: Path, side: int = 32, **changes: object) -> DecodedCache:
    values = {"reader": get_reader("pyav"), "workers": 0, "timeout_s": 5.0, **changes}
    return open_cache([clip.path for clip in clips], side=side, folder=folder, **values)


def test_cached_frames_are_the_decoded_ones(clips: list[Clip], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    cache = build(clips, tmp_path / "c", workers=2, progress=lambda *state: seen.append(state))
    for number, clip in enumerate(clips):
        assert cache.holds(number) and cache.length(number) == 16
        expected = read_frames(clip.path, [3, 0, 15, 3], get_reader("pyav"), (32, 43))
        assert np.array_equal(cache.read(number, [3, 0, 15, 3]), expected)
    assert seen[-1] == ("decoding clips", 6, 6)


def test_a_second_opening_decodes_nothing_and_may_name_the_clips_in_another_order(
    clips: list[Clip], tmp_path: Path
) -> None:
    reader = CountingReader()
    first = build(clips, tmp_path / "c", reader=reader)
    assert reader.reads == 6
    second = build(clips[::-1], tmp_path / "c", reader=reader)
    assert reader.reads == 6 and second.path == first.path
    assert np.array_equal(first.read(0, range(16)), second.read(5, range(16)))


def test_sizes_that_change_nothing_share_a_file_and_changed_clips_do_not(
    clips: list[Clip], tmp_path: Path
) -> None:
    first = build(clips, tmp_path / "c", side=48)
    assert (
        build(clips, tmp_path / "c", side=60).path == first.path
    )  # videos of 48 pixels are not enlarged
    assert build(clips, tmp_path / "c", side=32).path != first.path
    os.utime(clips[0].path, (1, 1))
    assert build(clips, tmp_path / "c", side=48).path != first.path


def test_damaged_clips_fall_back_to_their_file_and_hanging_ones_are_dead(
    clips: list[Clip], tmp_path: Path
) -> None:
    damage(clips[1].path)
    hanging = replace(clips[2], path=clips[2].path.rename(clips[2].path.with_name("hang.mp4")))
    cache = build(
        [*clips[:2], hanging, *clips[3:]],
        tmp_path / "c",
        reader=TrickReader(),
        workers=1,
        timeout_s=3.0,
    )
    assert cache.state.tolist() == [1, ClipState.DIRECT, ClipState.DEAD, 1, 1, 1]
    assert not cache.holds(1)
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"hang.mp4 does not decode \(decoding took longer than 3 s"
        ):
            cache.holds(2)
        cache = build(
            [*clips[:2], hanging, *clips[3:]],
            tmp_path / "c",
            reader=TrickReader(),
            workers=1,
            timeout_s=3.0,
        )


def test_a_cache_above_the_limit_is_refused(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LARGEST_BYTES", 100_000)
    with pytest.raises(DataError, match="set runtime.decoded_cache=false"):
        build(clips, tmp_path / "c")


def zeros(path: Path) -> None:
    """A file that was allocated, but whose content never reached the disk."""
    path.write_bytes(b"\0" * path.stat().st_size)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 8])


def garble(path: Path) -> None:
    path.write_bytes(b"garbage" * 20)


def pickle_instead(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.array([print], dtype=object), allow_pickle=True)


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        *(("*.u8", harm) for harm in (zeros, empty, shorten, flip_one_bit)),
        *(
            (file, harm)
            for file in ("[!-]*[!o].npz", "*-info.npz")
            for harm in (zeros, empty, shorten, garble, pickle_instead, Path.unlink)
        ),
    ],
)
def test_a_damaged_cache_gives_the_right_pixels(
    clips: list[Clip], tmp_path: Path, file: str, harm: Callable[[Path], None]
) -> None:
    """And is whole again for those who open it next."""
    right = build(clips, tmp_path / "c")
    expected = [right.read(number, range(16)) for number in range(len(clips))]
    content = right.path.read_bytes()
    [path] = (tmp_path / "c").glob(file)
    harm(path)
    for _ in range(2):
        cache = build(clips, tmp_path / "c")
        found = [cache.read(number, range(16)) for number in range(len(clips))]
        assert all(map(np.array_equal, found, expected))
        assert cache.path.read_bytes() == content
    assert len(list((tmp_path / "c").iterdir())) == 4  # frames, index, sizes, lock


def test_a_damaged_frame_is_repaired_by_a_loader_and_said(
    clips: list[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = build(clips, tmp_path / "c")
    expected = cache.read(3, [5])
    damaged = build(clips, tmp_path / "c")
    zeros(cache.path)
    assert np.array_equal(damaged.read(3, [5]), expected)
    assert f"the frames of {clips[3].path} are damaged: decoding them again" in caplog.text
    assert np.array_equal(build(clips, tmp_path / "c").read(3, [5]), expected)


def test_damaged_frames_of_a_video_that_is_gone_are_no_pixels(
    clips: list[Clip], tmp_path: Path
) -> None:
    cache = build(clips, tmp_path / "c")
    zeros(cache.path)
    clips[2].path.unlink()
    with pytest.raises(DataError, match=clips[2].path.name):
        cache.read(2, [0])


BUILD = """
import sys
import time
from pathlib import Path
from simvtp.data.loading.frame_cache.build_cache import open_cache
from simvtp.data.video.readers import get_reader
paths = sorted(Path(sys.argv[1]).glob("*.mp4"))
def slow(what, done, total):
    print(what, done, flush=True)
    time.sleep(float(sys.argv[3]))
print(open_cache(paths, get_reader("pyav"), 32, Path(sys.argv[2]), 0, 5.0, slow).path)
"""


def test_a_killed_build_is_continued_and_two_builders_do_the_work_once(
    clips: list[Clip], tmp_path: Path
) -> None:
    def start(delay: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            BUILD,
            str(clips[0].path.parent),
            str(tmp_path / "c"),
            delay,
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    killed = start("0.05")
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.startswith("decoding clips 3"):
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait()
    both = [start("0.05"), start("0.05")]
    printed = [process.communicate(timeout=60)[0] for process in both]
    decoded = [
        line for text in printed for line in text.splitlines() if line.startswith("decoding clips")
    ]
    assert decoded == [
        f"decoding clips {n}" for n in (4, 5, 6)
    ]  # 1 to 3 were there, and only one of the two worked
    assert printed[0].splitlines()[-1] == printed[1].splitlines()[-1]
    ours = build(clips, tmp_path / "c")
    assert str(ours.path) == printed[0].splitlines()[-1]
    assert np.array_equal(
        ours.read(0, range(16)), read_frames(clips[0].path, range(16), get_reader("pyav"), (32, 43))
    )


def test_training_and_evaluation_are_the_same_with_and_without_the_cache(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", CACHE_FROM, frames=10)
    damage(clips[5].path)
    tokenizer = load_tokenizer("builtin")
    found = []
    for cached in (False, True):
        runtime = RuntimeConfig(
            cache=str(tmp_path / "cache"), decoded_cache=cached, workers=0, device="cpu"
        )
        loader = TrainLoader(
            clips,
            tokenizer,
            data=DATA,
            model=MODEL,
            runtime=runtime,
            batch_size=16,
            seed=0,
            train_crop="random_resized",
            flip=0.5,
        )
        batches = torch.cat([batch.clips for batch in itertools.islice(loader.batches(), 6)])
        views = ViewLoader(
            clips, data=DATA, model=MODEL, runtime=runtime, segments=2, crops=2, batch_size=16
        )
        found.append(
            (
                batches,
                torch.cat([part for part, _ in views.batches()]),
                loader.counters.replaced,
                views.counters.replaced,
            )
        )
    assert (tmp_path / "cache" / "decoded").is_dir()
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][2:] == found[1][2:] and found[0][3] == 1


def test_samples_from_the_cache_keep_a_small_model_fed(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", CACHE_FROM, height=64, width=64)
    model = replace(MODEL, image_size=64, frames=8)
    runtime = RuntimeConfig(
        cache=str(tmp_path / "cache"), decoded_cache=True, workers=0, device="cpu"
    )
    loader = TrainLoader(
        clips,
        load_tokenizer("builtin"),
        data=DATA,
        model=model,
        runtime=runtime,
        batch_size=32,
        seed=0,
    )
    batches = loader.batches()
    next(batches)
    began = time.process_time()
    for _ in range(20):
        next(batches)
    assert (
        640 / (time.process_time() - began) > 500
    )  # some 4,000 clips a second measured on one quiet core
