"""Decoders on the pair pass: pixels of masked tubes and masked words; the choice of negatives.

Method notes 1.4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.embeddings import tube_positions
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.layers import (
    BLOCK_NORM_EPS,
    Blocks,
    gather_tokens,
)


class TokenDecoder(nn.Module):
    """Base class of the decoders: their blocks are none of the encoder's, under layer decay."""


class VideoDecoder(TokenDecoder):
    """Predicts the pixels of the masked tubes from the video part of the pair pass.

    Text reaches it only through the encoder.
    """

    position: Tensor

    def __init__(self, config: SimVTPConfig) -> None:
        super().__init__()
        width = config.decoder_dim
        self.bridge = nn.Linear(config.dim, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = Blocks(width, config.decoder_depth, config.decoder_heads, config.mlp_ratio)
        self.norm = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.head = nn.Linear(width, config.tube_values)
        position = tube_positions(config, width)
        self.register_buffer("position", position, persistent=False)  # [N, width]

    def forward(
        self,
        tokens: Tensor,
        visible: Tensor,
        masked: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns the predicted pixels [B, M, P] of the tubes `masked` int64 [B, M].

        `tokens` [B, V, D] are those of the tubes `visible` int64 [B, V].
        """
        seen = self.bridge(tokens) + self.position[visible]
        hidden = self.mask_token + self.position[masked]
        x = torch.cat([seen, hidden.to(seen.dtype)], dim=1)
        x = self.blocks(x, options=options, query_start=seen.shape[1])
        return self.head(self.norm(x))


class TextDecoder(TokenDecoder):
    """Predicts words at the masked positions.

    Depth 0 is the released linear head, untied. Above 0 (ours: the paper draws a text decoder and
    does not give its depth): a linear layer to its own width or that of the video decoder, blocks
    over the text part, LayerNorm, then the word head.
    """

    def __init__(self, config: SimVTPConfig) -> None:
        super().__init__()
        self.down: nn.Module = nn.Identity()
        self.blocks: Blocks | None = None
        self.norm: nn.Module = nn.Identity()
        width = config.dim
        if config.text_decoder_depth > 0:
            width = config.text_decoder_dim or config.decoder_dim
            self.down = nn.Linear(config.dim, width)
            self.blocks = Blocks(
                width, config.text_decoder_depth, config.decoder_heads, config.mlp_ratio
            )
            self.norm = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.head = nn.Linear(width, config.vocab_size)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns logits [B, K, W] at `positions` int64 [B, K].

        `tokens` [B, L, D] is the text part of the pair pass, `attention_mask` bool [B, L].
        """
        x = self.down(tokens)
        if self.blocks is not None:
            x = self.blocks(x, attention_mask, options)
        return self.head(self.norm(gather_tokens(x, positions)))


class Negatives(NamedTuple):
    """False pairs of VTM.

    Attributes:
        clips: int64 [B], the wrong clip of each text.
        texts: int64 [B], the wrong text of each clip; None where texts alone have negatives.
    """

    clips: Tensor
    texts: Tensor | None = None


def choose_negatives(scores: Tensor | None, noise: Tensor, given: Tensor | None) -> Tensor:
    """Chooses for each text b the clip of its VTM negative, never b itself: int64 [B].

    In the same way it chooses the text of each clip, with clips for rows and texts for columns.

    Args:
        scores: [B, B], texts x clips; the Gumbel-max rule draws clip j with probability
            proportional to exp(scores[b, j]) among the others. None draws uniformly.
        noise: standard Gumbel noise [B, B].
        given: int64 [B], a choice that overrides the draw.
    """
    if given is not None:
        return given
    noisy = noise if scores is None else noise + scores.to(noise.dtype)
    own = torch.eye(noise.shape[0], dtype=torch.bool, device=noise.device)
    return noisy.masked_fill(own, float("-inf")).argmax(dim=1)
