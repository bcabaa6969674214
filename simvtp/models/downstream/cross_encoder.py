"""Downstream models on the pair pass: a clip and a text in one sequence through the unified
encoder.

The papers name question answering and grounding as tasks and say nothing of their heads: all heads
here are ours. Legend: see simvtp/batch.py; C texts that are scored for one clip, K outputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.schema import ModelConfig
from simvtp.models.common.embeddings import TextEmbedding, TubeEmbedding, cut_tubes
from simvtp.models.common.encoder import Encoder
from simvtp.models.common.layers import BLOCK_NORM_EPS, DropTokens, initialise
from simvtp.models.simvtp.simvtp_model import SimVTP


class PairEncoder(nn.Module):
    """The pre-trained embeddings and encoder, for pairs; blind: for texts alone, and the video's
    embedding is not there.
    """

    def __init__(self, config: ModelConfig, blind: bool = False, drop_tubes: float = 0.0) -> None:
        super().__init__()
        self.config, self.blind = config, blind
        self.drop_tubes = DropTokens(drop_tubes)
        if not blind:
            self.video_embedding = TubeEmbedding(config)
        self.text_embedding = TextEmbedding(config)
        self.encoder = Encoder(config)

    @classmethod
    def from_unified(
        cls,
        model: SimVTP,
        config: ModelConfig,
        *,
        drop_path: float = 0.0,
        blind: bool = False,
        drop_tubes: float = 0.0,
    ) -> PairEncoder:
        """A copy of the encoder of `model`, with its final norm. `drop_tubes`: share of the tubes
        that is not seen while training.
        """
        pair = cls(replace(config, drop_path=drop_path), blind, drop_tubes)
        if not blind:
            pair.video_embedding.load_state_dict(model.video_embedding.state_dict())
        pair.text_embedding.load_state_dict(model.text_embedding.state_dict())
        pair.encoder.load_state_dict(model.encoder.state_dict())
        return pair

    def embed_video(self, clips: Tensor) -> Tensor:
        """uint8 clips [B, T, H, W, 3] -> tokens [B, N, D] for `forward` (fewer where tubes are
        dropped); [B, 0, D] if blind.
        """
        if self.blind:
            weight = self.text_embedding.norm.weight
            return weight.new_zeros(clips.shape[0], 0, weight.shape[0])
        kept = self.drop_tubes.kept(clips.shape[0], self.config.tubes, clips.device)
        return self.video_embedding(cut_tubes(clips, self.config), kept)

    def forward(
        self, video: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embedded tubes [B, N, D], pieces [B, L], where they are (bool [B, L]) -> video part [B,
        N, D] and text part [B, L, D].
        """
        text = self.text_embedding(input_ids)
        keys = torch.cat([attention_mask.new_ones(video.shape[:2]), attention_mask], dim=1)
        tokens = self.encoder(torch.cat([video, text.to(video.dtype)], dim=1), keys)
        return tokens[:, : video.shape[1]], tokens[:, video.shape[1] :]


