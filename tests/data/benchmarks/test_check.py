"""`data check NAME`, `data list`, and a benchmark as the data set of an experiment."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from simvtp.__main__ import main
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.data.benchmarks import BENCHMARKS, annotation_digest
from simvtp.data.datasets import open_dataset, require_captions
from simvtp.data.prepare.check_benchmark import check_benchmark
from simvtp.errors import ConfigError, DataError
from simvtp.resolve import finalise
from tests.data.benchmarks.made import MADE, msrvtt, msvd, tgif_qa
from tests.data.helpers import damage, make_clips

DOCS = Path(__file__).resolve().parents[3] / "docs" / "data.md"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MSVD with one whole, one truncated and one web-page video; nine are missing."""
    msvd(tmp_path)
    clips = make_clips(tmp_path / "made", 2, frames=40)
    for number, clip in enumerate(clips):
        (tmp_path / "YouTubeClips").mkdir(exist_ok=True)
        shutil.move(clip.path, tmp_path / f"YouTubeClips/-4wsuP_{number}_{number + 10}.mp4")
    damage(tmp_path / "YouTubeClips/-4wsuP_1_11.mp4")
    (tmp_path / "YouTubeClips/-4wsuP_2_12.mp4").write_text("<!DOCTYPE html><html></html>")
    return tmp_path


# ---- check ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_missing_and_undecodable_videos_are_counted_and_named(root: Path, reader: str) -> None:
    said: list[str] = []
    report = check_benchmark("msvd", root, decode=True, reader=reader, workers=1, say=said.append)
    assert (
        not report.ok
        and len(report.missing) == 9
        and [entry.split(":")[0] for entry in report.corrupt] == ["-4wsuP_1_11", "-4wsuP_2_12"]
    )
    assert report.missing[0] == f"-4wsuP_3_13: {root}/YouTubeClips/-4wsuP_3_13.avi"
    assert said[-1] == "msvd standard: 12 annotated videos: 3 there, 9 missing, 2 undecodable"
    assert (
        "missing: and 4 more" in said
        and "msvd standard, records by split: train 8, val 1, test 3" in said
    )


def test_the_command_says_what_is_missing_and_ends_with_1(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "msvd", "--root", str(root)]) == 1
    out = capsys.readouterr().out
    assert "3 there, 9 missing, not decoded" in out and "protocol standard: possible" in out


