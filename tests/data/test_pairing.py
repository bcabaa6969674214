"""Captions of other clips in pre-training (`data.pairing=shuffled`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from simvtp.data.clips import Clip
from simvtp.data.loading.sample_order import partners
from simvtp.experiment.training import pretraining_clips


@given(n=st.integers(2, 400), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_each_clip_has_one_partner_and_never_itself(n: int, seed: int) -> None:
    found = partners(n, seed)
    assert sorted(found) == list(range(n)) and not np.any(found == np.arange(n))
    assert np.array_equal(found, partners(n, seed))


def test_another_seed_pairs_otherwise() -> None:
    assert not np.array_equal(partners(100, 0), partners(100, 1))
    assert partners(1, 0).tolist() == [0] and partners(0, 0).tolist() == []


def test_only_the_captions_of_pre_training_change() -> None:
    clips = tuple(Clip(f"v{i}", Path(f"v{i}.mp4"), (f"caption {i}", "b")) for i in range(20))
    plain = override(tiny(), ["data.fraction=0.5"])
    own = pretraining_clips(clips, plain)
    shuffled = pretraining_clips(clips, override(plain, ["data.pairing=shuffled"]))
    assert [replace(clip, captions=()) for clip in shuffled] == [
        replace(clip, captions=()) for clip in own
    ]
    assert sorted(clip.captions for clip in shuffled) == sorted(clip.captions for clip in own), (
        "captions of the same fraction of the data"
    )
    assert all(a.captions != b.captions for a, b in zip(own, shuffled, strict=True))
