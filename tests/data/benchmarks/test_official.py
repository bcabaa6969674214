"""Counts against the real annotation files, where a copy of them lies next to the checkout.

They are not ours to pass on.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from simvtp.data.benchmarks import open_benchmark
from simvtp.data.benchmarks.msrvtt import read_ids
from simvtp.data.benchmarks.records import Benchmark
from tests.data.benchmarks.made import write_json

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "annotations"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no annotation files below {REAL}")


def splits(benchmark: Benchmark) -> dict[str, int]:
    records = benchmark.clips or benchmark.questions or benchmark.moments or benchmark.actions
    return dict(Counter(record.split for record in records))


def link(root: Path, *places: str) -> None:
    for place in places:
        (root / Path(place).name).symlink_to(REAL / place)


@pytest.fixture(scope="module")
def msrvtt_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official lists and the real captions of the test videos, in the official form.

    Made-up captions of the others.
    """
    root = tmp_path_factory.mktemp("msrvtt")
    link(
        root,
        *(f"msrvtt/{path.name}" for path in (REAL / "msrvtt").glob("*.csv")),
        "msrvtt/ce_lists",
    )
    real = {
        row["video"].removesuffix(".mp4"): row["caption"]
        for row in json.loads((REAL / "msrvtt/msrvtt_caption_test.json").read_text())
    }
    names = [f"video{n}" for n in range(10_000)]
    sentences = [
        {"video_id": name, "caption": caption}
        for name in names
        for caption in real.get(name, [f"made up for {name}"])
    ]
    write_json(
        root / "MSRVTT_data.json",
        {"videos": [{"video_id": name} for name in names], "sentences": sentences},
    )
    return root


def test_msrvtt_1k_a(msrvtt_root: Path) -> None:
    benchmark = open_benchmark("msrvtt", msrvtt_root)
    assert benchmark.protocol == "1k-A" and benchmark.read == {"train": 9000, "test": 1000}
    test = benchmark.split("test").clips
    assert len(test) == 1000 and all(len(clip.captions) == 1 for clip in test)
    assert {clip.id: clip.captions[0] for clip in test}[
        "video9770"
    ] == "a person is connecting something to system"
    found = splits(benchmark)
    assert found["train"] + found["val"] == 9000 and 350 < found["val"] < 550
    assert any("never used" in note and str(found["val"]) in note for note in benchmark.notes)
    train = {clip.id for clip in benchmark.split("train").clips} | {
        clip.id for clip in benchmark.split("val").clips
    }
    assert not train & {clip.id for clip in test}


def test_msrvtt_other_protocols(msrvtt_root: Path) -> None:
    assert open_benchmark("msrvtt", msrvtt_root, "1k-A-7k").read == {"train": 7010, "test": 1000}
    full = open_benchmark("msrvtt", msrvtt_root, "full")
    assert full.read == splits(full) == {"train": 6513, "val": 497, "test": 2990}
    assert sum(len(clip.captions) for clip in full.split("test").clips) == 59_800
    assert open_benchmark("msrvtt", msrvtt_root, "1k-B").read == {"train": 6656, "test": 1000}


def test_msrvtt_held_out_videos_are_the_same_in_every_protocol(msrvtt_root: Path) -> None:
    nine, seven = (open_benchmark("msrvtt", msrvtt_root, name) for name in ("1k-A", "1k-A-7k"))
    shared = {clip.id for clip in seven.clips}
    assert {c.id for c in nine.clips if c.split == "val" and c.id in shared} == {
        c.id for c in seven.clips if c.split == "val"
    }


def test_msrvtt_lists_of_two_publishers_agree() -> None:
    assert set(read_ids(REAL / "msrvtt/MSRVTT_train.9k.csv")) == set(
        read_ids(REAL / "msrvtt/ce_lists/train_list_jsfusion.txt")
    )


def test_msvd() -> None:
    benchmark = open_benchmark("msvd", REAL / "msvd")
    assert splits(benchmark) == {"train": 1200, "val": 100, "test": 670}
    assert sum(len(clip.captions) for clip in benchmark.clips) == 80_827
    assert (
        benchmark.clips[0].id == "-4wsuPCjDBc_5_15"
        and benchmark.clips[0].captions[1] == "a chipmunk is eating"
    )


