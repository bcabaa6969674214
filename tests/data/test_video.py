"""Readers: the right frames, the same from both, closed after use; every failure a DataError."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simvtp.data.prepare.encode import encode_h264
from simvtp.data.video.readers import fit_short_side, get_reader, probe, read_frames
from simvtp.errors import ConfigError, DataError
from tests.data.compared_readers import READERS
from tests.data.helpers import damage, moving_square

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    frames = moving_square(3, frames=40)
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    encode_h264(frames, path, 12.5, gop=12)
    return path, frames


@pytest.mark.parametrize("name", READERS)
def test_probe_and_frames_are_right(video: tuple[Path, np.ndarray], name: str) -> None:
    path, frames = video
    info = probe(path, get_reader(name))
    assert (info.frames, info.fps, info.height, info.width) == (40, 12.5, 48, 64)
    decoded = read_frames(path, range(40), get_reader(name))
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    nearest = [
        int(np.abs(frames.astype(int) - frame).mean((1, 2, 3)).argmin())
        for frame in decoded.astype(int)
    ]
    assert nearest == list(range(40))


@pytest.mark.parametrize(
    "indices", [[0], [39], [5, 5, 5], [38, 2, 20, 2], list(range(3, 33, 4)), []], ids=str
)
def test_readers_agree_to_the_bit_and_with_sequential_decoding(
    video: tuple[Path, np.ndarray], indices: list[int]
) -> None:
    path, _ = video
    if not indices:
        assert len(read_frames(path, [0], get_reader("pyav"))) == 1
        return
    everything = read_frames(path, range(40), get_reader("decord"))
    for name in READERS:
        assert np.array_equal(read_frames(path, indices, get_reader(name)), everything[indices]), (
            name
        )


def test_resized_while_decoding(video: tuple[Path, np.ndarray]) -> None:
    path, _ = video
    one, other, third, *_ = (
        read_frames(path, [0, 17], get_reader(name), (24, 32)) for name in READERS
    )
    assert np.array_equal(one, third)
    assert one.shape == other.shape == (2, 24, 32, 3)
    assert np.abs(one.astype(int) - other).mean() < 3


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    encode_h264(moving_square(0, frames=1), tmp_path / "one.mp4", 8)
    for name in READERS:
        assert probe(tmp_path / "one.mp4", get_reader(name)).frames == 1
        assert read_frames(tmp_path / "one.mp4", [0, 0], get_reader(name)).shape == (2, 48, 64, 3)


@pytest.mark.parametrize("name", READERS)
def test_every_failure_is_a_data_error_with_the_path(
    video: tuple[Path, np.ndarray], tmp_path: Path, name: str
) -> None:
    reader = get_reader(name)
    empty, text, cut = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "cut.mp4"
    empty.touch()
    text.write_text("this is no video" * 100)
    shutil.copy(video[0], cut)
    damage(cut)
    for path in (empty, text, cut, tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(DataError, match="does not decode") as caught:
            read_frames(path, range(0, 40, 3), reader)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert caught.value.__context__ is None  # a chained error would keep an open reader alive
    with pytest.raises(DataError, match="does not decode"):
        read_frames(video[0], [40], reader)


@pytest.mark.parametrize("name", READERS)
def test_nothing_stays_open(video: tuple[Path, np.ndarray], name: str) -> None:
    reader, path = get_reader(name), video[0]
    read_frames(path, [0], reader)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(20):
        read_frames(path, [i], reader)
        with pytest.raises(DataError):
            read_frames(path, [400], reader)
    assert len(os.listdir("/proc/self/fd")) == before


ENCODE_SOME = """
import hashlib, sys, numpy as np
from pathlib import Path
from simvtp.data.prepare.encode import encode_h264
from tests.data.helpers import moving_square
for number, (height, width) in enumerate([(64, 64), (48, 64), (96, 96), (34, 50)]):
    noise = np.random.default_rng(number).integers(0, 40, (16, height, width, 3), dtype=np.uint8)
    frames = moving_square(number, 16, height, width) ^ noise
    path = Path(sys.argv[1]) / f"{number}.mp4"
    encode_h264(frames, path, 8)
    print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_encoded_bytes_do_not_depend_on_what_lies_in_fresh_memory(tmp_path: Path) -> None:
    """glibc fills new memory with another byte in each process.

    An encoder that reads what it never wrote is found out.
    """
    printed = set()
    for fill in ("0", "85", "255"):
        environment = {**os.environ, "MALLOC_PERTURB_": fill, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ENCODE_SOME, str(tmp_path)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    assert len(printed) == 1 and len(set(printed.pop().split())) == 4


def test_encoding_refuses_odd_sizes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        encode_h264(np.zeros((2, 15, 16, 3), np.uint8), tmp_path / "odd.mp4", 8)
    encode_h264(moving_square(1), tmp_path / "a.mp4", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_short_side_keeps_the_aspect_and_never_enlarges() -> None:
    assert fit_short_side(480, 640, 224) == (224, 299)
    assert fit_short_side(640, 480, 224) == (299, 224)
    assert fit_short_side(64, 64, 73) == (64, 64)


def test_an_unknown_reader_is_named() -> None:
    with pytest.raises(ConfigError, match="data.reader=cv2"):
        get_reader("cv2")


@pytest.mark.parametrize("width", [24, 40, 48, 72])
def test_widths_that_decord_cannot_read_are_read(tmp_path: Path, width: int) -> None:
    encode_h264(moving_square(2, 8, 64, width), tmp_path / "narrow.mp4", 8)
    found = [read_frames(tmp_path / "narrow.mp4", [0, 5, 5], get_reader(name)) for name in READERS]
    assert all(np.array_equal(frames, found[0]) for frames in found) and found[0].shape == (
        3,
        64,
        width,
        3,
    )
    small = [
        read_frames(tmp_path / "narrow.mp4", [3], get_reader(name), (66, width - 2))
        for name in READERS
    ]
    assert {frames.shape for frames in small} == {(1, 66, width - 2, 3)}
