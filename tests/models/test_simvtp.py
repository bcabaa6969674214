"""SimVTP and the dual encoder: outputs, options, gradients, initial weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from simvtp.batch import Batch
from simvtp.config.model_config import MACConfig, SimVTPConfig
from simvtp.errors import ConfigError
from simvtp.methods import build_model
from simvtp.models.common.decoders import choose_negatives
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.models.common.layers import DropPath, sine_cosine_table
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from tests.models.small_models import CONFIG, masks_for, random_batch, small
from tests.reference.masks import full_view

SUBSETS = [subset for size in range(1, 5) for subset in combinations(OBJECTIVES, size)]
OUTPUTS = {
    "mvm": {"video_prediction", "video_pixels", "video_tubes", "masked_tubes"},
    "mlm": {"word_logits", "word_labels"},
    "vtc": {"video_feature", "text_feature"},
    "vtm": {"match_logits", "negative_index"},
}


def total(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """A scalar that depends on every output in a way that no parameter escapes."""
    g = torch.Generator().manual_seed(5)
    return sum(
        (v * torch.randn(v.shape, generator=g)).sum() for v in outputs.values() if v.requires_grad
    )


def test_output_shapes() -> None:
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    out = build_model(CONFIG)(batch, masks)
    b, m, k = 3, masks.masked.shape[1], masks.word_labels.shape[1]
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "video_prediction": (b, m, 384),
        "video_pixels": (b, m, 384),
        "video_tubes": (b, 8, 384),
        "masked_tubes": (b, m),
        "word_logits": (b, k, 50),
        "word_labels": (b, k),
        "video_feature": (b, 24),
        "text_feature": (b, 24),
        "match_logits": (2 * b, 2),
        "negative_index": (b,),
    }
    assert out["video_pixels"].dtype is torch.uint8


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
@pytest.mark.parametrize("negatives", ["random", "hard"])
def test_every_parameter_has_a_gradient(subset: tuple[str, ...], negatives: str) -> None:
    """DDP needs no search for unused parameters, whatever is wanted."""
    for options in (
        {"contrastive_text": "clean"},
        {"text_decoder_depth": 1},
        {"reuse_pair_pass": False},
    ):
        config = small(vtm_negatives=negatives, **options)
        model = build_model(config, subset)
        batch = random_batch(config)
        total(model(batch, masks_for(batch, config))).backward()
        assert [
            name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
        ] == []


@pytest.mark.parametrize("subset", SUBSETS[:-1], ids="+".join)
def test_objective_off_costs_nothing_and_changes_nothing(subset: tuple[str, ...]) -> None:
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    everything, model = build_model(CONFIG, seed=3), build_model(CONFIG, subset, seed=3)
    parts = {"mvm": "video_decoder", "mlm": "text_decoder", "vtm": "match_head"}
    assert {part for part in parts.values() if hasattr(model, part)} == {
        parts[name] for name in subset if name in parts
    }
    theirs, ours = everything(batch, masks), model(batch, masks)
    assert set(ours) == set().union(*(OUTPUTS[name] for name in subset))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)


def test_encoder_passes_are_shared() -> None:
    """Pair, video, text and negatives: four passes with everything on.

    VTM alone needs two, MVM alone one.
    """
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)

    def passes(config: SimVTPConfig, objectives: tuple[str, ...]) -> int:
        model, calls = build_model(config, objectives), []
        model.encoder.register_forward_hook(lambda module, args, out: calls.append(out.shape))
        model(batch, masks)
        return sum(shape[0] // len(batch) for shape in calls)

    assert passes(CONFIG, OBJECTIVES) == 4
    assert passes(small(reuse_pair_pass=False), OBJECTIVES) == 5
    assert passes(small(contrastive_text="clean"), OBJECTIVES) == 5
    assert passes(CONFIG, ("vtm",)) == 2
    assert passes(CONFIG, ("mvm",)) == passes(CONFIG, ("mvm", "mlm")) == 1
    assert passes(CONFIG, ("vtc",)) == 2
    assert passes(small(vtm_negatives="hard"), ("vtm",)) == 4


def test_reuse_is_exact_without_dropout() -> None:
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    a, b = (
        build_model(CONFIG)(batch, masks),
        build_model(small(reuse_pair_pass=False))(batch, masks),
    )
    torch.testing.assert_close(a["match_logits"], b["match_logits"])


def test_clean_contrast_sees_the_unmasked_words_and_only_there() -> None:
    # The words under [MASK] change VTC and VTM with `clean`, never with `masked`, and never MVM or
    # MLM.
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    hidden = masks.input_ids != batch.input_ids
    other = replace(
        batch, input_ids=torch.where(hidden, (batch.input_ids + 1) % 50, batch.input_ids)
    )
    for option, changed in (("masked", set()), ("clean", {"text_feature", "match_logits"})):
        model = build_model(small(contrastive_text=option))
        a, b = model(batch, masks), model(other, masks)
        assert {name for name in a if not torch.equal(a[name], b[name])} == changed


def test_text_passes_ignore_the_padding() -> None:
    # What stands in the padding reaches nothing with `content`; with `with_pads` it counts in the
    # means.
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    pads = ~batch.attention_mask
    noisy = replace(batch, input_ids=batch.input_ids.masked_fill(pads, 17))
    noisy_masks = replace(masks, input_ids=masks.input_ids.masked_fill(pads, 17))
    for option, changed in (("content", set()), ("with_pads", {"text_feature", "match_logits"})):
        model = build_model(small(pooling=option))
        a, b = model(batch, masks), model(noisy, noisy_masks)
        assert {name for name in a if not torch.allclose(a[name], b[name], atol=1e-6)} == changed


def test_masked_pixels_do_not_reach_the_model() -> None:
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    model = build_model(CONFIG)
    t, h, w = CONFIG.grid
    hidden = (
        torch.zeros(3, t * h * w, dtype=torch.bool).scatter(1, masks.masked, True).view(3, t, h, w)
    )
    pixels = (
        hidden.repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)[..., None]
    )
    changed = replace(batch, clips=torch.where(pixels, 255 - batch.clips, batch.clips))
    a, b = model(batch, masks), model(changed, masks)
    assert {name for name in a if not torch.equal(a[name], b[name])} == {
        "video_pixels",
        "video_tubes",
    }


def test_negatives_keep_their_own_mask() -> None:
    # The second half of the VTM logits is the pair pass of (clip j with the mask of j, text b),
    # computed by hand.
    config = small(pooling="with_pads")
    batch = random_batch(config)
    masks = masks_for(batch, config)
    model = build_model(config)
    out = model(batch, masks)
    other = out["negative_index"]
    swapped = replace(batch, clips=batch.clips[other])
    swapped_masks = replace(masks, visible=masks.visible[other], masked=masks.masked[other])
    again = model(swapped, swapped_masks)
    torch.testing.assert_close(out["match_logits"][3:], again["match_logits"][:3])


def test_negatives_are_others_random_or_hard() -> None:
    g = torch.Generator().manual_seed(0)
    noise = -torch.log(-torch.log(torch.rand(4000, 4, 4, generator=g)))
    drawn = torch.stack([choose_negatives(None, n, None) for n in noise])
    assert not (drawn == torch.arange(4)).any()
    counts = torch.stack([(drawn[:, 0] == j).float().mean() for j in range(1, 4)])
    assert (counts - 1 / 3).abs().max() < 0.03
    scores = torch.tensor([[50.0, 0, 2, 0]] * 4)
    drawn = torch.stack([choose_negatives(scores, n, None) for n in noise])
    expected = F.softmax(torch.tensor([0.0, 2, 0]), dim=0)
    counts = torch.stack([(drawn[:, 0] == j).float().mean() for j in range(1, 4)])
    assert (counts - expected).abs().max() < 0.03
    given = torch.tensor([1, 0, 0, 0])
    assert choose_negatives(scores, noise[0], given) is given


def test_hard_negatives_change_no_gradient_path() -> None:
    """The scores that pick negatives are detached.

    Gradients are those of the same negatives given by index.
    """
    config = small(vtm_negatives="hard")
    batch = random_batch(config, size=4)
    masks = masks_for(batch, config)
    for subset in (("vtm",), ("mlm", "vtm"), OBJECTIVES):
        a, b = build_model(config, subset), build_model(config, subset)
        out = a(batch, masks)
        total(out).backward()
        total(b(batch, replace(masks, negative_index=out["negative_index"]))).backward()
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_a_single_sample_has_no_negative() -> None:
    batch = random_batch(CONFIG, size=1)
    with pytest.raises(ConfigError, match="another clip"):
        build_model(CONFIG)(batch, masks_for(batch, CONFIG))
    assert (
        set(build_model(CONFIG, ("mvm", "vtc"))(batch, masks_for(batch, CONFIG)))
        == OUTPUTS["mvm"] | OUTPUTS["vtc"]
    )


def test_embeddings_equal_the_features_of_a_full_view() -> None:
    batch = random_batch(CONFIG)
    model = build_model(CONFIG, ("vtc",))
    out = model(batch, full_view(batch, CONFIG))
    torch.testing.assert_close(model.embed_video(batch.clips), out["video_feature"])
    torch.testing.assert_close(
        model.embed_text(batch.input_ids, batch.attention_mask), out["text_feature"]
    )


def test_gradient_checkpointing_changes_nothing() -> None:
    config = small(drop_path=0.3, text_dropout=0.1)
    batch = random_batch(config)
    masks = masks_for(batch, config)
    gradients = []
    for on in (False, True):
        model = build_model(config)
        calls = {"encoder": 0, "decoder": 0}
        for name, blocks in (("encoder", model.encoder), ("decoder", model.video_decoder)):
            blocks.blocks[0].register_forward_pre_hook(
                lambda *args, name=name, calls=calls: calls.__setitem__(name, calls[name] + 1)
            )
        torch.manual_seed(1)
        outputs = model(batch, masks, ForwardOptions(gradient_checkpointing=on))
        once = dict(calls)
        total(outputs).backward()
        assert calls == {name: count * (1 + on) for name, count in once.items()}
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_dropout_and_drop_path_only_while_training() -> None:
    config = small(drop_path=0.5, text_dropout=0.5)
    batch = random_batch(config)
    masks = masks_for(batch, config)
    model = build_model(config)
    train = [model(batch, masks)["text_feature"] for _ in range(2)]
    model.eval()
    still = [model(batch, masks)["text_feature"] for _ in range(2)]
    assert not torch.equal(*train) and torch.equal(*still)
    drop = DropPath(0.25)
    torch.manual_seed(0)
    ones = torch.ones(4000, 1, 1)
    kept = drop(ones, drop.draw(ones, None)).flatten()
    assert set(kept.tolist()) == {0.0, kept.max().item()}
    assert abs(kept.mean().item() - 1) < 0.05 and kept.max().item() == pytest.approx(4 / 3)


def test_traces_without_a_graph_break() -> None:
    """Nothing in the step waits for the device or depends on values.

    Dynamo takes the whole forward as one graph.
    """
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    model = build_model(small(vtm_negatives="hard"))
    eager = model(batch, masks)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(batch, masks)
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value)


def test_bfloat16_autocast_stays_close() -> None:
    batch = random_batch(CONFIG)
    masks = masks_for(batch, CONFIG)
    model = build_model(CONFIG)
    exact = model(batch, masks)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch, masks)
    total(rough).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for name, value in exact.items():
        assert (rough[name] - value).abs().max() <= 0.05 * value.abs().max(), name


def test_initial_weights_depend_on_seed_and_name_only() -> None:
    torch.manual_seed(1)
    a = build_model(CONFIG, seed=7).state_dict()
    torch.manual_seed(2)
    b = build_model(CONFIG, ("mlm",), seed=7).state_dict()
    c = build_model(CONFIG, ("mlm",), seed=8).state_dict()
    assert all(torch.equal(a[name], value) for name, value in b.items())
    assert not torch.equal(
        b["encoder.blocks.0.attn.qkv.weight"], c["encoder.blocks.0.attn.qkv.weight"]
    )
    assert not torch.equal(
        a["encoder.blocks.0.mlp.fc1.weight"], a["encoder.blocks.1.mlp.fc1.weight"]
    )
    assert not b["text_decoder.head.bias"].any() and (b["encoder.norm.weight"] == 1).all()
    limit = (6 / (24 + 50)) ** 0.5
    assert 0.9 * limit < b["text_decoder.head.weight"].abs().max() <= limit


def test_position_table() -> None:
    table = sine_cosine_table(5, 6)
    angle = 3 / 10000 ** (2 / 6)
    expected = torch.tensor([angle], dtype=torch.float64)
    assert table[3, 2] == expected.sin().float() and table[3, 3] == expected.cos().float()
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert "position" not in " ".join(
        name for name in SimVTP(CONFIG).state_dict() if "text" not in name
    )


def test_bad_sizes_and_names() -> None:
    with pytest.raises(ConfigError, match="vocab_size=0"):
        SimVTP(small(vocab_size=0))
    with pytest.raises(ConfigError, match="mac"):
        build_model(MACConfig())
    with pytest.raises(ConfigError, match="objectives"):
        SimVTP(CONFIG, ("mvm", "qa"))
    with pytest.raises(ValueError, match=r"uint8 \[B, 4, 16, 16, 3\]"):
        build_model(CONFIG).embed_video(torch.zeros(1, 4, 24, 24, 3, dtype=torch.uint8))


# ---- dual encoder --------------------------------------------------------------------------------


def dual_and_batch(**changes: str) -> tuple[DualEncoder, SimVTP, Batch]:
    model = build_model(CONFIG, seed=1)
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # nothing at a special value, the final norm in particular
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.02
            )
    return DualEncoder.from_unified(model, **changes), model, random_batch(CONFIG)


def test_dual_copies_the_encoder_without_its_final_norm() -> None:
    dual, model, batch = dual_and_batch()
    model.encoder.norm = torch.nn.Identity()
    norm = dual.video_encoder.fc_norm
    assert (norm.weight == 1).all() and not norm.bias.any()
    torch.testing.assert_close(dual(batch)["video_feature"], norm(model.embed_video(batch.clips)))
    text = model.embed_text(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(dual(batch)["text_feature"], dual.text_encoder.fc_norm(text))


def test_dual_copies_are_independent() -> None:
    dual, model, _ = dual_and_batch()
    before = model.encoder.blocks[0].mlp.fc1.weight.clone()
    with torch.no_grad():
        dual.video_encoder.encoder.blocks[0].mlp.fc1.weight.zero_()
    assert torch.equal(model.encoder.blocks[0].mlp.fc1.weight, before)
    assert torch.equal(dual.text_encoder.encoder.blocks[0].mlp.fc1.weight, before)


def test_dual_options_and_gradients() -> None:
    dual, _, batch = dual_and_batch(pooling="with_pads", drop_path=0.2)
    assert dual.config.pooling == "with_pads" and dual.config.drop_path == 0.2
    assert [block.drop_path.rate for block in dual.text_encoder.encoder.blocks] == [0.0, 0.2]
    total(dual.eval()(batch)).backward()
    assert [name for name, p in dual.named_parameters() if p.grad is None or not p.grad.any()] == []
    content, _, _ = dual_and_batch(pooling="content")
    assert not torch.allclose(content.eval()(batch)["text_feature"], dual(batch)["text_feature"])
    masked = dual(batch, masks_for(batch, CONFIG))
    assert not torch.allclose(masked["video_feature"], dual(batch)["video_feature"])