def test_didemo(tmp_path: Path) -> None:
    """A small training file replaces the official one, which is too large for the collection."""
    link(tmp_path, "didemo/val_data.json", "didemo/test_data.json", "didemo/ce_lists")
    train = (REAL / "didemo/ce_lists/train_list.txt").read_text().split("\n")
    rows = [
        {"annotation_id": -n, "description": "made up", "video": name}
        for n, name in enumerate(filter(None, train))
    ]
    write_json(tmp_path / "train_data.json", rows)
    benchmark = open_benchmark("didemo", tmp_path)
    assert {split: benchmark.read[split] for split in ("val", "test")} == {
        "val": 4180,
        "test": 4021,
    }
    assert splits(benchmark) == {"train": 8392, "val": 1094, "test": 1037}
    assert splits(open_benchmark("didemo", tmp_path, "paragraph-ce")) == {
        "train": 8392,
        "val": 1065,
        "test": 1004,
    }
    first = next(clip for clip in benchmark.clips if clip.id.startswith("26292851@N04_4253489686"))
    assert (
        len(first.captions) == 1
        and "someone kicks the bug towards some rocks." in first.captions[0]
        and len(first.captions[0]) > 60
    )


def test_activitynet() -> None:
    benchmark = open_benchmark("activitynet", REAL / "activitynet_captions")
    found = splits(benchmark)
    assert found["train"] + found["val"] == 10_009 and found["test"] == 4917
    assert (
        splits(open_benchmark("activitynet", REAL / "activitynet_captions", "val_2"))["test"]
        == 4885
    )
    first = next(clip for clip in benchmark.clips if clip.id == "v_uqiMw7tQ1Cc")
    assert first.split == "test" and first.captions[0].startswith(
        "A weight lifting tutorial is given. The coach helps"
    )


def test_activitynet_grounding() -> None:
    benchmark = open_benchmark("activitynet_grounding", REAL / "activitynet_captions")
    assert benchmark.read == {"train": 37_421, "val": 17_505, "test": 17_031}
    assert splits(benchmark) == {"train": 37_417, "val": 17_505, "test": 17_031}
    assert any(note.startswith("train: 4 of 37421 sentences left out") for note in benchmark.notes)
    assert all(m.duration_s is not None and m.span.end_s <= m.duration_s for m in benchmark.moments)
    assert {
        split: len({m.video for m in benchmark.moments if m.split == split})
        for split in ("train", "val", "test")
    } == {
        "train": 10_009,
        "val": 4917,
        "test": 4885,
    }


def test_charades_sta() -> None:
    benchmark = open_benchmark("charades_sta", REAL / "charades_sta")
    assert benchmark.read == {"train": 12_408, "test": 3720}
    found = splits(benchmark)
    assert (
        found["train"] + found["val"] == 12_404 and found["test"] == 3720
    )  # four lines end before they start
    first = next(m for m in benchmark.moments if m.split == "test")
    assert (first.video, first.sentence, first.span.start_s, first.span.end_s) == (
        "3MSZA",
        "person turn a light on.",
        24.3,
        30.4,
    )
    assert len(benchmark.videos) == 5338 + 1334


def test_tacos() -> None:
    benchmark = open_benchmark("tacos", REAL / "tacos")
    assert splits(benchmark) == benchmark.read == {"train": 9790, "val": 4436, "test": 4001}
    counts = {
        split: len({m.video for m in benchmark.moments if m.split == split})
        for split in ("train", "val", "test")
    }
    assert counts == {"train": 75, "val": 27, "test": 25}
    assert benchmark.moments[0].span.start_s == pytest.approx(224 / 29.4) and benchmark.moments[
        0
    ].duration_s == pytest.approx(12438 / 29.4)


