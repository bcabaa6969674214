"""Span masks of the words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config.model_config import MaskConfig
from simvtp.models.common.masking import word_slots, words_to_hide
from tests.models.small_models import MASKS
from tests.models.test_masking import PROPERTY, draw, hidden_pieces, make_batch, make_model

OPTIONS: tuple[dict[str, Any], ...] = (
    {"contrastive_video": "clean"},
    {"contrastive_video": "clean", "contrastive_text": "clean"},
    {"contrastive_video": "clean", "vtm_negatives": "hard"},
    {"learned_temperature": True},
    {"text_decoder_depth": 1, "text_decoder_dim": 12},
    {"decoder_keep_ratio": 0.5},
    {"token_merge_ratio": 0.5},
    {"token_merge_ratio": 0.3, "contrastive_video": "clean"},
    {"token_merge_ratio": 0.3, "reuse_pair_pass": False},
    {"encoders": "two"},
    {"encoders": "two", "fusion_blocks": 1},
    {"pooling": "cls"},
)


def runs(hidden: list[bool]) -> int:
    """Runs of hidden words on the ring of a caption."""
    return sum(
        now and not before for before, now in zip([hidden[-1], *hidden[:-1]], hidden, strict=True)
    ) or int(all(hidden))


@given(
    words=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    pieces=st.integers(1, 4),
    length=st.integers(3, 20),
    ratio=st.floats(0, 0.99),
    span=st.integers(1, 6),
    rule=st.sampled_from(["exact", "bernoulli"]),
    step=st.integers(0, 1000),
)
@settings(PROPERTY, max_examples=200)
def test_spans(
    words: list[int], pieces: int, length: int, ratio: float, span: int, rule: str, step: int
) -> None:
    batch, model = make_batch(words, length=length, pieces=pieces), make_model(length=length)
    masks = MaskConfig(text_ratio=ratio, text_kind="span", text_span=span, text_rule=rule)  # type: ignore[arg-type]
    drawn = draw(batch, model, masks, step=step)
    hidden = hidden_pieces(batch, drawn)
    assert not bool((hidden & (batch.word_ids < 0)).any()), (
        "[CLS], [SEP] and padding are never masked"
    )
    assert drawn.word_positions.shape == (len(words), word_slots(model.text_length, masks))
    for row in range(len(words)):
        numbers = batch.word_ids[row][batch.word_ids[row] >= 0].unique()
        chosen = [bool(hidden[row][batch.word_ids[row] == word].all()) for word in numbers]
        touched = [bool(hidden[row][batch.word_ids[row] == word].any()) for word in numbers]
        assert chosen == touched, "all pieces of a hidden word"
        assert int((drawn.word_labels[row] >= 0).sum()) == int(hidden[row].sum()), (
            "a slot for each hidden piece"
        )
        if rule == "exact":
            assert sum(chosen) == words_to_hide(ratio, len(numbers))
            if 0 < sum(chosen) < len(chosen):
                # the ring has ceil(n / span) runs; hidden ones may touch, and then count as one
                assert runs(chosen) <= -(-sum(chosen) // span) + 1


def test_spans_are_runs_and_every_word_is_hidden_equally_often() -> None:
    rows, words = 1500, 9
    batch = make_batch([words] * rows, length=20, pieces=2)
    hidden = hidden_pieces(
        batch, draw(batch, make_model(length=20), MaskConfig(text_ratio=0.34, text_kind="span"))
    )[:, 1 : 1 + 2 * words : 2]
    assert bool((hidden.sum(dim=1) == 3).all())
    deviation = (hidden.float().mean(dim=0) - 1 / 3) / (2 / 9 / rows) ** 0.5
    assert float(deviation.abs().max()) < 4.5
    assert all(runs(row) == 1 for row in hidden.tolist()), "three words of nine, in one run"
    single = replace(MASKS, text_kind="span", text_span=1)
    apart = hidden_pieces(batch, draw(batch, make_model(length=20), single))[
        :, 1 : 1 + 2 * words : 2
    ]
    assert sum(runs(row) for row in apart.tolist()) > rows * 1.5, "runs of one word are whole words"


def test_span_masks_do_not_depend_on_how_the_batch_is_cut() -> None:
    model, batch = make_model(), make_batch([1, 4, 0, 9, 14, 7])
    masks = MaskConfig(text_kind="span", text_ratio=0.4)
    whole = draw(batch, model, masks, first_sample=20)
    parts = [draw(batch.part(a, b), model, masks, first_sample=20 + a) for a, b in ((0, 2), (2, 6))]
    assert torch.equal(whole.input_ids, torch.cat([part.input_ids for part in parts]))