def text_mean(text: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the pieces: [B, L, D], bool [B, L] -> [B, D]; 0 where there is no piece at all."""
    weight = attention_mask.to(text.dtype)
    return (text * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1)


class AnswerHead(nn.Module):
    """K figures of a pair (ours): means of the text part and of the video part, LayerNorm, linear,
    GELU, linear. Blind: of the text part.
    """

    def __init__(self, width: int, outputs: int, blind: bool) -> None:
        super().__init__()
        inputs = width * (1 if blind else 2)
        self.norm = nn.LayerNorm(inputs, eps=BLOCK_NORM_EPS)
        self.hidden = nn.Linear(inputs, 2 * width)
        self.out = nn.Linear(2 * width, outputs)

    def forward(self, video: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        """video [B, N, D], text [B, L, D], bool [B, L] -> [B, K]."""
        means = [text_mean(text, attention_mask)] + ([video.mean(dim=1)] if video.shape[1] else [])
        return self.out(F.gelu(self.hidden(self.norm(torch.cat(means, dim=-1)))))


class MatchHead(nn.Module):
    """How well a pair fits (ours): the VTM head's log-odds, of the mean over all tokens that are
    not padding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)

    def forward(self, video: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        """video [B, N, D], text [B, L, D], bool [B, L] -> [B, 1]."""
        pieces = attention_mask.sum(dim=1, keepdim=True)
        total = video.sum(dim=1) + text_mean(text, attention_mask) * pieces
        return self.out(total / (video.shape[1] + pieces).clamp(min=1))

    @torch.no_grad()
    def start_from(self, match_head: nn.Linear) -> None:
        """Begin as the pre-trained two-way head: its second output (belongs together) less its
        first.
        """
        self.out.weight.copy_(match_head.weight[1:] - match_head.weight[:1])
        self.out.bias.copy_(match_head.bias[1:] - match_head.bias[:1])


class PairModel(nn.Module):
    """Pair encoder and head.

    With texts [B, L] it gives `logits` [B, K]; with C texts for each clip, [B, C, L] and a head of
    one output, it gives their scores [B, C]. A text without any piece stands for a candidate that
    is not there: its score is -inf.
    """

    def __init__(self, pair: PairEncoder, head: AnswerHead | MatchHead) -> None:
        super().__init__()
        self.pair = pair
        self.head = head

    @classmethod
    def from_unified(
        cls, model: SimVTP, config: ModelConfig, outputs: int, seed: int, *, kind: Literal["answer", "match"] = "answer",
        drop_path: float = 0.0, blind: bool = False, drop_tubes: float = 0.0,
    ) -> PairModel:  # fmt: skip
        """Encoder from `model`; the head starts by (seed, name), a match head from the VTM head if
        `model` has one.
        """
        head = AnswerHead(config.dim, outputs, blind) if kind == "answer" else MatchHead(config.dim)
        built = cls(PairEncoder(replace(config, drop_path=drop_path), blind), head)
        built.initialise(seed)
        built.pair = PairEncoder.from_unified(
            model, config, drop_path=drop_path, blind=blind, drop_tubes=drop_tubes
        )
        if isinstance(head, MatchHead) and "vtm" in model.objectives:
            head.start_from(model.match_head)
        weight = model.video_embedding.proj.weight
        return built.to(device=weight.device, dtype=weight.dtype)

    def initialise(self, seed: int) -> None:
        """Initial weights, each parameter by (seed, name)."""
        initialise(self, seed)

    def forward(self, batch: Batch, masks: Masks | None = None) -> dict[str, Tensor]:
        """`logits` (see the class) and `targets` of the batch."""
        outputs = {"logits": self.score(batch.clips, batch.input_ids, batch.attention_mask)}
        return outputs if batch.targets is None else {**outputs, "targets": batch.targets}

    def score(self, clips: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """uint8 clips [B, T, H, W, 3] and texts -> logits, see the class."""
        video = self.pair.embed_video(clips)
        if input_ids.dim() == 2:
            return self.head(*self.pair(video, input_ids, attention_mask), attention_mask)
        count = input_ids.shape[1]
        there = attention_mask.any(dim=-1)
        seen = attention_mask.clone()
        seen[..., 0] |= ~there  # attention to nothing at all would be NaN
        # [B, K, L] -> [K * B, L]: the whole batch once for each candidate, the order in which
        # dropout is drawn for samples
        flat_ids, flat_seen = (
            input_ids.transpose(0, 1).flatten(0, 1),
            seen.transpose(0, 1).flatten(0, 1),
        )
        scores = self.head(
            *self.pair(video.repeat(count, 1, 1), flat_ids, flat_seen), flat_seen
        )  # [K * B, 1]
        return (
            scores.unflatten(0, (count, -1))[..., 0]
            .transpose(0, 1)
            .masked_fill(~there, float("-inf"))
        )
