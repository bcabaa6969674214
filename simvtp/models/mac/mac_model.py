"""MAC: masked contrastive pre-training of a video tower and a text tower (arXiv 2212.00986; method
notes 2).

    clips   -> patches -> visible patches -> space-time transformer -> CLS -> linear -> video feature \\
                                                                                                       contrast
                                                                                                       (VTC)
    caption -> [MASK] words (or fewer words) -> text transformer    -> CLS -> linear -> text feature  /

No code of MAC was ever published. From the abstract and the figures: the two towers, the CLS
features, the contrastive loss as the only one, visible patches only, masks that differ from frame
to frame. Our reading: the sizes, Frozen-in-Time's divided attention, DistilBERT's text tower,
linear projections, the temperature, the ratios. With all masks off it is the Frozen-in-Time
baseline (recipe `frozen`). Legend: see simvtp/batch.py; a tube is one patch of one frame here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.schema import ModelConfig
from simvtp.errors import ConfigError
from simvtp.models.common.embeddings import IMAGENET_MEAN, IMAGENET_STD, PAD_ID, cut_tubes
from simvtp.models.common.layers import BLOCK_NORM_EPS, Drawing, initialise, take, uniform_rows
from simvtp.models.mac.mac_layers import (
    TEXT_NORM_EPS,
    DividedBlocks,
    PostNormBlocks,
    nearest_partners,
)
from simvtp.models.mac.mac_masks import FrameMasks


class PatchEmbedding(nn.Module):
    """One linear layer over the values of each visible patch, plus learned positions in space and
    in time.

    Normalised with the ImageNet mean and standard deviation, as SimVTP's embedding is.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        slots, height, width = config.grid
        self.config = config
        self.proj = nn.Linear(config.tube_values, config.dim)
        self.cls = nn.Parameter(
            torch.zeros(1, config.dim)
        )  # with its position: an image model's CLS token plus the position of CLS
        self.spatial = nn.Parameter(torch.zeros(height * width, config.dim))
        self.temporal = nn.Parameter(torch.zeros(slots, config.dim))
        mean, std = (
            torch.tensor(values, dtype=torch.float64, device="cpu")
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        pixels = config.tube_values // 3
        self.register_buffer(
            "scale", (1 / (255 * std)).float().repeat(pixels), persistent=False
        )  # [P]
        self.register_buffer("shift", (-mean / std).float().repeat(pixels), persistent=False)  # [P]

    def forward(self, clips: Tensor, visible: Tensor | None, slots: int) -> Tensor:
        """uint8 clips [B, T, H, W, 3], of which `slots` frames are used; visible int64 [B, S] slot
        by slot, or None for all of a clip.

        Returns [B, 1 + S, D], CLS first. The frames that are used have the first positions in time,
        whichever they are.
        """
        config = replace(self.config, frames=clips.shape[1])
        tubes = cut_tubes(clips, config)
        if visible is None:
            spatial = self.spatial.repeat(slots, 1)[None]
        else:
            tubes, spatial = take(tubes, visible), self.spatial[visible % len(self.spatial)]
        values = tubes.to(self.proj.weight.dtype) * self.scale + self.shift
        tokens = self.proj(values) + spatial
        tokens = (tokens.unflatten(1, (slots, -1)) + self.temporal[:slots, None]).flatten(1, 2)
        return torch.cat([self.cls.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)


class VideoTower(nn.Module):
    """Space-time transformer; its feature is CLS after the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = PatchEmbedding(config)
        self.blocks = DividedBlocks(
            config.dim,
            config.depth,
            config.heads,
            config.mlp_ratio,
            config.drop_path,
            config.cls_counts == "per_frame",
        )
        self.norm = nn.LayerNorm(config.dim, eps=BLOCK_NORM_EPS)

    def forward(
        self, clips: Tensor, visible: Tensor | None = None, slots: int = 0, aligned: bool = False
    ) -> Tensor:
        """uint8 clips [B, T, H, W, 3] -> [B, D]; `visible` int64 [B, S] of `slots` frames (0: of
        all), slot by slot.

        aligned: every slot shows the same places, as where `visible` is None.
        """
        slots, kind, partners = slots or clips.shape[1], self.config.time_attention, None
        if slots > len(self.embedding.temporal):
            raise ValueError(
                f"clips of {slots} frames, but the model has positions for {len(self.embedding.temporal)}"
            )
        if kind == "nearest" and (aligned or visible is None):
            kind = "rank"  # the same there, and cheaper
        if kind == "nearest" and visible is not None:
            partners = nearest_partners(visible, slots, self.config.grid[1:])
        return self.norm(
            self.blocks(self.embedding(clips, visible, slots), slots, kind, partners)[:, 0]
        )


class WordEmbedding(Drawing):
    """DistilBERT's: word + learned position, LayerNorm, dropout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.dim, padding_idx=PAD_ID)
        self.position = nn.Embedding(config.max_text_positions, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=TEXT_NORM_EPS)
        self.dropout = config.text_dropout

    def forward(self, input_ids: Tensor, positions: Tensor | None) -> Tensor:
        """int64 [B, L] -> [B, L, D]; positions int64 [B, L], or None for 0 .. L - 1."""
        place = (
            self.position.weight[: input_ids.shape[1]]
            if positions is None
            else self.position(positions)
        )
        tokens = self.norm(self.word(input_ids) + place)
        if self.dropout == 0 or not self.training:
            return tokens
        kept = (
            uniform_rows(tokens.shape[0], tuple(tokens.shape[1:]), self.place, tokens.device)
            >= self.dropout
        )
        return tokens * (kept.to(tokens.dtype) / (1 - self.dropout))


class TextTower(nn.Module):
    """DistilBERT's encoder (ours: dropout in the embedding only, where DistilBERT has it in the
    blocks as well).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = WordEmbedding(config)
        self.blocks = PostNormBlocks(config.dim, config.text_depth, config.heads, config.mlp_ratio)

    def forward(self, input_ids: Tensor, keys: Tensor, positions: Tensor | None = None) -> Tensor:
        """Word pieces int64 [B, L], and where they are bool [B, L] -> all tokens [B, L, D]."""
        return self.blocks(self.embedding(input_ids, positions), keys)


class MAC(nn.Module):
    """Both towers with their projections."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size <= 0:
            raise ConfigError(
                f"model.vocab_size={config.vocab_size}: the model needs the size of the tokenizer's vocabulary."
            )
        self.config = config
        self.objectives = ("vtc",)
        self.video_tower = VideoTower(config)
        self.text_tower = TextTower(config)
        self.video_projection = nn.Linear(config.dim, config.projection)
        self.text_projection = nn.Linear(config.dim, config.projection)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """As `layers.initialise`; attention over time and positions in time begin with no effect
        (Frozen's inflation).
        """
        initialise(self, seed)
        self.video_tower.embedding.temporal.zero_()
        for block in self.video_tower.blocks:
            block.time_attn.proj.weight.zero_()  # type: ignore[union-attr,operator]

    def forward(self, batch: Batch, masks: Masks | None) -> dict[str, Tensor]:
        """video_feature and text_feature, [B, projection], not normalised; without masks everything
        is seen.
        """
        if masks is None:
            video, text = (
                self.embed_video(batch.clips),
                self.embed_text(batch.input_ids, batch.attention_mask),
            )
        elif isinstance(masks, FrameMasks):
            video = self._video(batch.clips, masks.visible, masks.slots, masks.aligned)
            text = self._text(masks.input_ids, masks.keys, masks.positions)
        else:
            video, text = (
                self._video(batch.clips, masks.visible, 0),
                self._text(masks.input_ids, batch.attention_mask),
            )
        return {"video_feature": video, "text_feature": text}

    def embed_video(self, clips: Tensor) -> Tensor:
        """uint8 clips [B, T, H, W, 3] with at most `model.frames` frames, nothing masked -> [B,
        projection], not normalised.
        """
        return self._video(clips, None, 0)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Word pieces [B, L] and where they are (bool [B, L]) -> [B, projection], not normalised."""
        return self._text(input_ids, attention_mask)

    def _video(
        self, clips: Tensor, visible: Tensor | None, slots: int, aligned: bool = False
    ) -> Tensor:
        feature: Tensor = self.video_projection(self.video_tower(clips, visible, slots, aligned))
        return feature

    def _text(self, input_ids: Tensor, keys: Tensor, positions: Tensor | None = None) -> Tensor:
        feature: Tensor = self.text_projection(self.text_tower(input_ids, keys, positions)[:, 0])
        return feature
