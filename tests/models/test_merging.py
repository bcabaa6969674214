"""Token merging: which tubes share a token, and what the model makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.model_config import SimVTPConfig
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.common.layers import gather_tokens
from simvtp.models.common.token_merging import merge, merge_groups, merged_count
from tests.models.small_models import CONFIG, masks_for, random_batch, small
from tests.models.test_masking import PROPERTY

WIDE = replace(CONFIG, image_size=32, frames=8)  # 4 x 4 x 4 tubes


def places(batch: int, visible: int, seed: int, config: SimVTPConfig = WIDE) -> Tensor:
    """Any tubes of the grid, ascending: int64 [batch, visible]."""
    noise = torch.rand(batch, config.tubes, generator=torch.Generator().manual_seed(seed))
    return noise.argsort(dim=1)[:, :visible].sort(dim=1).values


def by_brute_force(tubes: Tensor, visible: Tensor, config: SimVTPConfig) -> list[set[int]]:
    """The groups of one sample, tube by tube, from the description alone."""
    _, h, w = config.grid
    at = [(int(v) // (h * w), int(v) // w % h, int(v) % w) for v in visible]
    ordered = sorted(range(len(at)), key=lambda i: (sum(at[i]) % 2, i))
    white, black = ordered[: len(at) // 2], ordered[len(at) // 2 :]
    pairs = []
    for i in white:
        costs = []
        for j in black:
            difference = int((tubes[i].long() - tubes[j].long()).square().sum())
            costs.append(
                (difference, sum(abs(a - b) for a, b in zip(at[i], at[j], strict=True)), j)
            )
        pairs.append((*min(costs), i))
    pairs.sort(key=lambda pair: (pair[0], pair[1], pair[2], pair[3]))
    groups = {i: {i} for i in range(len(at))}
    for _, _, j, i in pairs[: merged_count(len(at), config.token_merge_ratio)]:
        groups[j] |= groups.pop(i)
    return [groups[i] for i in sorted(groups)]


@given(
    share=st.floats(0, 0.5),
    visible=st.integers(1, 40),
    shades=st.sampled_from([1, 2, 256]),
    seed=st.integers(0, 10**6),
)
@PROPERTY
def test_the_groups_are_those_of_the_description(
    share: float, visible: int, shades: int, seed: int
) -> None:
    config, where = replace(WIDE, token_merge_ratio=share), places(2, visible, seed)
    generator = torch.Generator().manual_seed(seed)
    tubes = torch.randint(0, shades, (2, visible, config.tube_values), generator=generator).byte()
    groups = merge_groups(tubes, where, config)
    for sample in range(2):
        expected = by_brute_force(tubes[sample], where[sample], config)
        assert len(expected) == visible - merged_count(visible, share)
        found = [
            set((groups[sample] == number).nonzero()[:, 0].tolist())
            for number in range(len(expected))
        ]
        assert found == expected


def test_in_a_still_picture_a_tube_is_merged_with_itself_at_another_time() -> None:
    config = replace(WIDE, token_merge_ratio=0.5)
    still = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8).expand(2, 8, 32, 32, 3)
    where = torch.tensor([place + 16 * slot for slot in range(4) for place in (0, 1, 6, 11, 15)])[
        None
    ].expand(2, -1)  # tubes of five places
    groups = merge_groups(gather_tokens(cut_tubes(still, config), where), where, config)
    assert int(groups.max()) + 1 == 10
    for sample in groups:
        for number in range(10):
            assert len({int(place) % 16 for place in where[0][sample == number]}) == 1


def test_tokens_of_a_group_become_their_mean() -> None:
    tokens, groups = torch.randn(1, 4, 3), torch.tensor([[0, 1, 0, 0]])
    merged = merge(tokens, groups, 2)
    torch.testing.assert_close(merged[0, 0], tokens[0, [0, 2, 3]].mean(dim=0))
    assert torch.equal(merged[0, 1], tokens[0, 1])


def test_the_encoder_sees_fewer_tokens_and_everything_else_as_many_as_before() -> None:
    config = replace(WIDE, token_merge_ratio=0.5)
    model, plain, batch = build_model(config), build_model(WIDE), random_batch(WIDE)
    masks = masks_for(batch, config)
    visible = masks.visible.shape[1]
    lengths: list[int] = []
    model.encoder.register_forward_pre_hook(
        lambda module, inputs: lengths.append(inputs[0].shape[1])
    )
    outputs, expected = model(batch, masks), plain(batch, masks)
    half = visible - merged_count(visible, 0.5)
    assert set(lengths) == {half, config.text_length, half + config.text_length}
    assert {name: value.shape for name, value in outputs.items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert not torch.allclose(outputs["video_feature"], expected["video_feature"])
    torch.testing.assert_close(outputs["text_feature"], expected["text_feature"])


def test_videos_of_one_colour_lose_nothing_but_places() -> None:
    """Without positions merged tokens equal those they are made of.

    Then the whole model says what it says unmerged, but for attention's weights, which a single
    group of equal tokens does not change either.
    """
    merging, plain = (build_model(small(token_merge_ratio=share)) for share in (0.5, 0.0))
    for model in (merging, plain):
        model.video_embedding.position.zero_()
    batch = random_batch(CONFIG)
    batch = replace(batch, clips=torch.full_like(batch.clips, 90))
    masks = masks_for(batch, CONFIG)
    one, other = merging(batch, masks), plain(batch, masks)
    torch.testing.assert_close(one["video_feature"], other["video_feature"])


@pytest.mark.parametrize(
    "options",
    [{}, {"reuse_pair_pass": False}, {"pooling": "cls"}, {"contrastive_video": "clean"}],
    ids=str,
)
def test_a_negative_keeps_its_own_groups(options: dict[str, object]) -> None:
    # Another clip as negative equals swapping the clips and asking for a positive.
    config = small(token_merge_ratio=0.5, vtm_negatives="random", **options)
    model, batch = build_model(config).eval(), random_batch(config, size=2)
    masks = masks_for(batch, config)
    swapped = Batch(
        batch.clips.flip(0), batch.input_ids, batch.attention_mask, batch.word_ids, batch.sample_ids
    )
    turned = replace(masks, visible=masks.visible.flip(0), masked=masks.masked.flip(0))
    negatives = model(batch, masks)["match_logits"][2:]
    positives = model(swapped, turned)["match_logits"][:2]
    torch.testing.assert_close(negatives, positives)
