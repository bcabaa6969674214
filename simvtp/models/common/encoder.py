"""The unified encoder: one set of weights for [video ; text], video alone and text alone.

Method notes 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.layers import BLOCK_NORM_EPS, Blocks


class TokenSequence(NamedTuple):
    """Tokens of a batch, before or after the encoder.

    Attributes:
        tokens: [B, S, D].
        attention_mask: bool [B, S], False at padding; None for video alone, which has no padding.
        text_start: position of the first text token of a pair; None for one modality alone.
    """

    tokens: Tensor
    attention_mask: Tensor | None = None
    text_start: int | None = None


def pair_sequence(video: Tensor, text: Tensor, attention_mask: Tensor) -> TokenSequence:
    """Returns [video ; text] of video tokens [B, V, D] and text tokens [B, L, D].

    `attention_mask` is that of the text, bool [B, L].
    """
    return TokenSequence(
        torch.cat([video, text.to(video.dtype)], dim=1),
        torch.cat([attention_mask.new_ones(video.shape[:2]), attention_mask], dim=1),
        video.shape[1],
    )


class Encoder(nn.Module):
    """Blocks and, in the pre-training model, a final LayerNorm.

    With `options.pack_text`, the padding of texts is left out of every linear layer and norm. What
    comes back at padding is then meaningless, so this is not done where the pooling averages over
    padding, nor with random drop path, which is drawn for each sample.
    """

    def __init__(self, config: SimVTPConfig, final_norm: bool = True) -> None:
        super().__init__()
        self.padding_counts = config.pooling == "with_pads"
        self.has_drop_path = config.drop_path > 0
        self.blocks = Blocks(
            config.dim, config.depth, config.heads, config.mlp_ratio, config.drop_path
        )
        self.norm = nn.LayerNorm(config.dim, eps=BLOCK_NORM_EPS) if final_norm else nn.Identity()

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        text_start: int | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns tokens [B, S, D] encoded; `text_start` is ignored here (see `TokenSequence`)."""
        if attention_mask is not None and self.packs_text(options):
            packed = self.blocks.forward_many([(tokens, attention_mask)], options, pack=True)
            return self.norm(packed[0])
        return self.norm(self.blocks(tokens, attention_mask, options))

    def forward_many(
        self, sequences: Sequence[TokenSequence], options: ForwardOptions = DEFAULT_OPTIONS
    ) -> list[Tensor]:
        """Returns the encoded tokens of several sequences, in one call of the blocks."""
        if len(sequences) == 1:
            return [self(*sequences[0], options)]
        inputs = [(sequence.tokens, sequence.attention_mask) for sequence in sequences]
        outputs = self.blocks.forward_many(inputs, options, self.packs_text(options))
        return [self.norm(tokens) for tokens in outputs]

    @property
    def draws_drop_path(self) -> bool:
        """True if this forward pass draws drop path, which depends on the order of the passes."""
        return self.has_drop_path and self.training

    def packs_text(self, options: ForwardOptions) -> bool:
        """Returns True if padding is left out: asked for, and without effect on the result."""
        return options.pack_text and not self.padding_counts and not self.draws_drop_path


def packs_text(model: nn.Module, options: ForwardOptions) -> bool:
    """Returns True if an encoder inside `model` leaves padding out."""
    return any(
        module.packs_text(options) for module in model.modules() if isinstance(module, Encoder)
    )


def pool(
    tokens: Tensor, attention_mask: Tensor | None, pooling: str, text_start: int = 0
) -> Tensor:
    """Pools tokens [B, S, D] to one vector [B, D].

    `with_pads` averages over all positions, padding included (released behaviour); `content` over
    those where `attention_mask` [B, S] is True (ours). Without a mask there is no padding, and both
    are the same. `cls` takes the text's [CLS] (ours), the token at `text_start`; video has no [CLS]
    and keeps its mean.
    """
    if attention_mask is not None and pooling == "cls":
        return tokens[:, text_start]
    if attention_mask is None or pooling == "with_pads":
        return tokens.mean(dim=1)
    weight = attention_mask.to(tokens.dtype)
    return (tokens * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)