def test_the_command_ends_with_0_when_all_is_there(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        shutil.copy(
            root / "YouTubeClips/-4wsuP_0_10.mp4",
            root / f"YouTubeClips/-4wsuP_{number}_{number + 10}.avi",
        )
    for path in (root / "YouTubeClips").glob("*.mp4"):
        path.unlink()
    assert main(["data", "check", "msvd", "--root", str(root), "--decode", "--workers", "1"]) == 0
    assert "12 annotated videos: 12 there, 0 missing, 0 undecodable" in capsys.readouterr().out


def test_protocols_that_the_files_do_not_allow_are_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    msrvtt(tmp_path)
    (tmp_path / "MSRVTT_train.9k.csv").unlink()
    (tmp_path / "test_list_miech.txt").unlink()
    assert main(["data", "check", "msrvtt", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert re.search(
        r"protocol 1k-A: not possible: no MSRVTT_train.9k.csv or train_list_jsfusion.txt below", out
    )
    assert (
        "protocol 1k-A-7k: possible" in out
        and "protocol full: possible" in out
        and "protocol 1k-B: not possible" in out
    )
    assert "msrvtt 1k-A-7k: 71 annotated videos: 0 there, 71 missing" in out, (
        "the first that is possible"
    )
    assert main(["data", "check", "msrvtt", "--root", str(tmp_path), "--protocol", "1k-A"]) == 2
    assert "error: msrvtt 1k-A: no MSRVTT_train.9k.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["msvd"], "data check msvd needs --root DIR"),
        (["msvd", "--root", "nowhere"], "there is no such folder"),
        (
            ["msvd", "--root", ".", "--protocol", "1k-A"],
            "msvd has no protocol '1k-A'; choose one of standard",
        ),
        (["msvdd", "--root", "."], "there is no benchmark 'msvdd'; choose from"),
        (["nowhere.csv"], "there is no such file"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["data", "check", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_gifs_are_decoded_by_the_reader_that_can(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    tgif_qa(tmp_path)
    (tmp_path / "gifs").mkdir()
    frames = [image.new("RGB", (32, 24), (40 * n, 0, 0)) for n in range(5)]
    frames[0].save(tmp_path / "gifs/tumblr_3.gif", save_all=True, append_images=frames[1:])
    report = check_benchmark("tgif_qa", tmp_path, decode=True, workers=0, say=lambda line: None)
    assert not report.corrupt and len(report.missing) == 65


def test_the_list_has_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *BENCHMARKS]
    assert "1k-A, 1k-A-7k, full, 1k-B" in lines[3]


def test_the_documented_table_is_that_of_the_readers() -> None:
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in DOCS.read_text().splitlines()
        if line.startswith("| `")
    ]
    rows = {row[0].strip("`"): row for row in cells if len(row) == 8}
    assert set(rows) == set(BENCHMARKS)
    for name, reader in BENCHMARKS.items():
        source = reader.describe
        protocols = ", ".join(reader.protocols)
        assert rows[name] == [
            f"`{name}`",
            reader.task,
            protocols,
            source.where,
            source.files,
            source.folders,
            source.licence,
            source.size,
        ]


# ---- as a data set -------------------------------------------------------------------------------


def test_a_benchmark_is_a_data_set(tmp_path: Path) -> None:
    msrvtt(tmp_path)
    said: list[str] = []
    dataset = open_dataset(
        DataConfig(dataset="msrvtt", root=str(tmp_path)), RuntimeConfig(), say=said.append
    )
    assert (dataset.name, dataset.variant) == ("msrvtt", "1k-A")
    assert (
        len(dataset.splits["test"]) == 5
        and len(dataset.splits["train"]) + len(dataset.splits["val"]) == 71
    )
    assert any("no val split" in line for line in said) and dataset.notes
    assert (
        open_dataset(
            DataConfig(dataset="msrvtt", root=str(tmp_path), protocol="full"), RuntimeConfig()
        ).variant
        == "full"
    )


def test_the_parts_of_didemo_end_where_its_annotations_do(tmp_path: Path) -> None:
    MADE["didemo"](tmp_path)
    dataset = open_dataset(DataConfig(dataset="didemo", root=str(tmp_path)), RuntimeConfig())
    assert {(clip.start_s, clip.end_s) for clips in dataset.splits.values() for clip in clips} == {
        (None, 30.0)
    }


@pytest.mark.parametrize("name", MADE)
def test_benchmarks_without_captions_are_refused_with_a_choice(tmp_path: Path, name: str) -> None:
    MADE[name](tmp_path)
    data = DataConfig(dataset=name, root=str(tmp_path))
    if BENCHMARKS[name].task in ("pretraining", "retrieval", "image_text"):
        assert all(open_dataset(data, RuntimeConfig()).splits.values())
    elif (
        name == "lsmdc_mc"
    ):  # its right sentences are captions to train on; the test clips have none
        captioned = {
            split: {bool(clip.captions) for clip in clips}
            for split, clips in open_dataset(data, RuntimeConfig()).splits.items()
        }
        assert captioned == {"train": {True}, "val": {True}, "test": {False}}
    else:
        with pytest.raises(
            DataError,
            match=rf"{name} is annotated for {BENCHMARKS[name].task}, not with captions .* "
            "choose one of webvid, cc3m",
        ):
            require_captions(open_dataset(data, RuntimeConfig()), "retrieval")


def tiny(root: Path, *assignments: str) -> str:
    annotation_digest.cache_clear()
    return finalise(
        override(get_recipe("tiny"), ["data.dataset=msrvtt", f"data.root={root}", *assignments])
    ).fingerprint


def test_the_annotations_are_the_identity_and_not_their_place(tmp_path: Path) -> None:
    msrvtt(tmp_path / "here")
    msrvtt(tmp_path / "there" / "annotations")
    first = tiny(tmp_path / "here")
    assert first == tiny(tmp_path / "there") == tiny(tmp_path / "here", "data.protocol=1k-A")
    others = [
        tiny(tmp_path / "here", change)
        for change in ("data.protocol=full", "data.protocol=1k-A-7k", "data.fraction=0.5")
    ]
    test = tmp_path / "here/MSRVTT_JSFUSION_test.csv"
    test.write_text(test.read_text().replace("the sentence of video7001", "something else"))
    others.append(tiny(tmp_path / "here"))
    assert len({first, *others}) == 5


def test_annotations_that_change_under_a_running_experiment_are_noticed(tmp_path: Path) -> None:
    msrvtt(tmp_path)
    annotation_digest.cache_clear()
    data = finalise(
        override(get_recipe("tiny"), ["data.dataset=msrvtt", f"data.root={tmp_path}"])
    ).data
    open_dataset(data, RuntimeConfig())
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\nvideo1\nvideo2\n")
    with pytest.raises(DataError, match="are not those that the experiment was started with"):
        open_dataset(data, RuntimeConfig())


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["data.dataset=msrvtt"], "data.dataset=msrvtt needs data.root=DIR"),
        (["data.dataset=msrvtt", "data.root=.", "data.protocol=1k"], "msrvtt has no protocol '1k'"),
        (["data.root=."], "data.root=. is for benchmarks, but data.dataset=shapes"),
        (["data.protocol=1k-A"], "data.protocol=1k-A is for benchmarks"),
        (
            ["data.dataset=coco", "data.root=."],
            "data.dataset=coco has images or GIFs, which data.reader=fast does not open: set "
            "data.reader=pyav",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(assignments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        finalise(override(get_recipe("tiny"), assignments))
    assert words in str(caught.value)
