"""Action recognition with the video side of the encoder; the heads are ours.

Linear probe, attentive probe, or all of the encoder trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.embeddings import TubeEmbedding, cut_tubes
from simvtp.models.common.encoder import Encoder
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.initial_weights import INITIAL_STD, initialise
from simvtp.models.common.layers import BLOCK_NORM_EPS, merge_heads
from simvtp.models.simvtp.simvtp_model import SimVTP

Probe = Literal["none", "linear", "attentive"]


class AttentivePool(nn.Module):
    """One learned query that attends to all tokens (cross-attention with `heads` heads)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.keys_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns [B, D] of tokens [B, N, D]."""
        projected = self.keys_values(tokens).unflatten(-1, (2, self.heads, -1))
        keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        query = self.query.expand(len(tokens), -1, -1).unflatten(-1, (self.heads, -1))
        query = query.transpose(1, 2).to(keys.dtype)
        mixed = nn.functional.scaled_dot_product_attention(query, keys, values)
        return self.out(merge_heads(mixed))[:, 0]


class VideoClassifier(nn.Module):
    """Tubes, encoder, pooled tokens, LayerNorm, one linear layer.

    probe `linear`: encoder frozen, tokens averaged; `attentive`: encoder frozen, tokens pooled by a
    learned query; `none`: tokens averaged, everything is trained. A frozen encoder runs in
    evaluation mode and without gradients.
    """

    def __init__(self, config: SimVTPConfig, classes: int, probe: Probe = "none") -> None:
        super().__init__()
        self.config, self.frozen = config, probe != "none"
        self.video_embedding = TubeEmbedding(config)
        self.encoder = Encoder(config)
        self.pool = AttentivePool(config.dim, config.heads) if probe == "attentive" else None
        self.fc_norm = nn.LayerNorm(config.dim, eps=BLOCK_NORM_EPS)
        self.head = nn.Linear(config.dim, classes)
        for part in (self.video_embedding, self.encoder):
            part.requires_grad_(not self.frozen)

    @classmethod
    def from_unified(
        cls,
        model: SimVTP,
        config: SimVTPConfig,
        classes: int,
        seed: int,
        *,
        probe: Probe = "none",
        drop_path: float = 0.0,
    ) -> VideoClassifier:
        """Returns a classifier with the encoder of `model`.

        The rest starts by (seed, name), the last layer with small weights.
        """
        rate = 0.0 if probe != "none" else drop_path
        built = cls(replace(config, drop_path=rate), classes, probe)
        initialise(built, seed)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(built.head.weight, std=INITIAL_STD, generator=generator)
        built.video_embedding.load_state_dict(model.video_embedding.state_dict())
        built.encoder.load_state_dict(model.encoder.state_dict())
        weight = model.video_embedding.proj.weight
        return built.to(device=weight.device, dtype=weight.dtype)

    def train(self, mode: bool = True) -> VideoClassifier:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(
        self, batch: Batch, masks: Masks | None = None, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, Tensor]:
        """Returns `logits` [B, classes] and, where the batch has them, its `targets`."""
        outputs = {"logits": self.classify(batch.clips, options)}
        return outputs if batch.targets is None else {**outputs, "targets": batch.targets}

    def classify(self, clips: Tensor, options: ForwardOptions = DEFAULT_OPTIONS) -> Tensor:
        """Returns logits [B, classes] of uint8 clips [B, T, H, W, 3]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = self.video_embedding(cut_tubes(clips, self.config))
            tokens = self.encoder(tokens, options=options)
        pooled = tokens.mean(dim=1) if self.pool is None else self.pool(tokens)
        return self.head(self.fc_norm(pooled))
