"""Inputs of the encoder passes of one step: tubes and captions, embedded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.decoders import Negatives
from simvtp.models.common.embeddings import TextEmbedding, TubeEmbedding
from simvtp.models.common.encoder import TokenSequence, pair_sequence
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.models.common.layers import gather_tokens
from simvtp.models.common.token_merging import merge, merge_groups, merged_count
from simvtp.models.simvtp.encoder_passes import EncoderPass, PassPlan


class VideoTokens(NamedTuple):
    """Embedded tubes.

    Attributes:
        tokens: [B, V - merged, D].
        groups: int64 [B, V], the token of each tube; None where no tubes are merged.
    """

    tokens: Tensor
    groups: Tensor | None


def embed_visible(
    embedding: TubeEmbedding, tubes: Tensor, visible: Tensor, config: SimVTPConfig
) -> VideoTokens:
    """Embeds the tubes `visible` int64 [B, V] of `tubes` uint8 [B, N, P], similar ones merged."""
    tokens, count = embedding(tubes, visible), visible.shape[1]
    merged = merged_count(count, config.token_merge_ratio)
    if not merged:
        return VideoTokens(tokens, None)
    groups = merge_groups(gather_tokens(tubes, visible), visible, config)
    return VideoTokens(merge(tokens, groups, count - merged), groups)


def embed_video_inputs(
    embedding: TubeEmbedding, tubes: Tensor, visible: Tensor, config: SimVTPConfig, plan: PassPlan
) -> tuple[VideoTokens, VideoTokens]:
    """Embeds the tubes of the pair pass, and those that VTC and VTM see.

    The latter are all tubes with `contrastive_video=clean`. Tubes that no pass of `plan` needs are
    not embedded: the other ones stand in for them.
    """
    clean = config.contrastive_video == "clean" and plan.passes != (EncoderPass.PAIR,)
    if clean and EncoderPass.PAIR not in plan.passes:
        everything = VideoTokens(embedding(tubes), None)
        return everything, everything
    seen = embed_visible(embedding, tubes, visible, config)
    return seen, VideoTokens(embedding(tubes), None) if clean else seen


class CaptionEmbedder:
    """Embeds the captions of a batch, with their words masked or clean.

    One dropout draw serves the pair pass and the text-only pass. With `reuse_pair_pass` it serves
    VTM as well; without (released behaviour), VTM's positives and negatives draw for themselves.
    """

    def __init__(
        self,
        embedding: TextEmbedding,
        batch: Batch,
        masks: Masks,
        options: ForwardOptions,
    ) -> None:
        self._embedding, self._options = embedding, options
        self._ids = {True: batch.input_ids, False: masks.input_ids}  # clean -> word pieces [B, L]
        self._embedded: dict[bool, Tensor] = {}

    def embed(self, clean: bool) -> Tensor:
        """Returns tokens [B, L, D]."""
        if clean not in self._embedded:
            self._embedded[clean] = self.embed_again(clean)
        return self._embedded[clean]

    def embed_again(self, clean: bool) -> Tensor:
        """Returns tokens [B, L, D] with a dropout draw of their own."""
        return self._embedding(self._ids[clean], self._options)


class PassInputs:
    """Builds the token sequence of each encoder pass of a step.

    Attributes:
        pair_video: tubes of the pair pass.
        contrast_video: tubes that VTC and VTM see.
        attention_mask: bool [B, L], of the captions.
    """

    def __init__(
        self,
        pair_video: VideoTokens,
        contrast_video: VideoTokens,
        captions: CaptionEmbedder,
        attention_mask: Tensor,
        config: SimVTPConfig,
    ) -> None:
        self.pair_video, self.contrast_video = pair_video, contrast_video
        self.attention_mask = attention_mask
        self._captions = captions
        self._clean = config.contrastive_text == "clean"
        self._reuse = config.reuse_pair_pass

    def sequence(
        self, name: EncoderPass, plan: PassPlan, negatives: Negatives | None
    ) -> TokenSequence:
        """Returns the tokens of one pass; MATCH needs `negatives`.

        MATCH holds the positives, unless the pair pass gives them, the texts with their wrong
        clips, and the clips with their wrong texts, where there are any.
        """
        mask, own = self.attention_mask, self.contrast_video.tokens
        if name is EncoderPass.PAIR:
            return pair_sequence(self.pair_video.tokens, self._captions.embed(clean=False), mask)
        if name is EncoderPass.VIDEO:
            return TokenSequence(own)
        if name is EncoderPass.TEXT:
            return TokenSequence(self._captions.embed(self._clean), mask)
        assert negatives is not None
        embed = self._captions.embed if self._reuse else self._captions.embed_again
        other = own.index_select(0, negatives.clips)
        pairs = [] if plan.pair_gives_positives else [(own, embed(self._clean), mask)]
        pairs.append((other, embed(self._clean), mask))
        if negatives.texts is not None:
            texts = embed(self._clean).index_select(0, negatives.texts)
            pairs.append((own, texts, mask.index_select(0, negatives.texts)))
        if len(pairs) == 1:
            return pair_sequence(*pairs[0])
        return pair_sequence(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