def test_tgif_qa(tmp_path: Path) -> None:
    action = open_benchmark("tgif_qa", REAL / "tgif_qa", "action")
    assert action.read == {"train": 20_471, "test": 2274}
    question = next(q for q in action.questions if q.split == "test")
    assert (
        question.kind == "choice"
        and question.answer == question.candidates[4] == "flap wings"
        and len(question.candidates) == 5
    )
    count = open_benchmark("tgif_qa", REAL / "tgif_qa", "count")
    assert count.read == {"train": 26_839, "test": 3554} and {q.kind for q in count.questions} == {
        "count"
    }
    for kind, protocol, size in (("frameqa", "frame", 13_691), ("transition", "transition", 6232)):
        link(tmp_path, f"tgif_qa/Test_{kind}_question.csv")
        text = (REAL / f"tgif_qa/Test_{kind}_question.csv").read_text()
        head, rows = text.split("\n", 1)
        few = [
            f"made_up_{n}\t{row.split(chr(9), 1)[1]}" for n, row in enumerate(rows.split("\n")[:60])
        ]
        (tmp_path / f"Train_{kind}_question.csv").write_text("\n".join([head, *few]) + "\n")
        assert open_benchmark("tgif_qa", tmp_path, protocol).read == {"train": 60, "test": size}


def test_msrvtt_qa(tmp_path: Path) -> None:
    """The training file is too large for the collection: made-up questions stand in its place."""
    link(tmp_path, "msrvtt_qa/hqga/val.csv", "msrvtt_qa/hqga/test.csv")
    rows = [
        {"answer": "boat", "question": "what is it?", "id": n, "video_id": n, "category_id": 1}
        for n in range(100)
    ]
    write_json(tmp_path / "train_qa.json", rows)
    table = open_benchmark("msrvtt_qa", tmp_path)
    assert table.read == {"train": 100, "val": 12_278, "test": 72_821}
    assert len({q.video for q in table.questions if q.split == "test"}) == 2990
    (tmp_path / "val.csv").unlink()
    (tmp_path / "val.jsonl").symlink_to(REAL / "msrvtt_qa/clipbert_val.jsonl")
    again = open_benchmark("msrvtt_qa", tmp_path)
    pairs = [[(q.video, q.answer) for q in b.questions if q.split == "val"] for b in (table, again)]
    assert pairs[0] == pairs[1], "two re-issues of the same questions"


def test_msvd_qa() -> None:
    benchmark = open_benchmark("msvd_qa", REAL / "msvd_qa/hqga")
    assert splits(benchmark) == {"train": 30_933, "val": 6415, "test": 13_157}
    first = next(q for q in benchmark.questions if q.split == "test")
    assert (first.video, first.answer, first.category) == ("vid1451", "someone", "who")


@pytest.mark.parametrize(
    ("protocol", "train", "test"),
    [("split1", 9537, 3783), ("split2", 9586, 3734), ("split3", 9624, 3696)],
)
def test_ucf101(protocol: str, train: int, test: int) -> None:
    benchmark = open_benchmark("ucf101", REAL / "ucf101", protocol)
    assert benchmark.read == {"train": train, "test": test} and len(benchmark.labels) == 101
    groups = {
        split: {a.video.rpartition("_c")[0] for a in benchmark.actions if a.split == split}
        for split in ("train", "val")
    }
    assert groups["val"] and not groups["train"] & groups["val"], (
        "parts of one recording stay together"
    )


@pytest.mark.parametrize("protocol", ["split1", "split2", "split3"])
def test_hmdb51(protocol: str) -> None:
    benchmark = open_benchmark("hmdb51", REAL / "hmdb51", protocol)
    assert benchmark.read == {"train": 3570, "test": 1530} and len(benchmark.labels) == 51
    assert benchmark.labels == tuple((REAL / "hmdb51/mmaction2_label_map.txt").read_text().split())
    number = protocol[-1]
    for split, name in (("train", "train"), ("test", "val")):
        listed = {
            line.split()[0].rpartition("/")[2]
            for line in (REAL / f"hmdb51/text4vis/{name}_rgb_split_{number}.txt")
            .read_text()
            .splitlines()
        }
        ours = {a.video for a in benchmark.actions if (a.split == "test") == (split == "test")}
        assert len(ours ^ listed) == 0
