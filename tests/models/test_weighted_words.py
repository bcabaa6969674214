"""Word masks that prefer pieces by how often the training captions hold them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MACConfig, MACMaskConfig, MaskConfig
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.validation import check
from simvtp.data.text.piece_weights import piece_weights
from simvtp.data.text.tokenizer import TokenBatch
from simvtp.errors import ConfigError
from simvtp.models.common.masking import UNUSED, draw_masks, word_slots, words_to_hide
from simvtp.models.mac.mac_masks import draw_frame_masks
from tests.models.test_mask_frequencies import LIMIT, deviations
from tests.models.test_masking import MASK_ID, PROPERTY, hidden_pieces, make_batch, make_model

KINDS = st.sampled_from(["rare", "frequent"])
RATIOS = st.floats(0.05, 0.95)


def draw(
    batch: Batch,
    masks: MaskConfig,
    weights: torch.Tensor,
    *,
    seed: int = 3,
    step: int = 7,
    first_sample: int = 0,
) -> Masks:
    return draw_masks(
        batch,
        make_model(length=batch.input_ids.shape[1]),
        masks,
        mask_id=MASK_ID,
        seed=seed,
        step=step,
        first_sample=first_sample,
        piece_weights=weights,
    )


def any_weights(seed: int, spread: float = 3.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(1000, generator=g, dtype=torch.float64)).exp()


@PROPERTY
@given(
    words=st.lists(st.integers(0, 14), min_size=1, max_size=5),
    ratio=RATIOS,
    kind=KINDS,
    seed=st.integers(0, 1000),
    step=st.integers(0, 2**31),
)
def test_as_many_pieces_are_hidden_as_by_the_plain_rule(
    words: list[int], ratio: float, kind: str, seed: int, step: int
) -> None:
    batch = make_batch(words)
    masks = MaskConfig(text_ratio=ratio, text_kind=kind)  # type: ignore[arg-type]
    drawn = draw(batch, masks, any_weights(seed), step=step)
    hidden = hidden_pieces(batch, drawn)
    assert hidden.sum(dim=1).tolist() == [words_to_hide(ratio, count) for count in words]
    assert not bool((hidden & (batch.word_ids < 0)).any())
    assert (
        drawn.word_labels.shape[1]
        == word_slots(16, masks)
        == word_slots(16, MaskConfig(text_ratio=ratio))
    ), "the shapes are those of the plain rule"
    assert torch.equal((drawn.word_labels != UNUSED).sum(dim=1), hidden.sum(dim=1))


@PROPERTY
@given(ratio=RATIOS, kind=KINDS, step=st.integers(0, 2**31), weight=st.floats(1e-3, 1e3))
def test_equal_weights_hide_what_the_plain_rule_hides(
    ratio: float, kind: str, step: int, weight: float
) -> None:
    batch, equal = make_batch([3, 14, 7]), torch.full((1000,), weight, dtype=torch.float64)
    plain = draw(batch, MaskConfig(text_ratio=ratio), equal, step=step)
    masks = MaskConfig(text_ratio=ratio, text_kind=kind)  # type: ignore[arg-type]
    drawn = draw(batch, masks, equal, step=step)
    assert torch.equal(drawn.input_ids, plain.input_ids)
    assert torch.equal(drawn.visible, plain.visible)


@PROPERTY
@given(
    cut=st.integers(1, 5), step=st.integers(0, 2**31), seed=st.integers(0, 2**63 - 1), kind=KINDS
)
def test_a_sample_draws_the_same_in_every_split_of_the_batch(
    cut: int, step: int, seed: int, kind: str
) -> None:
    batch, weights = make_batch([3, 14, 7, 1, 9, 12]), any_weights(1)
    masks = MaskConfig(text_ratio=0.4, text_kind=kind)  # type: ignore[arg-type]
    whole = draw(batch, masks, weights, step=step, seed=seed)
    for start, stop in ((0, cut), (cut, 6)):
        part = draw(
            batch.part(start, stop), masks, weights, step=step, seed=seed, first_sample=start
        )
        for name in ("input_ids", "word_positions", "word_labels"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[start:stop]), name


def inclusion(weights: list[float], count: int) -> list[float]:
    """Chance of each unit to be among `count` draws without replacement: sum over all orders."""
    chances = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), count):
        chance, left = 1.0, math.fsum(weights)
        for unit in order:
            chance *= weights[unit] / left
            left -= weights[unit]
        for unit in order:
            chances[unit] += chance
    return chances


@given(
    logs=st.lists(st.floats(-3, 3), min_size=2, max_size=6),
    ratio=st.floats(0.1, 0.9),
    step=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_piece_is_hidden_as_often_as_successive_draws_by_weight_say(
    logs: list[float], ratio: float, step: int
) -> None:
    units, samples = len(logs), 2000
    weights = torch.ones(1000, dtype=torch.float64)
    weights[5 : 5 + units] = torch.tensor(logs, dtype=torch.float64).exp()
    one = make_batch([units], length=units + 2)
    ids = torch.zeros_like(one.input_ids)
    ids[0, 1 : 1 + units] = torch.arange(5, 5 + units)
    many = [row.expand(100, -1) for row in (ids, one.attention_mask, one.word_ids)]
    batch = Batch(one.clips, many[0], many[1], many[2], tuple(map(str, range(100))))
    masks = MaskConfig(text_ratio=ratio, text_kind="rare")
    hidden = torch.cat(
        [
            hidden_pieces(batch, draw(batch, masks, weights, step=step, first_sample=first))
            for first in range(0, samples, 100)
        ]
    )[:, 1 : 1 + units]
    count = words_to_hide(ratio, units)
    for unit, chance in enumerate(inclusion(weights[5 : 5 + units].tolist(), count)):
        assert float(deviations(hidden[:, unit : unit + 1], min(chance, 1.0)).abs()) < LIMIT


def caption_batch(rows: list[list[int]]) -> TokenBatch:
    ids = torch.tensor(rows)
    return TokenBatch(ids, ids > 0, torch.where(ids > 3, 0, -1))


def test_weights_follow_the_captions_and_keep_unseen_pieces_finite() -> None:
    batches = [caption_batch([[2, 5, 6, 3], [2, 5, 7, 3]]), caption_batch([[2, 5, 3, 0]])]
    rare, frequent = (piece_weights(batches, 9, kind) for kind in ("rare", "frequent"))
    assert rare.tolist() == pytest.approx([1, 1, 1, 1, 1, 0.5, 0.5**0.5, 0.5**0.5, 1])
    torch.testing.assert_close(rare * frequent, torch.ones(9, dtype=torch.float64))


def test_content_words_are_a_larger_share_of_what_is_hidden() -> None:
    """Captions with five common pieces of ten: each of ten contents is a tenth as frequent."""
    g = torch.Generator().manual_seed(0)
    batch = make_batch([10] * 400, length=12)
    ids = torch.cat(
        [torch.arange(5, 10).expand(400, -1), torch.randint(20, 70, (400, 5), generator=g)], dim=1
    )
    batch.input_ids[:, 1:11] = ids
    tokens = TokenBatch(batch.input_ids, batch.attention_mask, batch.word_ids)
    shares = {}
    for kind in ("token", "rare", "frequent"):
        weights = piece_weights([tokens], 1000, "rare" if kind == "token" else kind)
        masks = MaskConfig(text_ratio=0.3, text_kind=kind)
        labels = draw(batch, masks, weights).word_labels
        used = labels[labels != UNUSED]
        assert len(used) == 400 * 3
        shares[kind] = float((used >= 20).float().mean())
    assert shares["token"] == pytest.approx(0.5, abs=0.06)
    often, seldom = 401**0.5, 41**0.5
    pairs = {"rare": (1 / often, 1 / seldom), "frequent": (often, seldom)}
    for kind, (common, content) in pairs.items():
        expected = inclusion([common] * 5 + [content] * 5, 3)
        assert shares[kind] == pytest.approx(sum(expected[5:]) / 3, abs=0.04)
    assert shares["rare"] > 0.7 and shares["frequent"] < 0.3


def test_mac_can_drop_the_frequent_words() -> None:
    model = MACConfig(image_size=16, patch_size=8, frames=2, text_length=16)
    masks = MACMaskConfig(text_ratio=0.5, text_kind="frequent", text_mask="drop")
    batch, weights = make_batch([14, 3]), any_weights(4)
    drawn = draw_frame_masks(
        batch, model, masks, mask_id=MASK_ID, seed=0, step=0, first_sample=0, piece_weights=weights
    )
    left = (drawn.attention_mask.sum(dim=1) - 2).tolist()
    assert left == [14 - words_to_hide(0.5, 14), 3 - words_to_hide(0.5, 3)]
    check(override(get_recipe("mac"), ["masks.text_kind=frequent", "masks.text_mask=drop"]))


def test_weighted_masks_need_weights_and_the_exact_rule() -> None:
    with pytest.raises(ValueError, match="needs the weights"):
        draw_masks(
            make_batch([3]),
            make_model(),
            MaskConfig(text_kind="rare"),
            mask_id=MASK_ID,
            seed=0,
            step=0,
            first_sample=0,
        )
    settings = ["masks.text_kind=rare", "masks.text_rule=bernoulli"]
    with pytest.raises(ConfigError, match="masks.text_rule=bernoulli must be exact"):
        check(override(get_recipe("tiny"), settings))
