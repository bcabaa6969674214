"""MAC: attention over space and time, masks, weights from elsewhere (Frozen: test_frozen.py)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.batch import Batch
from simvtp.config.model_config import MACConfig, MACMaskConfig
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.validation import check
from simvtp.errors import CheckpointError, ConfigError
from simvtp.methods import build_model, method_of
from simvtp.methods.exported_model import from_pretrained, save_pretrained
from simvtp.models.mac.mac_layers import DividedBlock, nearest_partners
from simvtp.models.mac.mac_masks import FrameMasks, kept_length
from simvtp.models.mac.mac_model import MAC
from simvtp.models.weights.mac_weights import TEMPORAL, expand_frames
from simvtp.models.weights.pretrained import import_state, import_weights
from tests.models.small_models import random_batch

CONFIG = MACConfig(
    image_size=32,
    frames=3,
    patch_size=8,
    dim=24,
    depth=2,
    heads=2,
    vocab_size=50,
    text_length=10,
    max_text_positions=12,
    text_dropout=0.0,
    text_depth=2,
    projection=6,
)
MASKS = MACMaskConfig(video_ratio=0.5, video_kind="per_frame", text_ratio=0.5)
OFF = MACMaskConfig(video_ratio=0.0, video_kind="per_frame", text_ratio=0.0)


def made(seed: int = 0, **changes: Any) -> MAC:
    """A model all of whose parameters have an effect, attention over time included."""
    model = build_model(replace(CONFIG, **changes), ("vtc",), seed)
    assert isinstance(model, MAC)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def drawn(
    batch: Batch, masks: MACMaskConfig, config: MACConfig = CONFIG, step: int = 0, first: int = 0
) -> FrameMasks:
    found = method_of(config).draw(
        batch, config, masks, mask_id=4, seed=0, step=step, first_sample=first
    )
    assert isinstance(found, FrameMasks)
    return found


# ---- attention -----------------------------------------------------------------------------------


def plain_block(
    block: DividedBlock, x: torch.Tensor, seen: torch.Tensor, timed: torch.Tensor
) -> torch.Tensor:
    """The block by the definition.

    Whole score matrices, and for each token the set of those that it may attend to.
    """

    def attend(
        attention: Any, tokens: torch.Tensor, allowed: torch.Tensor, own: float = 0.0
    ) -> torch.Tensor:
        bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
        q, k, v = (
            (tokens @ attention.qkv.weight.T + bias)
            .unflatten(-1, (3, attention.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores[:, :, 0, 0] += own
        scores = scores.masked_fill(~allowed[:, None], float("-inf"))
        return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    summed = x + attend(block.time_attn, block.time_norm(x), timed)
    x = x + attend(
        block.attn,
        block.norm1(summed),
        seen,
        math.log(CONFIG.frames) if block.cls_per_frame else 0.0,
    )
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("kind", ["rank", "nearest", "all"])
@pytest.mark.parametrize("mask", ["per_frame", "tube"])
def test_a_block_attends_to_whom_it_should(kind: str, mask: str) -> None:
    model, slots = (
        made(time_attention=kind, cls_counts="once" if mask == "tube" else "per_frame"),
        CONFIG.frames,
    )
    masks = drawn(random_batch(CONFIG), replace(MASKS, video_kind=mask))
    batch, count = masks.visible.shape
    slot, rank = torch.arange(count) // (count // slots), torch.arange(count) % (count // slots)
    place = masks.visible % 16
    same_slot = (slot[:, None] == slot).expand(batch, -1, -1)
    if kind == "rank":
        over_time = (rank[:, None] == rank).expand(batch, -1, -1)
    elif kind == "all":
        over_time = torch.ones(batch, count, count, dtype=torch.bool)
    else:
        over_time = torch.zeros(batch, count, count, dtype=torch.bool)
        for b, i, t in itertools.product(range(batch), range(count), range(slots)):
            away = [
                abs(complex(*divmod(int(place[b, i]), 4)) - complex(*divmod(int(place[b, j]), 4)))
                for j in range(count)
            ]
            over_time[
                b,
                i,
                min((j for j in range(count) if slot[j] == t), key=lambda j: round(away[j], 6)),
            ] = True
    allowed = [torch.ones(batch, 1 + count, 1 + count, dtype=torch.bool) for _ in range(2)]
    allowed[0][:, 1:, 1:], allowed[1][:, 1:, 1:] = same_slot, over_time
    x = torch.randn(
        batch,
        1 + count,
        CONFIG.dim,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(1),
    )
    block = model.video_tower.blocks[0]
    assert isinstance(block, DividedBlock)
    partners = nearest_partners(masks.visible, slots, (4, 4)) if kind == "nearest" else None
    torch.testing.assert_close(
        block(x, slots, kind, partners), plain_block(block, x, *allowed), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("mask", ["tube", "block"])
def test_rank_and_nearest_are_one_where_each_frame_shows_the_same_places(mask: str) -> None:
    batch = random_batch(CONFIG)
    masks = drawn(batch, replace(MASKS, video_kind=mask))
    one, other = (
        made(time_attention=kind)(batch, replace(masks, aligned=False))
        for kind in ("rank", "nearest")
    )
    torch.testing.assert_close(one["video_feature"], other["video_feature"])


def test_hidden_patches_and_hidden_words_have_no_effect() -> None:
    batch, model = random_batch(CONFIG), made()
    masks = drawn(batch, MASKS)
    frames = batch.clips.unflatten(2, (4, 8)).unflatten(4, (4, 8)).clone()  # [B, T, h, 8, w, 8, 3]
    for row, tube in itertools.product(range(len(batch)), range(CONFIG.tubes)):
        if tube in masks.masked[row]:
            frames[row, tube // 16, tube % 16 // 4, :, tube % 4] = 7
    changed = replace(
        batch,
        clips=frames.flatten(4, 5).flatten(2, 3),
        input_ids=torch.full_like(batch.input_ids, 9),
    )
    assert not torch.equal(changed.clips, batch.clips)
    for name, value in model(changed, masks).items():
        assert torch.equal(value, model(batch, masks)[name])
    assert not torch.allclose(
        model(changed, None)["video_feature"], model(batch, None)["video_feature"]
    )


# ---- without masks -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rank", "nearest"])
def test_without_masks_it_is_the_full_view(kind: str) -> None:
    # What `mac_unmasked` trains on is what the tests see; both readings of time are Frozen's,
    # patch by patch.
    batch, model = random_batch(CONFIG), made(time_attention=kind)
    masks = drawn(batch, OFF)
    assert torch.equal(masks.visible, torch.arange(CONFIG.tubes).expand(3, -1)) and torch.equal(
        masks.input_ids, batch.input_ids
    )
    outputs = model(batch, masks)
    torch.testing.assert_close(outputs["video_feature"], model.embed_video(batch.clips))
    torch.testing.assert_close(
        outputs["video_feature"], made(time_attention="rank").embed_video(batch.clips)
    )
    torch.testing.assert_close(
        outputs["text_feature"], model.embed_text(batch.input_ids, batch.attention_mask)
    )


def test_recipes_are_possible_and_macs_baseline_differs_by_its_masks_only() -> None:
    for name in ("mac", "mac_unmasked"):
        check(replace(get_recipe(name), data=get_recipe("tiny").data))
        check(get_recipe(f"tiny_{name}"))
        one, other = (
            replace(get_recipe(f"{size}{name}"), masks=MASKS, name="") for size in ("", "tiny_")
        )
        assert one == replace(get_recipe("mac"), masks=MASKS, name="") and other == replace(
            get_recipe("tiny_mac"), masks=MASKS, name=""
        )
    masks = get_recipe("mac_unmasked").masks
    assert masks.video_ratio == masks.text_ratio == 0


# ---- weights from elsewhere ----------------------------------------------------------------------


def test_a_video_of_identical_frames_has_the_features_of_timms_image_model() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    image = (
        timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5
        )
        .double()
        .eval()
    )
    with torch.no_grad():
        for parameter in image.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = random_batch(CONFIG)
    still = batch.clips[:, :1].expand(-1, 3, -1, -1, -1).contiguous()
    for mean, std in (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ):
        model = build_model(CONFIG, ("vtc",), 0).double().eval()
        assert isinstance(model, MAC)
        done = import_state(
            model, image.state_dict(), "timm", {"pretrained_cfg": {"mean": mean, "std": std}}
        )
        assert all(
            "time_" in name or name == TEMPORAL
            for name in done.kept
            if name.startswith("video_tower.")
        )
        pixels = (still[:, 0] / 255 - torch.tensor(mean)) / torch.tensor(std)
        expected = image.forward_features(pixels.double().permute(0, 3, 1, 2))[:, 0]
        torch.testing.assert_close(model.video_tower(still), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            model.video_tower(still[:, :1]), expected, rtol=1e-5, atol=1e-5
        )  # an image is a video of one frame


def test_timms_own_vit_b_fits_the_recipe() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        image, model = timm.create_model("vit_base_patch16_224"), MAC(get_recipe("mac").model)
    ours = {
        name
        for name, _ in model.video_tower.named_parameters()
        if "time_" not in name and name != "embedding.temporal"
    }
    k_bias, cls = 12 * 768, 768
    counted = (
        sum(p.numel() for name, p in image.named_parameters() if not name.startswith("head."))
        - k_bias
        - cls
    )
    assert (
        sum(p.numel() for name, p in model.video_tower.named_parameters() if name in ours)
        == counted
    )


def test_the_text_tower_is_distilbert(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.DistilBertConfig(
        vocab_size=50,
        dim=24,
        n_layers=2,
        n_heads=2,
        hidden_dim=96,
        max_position_embeddings=20,
        dropout=0.0,
        attention_dropout=0.0,
    )
    theirs = transformers.DistilBertModel(settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    model = build_model(CONFIG, ("vtc",), 0).eval()
    assert isinstance(model, MAC)
    done = import_weights(model, tmp_path)
    assert not [
        name for name in done.kept if name.startswith("text_tower.")
    ] and "12 of 20" in " ".join(done.notes)
    batch = random_batch(CONFIG)
    with torch.no_grad():
        expected = theirs(
            batch.input_ids, attention_mask=batch.attention_mask.long()
        ).last_hidden_state
        found = model.text_tower(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(
        found[batch.attention_mask], expected[batch.attention_mask], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(CheckpointError, match="n_heads=2 in its config"):
        import_weights(build_model(replace(CONFIG, heads=3), ("vtc",), 0), tmp_path)


def test_exports_come_back_and_may_have_other_frames(tmp_path: Path) -> None:
    model = made()
    save_pretrained(model, tmp_path)
    back = from_pretrained(tmp_path)
    assert all(
        torch.equal(value, back.state_dict()[name]) for name, value in model.state_dict().items()
    )
    for how in ("zero", "interpolate"):
        longer = build_model(replace(CONFIG, frames=5, more_frames=how), ("vtc",), 0)
        import_weights(longer, tmp_path)
        table = longer.state_dict()[TEMPORAL]
        assert torch.equal(table[0], model.state_dict()[TEMPORAL][0].float())
        assert bool((table[3:] == 0).all()) == (how == "zero")
    table = torch.arange(3.0)[:, None]
    assert expand_frames(table, 5, "interpolate").flatten().tolist() == [0, 0.5, 1, 1.5, 2]
    assert expand_frames(table, 2, "zero").flatten().tolist() == [0, 1]
    with pytest.raises(CheckpointError, match="no ViT of timm"):
        import_state(model, {"a.weight": torch.zeros(1)}, "here")


# ---- frames and words ----------------------------------------------------------------------------


def test_frames_come_in_stages_and_an_image_is_a_video_of_one_frame() -> None:
    batch, model = random_batch(CONFIG), made()
    masks = replace(OFF, frame_schedule="1:2,2:3")
    assert [drawn(batch, masks, step=step).slots for step in range(7)] == [1, 1, 2, 2, 2, 3, 3]
    one = model(batch, drawn(batch, masks, step=1))["video_feature"]
    torch.testing.assert_close(one, model.embed_video(batch.clips[:, :1]))
    two = model(batch, drawn(batch, masks, step=4))["video_feature"]
    torch.testing.assert_close(two, model.embed_video(batch.clips[:, :2]))
    with pytest.raises(ConfigError, match="masks.frame_schedule=5:3"):
        check(replace(get_recipe("tiny_mac"), masks=replace(MASKS, frame_schedule="5:3")))


def test_dropped_words_leave_the_others_where_they_stood() -> None:
    batch = random_batch(CONFIG, size=6)
    masked, dropped = drawn(batch, MASKS), drawn(batch, replace(MASKS, text_mask="drop"))
    assert (
        dropped.input_ids.shape == (6, kept_length(10, replace(MASKS, text_mask="drop")))
        and dropped.input_ids.shape[1] < 10
    )
    assert dropped.positions is not None
    for row in range(6):
        hidden = set(masked.word_positions[row][masked.word_labels[row] >= 0].tolist())
        left = [
            place for place in range(10) if batch.attention_mask[row, place] and place not in hidden
        ]
        assert hidden and dropped.positions[row][dropped.attention_mask[row]].tolist() == left
        assert (
            dropped.input_ids[row][dropped.attention_mask[row]].tolist()
            == batch.input_ids[row, left].tolist()
        )
    model = made()
    whole = drawn(batch, replace(OFF, text_mask="drop"))
    torch.testing.assert_close(
        model(batch, whole)["text_feature"], model.embed_text(batch.input_ids, batch.attention_mask)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["losses.mvm=1"], "'losses.mvm' here: it belongs to model.method=simvtp"),
        (["model.tubelet_size=2"], "'model.tubelet_size' here: it belongs to model.method=simvtp"),
        (["model.contrastive_text=clean"], "it belongs to model.method=simvtp"),
        (["masks.video_kind=random"], "must be one of tube, per_frame, block"),
        (["masks.text_mask=drop", "masks.text_rule=bernoulli"], "how many words remain"),
        (["model=simvtp", "masks.frame_schedule=1:5"], "it belongs to model.method=mac"),
        (["finetune.task=qa", "finetune.task.masks=true"], "it belongs to finetune.task=retrieval"),
    ],
)
def test_settings_that_mac_does_not_have_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(override(get_recipe("tiny_mac"), changes))
