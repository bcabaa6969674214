"""Captions and ids as people write them: kept, dropped and counted, or refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.manifest import read_manifest
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.errors import DataError
from tests.data.helpers import make_clips
from tests.data.test_bad_input import DATA, HERE, MODEL, manifest_of

LONG = " ".join(f"word{n}" for n in range(5000))
CAPTIONS = {
    "long": LONG,
    "emoji": "a dog 🐶 runs 🏃🏽‍♀️ home",
    "hebrew": "כלב רץ הביתה",
    "arabic": "‫كلب يركض إلى المنزل‬",
    "mixed": 'says "hi", כלב\nand goes',
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_of_all_kinds_go_through_unchanged(name: str, tmp_path: Path) -> None:
    (film_of,) = make_clips(tmp_path, 1)
    clip = Clip(name, film_of.path, (CAPTIONS[name],))
    manifest = manifest_of([clip], tmp_path / "clips.csv")
    assert read_manifest(manifest).clips[0].captions == clip.captions
    write_shards(manifest, tmp_path / "out", workers=0, say=lambda line: None)
    assert read_shards(tmp_path / "out").clips[0].captions == clip.captions
    tokenizer = load_tokenizer("builtin")
    tokens = tokenizer.encode(clip.captions, 12)
    ids, count = tokens.input_ids[0], int(tokens.attention_mask.sum())
    assert (
        ids.shape == (12,)
        and ids[0] == tokenizer.cls_id
        and ids[count - 1] == tokenizer.sep_id
        and count > 2
    )
    if name == "long":
        assert count == 12 and tokenizer.decode(ids).startswith("word0 word1")
    loader = TrainLoader(
        [clip], tokenizer, data=DATA, model=MODEL, runtime=HERE, batch_size=1, seed=0
    )
    (batch,) = itertools.islice(loader.batches(), 1)
    assert torch.equal(batch.input_ids[0], ids)


def test_empty_captions_are_left_out_and_counted(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 3)
    clips = [
        Clip("a", clips[0].path, ("words", " ")),
        Clip("b", clips[1].path, ("", "\t")),
        Clip("c", clips[2].path, ("more",)),
    ]
    manifest = manifest_of(clips, tmp_path / "clips.csv")
    found = read_manifest(manifest)
    assert [(clip.id, clip.captions) for clip in found.clips] == [
        ("a", ("words",)),
        ("c", ("more",)),
    ]
    assert (found.empty_captions, found.uncaptioned) == (3, ("b",))
    assert check_manifest(manifest, workers=0, say=lambda line: None).uncaptioned == ("b",)
    write_shards(manifest, tmp_path / "out", workers=0, say=lambda line: None)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (
        summary["clips"],
        summary["rows_without_caption"],
        summary["videos_without_caption"],
    ) == (2, 3, 1)


def test_an_id_that_stands_for_two_videos_is_refused_and_one_that_is_repeated_has_two_captions(
    tmp_path: Path,
) -> None:
    clips = make_clips(tmp_path, 2)
    twice = manifest_of(
        [Clip("a", clips[0].path, ("one",)), Clip("a", clips[0].path, ("two",))],
        tmp_path / "same.csv",
    )
    assert [(clip.id, clip.captions) for clip in read_manifest(twice).clips] == [
        ("a", ("one", "two"))
    ]
    other = manifest_of(
        [Clip("a", clips[0].path, ("one",)), Clip("a", clips[1].path, ("two",))],
        tmp_path / "other.csv",
    )
    for call in (
        read_manifest,
        lambda path: write_shards(path, tmp_path / "out", workers=0, say=lambda line: None),
    ):
        with pytest.raises(
            DataError,
            match=r"videoid 'a' has two paths, .*clip0.mp4 and .*clip1.mp4 \(1 such ids\)",
        ):
            call(other)
    assert check_manifest(other, workers=0, say=lambda line: None).duplicated == ("a",)
    assert not (tmp_path / "out").exists()
