"""Use of the other modality, measured on models for which the truth is known."""

from __future__ import annotations

import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simvtp.config.data_config import ShapesConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.shapes.motion_negatives import motion_negative
from simvtp.data.shapes.plan_clips import plan
from simvtp.data.text.tokenizer import TokenBatch
from simvtp.evaluation.items import Items
from simvtp.evaluation.modality.content_words import content_pieces
from simvtp.evaluation.modality.modality_use import (
    USE_MASKS,
    UseMask,
    UseSamples,
    measure_pairs,
    measure_use,
)
from simvtp.evaluation.modality.use_results import (
    bootstrap_interval,
    resampled,
    scored_use,
    with_gains,
)
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from simvtp.models.simvtp.video_targets import feature_target
from simvtp.runs.results import Protocol, Result
from simvtp.training.losses import normalise_tubes
from tests.models.small_models import masks_for, random_batch, small

# long captions and 16 positions a frame, so that each ratio hides some and leaves some
CONFIG = small(image_size=32, text_length=12)
MASK_ID = 4
HALF = UseMask(0.5, 0.5)
PROTOCOL = Protocol("use", "noise", "test", "pre-trained", "", 4, 1, 1, "", 0, "", "text0.5")


def samples(count: int = 6, config: SimVTPConfig = CONFIG) -> UseSamples:
    batch = random_batch(config, count)
    tokens = TokenBatch(batch.input_ids, batch.attention_mask, batch.word_ids)
    content = torch.arange(config.vocab_size) % 2 == 0
    return UseSamples(batch.sample_ids, batch.clips, tokens, content)


def model_of(config: SimVTPConfig = CONFIG, wanted: tuple[str, ...] = OBJECTIVES) -> SimVTP:
    model = build_model(config, wanted)
    assert isinstance(model, SimVTP)
    return model


def gains(
    model: nn.Module,
    held: UseSamples,
    mask: UseMask = HALF,
    batch_size: int = 4,
    target: str = "normalized",
) -> dict[str, np.ndarray]:
    columns = measure_use(model, held, mask, mask_id=MASK_ID, target=target, batch_size=batch_size)
    return with_gains(columns)


def blind(model: SimVTP) -> SimVTP:
    """Takes the text's attention to the video away: blocks of one token each."""
    for block in model.encoder.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.attn.proj.bias)
    return model


def test_a_model_without_attention_between_the_modalities_gains_nothing() -> None:
    found = gains(blind(model_of()), samples())
    for part in ("mlm", "content", "mvm"):
        for other in ("other", "none"):
            assert np.abs(found[f"{part}_gain_{other}"]).max() < 1e-6


def test_a_model_of_text_alone_is_shown_no_clip() -> None:
    found = gains(model_of(replace(CONFIG, mlm_video="none"), ("mlm",)), samples())
    assert not found["mlm_gain_other"].any() and not found["mlm_gain_none"].any()


def test_the_same_clip_and_caption_for_all_gain_nothing_over_another() -> None:
    held = samples()
    same = replace(
        held,
        clips=held.clips[:1].expand_as(held.clips),
        captions=TokenBatch(*(t[-1:].expand(len(held), -1) for t in vars(held.captions).values())),
    )
    found = gains(model_of(), same)
    assert np.abs(found["mlm_gain_other"]).max() < 1e-6
    # a caption keeps its own mask, so the words that another one shows may differ
    assert np.abs(found["mlm_gain_none"]).max() > 1e-4


class ReadsTheClip(SimVTP):
    """Knows the words of a caption if it sees the clip that holds them in its first pixels."""

    def reconstruct(self, batch, masks, wanted=("mvm", "mlm"), *, video=True, text=True):
        shown = batch.clips[:, 0, 0, 0].long()[:, :1] if video else torch.zeros(len(batch), 1)
        own = batch.input_ids[:, 1:2] == shown  # the first word is written into the first pixel
        right = nn.functional.one_hot(masks.word_labels.clamp(min=0), CONFIG.vocab_size)
        return {"word_logits": 50.0 * right * own[..., None], "word_labels": masks.word_labels}


def test_a_model_that_reads_the_words_off_its_own_clip_has_the_whole_gain() -> None:
    held = samples()
    held.captions.input_ids[:, 1] = torch.arange(10, 10 + len(held))  # tell the captions apart
    held.clips[:, 0, 0, 0] = held.captions.input_ids[:, 1:2].to(torch.uint8)
    model = ReadsTheClip(CONFIG, ("mlm",))
    found = gains(model, held)
    chance = np.log(CONFIG.vocab_size)
    assert found["mlm_loss_own"] == pytest.approx(0, abs=1e-9)
    for other in ("other", "none"):
        assert found[f"mlm_gain_{other}"] == pytest.approx(chance)
        assert found[f"mlm_acc_gain_{other}"] == pytest.approx(100)


