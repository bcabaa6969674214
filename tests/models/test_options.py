"""Wiring that the ablations vary.

Each option does what it says, and at its default it is not there.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from simvtp.config.model_config import MaskConfig
from simvtp.config.train_config import LossConfig
from simvtp.methods import build_model
from simvtp.models.common.decoder_masking import decoded_count, select_decoded_tubes
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.common.encoder import Encoder, pool
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.models.common.masking import draw_masks
from simvtp.models.common.two_encoders import TwoEncoders
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.flops.simvtp_flops import forward_flops
from simvtp.training.objectives import PretrainObjective, learned_temperature
from tests.models.small_models import CONFIG, MASKS, masks_for, random_batch, small
from tests.models.test_masking import PROPERTY, draw, make_batch, make_model
from tests.models.test_simvtp import total
from tests.reference.masks import full_view

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


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_parameter_has_a_gradient(options: dict[str, Any]) -> None:
    config = small(**options)
    model = build_model(config)
    batch = random_batch(config)
    total(model(batch, masks_for(batch, config))).backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


@pytest.mark.slow
def test_all_options_at_once_trace_without_a_graph_break() -> None:
    config = small(**{key: value for options in OPTIONS for key, value in options.items()})
    torch.compiler.reset()
    model, batch = build_model(config), random_batch(config)
    masks = masks_for(batch, config)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(batch, masks)
    for name, value in model(batch, masks).items():
        torch.testing.assert_close(compiled[name], value)


def test_without_any_option_the_outputs_are_those_of_before() -> None:
    """Digests taken before there were options (float32 on a CPU, one thread.

    Rounded, as vector units differ in the last bits).
    """
    batch = random_batch(CONFIG)
    out = build_model(CONFIG, seed=1)(batch, masks_for(batch, CONFIG))
    out["video_pixels"] = out["video_pixels"] / 255
    names = sorted(name for name in out if out[name].is_floating_point())
    assert {
        name: float(out[name].detach().double().abs().sum()) for name in names
    } == pytest.approx(BEFORE, rel=1e-5)
    assert (
        hashlib.sha256(
            " ".join(sorted(dict(build_model(CONFIG).named_parameters()))).encode()
        ).hexdigest()[:16]
        == NAMES_BEFORE
    )


BEFORE = {
    "match_logits": 10.769590899348259,
    "text_feature": 49.627268970012665,
    "video_feature": 38.91865152493119,
    "video_pixels": 2313.2784776645713,
    "video_prediction": 1067.1678084276318,
    "word_logits": 267.61576800001785,
}
NAMES_BEFORE = "93f4c6ab2099232e"


# ---- what VTC and VTM see ------------------------------------------------------------------------


def test_clean_video_is_seen_by_the_contrast_and_only_there() -> None:
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    changed = batch.clips.clone()
    config = replace(CONFIG, contrastive_video="clean")
    hidden = masks.masked[0, 0]  # a tube that is hidden in the first clip
    assert int(hidden) < 4  # of the first time slot
    row, column = int(hidden) // 2, int(hidden) % 2
    changed[0, :2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] ^= 255
    for view, moves in (("masked", False), ("clean", True)):
        model = build_model(replace(config, contrastive_video=view))  # type: ignore[arg-type]
        before, after = model(batch, masks), model(replace(batch, clips=changed), masks)
        for name in ("video_feature", "match_logits"):
            assert torch.equal(before[name], after[name]) != moves, (view, name)
        for name in ("video_prediction", "word_logits", "text_feature"):
            assert torch.equal(before[name], after[name]), (
                "reconstruction sees the visible tubes alone"
            )
    model = build_model(config)
    torch.testing.assert_close(model(batch, masks)["video_feature"], model.embed_video(batch.clips))


def test_clean_pairs_are_matched_as_at_the_test() -> None:
    config = replace(CONFIG, contrastive_video="clean", contrastive_text="clean")
    model, batch = build_model(config), random_batch(config)
    logits = model(batch, masks_for(batch, config))["match_logits"][: len(batch)]
    torch.testing.assert_close(
        logits[:, 1] - logits[:, 0], model.match(batch.clips, batch.input_ids, batch.attention_mask)
    )


# ---- temperature ---------------------------------------------------------------------------------


def test_a_learned_temperature_begins_at_the_fixed_one_and_moves() -> None:
    config = replace(CONFIG, learned_temperature=True)
    batch = random_batch(config)
    masks, objective = masks_for(batch, config), PretrainObjective(LossConfig())
    fixed, learning = build_model(CONFIG), build_model(config)
    (expected, _), (losses, report) = (
        objective(fixed(batch, masks)),
        objective(learning(batch, masks)),
    )
    assert torch.equal(losses["vtc"], expected["vtc"]) and report["temperature"] == pytest.approx(
        0.05
    )
    sum(losses.values()).backward()  # type: ignore[union-attr]
    step = 1e-3
    slope = float(learning.temperature_bias.grad)  # type: ignore[arg-type]
    with torch.no_grad():
        learning.temperature_bias += step
    moved, report = objective(learning(batch, masks))
    assert report["temperature"] == pytest.approx(0.05 * 1.001, rel=1e-4)
    assert (moved["vtc"] - losses["vtc"]).item() == pytest.approx(slope * step, rel=0.05)
    assert float(learned_temperature(0.05, torch.tensor([-9.0]))) == pytest.approx(0.01)
    assert not hasattr(build_model(config, ("mvm", "mlm", "vtm")), "temperature_bias")


# ---- pooling -------------------------------------------------------------------------------------


def test_cls_pooling_takes_the_first_token_of_the_text() -> None:
    tokens, keys = torch.randn(2, 7, 4), torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7]).bool()
    assert torch.equal(pool(tokens[:, 3:], keys[:, 3:], "cls"), tokens[:, 3])
    assert torch.equal(pool(tokens, keys, "cls", 3), tokens[:, 3])
    assert torch.equal(pool(tokens, None, "cls"), tokens.mean(dim=1)), "video has no [CLS]"
    model, batch = build_model(replace(CONFIG, pooling="cls")), random_batch(CONFIG)
    ids, keys = batch.input_ids, batch.attention_mask
    torch.testing.assert_close(
        model.embed_text(ids, keys), model.encoder(model.text_embedding(ids), keys)[:, 0]
    )
    dual = DualEncoder.from_unified(model, pooling="cls")
    tower = dual.text_encoder
    torch.testing.assert_close(
        dual.embed_text(ids, keys), tower.fc_norm(tower.encoder(tower.embedding(ids), keys)[:, 0])
    )


# ---- decoders ------------------------------------------------------------------------------------


def test_the_text_decoder_has_a_width_of_its_own() -> None:
    model = build_model(small(text_decoder_depth=1, text_decoder_dim=12))
    assert (
        model.text_decoder.head.in_features == 12
        and model.video_decoder.head.in_features == CONFIG.decoder_dim
    )
    assert (
        build_model(small(text_decoder_depth=1)).text_decoder.head.in_features == CONFIG.decoder_dim
    )


@given(
    share=st.floats(0.01, 0.99),
    ratio=st.floats(0.2, 0.95),
    kind=st.sampled_from(["tube", "random", "frame"]),
    step=st.integers(0, 1000),
)
@PROPERTY
def test_rebuilt_tubes_are_an_exact_share_of_the_masked_ones(
    share: float, ratio: float, kind: str, step: int
) -> None:
    config = replace(make_model(grid=(4, 4)), decoder_keep_ratio=share)
    masked = draw(
        make_batch([3, 3]), config, MaskConfig(video_kind=kind, video_ratio=ratio), step=step
    ).masked  # type: ignore[arg-type]
    if masked.shape[1] == 0:
        return
    chosen = select_decoded_tubes(masked, config)
    assert chosen.shape == (2, decoded_count(masked.shape[1], share))
    assert bool((chosen.diff(dim=1) > 0).all()), "ascending, none twice"
    assert all(
        set(some.tolist()) <= set(every.tolist())
        for some, every in zip(chosen, masked, strict=True)
    )


def test_cells_run_every_place_has_its_turn() -> None:
    """All tubes masked, half rebuilt.

    Two places of each cell of 2 x 2 in each slot, neighbours on the ring, each in half of the
    slots.
    """
    config = replace(make_model(grid=(4, 4)), decoder_keep_ratio=0.5)
    chosen = select_decoded_tubes(torch.arange(config.tubes)[None], config)
    shown = (
        torch.zeros(config.tubes, dtype=torch.bool)
        .index_fill(0, chosen[0], True)
        .view(4, 2, 2, 2, 2)
        .transpose(2, 3)
    )
    assert bool((shown.sum(dim=(3, 4)) == 2).all()) and bool((shown.sum(dim=0) == 2).all())
    assert not bool((shown[..., 0, 0] & shown[..., 1, 1]).any()), "never across the cell"
    assert not torch.equal(shown[0], shown[1]) and torch.equal(shown[0], ~shown[2])


def test_half_of_the_tubes_is_rebuilt_while_training_and_all_of_them_afterwards() -> None:
    config = small(decoder_keep_ratio=0.5)
    model, batch = build_model(config), random_batch(config)
    masks = masks_for(batch, config)
    everything, half = masks.masked.shape[1], decoded_count(masks.masked.shape[1], 0.5)
    out = model(batch, masks)
    assert out["video_prediction"].shape[1] == out["video_pixels"].shape[1] == half < everything
    chosen = select_decoded_tubes(masks.masked, config)
    full = build_model(CONFIG)(batch, masks)
    at = (chosen[:, :, None] == masks.masked[:, None, :]).float().argmax(dim=2)
    assert torch.equal(
        out["video_pixels"],
        full["video_pixels"].gather(1, at[..., None].expand(-1, -1, out["video_pixels"].shape[2])),
    )
    assert model.eval()(batch, masks)["video_prediction"].shape[1] == everything


def test_turned_cells_decode_the_tubes_that_the_masks_name() -> None:
    config = small(decoder_keep_ratio=0.5, decoder_cells="turned")
    model, batch = build_model(config), random_batch(config)
    for step in range(2):
        masks = masks_for(batch, config, step=step)
        assert masks.decoded is not None
        pixels = cut_tubes(batch.clips, config)
        index = masks.decoded[..., None].expand(-1, -1, pixels.shape[2])
        assert torch.equal(model(batch, masks)["video_pixels"], pixels.gather(1, index))
    assert masks_for(batch, small(decoder_cells="turned")).decoded is None, "all are decoded"


# ---- two encoders --------------------------------------------------------------------------------


def same_weights(two: TwoEncoders, one: Encoder) -> None:
    for side in (two.video, two.text):
        side.load_state_dict(one.state_dict())


def test_two_encoders_with_equal_weights_are_one() -> None:
    # What differs is the sharing of weights, and nothing else.
    config = small(encoders="two")
    one, two = build_model(CONFIG), build_model(config)
    two.load_state_dict(
        {
            **two.state_dict(),
            **{k: v for k, v in one.state_dict().items() if not k.startswith("encoder.")},
        }
    )
    assert isinstance(two.encoder, TwoEncoders) and isinstance(one.encoder, Encoder)
    same_weights(two.encoder, one.encoder)
    batch = random_batch(config)
    masks = masks_for(batch, config)
    theirs, ours = one(batch, masks), two(batch, masks)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=name)


def test_each_side_has_its_own_weights_and_meets_the_other_only_in_the_fusion_blocks() -> None:
    batch = random_batch(CONFIG)
    words = batch.input_ids.clone()
    words[:, 1] = 7  # another first word
    for fusion, depth, meets in ((0, 2, True), (1, 2, True), (1, 1, True)):
        config = small(encoders="two", fusion_blocks=fusion, depth=depth)
        model = build_model(config)
        video = model.video_embedding(model_tubes(model, batch))
        pairs = [
            model.encode_pair(video, model.text_embedding(ids), batch.attention_mask)[0][
                :, : video.shape[1]
            ]
            for ids in (batch.input_ids, words)
        ]
        assert torch.equal(*pairs) != meets
        assert isinstance(model.encoder, TwoEncoders) and model.encoder.fusion_start == (
            depth - fusion if fusion else 0
        )
    video = model.video_embedding(model_tubes(model, batch))
    apart = small(encoders="two", fusion_blocks=1, depth=2)
    late = build_model(apart)
    assert isinstance(late.encoder, TwoEncoders)
    seen: list[torch.Tensor] = []
    late.encoder.video.blocks[0].register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    for ids in (batch.input_ids, words):
        late.encode_pair(
            late.video_embedding(model_tubes(late, batch)),
            late.text_embedding(ids),
            batch.attention_mask,
        )
    assert len(seen) == 2 and torch.equal(*seen), (
        "before the fusion the words do not reach the video"
    )
    late.embed_text(batch.input_ids, batch.attention_mask).sum().backward()
    assert all(p.grad is None for p in late.encoder.video.parameters()) and all(
        p.grad is not None for p in late.encoder.text.parameters()
    )


def model_tubes(model: Any, batch: Any) -> torch.Tensor:
    return cut_tubes(batch.clips, model.config)


def test_padding_is_no_key_in_a_pair_of_two_encoders() -> None:
    for fusion in (0, 1):
        config = small(encoders="two", fusion_blocks=fusion)
        model, batch = build_model(config), random_batch(config)
        other = torch.where(batch.attention_mask, batch.input_ids, 9)
        scores = [
            model.match(batch.clips, ids, batch.attention_mask) for ids in (batch.input_ids, other)
        ]
        torch.testing.assert_close(*scores)


def test_checkpointing_and_fine_tuning_of_two_encoders() -> None:
    config = small(encoders="two", drop_path=0.3)
    batch = random_batch(config)
    masks = masks_for(batch, config)
    gradients = []
    for on in (False, True):
        model = build_model(config)
        torch.manual_seed(0)
        total(model(batch, masks, ForwardOptions(gradient_checkpointing=on))).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, kept in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, kept)
    dual = DualEncoder.from_unified(model)
    assert isinstance(model.encoder, TwoEncoders)
    for tower, side in (
        (dual.video_encoder, model.encoder.video),
        (dual.text_encoder, model.encoder.text),
    ):
        ours, theirs = tower.encoder.blocks.state_dict(), side.blocks.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# ---- cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_count_of_operations_is_that_of_the_counter(options: dict[str, Any]) -> None:
    config = small(**options)
    model, batch = build_model(config), random_batch(config, size=4)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch, draw_masks(batch, config, MASKS, mask_id=4, seed=0, step=0, first_sample=0))
    assert sum(forward_flops(config, MASKS, batch=4).values()) == pytest.approx(
        counter.get_total_flops() / 4, rel=0.01
    )


def test_a_full_view_goes_through_two_encoders() -> None:
    config = small(encoders="two")
    model, batch = build_model(config, ("vtc", "vtm")), random_batch(config)
    out = model(batch, full_view(batch, config))
    torch.testing.assert_close(out["video_feature"], model.embed_video(batch.clips))
    torch.testing.assert_close(
        out["text_feature"], model.embed_text(batch.input_ids, batch.attention_mask)
    )
