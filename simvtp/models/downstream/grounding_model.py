"""Temporal grounding on the pair pass: a video in S equal segments, each with the sentence through
the unified encoder. The head is ours.

Legend: see simvtp/batch.py; S segments of a video.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.schema import ModelConfig
from simvtp.models.common.layers import BLOCK_NORM_EPS, initialise, sine_cosine_table
from simvtp.models.downstream.cross_encoder import PairEncoder, text_mean
from simvtp.models.simvtp.simvtp_model import SimVTP

INSIDE, START, END = range(3)  # what the head says of a segment


class SpanHead(nn.Module):
    """Three figures of each segment: that it lies inside the span, that the span starts with it,
    that it ends with it.

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
        self.register_buffer(
            "position", sine_cosine_table(segments, width), persistent=False
        )  # [S, D]

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, S, inputs] -> [B, S, 3]."""
        here = F.gelu(self.features(self.norm(pooled))) + self.position
        before, after = F.pad(here[:, :-1], (0, 0, 1, 0)), F.pad(here[:, 1:], (0, 0, 0, 1))
        mean = here.mean(dim=1, keepdim=True).expand_as(here)
        return self.out(F.gelu(self.context(torch.cat([here, before, after, mean], dim=-1))))


class GroundingModel(nn.Module):
    """Says of each segment of a clip how it belongs to the span that a sentence speaks of.

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
        cls, model: SimVTP, config: ModelConfig, segments: int, segment_frames: int, seed: int, *,
        drop_path: float = 0.0, blind: bool = False, drop_tubes: float = 0.0,
    ) -> GroundingModel:  # fmt: skip
        """Encoder from `model`, for clips of `segment_frames` frames; the head starts by (seed,
        name).
        """
        short = replace(config, frames=segment_frames, drop_path=drop_path)
        built = cls(PairEncoder(short, blind), segments)
        initialise(built, seed)
        built.pair = PairEncoder.from_unified(
            model, short, drop_path=drop_path, blind=blind, drop_tubes=drop_tubes
        )
        weight = model.video_embedding.proj.weight
        return built.to(device=weight.device, dtype=weight.dtype)

    def forward(self, batch: Batch, masks: Masks | None = None) -> dict[str, Tensor]:
        """`logits` [B, S, 3] and `targets` of the batch."""
        outputs = {"logits": self.score(batch.clips, batch.input_ids, batch.attention_mask)}
        return outputs if batch.targets is None else {**outputs, "targets": batch.targets}

    def score(self, clips: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """uint8 clips [B, S x T, H, W, 3] and sentences [B, L] -> logits [B, S, 3]: INSIDE, START,
        END.
        """
        s = self.segments
        if self.pair.blind:
            _, text = self.pair(self.pair.embed_video(clips), input_ids, attention_mask)
            return self.head(text_mean(text, attention_mask)[:, None].expand(-1, s, -1))
        # All first segments, then all second ones: so the draws of dropout do not depend on how the
        # batch is cut (`uniform_rows`).
        parts = clips.unflatten(1, (s, -1)).transpose(0, 1).flatten(0, 1)  # [S x B, T, H, W, 3]
        ids, there = input_ids.repeat(s, 1), attention_mask.repeat(s, 1)
        video, text = self.pair(self.pair.embed_video(parts), ids, there)
        pooled = torch.cat([video.mean(dim=1), text_mean(text, there)], dim=-1)
        return self.head(pooled.unflatten(0, (s, -1)).transpose(0, 1))
