"""What is read off the pair pass: pixels of masked tubes, masked words, does the pair belong
together (method notes 1.4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simvtp.config.schema import ModelConfig
from simvtp.models.common.layers import BLOCK_NORM_EPS, Blocks, sine_cosine_table, take


class VideoDecoder(nn.Module):
    """Predicts the pixels of the masked tubes from the video part of the pair pass; text reaches it
    only through the encoder.
    """

    position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.decoder_dim
        self.bridge = nn.Linear(config.dim, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = Blocks(width, config.decoder_depth, config.decoder_heads, config.mlp_ratio)
        self.norm = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.head = nn.Linear(width, config.tube_values)
        self.register_buffer(
            "position", sine_cosine_table(config.tubes, width), persistent=False
        )  # [N, width]

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """tokens [B, V, D], visible int64 [B, V], masked int64 [B, M] -> normalised pixels [B, M,
        P].
        """
        seen = self.bridge(tokens) + self.position[visible]
        hidden = self.mask_token + self.position[masked]
        return self.head(
            self.norm(
                self.blocks(torch.cat([seen, hidden.to(seen.dtype)], dim=1), first=seen.shape[1])
            )
        )


class TextDecoder(nn.Module):
    """Word scores at the masked positions.

    Depth 0 is the released linear head, untied. Above 0 (ours: the paper draws a text decoder and
    does not give its depth): a linear layer to a width of its own or that of the video decoder,
    blocks over the text part, LayerNorm, then the word head.
    """

    def __init__(self, config: ModelConfig) -> None:
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

    def forward(self, tokens: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
        """tokens [B, L, D] (text part of the pair pass), keys bool [B, L], positions int64 [B, K]
        -> logits [B, K, W].
        """
        x = self.down(tokens)
        if self.blocks is not None:
            x = self.blocks(x, keys)
        return self.head(self.norm(take(x, positions)))


def choose_negatives(scores: Tensor | None, noise: Tensor, given: Tensor | None) -> Tensor:
    """For each text b the clip that serves as its VTM negative: int64 [B], never b itself.

    `given` wins if it is there. Else Gumbel-max: the clip j is drawn with probability proportional
    to exp(scores[b, j]) among the others; without scores, uniformly. `noise` is standard Gumbel
    noise [B, B].
    """
    if given is not None:
        return given
    noisy = noise if scores is None else noise + scores.to(noise.dtype)
    own = torch.eye(noise.shape[0], dtype=torch.bool, device=noise.device)
    return noisy.masked_fill(own, float("-inf")).argmax(dim=1)
