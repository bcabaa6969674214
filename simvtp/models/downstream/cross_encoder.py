"""Downstream models on the pair pass: a clip and a text in one sequence through the encoder.

The papers name question answering and grounding as tasks and do not describe their heads: all heads
here are ours. Legend: see simvtp/batch.py; C texts that are scored for one clip, K outputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.embeddings import TextEmbedding, TubeEmbedding, cut_tubes
from simvtp.models.common.encoder import Encoder, pair_sequence
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.initial_weights import initialise
from simvtp.models.common.layers import BLOCK_NORM_EPS, DropTokens
from simvtp.models.simvtp.simvtp_model import SimVTP


class PairEncoder(nn.Module):
    """The pre-trained embeddings and encoder, for pairs.

    Blind: for texts alone, without the video embedding.
    """

    def __init__(self, config: SimVTPConfig, blind: bool = False, drop_tubes: float = 0.0) -> None:
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
        config: SimVTPConfig,
        *,
        drop_path: float = 0.0,
        blind: bool = False,
        drop_tubes: float = 0.0,
    ) -> PairEncoder:
        """Returns a copy of the encoder of `model`, with its final norm.

        `drop_tubes` is the ratio of the tubes that are left out in training.
        """
        pair = cls(replace(config, drop_path=drop_path), blind, drop_tubes)
        if not blind:
            pair.video_embedding.load_state_dict(model.video_embedding.state_dict())
        pair.text_embedding.load_state_dict(model.text_embedding.state_dict())
        pair.encoder.load_state_dict(model.encoder.state_dict())
        return pair

    def embed_video(self, clips: Tensor, options: ForwardOptions = DEFAULT_OPTIONS) -> Tensor:
        """Returns tokens [B, N, D] for `forward`, of uint8 clips [B, T, H, W, 3].

        There are fewer where tubes are dropped, and none ([B, 0, D]) if blind.
        """
        if self.blind:
            weight = self.text_embedding.norm.weight
            return weight.new_zeros(clips.shape[0], 0, weight.shape[0])
        samples, tubes = clips.shape[0], self.config.tubes
        visible = self.drop_tubes.draw(samples, tubes, options.batch_slice, clips.device)
        return self.video_embedding(cut_tubes(clips, self.config), visible)

    def forward(
        self,
        video: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> tuple[Tensor, Tensor]:
        """Returns the video part [B, N, D] and the text part [B, L, D] of the encoded pairs.

        Args:
            video: embedded tubes [B, N, D].
            input_ids: word pieces [B, L].
            attention_mask: bool [B, L], False at padding.
        """
        text = self.text_embedding(input_ids, options)
        tokens = self.encoder(*pair_sequence(video, text, attention_mask), options)
        return tokens[:, : video.shape[1]], tokens[:, video.shape[1] :]


def text_mean(text: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the mean over the pieces: [B, L, D], bool [B, L] -> [B, D]; 0 without any piece."""
    weight = attention_mask.to(text.dtype)
    return (text * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1)


class AnswerHead(nn.Module):
    """Computes K logits of a pair (ours).

    Means of the text part and of the video part (blind: of the text part), LayerNorm, linear, GELU,
    linear.
    """

    def __init__(self, width: int, outputs: int, blind: bool) -> None:
        super().__init__()
        inputs = width * (1 if blind else 2)
        self.norm = nn.LayerNorm(inputs, eps=BLOCK_NORM_EPS)
        self.hidden = nn.Linear(inputs, 2 * width)
        self.out = nn.Linear(2 * width, outputs)

    def forward(self, video: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns [B, K] of video [B, N, D], text [B, L, D] and its mask bool [B, L]."""
        means = [text_mean(text, attention_mask)] + ([video.mean(dim=1)] if video.shape[1] else [])
        return self.out(F.gelu(self.hidden(self.norm(torch.cat(means, dim=-1)))))


class MatchHead(nn.Module):
    """Scores how well a pair fits (ours): the VTM head's log-odds, of the mean over all tokens.

    Padding does not count in the mean.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)

    def forward(self, video: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns [B, 1] of video [B, N, D], text [B, L, D] and its mask bool [B, L]."""
        pieces = attention_mask.sum(dim=1, keepdim=True)
        total = video.sum(dim=1) + text_mean(text, attention_mask) * pieces
        return self.out(total / (video.shape[1] + pieces).clamp(min=1))

    @torch.no_grad()
    def start_from(self, match_head: nn.Linear) -> None:
        """Copies the pre-trained two-way head: its second output (a true pair) minus its first."""
        self.out.weight.copy_(match_head.weight[1:] - match_head.weight[:1])
        self.out.bias.copy_(match_head.bias[1:] - match_head.bias[:1])


class PairModel(nn.Module):
    """Pair encoder and head.

    With texts [B, L] it gives `logits` [B, K]; with C texts for each clip, [B, C, L] and a head of
    one output, it gives their scores [B, C]. A text without any piece stands for an absent
    candidate: its score is -inf.
    """

    def __init__(self, pair: PairEncoder, head: AnswerHead | MatchHead) -> None:
        super().__init__()
        self.pair = pair
        self.head = head

    @classmethod
    def from_unified(
        cls,
        model: SimVTP,
        config: SimVTPConfig,
        outputs: int,
        seed: int,
        *,
        kind: Literal["answer", "match"] = "answer",
        drop_path: float = 0.0,
        blind: bool = False,
        drop_tubes: float = 0.0,
    ) -> PairModel:
        """Returns a model with the encoder of `model`.

        The head starts by (seed, name), a match head from the VTM head if `model` has one.
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
        """Draws initial weights, each parameter by (seed, name)."""
        initialise(self, seed)

    def forward(
        self, batch: Batch, masks: Masks | None = None, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, Tensor]:
        """Returns `logits` (see the class) and, where the batch has them, its `targets`."""
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
        """Returns the logits (see the class) of uint8 clips [B, T, H, W, 3] and texts."""
        video = self.pair.embed_video(clips, options)
        if input_ids.dim() == 2:
            parts = self.pair(video, input_ids, attention_mask, options)
            return self.head(*parts, attention_mask)
        count = input_ids.shape[1]
        present = attention_mask.any(dim=-1)
        seen = attention_mask.clone()
        seen[..., 0] |= ~present  # attention to no token at all would be NaN
        # [B, C, L] -> [C * B, L]: the whole batch once for each candidate, the order in which
        # dropout is drawn for samples
        ids, mask = (texts.transpose(0, 1).flatten(0, 1) for texts in (input_ids, seen))
        parts = self.pair(video.repeat(count, 1, 1), ids, mask, options)
        scores = self.head(*parts, mask).unflatten(0, (count, -1))[..., 0]  # [C, B]
        return scores.transpose(0, 1).masked_fill(~present, float("-inf"))
