"""Masks: counts, frequencies, shapes, and where they may depend on what."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.batch import Batch, Masks
from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.models.common.masking import UNUSED, draw_masks, word_slots, words_to_hide
from tests.reference.masks import full_view, index_mask

MASK_ID = 4
PROPERTY = settings(max_examples=120, deadline=None, derandomize=True)


def make_model(*, grid: tuple[int, int] = (4, 4), length: int = 16) -> SimVTPConfig:
    """A model whose tubes are `grid` = (time slots, places along a side)."""
    slots, side = grid
    return SimVTPConfig(
        image_size=8 * side, frames=2 * slots, patch_size=8, tubelet_size=2, text_length=length
    )


def make_batch(words: list[int], *, length: int = 16, pieces: int = 1, seed: int = 0) -> Batch:
    # Captions of `words` words of `pieces` pieces each, cut to the length, with [CLS], [SEP] and
    # padding (clips are not looked at).
    word_ids = torch.full((len(words), length), -1)
    attention = torch.zeros(len(words), length, dtype=torch.bool)
    for row, count in enumerate(words):
        numbers = torch.arange(count).repeat_interleave(pieces)[: length - 2]
        word_ids[row, 1 : 1 + len(numbers)] = numbers
        attention[row, : len(numbers) + 2] = True
    ids = (
        torch.randint(5, 1000, word_ids.shape, generator=torch.Generator().manual_seed(seed))
        * attention
    )
    return Batch(
        torch.zeros(len(words), 2, 1, 1, 3, dtype=torch.uint8),
        ids,
        attention,
        word_ids,
        tuple(map(str, range(len(words)))),
    )


def draw(
    batch: Batch,
    model: SimVTPConfig,
    masks: MaskConfig,
    *,
    seed: int = 3,
    step: int = 7,
    first_sample: int = 0,
) -> Masks:
    return draw_masks(
        batch, model, masks, mask_id=MASK_ID, seed=seed, step=step, first_sample=first_sample
    )


def hidden_pieces(batch: Batch, masks: Masks) -> torch.Tensor:
    return (masks.input_ids == MASK_ID) & (batch.input_ids != MASK_ID)


# ---- video ---------------------------------------------------------------------------------------


@PROPERTY
@given(
    kind=st.sampled_from(["tube", "random", "frame", "per_frame", "block"]),
    ratio=st.floats(0, 0.99),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    rows=st.integers(1, 5),
    step=st.integers(0, 2**31),
)
def test_video_masks_hide_the_exact_count(
    kind: str, ratio: float, grid: tuple[int, int], rows: int, step: int
) -> None:
    model, masks = make_model(grid=grid), MaskConfig(video_kind=kind, video_ratio=ratio)  # type: ignore[arg-type]
    drawn = draw(make_batch([3] * rows), model, masks, step=step)
    slots, side = grid
    per_unit = {"random": 1, "frame": side * side}.get(kind, slots)
    units = model.tubes // per_unit
    assert (
        drawn.masked.shape
        == (rows, int(ratio * units) * per_unit)
        == (rows, hidden_per_slot(model, masks) * per_unit)
    )
    both = torch.cat([drawn.visible, drawn.masked], dim=1)
    assert torch.equal(both.sort(dim=1).values, torch.arange(model.tubes).expand(rows, -1)), (
        "each tube is visible or masked, once"
    )
    assert bool((drawn.visible.diff(dim=1) > 0).all()) and bool(
        (drawn.masked.diff(dim=1) > 0).all()
    ), "ascending"

    shown = index_mask(drawn.masked, model.tubes).view(rows, slots, side * side)
    assert torch.equal(shown.sum(dim=(1, 2)), torch.full((rows,), drawn.masked.shape[1]))
    if kind == "per_frame":
        assert bool((shown.sum(dim=2) == hidden_per_slot(model, masks)).all()), (
            "as many places in every time slot"
        )
    if kind in ("tube", "block"):
        assert torch.equal(shown, shown[:, :1].expand_as(shown)), (
            "the same places in every time slot"
        )
    if kind == "frame":
        assert torch.equal(shown, shown[:, :, :1].expand_as(shown)), "whole time slots"


def test_published_counts() -> None:
    drawn = draw(make_batch([5, 5], length=32), SimVTPConfig(), MaskConfig())
    assert drawn.visible.shape == (2, 160) and drawn.masked.shape == (2, 1408)


@pytest.mark.parametrize("kind", ["tube", "random", "frame", "per_frame"])
def test_every_tube_is_hidden_equally_often(kind: str) -> None:
    model, masks = make_model(grid=(8, 3)), MaskConfig(video_kind=kind, video_ratio=0.5)  # type: ignore[arg-type]
    rows = 4000
    shown = index_mask(draw(make_batch([1] * rows, length=3), model, masks).masked, model.tubes)
    units = {"tube": 9, "random": 72, "frame": 8, "per_frame": 9}[kind]
    share = int(0.5 * units) / units
    deviation = (shown.float().mean(dim=0) - share) / math.sqrt(share * (1 - share) / rows)
    assert float(deviation.abs().max()) < 4 and 0.4 < float(deviation.std(correction=0)) < 1.5


def test_each_frame_hides_places_of_its_own() -> None:
    model, masks = make_model(grid=(6, 8)), MaskConfig(video_kind="per_frame", video_ratio=0.5)
    hidden = index_mask(
        draw(make_batch([1] * 50, length=3), model, masks).masked, model.tubes
    ).view(50, 6, 64)
    both = (hidden[:, :1] & hidden[:, 1:]).float().mean()
    assert float(both) == pytest.approx(0.25, abs=0.01), "two frames agree as often as by chance"


def test_blocks_lie_together_and_move() -> None:
    # A hidden place has more hidden neighbours than places drawn one by one would, every place is
    # hidden now and then, and no frame is like another sample's.
    model, rows = make_model(grid=(2, 8)), 300
    neighbours = {}
    for kind in ("block", "tube"):
        masks = MaskConfig(video_kind=kind, video_ratio=0.5)  # type: ignore[arg-type]
        hidden = index_mask(
            draw(make_batch([1] * rows, length=3), model, masks).masked, model.tubes
        ).view(rows, 2, 8, 8)[:, 0]
        adjacent = (hidden[:, :, 1:] & hidden[:, :, :-1]).sum() + (
            hidden[:, 1:] & hidden[:, :-1]
        ).sum()
        neighbours[kind] = float(adjacent) / rows
        assert len(torch.unique(hidden.flatten(1), dim=0)) > 0.95 * rows
        assert (
            float(hidden.float().mean(dim=0).min()) > 0.05
            and float(hidden.float().mean(dim=0).max()) < 0.95
        )
    assert neighbours["block"] > 1.4 * neighbours["tube"]


# ---- text ----------------------------------------------------------------------------------------


@PROPERTY
@given(
    words=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    pieces=st.integers(1, 4),
    length=st.integers(3, 20),
    ratio=st.floats(0, 0.99),
    kind=st.sampled_from(["token", "word"]),
    rule=st.sampled_from(["exact", "bernoulli"]),
    step=st.integers(0, 1000),
)
def test_text_masks(
    words: list[int], pieces: int, length: int, ratio: float, kind: str, rule: str, step: int
) -> None:
    batch, model = make_batch(words, length=length, pieces=pieces), make_model(length=length)
    masks = MaskConfig(text_ratio=ratio, text_kind=kind, text_rule=rule)  # type: ignore[arg-type]
    before = batch.input_ids.clone()
    drawn = draw(batch, model, masks, step=step)
    hidden = hidden_pieces(batch, drawn)
    assert torch.equal(batch.input_ids, before), "the caption itself is left alone"
    assert not bool((hidden & (batch.word_ids < 0)).any()), (
        "[CLS], [SEP] and padding are never masked"
    )
    assert torch.equal(torch.where(hidden, MASK_ID, before), drawn.input_ids)

    slots = word_slots(model.text_length, masks)
    assert (
        drawn.word_positions.shape == drawn.word_labels.shape == (len(words), slots) and slots >= 1
    )
    for row in range(len(words)):
        used = drawn.word_labels[row] != UNUSED
        positions = drawn.word_positions[row][used]
        assert torch.equal(positions, hidden[row].nonzero().flatten()), (
            "a slot for each hidden piece, in order: none is dropped"
        )
        assert torch.equal(drawn.word_labels[row][used], before[row][positions])
        assert bool((drawn.word_positions[row][~used] == 0).all()) and bool(
            (used.int().diff() <= 0).all()
        )

        units = batch.word_ids[row][batch.word_ids[row] >= 0]
        if kind == "word":
            chosen = set(batch.word_ids[row][hidden[row]].tolist())
            assert all(bool(hidden[row][batch.word_ids[row] == word].all()) for word in chosen), (
                "all pieces of a hidden word"
            )
            present, count = len(set(units.tolist())), len(chosen)
        else:
            present, count = len(units), int(hidden[row].sum())
        if rule == "exact":
            assert count == words_to_hide(ratio, present)
            assert count >= 1 or ratio == 0 or present == 0, (
                "at least one word, where there is one and masking is on"
            )
        if ratio == 0:
            assert count == 0


@given(ratio=st.floats(0, 1, exclude_max=True), length=st.integers(3, 600))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_slots_hold_the_longest_caption(ratio: float, length: int) -> None:
    slots = word_slots(max(3, length), MaskConfig(text_ratio=ratio))
    assert max(words_to_hide(ratio, units) for units in range(length - 1)) <= slots <= length - 2


def test_halves_round_up_as_on_the_device() -> None:
    assert [words_to_hide(0.75, n) for n in (0, 1, 2, 6, 10, 30)] == [0, 1, 2, 5, 8, 23]
    words = list(range(31))
    for ratio in (0.05, 0.15, 0.25, 0.35, 0.5, 0.75, 0.95):
        batch = make_batch(words, length=32)
        drawn = draw(batch, make_model(length=32), MaskConfig(text_ratio=ratio))
        assert hidden_pieces(batch, drawn).sum(dim=1).tolist() == [
            words_to_hide(ratio, n) for n in words
        ]


@pytest.mark.parametrize("rule", ["exact", "bernoulli"])
@pytest.mark.parametrize("kind", ["token", "word"])
def test_every_word_is_hidden_equally_often(rule: str, kind: str) -> None:
    rows, words = 4000, 8
    batch = make_batch([words] * rows, length=20, pieces=2)
    masks = MaskConfig(text_ratio=0.75, text_kind=kind, text_rule=rule)  # type: ignore[arg-type]
    hidden = hidden_pieces(batch, draw(batch, make_model(length=20), masks))[:, 1 : 1 + 2 * words]
    deviation = (hidden.float().mean(dim=0) - 0.75) / math.sqrt(0.75 * 0.25 / rows)
    assert float(deviation.abs().max()) < 4
    spread = float(hidden.sum(dim=1).float().std())
    assert spread == 0 if rule == "exact" else spread > 1


# ---- on what masks depend ------------------------------------------------------------------------

DRAWN = ("visible", "masked", "input_ids", "word_positions", "word_labels", "decoded")
EXACT = MaskConfig()
WORDS = MaskConfig(text_kind="word", text_rule="bernoulli", video_kind="random", video_ratio=0.5)


def half_decoded() -> SimVTPConfig:
    return replace(make_model(), decoder_keep_ratio=0.5, decoder_cells="turned")


def same(left: Masks, right: Masks) -> bool:
    return all(torch.equal(getattr(left, f), getattr(right, f)) for f in DRAWN)


@pytest.mark.parametrize("masks", [EXACT, WORDS], ids=["exact", "words"])
def test_masks_depend_on_seed_step_and_sample_only(masks: MaskConfig) -> None:
    model, batch = half_decoded(), make_batch([10] * 4, pieces=1)
    first = draw(batch, model, masks)
    again = draw(batch, model, masks)
    assert same(first, again) and torch.equal(first.negative_noise, again.negative_noise)
    for other in (
        draw(batch, model, masks, seed=4),
        draw(batch, model, masks, step=8),
        draw(batch, model, masks, first_sample=4),
    ):
        assert not torch.equal(first.visible, other.visible)
        assert not torch.equal(first.input_ids, other.input_ids)
        assert not torch.equal(first.negative_noise, other.negative_noise)


@pytest.mark.parametrize("masks", [EXACT, WORDS], ids=["exact", "words"])
@pytest.mark.parametrize("cuts", [(0, 6), (0, 3, 6), (0, 1, 2, 6)])
def test_masks_do_not_depend_on_how_the_batch_is_cut(
    masks: MaskConfig, cuts: tuple[int, ...]
) -> None:
    model, batch = half_decoded(), make_batch([1, 4, 0, 9, 14, 7], pieces=2)
    whole = draw(batch, model, masks, first_sample=20)
    parts = [
        draw(batch.part(a, b), model, masks, first_sample=20 + a)
        for a, b in itertools.pairwise(cuts)
    ]
    for name in DRAWN:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    for part, start in zip(parts, cuts, strict=False):  # the columns are the part's own samples
        width = part.negative_noise.shape[0]
        assert torch.equal(part.negative_noise, whole.negative_noise[start : start + width, :width])


def test_the_video_mask_does_not_depend_on_the_text_settings() -> None:
    model, batch = make_model(), make_batch([10] * 4)
    assert torch.equal(
        draw(batch, model, EXACT).visible,
        draw(batch, model, replace(EXACT, text_ratio=0.15)).visible,
    )


def test_hidden_words_of_a_lower_ratio_are_nested_in_those_of_a_higher_one() -> None:
    model, batch = make_model(), make_batch([10] * 8)
    few, many = (
        hidden_pieces(batch, draw(batch, model, MaskConfig(text_ratio=r))) for r in (0.3, 0.8)
    )
    assert not bool((few & ~many).any())


def test_negative_noise_is_gumbel() -> None:
    noise = draw(make_batch([1] * 300, length=3), make_model(length=3), EXACT).negative_noise
    assert (
        noise.shape == (300, 300) and noise.dtype == torch.float32 and bool(noise.isfinite().all())
    )
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_full_view_hides_nothing() -> None:
    model, batch = make_model(), make_batch([3, 0, 12])
    view = full_view(batch, model)
    assert torch.equal(
        view.visible, torch.arange(model.tubes).expand(3, -1)
    ) and view.masked.shape == (3, 0)
    assert torch.equal(view.input_ids, batch.input_ids)
    assert bool((view.word_labels == UNUSED).all()) and bool((view.word_positions == 0).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("masks", [EXACT, WORDS], ids=["exact", "words"])
def test_a_gpu_draws_the_same_masks_without_waiting(masks: MaskConfig) -> None:
    model, batch = half_decoded(), make_batch([1, 4, 0, 9, 14, 7], pieces=2)
    on_gpu = batch.to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = draw(on_gpu, model, masks)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = draw(batch, model, masks)
    for name in DRAWN:
        assert torch.equal(getattr(drawn, name).cpu(), getattr(expected, name))


def test_drawing_never_reads_values_on_the_host() -> None:
    """On the meta device there are no values.

    Any `.item()`, `nonzero` or data-dependent shape would raise.
    """
    batch = make_batch([3, 5]).to("meta")
    for masks in (EXACT, WORDS, replace(EXACT, video_kind="frame", text_kind="word")):
        drawn = draw(batch, half_decoded(), masks)
        assert drawn.word_positions.shape == (2, word_slots(make_model().text_length, masks))