@pytest.mark.parametrize("target", ["normalized", "raw"])
def test_the_flat_prediction_has_the_variance_of_the_target_as_its_loss(target: str) -> None:
    held = samples()
    found = gains(model_of(), held, target=target)
    # all tubes are alike in noise: those of the mask are a sample of them
    tubes = cut_tubes(held.clips, CONFIG)
    values = (tubes / 255).unflatten(-1, (-1, 3))
    expected = values.var(dim=-2, correction=0).mean(dim=(1, 2))
    if target == "normalized":
        expected = normalise_tubes(tubes).square().mean(dim=(1, 2))
    assert found["mvm_loss_flat"] == pytest.approx(expected.numpy(), rel=0.05)


def test_the_mean_colour_of_the_visible_tubes_is_the_trivial_level_of_raw_pixels() -> None:
    held = samples()
    noise = gains(model_of(), held, target="raw")
    # noise has the same mean everywhere, so what is left is the variance of its pixels
    expected = (held.clips / 255).var(dim=(1, 2, 3), correction=0).mean(dim=-1)
    assert noise["mvm_loss_mean_colour"] == pytest.approx(expected.numpy(), rel=0.1)
    held.clips[:] = torch.arange(3, dtype=torch.uint8) * 60  # one colour everywhere
    plain = gains(model_of(), held, target="raw")
    assert np.abs(plain["mvm_loss_mean_colour"]).max() < 1e-9
    assert (plain["psnr_gain_mean_colour"] < 0).all()  # an untrained model is worse
    expected_gain = 1 - noise["mvm_loss_own"] / noise["mvm_loss_mean_colour"]
    assert noise["mvm_gain_trivial"] == pytest.approx(expected_gain)
    assert "psnr_mean_colour" not in gains(model_of(), held, target="normalized")


def test_a_model_that_predicts_nothing_is_as_good_as_flat_tubes() -> None:
    model = model_of()
    nn.init.zeros_(model.video_decoder.head.weight)
    nn.init.zeros_(model.video_decoder.head.bias)
    found = gains(model, samples())
    assert np.abs(found["mvm_gain_trivial"]).max() < 1e-5
    assert np.abs(found["mvm_gain_flat"]).max() < 1e-6 and np.abs(found["psnr_gain"]).max() < 1e-4


@pytest.mark.parametrize("target", ["hog", "difference"])
def test_the_trivial_answer_of_features_is_the_best_constant(target: str) -> None:
    held, model = samples(), model_of()
    tubes = cut_tubes(held.clips, CONFIG)
    every = torch.arange(CONFIG.tubes).expand(len(held), -1)
    features = feature_target(target, tubes, every, CONFIG)
    nn.init.zeros_(model.video_decoder.head.weight)
    with torch.no_grad():  # a model that has learnt the constant and nothing else
        model.video_decoder.head.bias[: features.shape[-1]] = features.mean(dim=(0, 1))
    found = gains(model, held, target=target)
    assert np.abs(found["mvm_gain_trivial"]).max() < 1e-4
    assert found["mvm_loss_own"] == pytest.approx(found["mvm_loss_constant"], abs=1e-6)
    # noise: the masked tubes are a sample of all
    expected = features.square().mean(dim=(1, 2)).numpy()
    assert found["mvm_loss_flat"] == pytest.approx(expected, rel=0.15)
    assert not any(name.startswith("psnr") or "colour" in name for name in found)


def test_own_figures_are_those_of_a_training_step() -> None:
    """The pass of `reconstruct` is that of `forward`."""
    model, batch = model_of().eval(), random_batch(CONFIG, 4)
    masks = masks_for(batch, CONFIG)
    forward, again = model(batch, masks), model.reconstruct(batch, masks)
    assert set(again) < set(forward)
    for name, value in again.items():
        torch.testing.assert_close(value, forward[name])


@pytest.mark.parametrize("encoders", ["one", "two"])
def test_figures_depend_neither_on_the_batch_size_nor_on_chance(encoders: str) -> None:
    config = replace(CONFIG, encoders=encoders)
    model, held = model_of(config).train(), samples()
    first = gains(model, held, batch_size=6)
    for size in (6, 1, 4):
        torch.manual_seed(size)
        again = gains(model, held, batch_size=size)
        assert again.keys() == first.keys()
        for name, column in again.items():
            assert column == pytest.approx(first[name], abs=1e-5), name
    assert model.training


def test_masks_are_the_same_for_every_model_and_hide_what_they_say() -> None:
    held, merging = samples(), replace(CONFIG, depth=1, token_merge_ratio=0.5)
    models = [model_of(config, ("mlm",)) for config in (CONFIG, merging)]
    for mask in USE_MASKS:
        counts = [gains(model, held, mask)["words"] for model in models]
        assert np.array_equal(*counts)
        words = (held.captions.word_ids >= 0).sum(dim=1).numpy()
        assert np.array_equal(counts[0], np.maximum(1, np.floor(mask.text_ratio * words + 0.5)))


