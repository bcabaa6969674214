"""Shards of benchmarks, and shards of uncompressed frames."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.__main__ import main
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.benchmarks import open_benchmark
from simvtp.data.clips import Clip
from simvtp.data.datasets import open_dataset
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.encode import encode_h264
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import parse_target, write_shards
from simvtp.data.shards import read_shards
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.data.video.tar_member import file_of, raw_clip
from simvtp.errors import DataError
from tests.data.benchmarks import made
from tests.data.helpers import make_clips, moving_square
from tests.data.test_bad_input import manifest_of

HERE = RuntimeConfig(workers=0, device="cpu")
DATA = DataConfig(stride=2, max_corrupt_ratio=0.5)
MODEL = SimVTPConfig(image_size=32, frames=4, patch_size=8, text_length=12)


# ---- benchmarks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark with all of its videos but three, one of them a text."""
    root = tmp_path_factory.mktemp("msrvtt")
    made.msrvtt(root)
    film = root / "film.mp4"
    encode_h264(moving_square(1, 4, 32, 32), film, 8)
    (root / "videos").mkdir()
    for name in open_benchmark("msrvtt", root, "1k-A").videos:
        shutil.copy(film, root / "videos" / f"{name}.mp4")
    film.unlink()
    for gone in ("video3", "video7001"):
        (root / "videos" / f"{gone}.mp4").unlink()
    (root / "videos" / "video5.mp4").write_text("<html>")
    return root


def test_a_benchmark_is_sharded_with_its_splits_and_exact_counts(
    msrvtt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "data",
        "shard",
        "msrvtt",
        "--root",
        str(msrvtt),
        "--protocol",
        "1k-A",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--workers", "0", "--size", "32"]) == 0
    official = open_benchmark("msrvtt", msrvtt, "1k-A")
    printed = capsys.readouterr().out
    assert (
        f"{len(official.clips) - 3} of {len(official.clips)} clips" in printed
        and "3 failed" in printed
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["failed"] == {"missing": 2, "no_video": 1} and summary["clips"] == len(
        official.clips
    )
    lost = {"video3", "video5", "video7001"}
    expected = [
        (clip.id, clip.captions, clip.split) for clip in official.clips if clip.id not in lost
    ]
    assert [
        (clip.id, clip.captions, clip.split) for clip in read_shards(tmp_path / "out").clips
    ] == expected
    dataset = open_dataset(DataConfig(dataset="shards", manifest=str(tmp_path / "out")), HERE)
    assert (dataset.name, dataset.variant) == ("msrvtt", "1k-A")
    assert {name: len(clips) for name, clips in dataset.splits.items()} == Counter(
        split for _, _, split in expected
    )
    assert "1 test videos were left out when the shards were made" in dataset.notes
    assert (
        main([*command, "--workers", "0", "--size", "32"]) == 0
    )  # a second time: nothing is left to do
    assert "shards are there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["msrvtt", "--out", "x"], "data shard msrvtt needs --root DIR"),
        (["msrvtt_qa", "--root", ".", "--out", "x"], None),
        (["clips.csv", "--root", ".", "--out", "x"], "there is no benchmark 'clips.csv'"),
        (["msrvtt", "--root", "."], "needs one folder to write to"),
        (["msrvtt", "--root", ".", "--out", "x", "--protocol", "1k-Z"], "has no protocol '1k-Z'"),
    ],
)
def test_what_cannot_be_sharded_is_one_sentence(
    arguments: list[str],
    words: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made.msrvtt_qa(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "shard", *arguments]) == 2
    assert (words or "msrvtt_qa is annotated for qa, not with captions") in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_shard_command_and_its_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = make_clips(tmp_path, 2)
    manifest = manifest_of(clips, tmp_path / "clips.csv")
    for arguments, words in (
        (["--size", "63"], "--size 63"),
        (["--max-per-shard", "0"], "--max-per-shard"),
        (["--fps", "-1"], "--fps -1"),
    ):
        assert (
            main(
                [
                    "data",
                    "shard",
                    str(manifest),
                    str(tmp_path / "out"),
                    "--workers",
                    "0",
                    *arguments,
                ]
            )
            == 2
        )
        assert words in capsys.readouterr().err
    assert (
        main(
            [
                "data",
                "shard",
                str(manifest),
                str(tmp_path / "out"),
                "--workers",
                "0",
                "--size",
                "32x32",
                "--fps",
                "4",
            ]
        )
        == 0
    )
    assert "2 of 2 clips in 1 shards, 0 failed" in capsys.readouterr().out
    clips[0].path.unlink()
    command = ["data", "shard", str(manifest), str(tmp_path / "other"), "--workers", "0"]
    assert main(command) == 0
    assert "1 missing: there is no such file" in capsys.readouterr().out
    clips[1].path.unlink()
    assert main(command) == 2
    assert "no video of its column `path` exists" in capsys.readouterr().err


