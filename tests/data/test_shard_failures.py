"""Shards: failures are counted and named; a killed command is resumed to the same bytes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from simvtp.data.clips import Clip
from simvtp.data.manifest import read_manifest
from simvtp.data.prepare.transcode import Steps, TranscodeTarget, transcode
from simvtp.data.shards import read_shards
from simvtp.errors import DataError, UserError
from tests.data.helpers import damage, make_clips, moving_square
from tests.data.shard_files import ROOT, SPLITS, content, shard, write_manifest


def test_what_failed_is_counted_and_named(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", 6)
    clips[0].path.unlink()
    clips[1].path.write_bytes(b"")
    clips[2].path.write_text("<html><body>404 Not Found</body></html>")
    damage(clips[4].path)
    path = write_manifest(clips, tmp_path / "clips.csv")
    said: list[str] = []
    outcome = shard(path, tmp_path / "out", workers=1, say=said.append)
    assert (outcome.clips, outcome.written, dict(outcome.failed)) == (
        6,
        2,
        {"missing": 1, "empty": 1, "no_video": 2},
    )
    assert "2 of 6 clips in 2 shards, 4 failed" in said and any(
        "no such file" in line for line in said
    )
    assert [clip.id for clip in read_shards(tmp_path / "out").clips] == ["clip3", "clip5"]
    with open(tmp_path / "out" / "failures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["kind"]) for row in rows] == [
        ("clip0", "missing"),
        ("clip1", "empty"),
        ("clip2", "no_video"),
        ("clip4", "no_video"),
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["failed"] == dict(outcome.failed) and summary["written"] == 2
    assert str(tmp_path) not in (tmp_path / "out" / "failures.csv").read_text() + json.dumps(
        summary
    )


def cut_short(path: Path) -> None:
    """Damages an mp4 whose table of frames comes first, so that it still opens."""
    frames = moving_square(2, 40, 64, 64)
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_a_file_that_opens_but_is_cut_off_is_no_shorter_clip(tmp_path: Path) -> None:
    cut_short(tmp_path / "a.mp4")
    outcome = shard(
        write_manifest([Clip("a", tmp_path / "a.mp4", ("words",))], tmp_path / "m.csv"),
        tmp_path / "out",
    )
    assert dict(outcome.failed) == {"damaged": 1}
    with pytest.raises(DataError, match="hold no clip: all 1 failed"):
        read_shards(tmp_path / "out")


def tricky(
    path: Path, target: TranscodeTarget, start_s: float | None, end_s: float | None
) -> Steps:
    """`transcode` with a decoder that hangs or crashes on some names."""
    while path.name == "clip1.mp4":
        time.sleep(3600)
    if path.name == "clip4.mp4":
        os._exit(3)
    return (yield from transcode(path, target, start_s, end_s))


def test_a_decoder_that_hangs_or_crashes_costs_its_clip_only(tmp_path: Path) -> None:
    path = write_manifest(make_clips(tmp_path / "clips", 6), tmp_path / "clips.csv")
    outcome = shard(path, tmp_path / "out", workers=1, timeout_s=2.0, encode=tricky)
    assert (outcome.written, dict(outcome.failed)) == (4, {"decoder": 2})
    reasons = (tmp_path / "out" / "failures.csv").read_text()
    assert "took longer than 2 s" in reasons and "exit status 3" in reasons
    assert [clip.id for clip in read_shards(tmp_path / "out").clips] == [
        "clip0",
        "clip2",
        "clip3",
        "clip5",
    ]


# ---- going on ------------------------------------------------------------------------------------


def test_after_a_kill_the_same_command_goes_on_to_the_same_bytes(
    manifest: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "simvtp",
        "data",
        "shard",
        str(manifest),
        str(out),
        "--size",
        "34",
        "--max-per-shard",
        "3",
    ]
    command += ["--workers", "1"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    next(process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    there = {
        path.name: path.stat().st_mtime_ns
        for path in out.iterdir()
        if (out / f"{path.stem}.json").is_file() and path.name != "plan.json"
    }
    assert there and not (out / "summary.json").exists()
    with pytest.raises(DataError, match="not finished"):
        read_shards(out)
    outcome = shard(manifest, out)
    assert 1 <= outcome.made_now < outcome.shards == 5
    assert content(out) == content(shards)
    assert {name: (out / name).stat().st_mtime_ns for name in there} == there


def test_a_second_run_writes_nothing_and_workers_change_nothing(
    manifest: Path, shards: Path, tmp_path: Path
) -> None:
    before = content(shards)
    assert shard(manifest, shards).made_now == 0 and content(shards) == before
    shard(manifest, tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == before


def test_another_manifest_or_size_needs_another_folder(
    manifest: Path, own_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="begun with another target"):
        shard(manifest, own_shards, target=TranscodeTarget(short=32))
    with pytest.raises(UserError, match="begun with another manifest"):
        shard(
            write_manifest(
                list(read_manifest(manifest).clips)[:3], tmp_path / "m.csv", split=list(SPLITS)
            ),
            own_shards,
        )
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.tar").touch()
    with pytest.raises(UserError, match=r"holds a\.tar, which this command did not make"):
        shard(manifest, tmp_path / "foreign")
