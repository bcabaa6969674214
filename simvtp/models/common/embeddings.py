"""Embeddings: from pixels and word pieces to tokens.

Legend: see simvtp/batch.py. The values of a tube are in (t, h, w, c) order everywhere: in the
gathered pixels, in the weights of the tube embedding, in the decoder's prediction and in its
target.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.config.model_config import ModelConfig, SimVTPConfig
from simvtp.errors import ConfigError
from simvtp.models.common.forward_options import (
    DEFAULT_OPTIONS,
    ForwardOptions,
    per_sample_uniform,
)
from simvtp.models.common.layers import gather_tokens, separable_table, sine_cosine_table

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BYTE_CENTRE = 128
TEXT_NORM_EPS = 1e-12  # BERT's and DistilBERT's
# [PAD] of BERT's vocabulary and of the built-in one; its word vector is not trained (released
# behaviour, from BERT's module)
PAD_ID = 0


def require_vocabulary(config: ModelConfig) -> None:
    """Raises ConfigError if `config` does not give the size of the vocabulary."""
    if config.vocab_size <= 0:
        raise ConfigError(
            f"model.vocab_size={config.vocab_size}: the model needs the size of the tokenizer's "
            "vocabulary."
        )


def cut_tubes(clips: Tensor, config: ModelConfig) -> Tensor:
    """Splits uint8 clips [B, T, H, W, 3] into tubes [B, N, P], N in (t, h, w) order.

    Raises:
        ValueError: the clips have another size or dtype.
    """
    expected = (config.frames, config.image_size, config.image_size, 3)
    if tuple(clips.shape[1:]) != expected or clips.dtype != torch.uint8:
        raise ValueError(
            f"clips are {clips.dtype} {tuple(clips.shape)}, but the model is built for "
            f"uint8 [B, {', '.join(map(str, expected))}]"
        )
    t, h, w = config.grid
    p = config.patch_size
    split = clips.reshape(-1, t, config.tubelet_size, h, p, w, p, 3)
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, config.tubes, config.tube_values)


def pixel_normalization(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Returns (scale, shift), float32 [P] each: tube bytes * scale + shift are normalised pixels.

    Mean and standard deviation are ImageNet's; the arithmetic is float64, rounded once.
    """
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64, device="cpu")
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64, device="cpu")
    pixels = config.tube_values // 3
    return (1 / (255 * std)).float().repeat(pixels), (-mean / std).float().repeat(pixels)


def _working_dtype(weight: Tensor) -> torch.dtype:
    """Returns the dtype in which a linear layer works: that of autocast, or of the weight."""
    device = weight.device.type
    # autocast knows no "meta", the device of models that are only counted
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocast else weight.dtype


class InputEmbedding(nn.Module):
    """Base class of the embeddings before an encoder: the first layer, under layer decay."""


class TubeEmbedding(InputEmbedding):
    """One linear layer over the values of each *visible* tube, plus its fixed position.

    Method notes 1.1. Equal to the released Conv3d with stride = kernel, but masked tubes are never
    touched: the tubes are gathered as bytes. Normalising with the ImageNet mean and standard
    deviation is folded into weight and bias, so that no normalised pixels are made.
    """

    scale: Tensor
    shift: Tensor
    position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.tube_values, config.dim)
        scale, shift = pixel_normalization(config)
        position = tube_positions(config, config.dim)
        self.register_buffer("scale", scale, persistent=False)  # [P]
        self.register_buffer("shift", shift, persistent=False)  # [P]
        self.register_buffer("position", position, persistent=False)  # [N, D]

    def forward(self, tubes: Tensor, visible: Tensor | None = None) -> Tensor:
        """Returns tokens [B, V, D] of tubes uint8 [B, N, P].

        `visible` int64 [B, V] selects tubes; None takes all.
        """
        position = self.position
        if visible is not None:
            tubes, position = gather_tokens(tubes, visible), position[visible]
        weight = self.proj.weight
        # Flipping the highest bit of a byte and reading it with a sign subtracts 128: centred
        # values lose less in half precision.
        centred = (tubes ^ BYTE_CENTRE).view(torch.int8)
        bias = self.proj.bias + (weight * (self.shift + BYTE_CENTRE * self.scale)).sum(dim=1)
        values, scale = centred.to(_working_dtype(weight)), self.scale
        if values.dtype is torch.float16:
            # the gradient of values above 100 overflows and would cost updates
            values, scale = values / BYTE_CENTRE, scale * BYTE_CENTRE
        return F.linear(values, weight * scale, bias) + position


def tube_positions(config: ModelConfig, width: int) -> Tensor:
    """Returns the fixed positions [N, width] of the tubes, by `model.tube_positions`."""
    if isinstance(config, SimVTPConfig) and config.tube_positions == "axes":
        return separable_table(config.grid, width)
    return sine_cosine_table(config.tubes, width)


def embedding_dropout(
    tokens: Tensor, rate: float, training: bool, options: ForwardOptions
) -> Tensor:
    """Returns tokens [B, L, D] after dropout, drawn for each sample (see `per_sample_uniform`)."""
    if rate == 0 or not training:
        return tokens
    shape = tuple(tokens.shape[1:])
    noise = per_sample_uniform(tokens.shape[0], shape, options.batch_slice, tokens.device)
    return tokens * ((noise >= rate).to(tokens.dtype) / (1 - rate))


class TextEmbedding(InputEmbedding):
    """BERT's embedding module (method notes 1.1).

    Word + learned position + token type 0, LayerNorm, dropout.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.dim, padding_idx=PAD_ID)
        self.position = nn.Embedding(config.max_text_positions, config.dim)
        self.token_type = nn.Embedding(2, config.dim)  # BERT has two; a caption is always type 0
        self.norm = nn.LayerNorm(config.dim, eps=TEXT_NORM_EPS)
        self.dropout = config.text_dropout

    def forward(self, input_ids: Tensor, options: ForwardOptions = DEFAULT_OPTIONS) -> Tensor:
        """Returns tokens [B, L, D] of word pieces int64 [B, L]."""
        length = input_ids.shape[1]
        tokens = self.word(input_ids) + self.position.weight[:length] + self.token_type.weight[0]
        return embedding_dropout(self.norm(tokens), self.dropout, self.training, options)
