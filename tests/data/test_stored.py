"""Clips of shards without a demuxer.

The frames of the same file read plainly, whatever settings it was written with.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from simvtp.data.clips import Clip
from simvtp.data.prepare.encode import H264Writer, encode_h264
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.video import decord_compatible
from simvtp.data.video.decord_compatible import FastReader
from simvtp.data.video.h264_store import stored_clip
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.data.video.tar_member import member_bytes
from simvtp.errors import DataError, UserError
from tests.data.helpers import moving_square
from tests.data.test_bad_input import manifest_of
from tests.data.test_fast import film, turn

FRAMES = 23


def stored(folder: Path, **target: Any) -> Clip:
    """The clip of a store of one clip."""
    noise = np.random.default_rng(0).integers(0, 40, (FRAMES, 48, 64, 3), dtype=np.uint8)
    encode_h264(moving_square(1, FRAMES, 48, 64) ^ noise, folder / "a.mp4", 8, crf=4)
    source = manifest_of([Clip("a", folder / "a.mp4", ("words",))], folder / "m.csv")
    write_shards(
        source,
        folder / "out",
        TranscodeTarget(short=48, **target),
        workers=0,
        say=lambda line: None,
    )
    (clip,) = read_shards(folder / "out").clips
    return clip


def content_of(clip: Clip) -> bytes:
    content = member_bytes(clip.path)
    assert content is not None
    return content.getvalue()


class Undemuxed(FastReader):
    """The default reader where FFmpeg's demuxer cannot be asked."""

    open = None  # type: ignore[assignment]


# gop=8 without fastdecode is what stores were until now; gop=250 is one group.
@pytest.mark.parametrize(
    "how", [{}, {"gop": 8, "fastdecode": False}, {"gop": 1}, {"gop": 250}, {"fps": 4.0}]
)
def test_frames_are_those_of_the_same_file_read_plainly(
    how: dict[str, Any], tmp_path: Path
) -> None:
    clip, rng = stored(tmp_path, **how), random.Random(0)
    assert clip.measured is not None
    count, plain = clip.measured[0], tmp_path / "plain.mp4"
    plain.write_bytes(content_of(clip))
    table = stored_clip(content_of(clip))
    assert table is not None and table.frames == count
    reader = Undemuxed()
    for size in (None, (32, 42)):
        expected = read_frames(plain, range(count), get_reader("decord"), size)
        asked = [range(count), [count - 1], [0, 0, count - 1], [5, 2, 5]] + [
            rng.sample(range(count), 4) for _ in range(8)
        ]
        for indices in asked:
            for kept in (reader, Undemuxed()):  # a clip that was met before, and one that was not
                assert np.array_equal(
                    read_frames(clip.path, indices, kept, size), expected[list(indices)]
                ), (indices, size)
    for outside in ([count], [-1]):
        with pytest.raises(DataError, match=f"of {count}"):
            read_frames(clip.path, outside, reader)


def test_only_what_is_needed_is_decoded() -> None:
    from simvtp.data.video.h264_store import StoredClip

    table = StoredClip(
        b"", np.arange(12, dtype=np.uint32), np.ones(12, np.uint32), np.array([0, 4, 8], np.int32)
    )
    assert table.stretches([1]) == [(0, 2)]
    assert table.stretches([5, 6, 8]) == [(4, 7), (8, 9)]
    assert table.stretches([3, 4]) == [(0, 5)] and table.stretches([0, 11]) == [(0, 1), (8, 12)]


def test_the_checksum_is_compared_once_and_again_when_the_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, reader, looked = stored(tmp_path), FastReader(), []
    monkeypatch.setattr(
        decord_compatible, "member_bytes", lambda path: looked.append(path) or member_bytes(path)
    )
    first = read_frames(clip.path, [1, 9], reader)
    assert np.array_equal(read_frames(clip.path, [1, 9], reader), first) and len(looked) == 1
    tar = tmp_path / "out" / "clips-000000.tar"
    raw, stat = bytearray(tar.read_bytes()), tar.stat()
    video = json.loads(tar.with_suffix(".json").read_text())["clips"][0]["video"]
    raw[video["offset"] + video["length"] // 2] ^= (
        4  # deep in the pictures, where a decoder would paint over it
    )
    tar.write_bytes(raw)
    os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    for _ in range(2):
        with pytest.raises(DataError, match="another checksum"):
            read_frames(clip.path, [0], reader)
    with pytest.raises(DataError, match="another checksum"):
        probe(clip.path, reader)
    tar.write_bytes(raw[: video["offset"] + 700])
    with pytest.raises(DataError, match="its shard ends after"):
        read_frames(clip.path, [0], reader)
    tar.unlink()
    with pytest.raises(DataError, match="does not decode"):
        read_frames(clip.path, [0], reader)


