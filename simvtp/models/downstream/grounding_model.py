"""Temporal grounding on the pair pass: a video in S equal segments, each with the sentence.

Every segment goes through the unified encoder. The head is ours. Legend: see simvtp/batch.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.initial_weights import initialise
from simvtp.models.common.layers import BLOCK_NORM_EPS, sine_cosine_table
from simvtp.models.downstream.cross_encoder import PairEncoder, text_mean
from simvtp.models.simvtp.simvtp_model import SimVTP

INSIDE, START, END = range(3)  # outputs of the head for a segment


class SpanHead(nn.Module):
    """Computes three logits of each segment: inside the span, its start, its end.

    LayerNorm, linear, GELU and a fixed position for each segment; then the segment, those before
    and after it and the mean of all, linear, GELU, linear.
    """

    position: Tensor

    def __init__(self, inputs: int, width: int, segments: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs, eps=BLOCK_NORM_EPS)
        self.features = nn.Linear(inputs, width)
        self.context = nn.Linear(4 * width, 2 * width)
        self.out = nn.Linear(2 * width, 3)
        position = sine_cosine_table(segments, width)
        self.register_buffer("position", position, persistent=False)  # [S, D]

    def forward(self, pooled: Tensor) -> Tensor:
        """Returns [B, S, 3] of pooled segments [B, S, inputs]."""
        here = F.gelu(self.features(self.norm(pooled))) + self.position
        before, after = F.pad(here[:, :-1], (0, 0, 1, 0)), F.pad(here[:, 1:], (0, 0, 0, 1))
        mean = here.mean(dim=1, keepdim=True).expand_as(here)
        return self.out(F.gelu(self.context(torch.cat([here, before, after, mean], dim=-1))))


class GroundingModel(nn.Module):
    """Predicts for each segment of a clip how it belongs to the span that a sentence describes.

    A clip holds S x T frames, T of each segment, in order of time; the encoder sees T frames at a
    time. Blind: the sentence alone.
    """

    def __init__(self, pair: PairEncoder, segments: int) -> None:
        super().__init__()
        width = pair.config.dim
        self.pair, self.segments = pair, segments
        self.head = SpanHead(width if pair.blind else 2 * width, width, segments)

    @classmethod
    def from_unified(
        cls,
        model: SimVTP,
        config: SimVTPConfig,
        segments: int,
        segment_frames: int,
        seed: int,
        *,
        drop_path: float = 0.0,
        blind: bool = False,
        drop_tubes: float = 0.0,
    ) -> GroundingModel:
        """Returns a model with the encoder of `model`, for clips of `segment_frames` frames.

        The head starts by (seed, name).
        """
        short = replace(config, frames=segment_frames, drop_path=drop_path)
        built = cls(PairEncoder(short, blind), segments)
        initialise(built, seed)
        built.pair = PairEncoder.from_unified(
            model, short, drop_path=drop_path, blind=blind, drop_tubes=drop_tubes
        )
        weight = model.video_embedding.proj.weight
        return built.to(device=weight.device, dtype=weight.dtype)

    def forward(
        self, batch: Batch, masks: Masks | None = None, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, Tensor]:
        """Returns `logits` [B, S, 3] and, where the batch has them, its `targets`."""
        logits = self.score(batch.clips, batch.input_ids, batch.attention_mask, options)
        outputs = {"logits": logits}
        return outputs if batch.targets is None else {**outputs, "targets": batch.targets}

    def score(
        self,
        clips: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns logits [B, S, 3] in the order INSIDE, START, END.

        Args:
            clips: uint8 [B, S x T, H, W, 3].
            input_ids: sentences, word pieces [B, L].
            attention_mask: bool [B, L], False at padding.
        """
        s = self.segments
        if self.pair.blind:
            video = self.pair.embed_video(clips, options)
            _, text = self.pair(video, input_ids, attention_mask, options)
            return self.head(text_mean(text, attention_mask)[:, None].expand(-1, s, -1))
        # All first segments, then all second ones: so the draws of dropout do not depend on how the
        # batch is split (`per_sample_uniform`).
        parts = clips.unflatten(1, (s, -1)).transpose(0, 1).flatten(0, 1)  # [S x B, T, H, W, 3]
        ids, mask = input_ids.repeat(s, 1), attention_mask.repeat(s, 1)
        video, text = self.pair(self.pair.embed_video(parts, options), ids, mask, options)
        pooled = torch.cat([video.mean(dim=1), text_mean(text, mask)], dim=-1)
        return self.head(pooled.unflatten(0, (s, -1)).transpose(0, 1))
