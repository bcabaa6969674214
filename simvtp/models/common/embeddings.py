"""From pixels and word pieces to tokens.

Legend: see simvtp/batch.py. The values of a tube are in (t, h, w, c) order everywhere: in the
gathered pixels, in the weights of the tube embedding, in the decoder's prediction and in its
target.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.config.schema import ModelConfig
from simvtp.models.common.layers import Drawing, sine_cosine_table, take, uniform_rows

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CENTRE = 128  # of the values of a byte
TEXT_NORM_EPS = 1e-12  # BERT's
# [PAD] of BERT's vocabulary and of the built-in one; its word vector is not trained (released
# behaviour, from BERT's module)
PAD_ID = 0


def cut_tubes(clips: Tensor, config: ModelConfig) -> Tensor:
    """uint8 clips [B, T, H, W, 3] as tubes [B, N, P], N in (t, h, w) order; raises ValueError if
    the clips have another size.
    """
    expected = (config.frames, config.image_size, config.image_size, 3)
    if tuple(clips.shape[1:]) != expected or clips.dtype != torch.uint8:
        raise ValueError(
            f"clips are {clips.dtype} {tuple(clips.shape)}, but the model is built for uint8 [B, {', '.join(map(str, expected))}]"
        )
    t, h, w = config.grid
    p = config.patch_size
    split = clips.reshape(
        -1, t, config.tubelet_size, h, p, w, p, 3
    )  # [B, t, tubelet, h, p, w, p, 3]
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, config.tubes, config.tube_values)


def _working_dtype(weight: Tensor) -> torch.dtype:
    """That in which a linear layer works: autocast's where it is on, else the weight's."""
    device = weight.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(
        device
    )  # a model without values is only counted
    return torch.get_autocast_dtype(device) if autocast else weight.dtype


class TubeEmbedding(nn.Module):
    """One linear layer over the values of each *visible* tube, plus its fixed position (method
    notes 1.1).

    Equal to the released Conv3d with stride = kernel, but what is masked is never touched: the
    tubes are gathered as bytes. Normalising with the ImageNet mean and standard deviation is folded
    into weight and bias, so that no normalised pixels are made.
    """

    scale: Tensor
    shift: Tensor
    position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.tube_values, config.dim)
        mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64, device="cpu")
        std = torch.tensor(IMAGENET_STD, dtype=torch.float64, device="cpu")
        pixels = config.tube_values // 3
        self.register_buffer(
            "scale", (1 / (255 * std)).float().repeat(pixels), persistent=False
        )  # [P]
        self.register_buffer("shift", (-mean / std).float().repeat(pixels), persistent=False)  # [P]
        self.register_buffer(
            "position", sine_cosine_table(config.tubes, config.dim), persistent=False
        )  # [N, D]

    def forward(self, tubes: Tensor, visible: Tensor | None = None) -> Tensor:
        """tubes uint8 [B, N, P]; visible int64 [B, V] or None for all: tokens [B, V, D]."""
        position = self.position
        if visible is not None:
            tubes, position = take(tubes, visible), position[visible]
        weight = self.proj.weight
        # Flipping the highest bit of a byte and reading it with a sign takes 128 off: centred
        # values lose less in half precision.
        centred = (tubes ^ CENTRE).view(torch.int8)
        bias = self.proj.bias + (weight * (self.shift + CENTRE * self.scale)).sum(dim=1)
        values, scale = centred.to(_working_dtype(weight)), self.scale
        if (
            values.dtype is torch.float16
        ):  # the gradient of values above 100 leaves its range and would cost updates
            values, scale = values / CENTRE, scale * CENTRE
        return F.linear(values, weight * scale, bias) + position


class TextEmbedding(Drawing):
    """BERT's embedding module: word + learned position + token type 0, LayerNorm, dropout (method
    notes 1.1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.dim, padding_idx=PAD_ID)
        self.position = nn.Embedding(config.max_text_positions, config.dim)
        self.token_type = nn.Embedding(2, config.dim)  # BERT has two; a caption is always type 0
        self.norm = nn.LayerNorm(config.dim, eps=TEXT_NORM_EPS)
        self.dropout = config.text_dropout

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [B, L] -> [B, L, D]."""
        length = input_ids.shape[1]
        tokens = self.word(input_ids) + self.position.weight[:length] + self.token_type.weight[0]
        tokens = self.norm(tokens)
        if self.dropout == 0 or not self.training:
            return tokens
        kept = (
            uniform_rows(tokens.shape[0], tuple(tokens.shape[1:]), self.place, tokens.device)
            >= self.dropout
        )
        return tokens * (kept.to(tokens.dtype) / (1 - self.dropout))