# ---- uncompressed frames -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    return manifest_of(make_clips(folder, 10), folder / "clips.csv")


@pytest.fixture(scope="module")
def raw(films: Path) -> Path:
    out = films.parent / "raw"
    assert (
        write_shards(
            films, out, parse_target("36", store="raw"), 3, workers=0, say=lambda line: None
        ).written
        == 10
    )
    return out


def test_raw_frames_are_those_that_the_source_shows(raw: Path, films: Path) -> None:
    reader = PyavReader()
    for number, clip in enumerate(read_shards(raw).clips):
        source = films.parent / f"clip{number}.mp4"
        stored = raw_clip(clip.path)
        assert (
            stored is not None
            and file_of(clip.path).is_file()
            and clip.measured == (16, 8.0, 36, 48)
        )
        expected = read_frames(source, range(16), reader, (36, 48))
        assert np.array_equal(read_frames(clip.path, range(16), reader), expected)
        for indices in ([3, 4, 5, 9, 0, 0, 15], [15], []):
            assert np.array_equal(read_frames(clip.path, indices, reader), expected[indices])
        assert read_frames(clip.path, [1], reader, (18, 24)).shape == (1, 18, 24, 3)
        with pytest.raises(DataError, match="frame 16 of 16"):
            read_frames(clip.path, [16], reader)


class NoReader:
    """A machine without any decoder."""

    name = "none"

    def probe(self, path: Path) -> None:
        raise AssertionError

    read = probe


def batches(
    clips: list[Clip] | tuple[Clip, ...], start: int, end: int, **changes: object
) -> list[torch.Tensor]:
    values = {"data": DATA, "model": MODEL, "runtime": HERE, "batch_size": 4, "seed": 5, **changes}
    loader = TrainLoader(clips, load_tokenizer("builtin"), **values)  # type: ignore[arg-type]
    stream = loader.batches(start)
    try:
        found = [batch.clips for batch in itertools.islice(stream, end - start)]
    finally:
        stream.close()  # type: ignore[attr-defined]
    assert loader.counters.corrupt == 0
    return found


def test_raw_clips_train_without_a_decoder_and_resume_in_the_middle_of_an_epoch(raw: Path) -> None:
    clips = read_shards(raw).clips
    whole = batches(clips, 0, 5, reader=NoReader())
    for step, clip in zip(
        range(3, 5),
        batches(clips, 3, 5, runtime=RuntimeConfig(workers=1, device="cpu")),
        strict=True,
    ):
        assert torch.equal(clip, whole[step])
    ranks = [batches(clips, 1, 3, rank=rank, world=2) for rank in range(2)]
    for i in range(2):
        assert torch.equal(torch.cat([part[i] for part in ranks]), whole[1 + i])
    assert (
        len({crop.numpy().tobytes() for crop in batches(clips[:1], 0, 4, batch_size=1)}) == 4
    )  # windows and crops vary
    views = ViewLoader(
        clips,
        data=DATA,
        model=MODEL,
        runtime=HERE,
        segments=2,
        crops=2,
        batch_size=8,
        reader=NoReader(),
    )  # type: ignore[arg-type]
    assert sum(len(part) for part, _ in views.batches()) == 40


def test_raw_shards_go_on_after_a_kill_and_workers_change_nothing(
    films: Path, raw: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(raw, tmp_path / "out")
    (out / "summary.json").unlink()
    (out / "clips-000002.json").unlink()
    outcome = write_shards(
        films, out, parse_target("36", store="raw"), 3, workers=1, say=lambda line: None
    )
    assert outcome.made_now == 1
    for path in raw.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_changed_and_cut_off_raw_shards_are_found(raw: Path, tmp_path: Path) -> None:
    out = shutil.copytree(raw, tmp_path / "out")
    clips = read_shards(out).clips
    first = raw_clip(clips[0].path)
    assert first is not None
    content = bytearray(first.shard.read_bytes())
    content[first.offset + 100] ^= 1
    first.shard.write_bytes(content)
    (last,) = [clip for clip in clips if clip.id == "clip9"]
    file_of(last.path).write_bytes(file_of(last.path).read_bytes()[:5000])
    with pytest.raises(DataError, match="another checksum"):
        probe(clips[0].path, get_reader("pyav"))
    with pytest.raises(DataError, match="it ends before byte"):
        read_frames(last.path, [15], get_reader("pyav"))
    report = check_manifest(out, workers=0, say=lambda line: None)
    lost = [clip for clip in clips if file_of(clip.path) == file_of(last.path)]
    assert len(report.corrupt) == 1 + len(lost)


def test_a_raw_clip_of_more_than_a_gibibyte_is_left_out(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simvtp.data.prepare.transcode.LARGEST_RAW", 1000)
    outcome = write_shards(
        films,
        tmp_path / "out",
        TranscodeTarget(short=36, store="raw"),
        workers=0,
        say=lambda line: None,
    )
    assert (outcome.written, dict(outcome.failed)) == (0, {"large": 10})