@pytest.mark.parametrize(
    ("wanted", "there", "absent"),
    [(("mlm",), "mlm_", "mvm_"), (("mvm",), "mvm_", "mlm_"), (("vtc",), "", "m")],
)
def test_untrained_heads_have_no_figures(wanted: tuple[str, ...], there: str, absent: str) -> None:
    found = gains(model_of(wanted=wanted), samples())
    assert not any(name.startswith(absent) for name in found)
    assert not there or any(name.startswith(there) for name in found)
    pairs = measure_pairs(model_of(wanted=wanted), samples(), wanted, batch_size=4)
    assert set(pairs) == ({"vtc_acc_other"} if wanted == ("vtc",) else set())


class Constant(nn.Module):
    """Features of clips and captions that say nothing."""

    def embed_video(self, clips: Tensor) -> Tensor:
        return torch.ones(len(clips), 2)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.ones(len(input_ids), 2)


class FirstWord(Constant):
    """Features that know the number that a clip and its caption begin with."""

    def embed_video(self, clips: Tensor) -> Tensor:
        angle = clips[:, 0, 0, 0, 0].double()
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        angle = input_ids[:, 1].double()
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_pairs_are_distinguished_by_features_that_know_them() -> None:
    held = samples()
    held.captions.input_ids[:, 1] = torch.arange(10, 10 + len(held))
    held.clips[:, 0, 0, 0] = held.captions.input_ids[:, 1:2].to(torch.uint8)
    ids = held.captions.input_ids.clone()
    ids[:, 1] += 1
    moved = torch.arange(len(held)) < 4
    held = replace(held, motion=replace(held.captions, input_ids=ids), has_motion=moved)
    for model, right in ((Constant(), 50.0), (FirstWord(), 100.0)):
        (one,) = scored_use(measure_pairs(model, held, ("vtc",), batch_size=4), held.ids, PROTOCOL)
        assert one.result.metrics == {"vtc_acc_other": right, "vtc_acc_motion": right}


def test_figures_follow_from_the_stored_items_and_lie_in_their_intervals() -> None:
    held = samples(8)
    columns = measure_use(
        model_of(), held, HALF, mask_id=MASK_ID, target="normalized", batch_size=8
    )
    (one,) = scored_use(columns, held.ids, PROTOCOL)
    items: Items = one.predictions.items(one.result)
    assert items.ids == held.ids
    for name, value in one.result.metrics.items():
        low, high = one.result.intervals[name]
        assert items.figure(name) == pytest.approx(value) and low <= value <= high
    # a mean over words, not over captions
    words = columns["words"]
    assert one.result.metrics["mlm_loss_own"] == pytest.approx(
        float((columns["mlm_loss_own"] * words).sum() / words.sum())
    )
    assert Result.from_dict(one.result.to_dict()) == one.result
    assert scored_use({}, held.ids, PROTOCOL) == []


def test_an_interval_covers_a_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    times, hits = resampled(80, 400), 0
    for _ in range(300):
        values, weights = generator.normal(0.3, 1, 80), generator.integers(1, 9, 80).astype(float)
        low, high = bootstrap_interval(values, weights, times)
        hits += low <= 0.3 <= high
    assert 0.89 <= hits / 300 <= 0.98


def test_content_words_are_those_that_at_most_half_of_the_captions_hold() -> None:
    ids = torch.tensor([[2, 5, 6, 7], [2, 5, 6, 6], [2, 5, 8, 3], [2, 5, 9, 3]])
    words = torch.tensor([[-1, 0, 1, 2], [-1, 0, 1, 2], [-1, 0, 1, -1], [-1, 0, 1, -1]])
    found = content_pieces(ids.split(3), words.split(3), 12)
    assert [number for number in range(12) if not found[number]] == [5]


@pytest.mark.parametrize(
    ("caption", "changed"),
    [
        ("a red star moves to the left and turns green", "moves to the left"),
        ("there is a small disc spinning in place", "spinning in place"),
        ("a red ring bounces up and down while a cross spins", "bounces up and down"),
    ],
)
def test_a_motion_negative_changes_one_motion_and_nothing_else(caption: str, changed: str) -> None:
    negative = motion_negative(caption)
    assert negative is not None and negative != caption and negative == motion_negative(caption)
    before, _, after = caption.partition(changed)
    assert negative.startswith(before) and negative.endswith(after)
    assert changed not in negative


@pytest.mark.parametrize("level", typing.get_args(typing.get_type_hints(ShapesConfig)["level"]))
def test_no_clip_of_any_level_shows_its_motion_negative(level: str) -> None:
    """It is true of no scene with the caption's words, and no look-alike motion is put in."""
    clips = plan(ShapesConfig(level=level, train=1, val=1, test=40))
    for caption in (caption for clip in clips for caption in clip.captions):
        negative = motion_negative(caption)
        if negative is None:
            assert level == "scenes"  # which leaves motions out
            continue
        words, other = set(caption.split()), set(negative.split())
        assert not {"still", "spins"} <= (words ^ other)


def test_a_caption_without_motion_has_no_motion_negative() -> None:
    assert motion_negative("a red star appears over a grey background") is None
