"""Dropout of captions in the passes of one step: which of them share a draw."""

from __future__ import annotations

import pytest
import torch

from simvtp.batch import Batch
from simvtp.models.common.decoders import Negatives
from simvtp.models.common.forward_options import DEFAULT_OPTIONS
from simvtp.models.simvtp.encoder_passes import EncoderPass, plan_passes
from simvtp.models.simvtp.pass_inputs import CaptionEmbedder, PassInputs, VideoTokens
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from tests.models.small_models import masks_for, random_batch, small


def texts_of_passes(reuse: bool) -> dict[str, torch.Tensor]:
    """The embedded captions [B, L, D] of each pass, in training with dropout 0.5."""
    config = small(text_dropout=0.5, reuse_pair_pass=reuse, contrastive_text="masked")
    batch: Batch = random_batch(config)
    masks = masks_for(batch, config)
    model = SimVTP(config).train()
    torch.manual_seed(0)
    video = VideoTokens(torch.zeros(len(batch), 2, config.dim), None)
    captions = CaptionEmbedder(model.text_embedding, batch, masks, DEFAULT_OPTIONS)
    inputs = PassInputs(video, video, captions, batch.attention_mask, config)
    plan = plan_passes(config, OBJECTIVES)
    negatives = Negatives(torch.arange(len(batch)).roll(1))
    found = {
        name.name: inputs.sequence(name, plan, negatives).tokens[:, -config.text_length :]
        for name in (EncoderPass.PAIR, EncoderPass.TEXT, EncoderPass.MATCH)
    }
    match = found.pop("MATCH")
    if plan.pair_gives_positives:
        return {**found, "NEGATIVES": match}
    positives, other = match.chunk(2)
    return {**found, "POSITIVES": positives, "NEGATIVES": other}


def test_released_shares_a_draw_between_pair_and_text_and_not_within_vtm() -> None:
    found = texts_of_passes(reuse=False)
    assert torch.equal(found["PAIR"], found["TEXT"])
    for one, two in (("PAIR", "POSITIVES"), ("PAIR", "NEGATIVES"), ("POSITIVES", "NEGATIVES")):
        assert not torch.equal(found[one], found[two]), (one, two)


def test_ours_shares_one_draw_among_all_passes() -> None:
    found = texts_of_passes(reuse=True)
    assert torch.equal(found["PAIR"], found["TEXT"])
    assert torch.equal(found["PAIR"], found["NEGATIVES"])


@pytest.mark.parametrize("reuse", [True, False])
def test_dropout_is_on_in_these_tests(reuse: bool) -> None:
    assert (texts_of_passes(reuse)["PAIR"] == 0).float().mean() > 0.3
