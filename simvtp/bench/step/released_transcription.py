"""Plain transcription of the released SimVTP step, the baseline of our step with all four losses.

Each choice is the released behaviour, on purpose: four calls of the encoder; every tube embedded by
a Conv3d at each call that sees video, and the visible ones then selected by a boolean mask; padded
text; attention as matrix products with an additive mask; a word head on all positions; targets for
all tubes. Losses and gradients equal those of ours under the settings of the recipe `released`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.bench.step.sizes import Inputs
from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.embeddings import IMAGENET_MEAN, IMAGENET_STD, TextEmbedding
from simvtp.models.common.layers import BLOCK_NORM_EPS, Mlp, sine_cosine_table
from simvtp.models.simvtp.simvtp_model import SimVTP

TEMPERATURE = 0.05


class PlainAttention(nn.Module):
    """Attention that materialises every matrix: scores, additive mask, softmax, mix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, additive: Tensor | None) -> Tensor:
        """Attends over x [B, S, D]; additive [B, 1, 1, S]: 0 at tokens, very low at padding."""
        b, s, d = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = (
            F.linear(x, self.qkv.weight, bias)
            .reshape(b, s, 3, self.heads, d // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * (d // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if additive is not None:
            scores = scores + additive
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, s, d))


class PlainBlock(nn.Module):
    """Block of pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.attn = PlainAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.mlp = Mlp(width, round(width * mlp_ratio))

    def forward(self, x: Tensor, additive: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), additive)
        return x + self.mlp(self.norm2(x))


def _blocks(width: int, depth: int, heads: int, mlp_ratio: float) -> nn.ModuleDict:
    blocks = [PlainBlock(width, heads, mlp_ratio) for _ in range(depth)]
    norm = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
    return nn.ModuleDict({"blocks": nn.ModuleList(blocks), "norm": norm})


class ReleasedSimVTP(nn.Module):
    """The model with its four losses.

    Parameters have the names of `SimVTP`; only the tube embedding is a Conv3d.
    """

    mean: Tensor
    std: Tensor
    position: Tensor
    decoder_position: Tensor

    def __init__(self, config: SimVTPConfig) -> None:
        super().__init__()
        self.config = config
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.video_embedding = nn.Conv3d(3, config.dim, kernel_size=kernel, stride=kernel)
        self.text_embedding = TextEmbedding(config)
        self.encoder = _blocks(config.dim, config.depth, config.heads, config.mlp_ratio)
        width = config.decoder_dim
        self.video_decoder = _blocks(
            width, config.decoder_depth, config.decoder_heads, config.mlp_ratio
        )
        self.video_decoder["bridge"] = nn.Linear(config.dim, width, bias=False)
        self.video_decoder["head"] = nn.Linear(width, config.tube_values)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.text_decoder = nn.ModuleDict({"head": nn.Linear(config.dim, config.vocab_size)})
        self.match_head = nn.Linear(config.dim, 2)
        self.register_buffer(
            "position", sine_cosine_table(config.tubes, config.dim)[None], persistent=False
        )
        self.register_buffer(
            "decoder_position", sine_cosine_table(config.tubes, width)[None], persistent=False
        )
        self.register_buffer(
            "mean", torch.tensor(IMAGENET_MEAN)[None, :, None, None, None], persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(IMAGENET_STD)[None, :, None, None, None], persistent=False
        )

    @torch.no_grad()
    def copy_weights_from(self, model: SimVTP) -> None:
        """Copies the weights of a `SimVTP` with all four objectives."""
        own = dict(self.named_parameters())
        for name, value in model.named_parameters():
            if name == "video_embedding.proj.weight":
                self.video_embedding.weight.copy_(self._as_kernel(value))
            else:
                own[released_name(name)].copy_(value)

    def _as_kernel(self, matrix: Tensor) -> Tensor:
        """Reshapes [D, P] with P in (t, h, w, c) order to [D, c, t, h, w]."""
        c = self.config
        return matrix.view(-1, c.tubelet_size, c.patch_size, c.patch_size, 3).permute(0, 4, 1, 2, 3)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Returns the four losses, unweighted."""
        clips = inputs.pixels.transpose(1, 2)  # [B, 3, T, H, W]
        words, attention_mask, hidden = (
            inputs.masks.input_ids,
            inputs.batch.attention_mask,
            inputs.hidden,
        )
        visible = self.config.tubes - inputs.masks.masked.shape[1]
        pair = self._encode(clips, hidden, words, attention_mask)
        losses = {"mvm": self._pixel_loss(pair[:, :visible], clips, hidden)}
        scores = self.text_decoder["head"](pair[:, visible:])  # [B, L, W], padding included
        losses["mlm"] = F.cross_entropy(scores.flatten(0, 1).float(), inputs.labels.flatten())
        video = F.normalize(self._encode(clips, hidden, None, None).mean(dim=1).float(), dim=-1)
        text = F.normalize(
            self._encode(None, None, words, attention_mask).mean(dim=1).float(), dim=-1
        )
        similarity = video @ text.T / TEMPERATURE
        right = torch.arange(len(video), device=video.device)
        losses["vtc"] = F.cross_entropy(similarity, right) + F.cross_entropy(similarity.T, right)
        other = inputs.negatives
        both = self._encode(
            torch.cat([clips, clips[other]]),
            torch.cat([hidden, hidden[other]]),
            torch.cat([words, words]),
            torch.cat([attention_mask, attention_mask]),
        )
        matches = self.match_head(both.mean(dim=1)).float()
        losses["vtm"] = F.cross_entropy(
            matches, torch.cat([torch.ones_like(right), torch.zeros_like(right)])
        )
        return losses

    def _encode(
        self,
        clips: Tensor | None,
        hidden: Tensor | None,
        words: Tensor | None,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Returns the tokens [video ; text] of the given inputs, after the final norm."""
        parts, seen = [], []
        if clips is not None and hidden is not None:
            tubes = self.video_embedding(clips).flatten(2).transpose(1, 2) + self.position
            visible = tubes[~hidden].reshape(len(clips), -1, tubes.shape[-1])
            parts.append(visible)
            seen.append(torch.ones(visible.shape[:2], dtype=torch.bool, device=visible.device))
        if words is not None and attention_mask is not None:
            parts.append(self.text_embedding(words))
            seen.append(attention_mask)
        x = torch.cat(parts, dim=1)
        additive = None
        if words is not None:
            additive = (~torch.cat(seen, dim=1)).to(x.dtype)[:, None, None] * torch.finfo(
                x.dtype
            ).min
        for block in self.encoder["blocks"].children():
            x = block(x, additive)
        return self.encoder["norm"](x)

    def _pixel_loss(self, seen: Tensor, clips: Tensor, hidden: Tensor) -> Tensor:
        b = len(seen)
        decoder, position = self.video_decoder, self.decoder_position.expand(b, -1, -1)
        known = decoder["bridge"](seen) + position[~hidden].reshape(b, seen.shape[1], -1)
        unknown = self.mask_token + position[hidden].reshape(b, -1, known.shape[-1])
        x = torch.cat([known, unknown.to(known.dtype)], dim=1)
        for block in decoder["blocks"].children():
            x = block(x, None)
        predicted = decoder["head"](decoder["norm"](x[:, seen.shape[1] :]))
        return F.mse_loss(predicted.float(), self._target(clips)[hidden].reshape(predicted.shape))

    @torch.no_grad()
    def _target(self, clips: Tensor) -> Tensor:
        """Returns the normalised pixels of all tubes [B, N, P]."""
        c, (t, h, w) = self.config, self.config.grid
        pixels = clips * self.std + self.mean
        split = pixels.reshape(len(clips), 3, t, c.tubelet_size, h, c.patch_size, w, c.patch_size)
        tubes = split.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(len(clips), c.tubes, -1, 3)
        tubes = (tubes - tubes.mean(dim=-2, keepdim=True)) / (
            tubes.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
        )
        return tubes.flatten(2)


def released_name(name: str) -> str:
    """Returns the name that a parameter of `SimVTP` has in `ReleasedSimVTP`."""
    return {
        "video_decoder.mask_token": "mask_token",
        "video_embedding.proj.bias": "video_embedding.bias",
    }.get(name, name)
