"""Each fast path gives the losses and gradients of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.config.train_config import LossConfig
from simvtp.methods import build_model
from simvtp.models.common.decoders import VideoDecoder
from simvtp.models.common.embeddings import TubeEmbedding
from simvtp.models.common.encoder import packs_text
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.layers import Blocks, gather_tokens
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from simvtp.training.objectives import PretrainObjective
from tests.models.small_models import CONFIG, masks_for, random_batch, small
from tests.reference.masks import full_view

SIZES = {
    "small": CONFIG,
    "uneven": SimVTPConfig(
        image_size=24,
        frames=6,
        patch_size=8,
        tubelet_size=3,
        dim=30,
        depth=3,
        heads=5,
        decoder_dim=12,
        decoder_depth=1,
        decoder_heads=3,
        vocab_size=70,
        text_length=13,
        max_text_positions=20,
        text_dropout=0.2,
    ),
}


class PlainDecoder(VideoDecoder):
    """Every block works on every token."""

    def forward(
        self,
        tokens: Tensor,
        visible: Tensor,
        masked: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        seen = self.bridge(tokens) + self.position[visible]
        x = self.blocks(torch.cat([seen, self.mask_token + self.position[masked]], dim=1))
        return self.head(self.norm(x[:, seen.shape[1] :]))


class PlainEmbedding(TubeEmbedding):
    """Pixels are made float and normalised, then multiplied."""

    def forward(self, tubes: Tensor, visible: Tensor | None = None) -> Tensor:
        position = self.position
        if visible is not None:
            tubes, position = gather_tokens(tubes, visible), position[visible]
        return self.proj(tubes.to(self.proj.weight.dtype) * self.scale + self.shift) + position


def losses_and_gradients(
    config: SimVTPConfig,
    change: Callable[[SimVTP], object] = lambda model: None,
    options: ForwardOptions = DEFAULT_OPTIONS,
) -> dict[str, Tensor]:
    model = build_model(config, seed=2)
    assert isinstance(model, SimVTP)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.05
            )
    change(model)
    batch = random_batch(config, size=5)
    torch.manual_seed(7)  # dropout
    losses, _ = PretrainObjective(LossConfig())(
        model(batch, masks_for(batch, config, MaskConfig(video_ratio=0.7)), options)
    )
    torch.stack(list(losses.values())).sum().backward()
    return losses | {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_equal(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    assert ours.keys() == plain.keys() and len(ours) > 40
    for name, value in plain.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-5, atol=1e-5 * float(value.detach().abs().max()), msg=name
        )


def use(part: str, kind: type[nn.Module]) -> Callable[[SimVTP], object]:
    def change(model: SimVTP) -> None:
        getattr(model, part).__class__ = kind

    return change


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("part", "kind"), [("video_decoder", PlainDecoder), ("video_embedding", PlainEmbedding)]
)
def test_the_fast_part_equals_the_plain_one(size: str, part: str, kind: type[nn.Module]) -> None:
    assert_equal(
        losses_and_gradients(SIZES[size]),
        losses_and_gradients(SIZES[size], use(part, kind)),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"contrastive_text": "clean"},
        {"contrastive_video": "clean"},
        {"reuse_pair_pass": False, "pooling": "with_pads"},
        {"vtm_negatives": "hard"},
        {"vtm_directions": "both"},
        {"pooling": "cls"},
        {"token_merge_ratio": 0.4},
        {"token_merge_ratio": 0.4, "reuse_pair_pass": False, "vtm_negatives": "hard"},
    ],
    ids=str,
)
def test_passes_in_one_call_equal_one_call_each(size: str, options: dict[str, object]) -> None:
    config = replace(SIZES[size], **options)  # type: ignore[arg-type]
    apart, merged = (
        losses_and_gradients(config, options=ForwardOptions(merge_passes=on))
        for on in (False, True)
    )
    assert_equal(merged, apart)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"contrastive_text": "clean"},
        {"reuse_pair_pass": False, "pooling": "cls"},
        {"vtm_negatives": "hard", "text_decoder_depth": 1},
        {"encoders": "two"},
        {"pooling": "with_pads"},
        {"drop_path": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("merged", [False, True])
def test_texts_without_their_padding_equal_padded_ones(
    size: str, options: dict[str, object], merged: bool
) -> None:
    config = replace(SIZES[size], **options)  # type: ignore[arg-type]
    ours, plain = (
        losses_and_gradients(config, options=ForwardOptions(merge_passes=merged, pack_text=on))
        for on in (True, False)
    )
    assert_equal(ours, plain)


@pytest.mark.parametrize(
    ("options", "packed"),
    [({}, True), ({"pooling": "with_pads"}, False), ({"drop_path": 0.5}, False)],
    ids=str,
)
def test_padding_takes_no_part_unless_it_counts(options: dict[str, object], packed: bool) -> None:
    """Tokens that the MLPs of a step see, against those that are there."""
    model = build_model(small(**options))
    asked = ForwardOptions(pack_text=True)
    assert packs_text(model, asked) == packed
    batch = random_batch(model.config)
    tokens: list[int] = []
    model.encoder.blocks[0].mlp.register_forward_hook(
        lambda module, args, out: tokens.append(out.numel() // out.shape[-1])
    )
    masks = masks_for(batch, model.config)
    model(batch, masks, asked)
    visible, words = (
        masks.visible.numel(),
        int(batch.attention_mask.sum()) if packed else batch.attention_mask.numel(),
    )
    assert not batch.attention_mask.all()
    assert sorted(tokens) == sorted([visible + words, visible, words, visible + words])


def test_passes_in_one_call_are_one_call() -> None:
    batch = random_batch(CONFIG)
    model = build_model(CONFIG, OBJECTIVES)
    calls: list[int] = []
    model.encoder.blocks[0].register_forward_hook(
        lambda module, args, out: calls.append(out.numel())
    )
    model(batch, masks_for(batch, CONFIG))
    apart = sum(calls)
    assert len(calls) == 4
    calls.clear()
    together = ForwardOptions(merge_passes=True)
    model(batch, masks_for(batch, CONFIG), together)
    assert calls == [apart]
    random_paths = build_model(small(drop_path=0.5))
    random_paths.encoder.blocks[0].register_forward_hook(lambda module, args, out: calls.append(1))
    random_paths(batch, masks_for(batch, CONFIG), together)
    assert len(calls) == 1 + 4  # their draws would be others


def test_blocks_over_many_sequences_equal_one_call_each() -> None:
    torch.manual_seed(0)
    blocks = Blocks(12, 2, 3, 2.0)
    sequences = [
        (torch.randn(2, 5, 12), None),
        (torch.randn(3, 4, 12), torch.tensor([[True, True, True, False]] * 3)),
    ]
    checkpointed = ForwardOptions(gradient_checkpointing=True)
    outputs = blocks.forward_many(sequences, checkpointed)
    for (x, mask), ours in zip(sequences, outputs, strict=True):
        torch.testing.assert_close(ours, blocks(x, mask))
    x = sequences[0][0]
    torch.testing.assert_close(blocks(x, query_start=3), blocks(x)[:, 3:])


def test_nothing_masked_is_nothing_predicted() -> None:
    batch = random_batch(CONFIG)
    assert build_model(CONFIG, ("mvm",))(batch, full_view(batch, CONFIG))[
        "video_prediction"
    ].shape == (3, 0, 384)


def test_half_precision_embeds_bytes_as_well_as_normalised_pixels() -> None:
    # Bytes are centred before they are rounded, so that folding the normalisation loses nothing to
    # speak of.
    torch.manual_seed(0)
    config = small(dim=64, heads=4)
    exact = TubeEmbedding(config)
    plain = PlainEmbedding(config)
    plain.load_state_dict(exact.state_dict())
    tubes = torch.randint(0, 256, (4, config.tubes, config.tube_values), dtype=torch.uint8)
    right = exact(tubes)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(module(tubes) - right).square().mean().sqrt() for module in (exact, plain)]
    assert errors[0] < 1.5 * errors[1]