def test_looking_at_a_clip_compares_its_checksum_each_time(tmp_path: Path) -> None:
    clip, reader = stored(tmp_path), FastReader()
    assert (
        probe(clip.path, reader).frames
        == FRAMES
        == len(read_frames(clip.path, range(FRAMES), reader))
    )
    tar = tmp_path / "out" / "clips-000000.tar"
    raw, stat = bytearray(tar.read_bytes()), tar.stat()
    raw[2000] ^= 1
    with open(tar, "r+b") as file:
        file.write(raw)
    os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nothing had been written
    with pytest.raises(DataError, match="another checksum"):
        probe(clip.path, reader)


def test_other_kinds_of_files_are_left_to_ffmpeg(tmp_path: Path) -> None:
    plain = tmp_path / "plain.mp4"
    encode_h264(moving_square(1, 8, 32, 32), plain, 8)
    assert stored_clip(plain.read_bytes()) is not None
    turned = turn(Path(shutil.copy(plain, tmp_path / "turned.mp4")), 90)
    others = [
        film(tmp_path / "b-frames.mp4"),
        film(tmp_path / "mpeg4.mp4", codec="mpeg4"),
        film(tmp_path / "a.mkv"),
        turned,
    ]
    for path in others:
        assert stored_clip(path.read_bytes()) is None, path.name
    content = plain.read_bytes()
    for end in range(0, len(content), 97):  # cut off anywhere: nothing is invented
        assert stored_clip(content[:end]) is None
    rng = random.Random(0)
    for _ in range(300):  # and nothing but None or a table comes of any damage
        damaged = bytearray(content)
        damaged[rng.randrange(content.index(b"moov"), len(content))] = rng.randrange(256)
        table = stored_clip(bytes(damaged))
        assert table is None or int((table.starts.astype(np.int64) + table.sizes).max()) <= len(
            content
        )


def test_cheap_decoding_is_asked_for_and_no_embedded_film_changes(tmp_path: Path) -> None:
    frames, sizes = moving_square(1, 8, 48, 64), {}
    for fastdecode in (False, True):
        buffer = io.BytesIO()
        with H264Writer(buffer, 48, 64, Fraction(8), fastdecode=fastdecode) as writer:
            for frame in frames:
                writer.write(frame)
        sizes[fastdecode] = buffer.getvalue()
    encode_h264(frames, tmp_path / "a.mp4", 8)
    assert (tmp_path / "a.mp4").read_bytes() == sizes[False] != sizes[True]
    assert b"cabac=0" in sizes[True] and b"deblock=0" in sizes[True]
    with av.open(io.BytesIO(sizes[True])) as container:
        assert [packet.is_keyframe for packet in container.demux(video=0) if packet.size] == [
            True
        ] + [False] * 7
    assert b"keyint=4" in content_of(stored(tmp_path)) and b"cabac=0" in content_of(
        stored(tmp_path)
    )


def test_shards_begun_with_older_settings_are_gone_on_with_or_refused_in_one_sentence(
    tmp_path: Path,
) -> None:
    stored(tmp_path, gop=8, fastdecode=False)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["target"] == {"short": 48, "height": 0, "width": 0, "fps": 0.0, "crf": 18, "gop": 8}
    with pytest.raises(UserError, match="begun with another target"):
        stored(tmp_path)
    shutil.rmtree(tmp_path / "out")
    stored(tmp_path, store="raw")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["target"] == {
        "short": 48,
        "height": 0,
        "width": 0,
        "fps": 0.0,
        "crf": 18,
        "gop": 8,
        "store": "raw",
    }


@pytest.mark.parametrize("reader", ["fast", "pyav"])
def test_a_pyav_that_is_too_old_is_one_sentence(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "a.mp4")
    monkeypatch.setattr(av, "__version__", "16.1.0")
    with pytest.raises(
        UserError, match=rf"data.reader={reader} needs PyAV 17.0.1 or newer, not 16.1.0"
    ):
        read_frames(path, [0], get_reader(reader))
