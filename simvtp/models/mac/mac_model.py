r"""MAC: masked contrastive pre-training of two towers (arXiv 2212.00986; method notes 2).

    clips   -> patches -> visible patches -> space-time transformer -> CLS -> linear \
                                                                                      contrast (VTC)
    caption -> [MASK] words, or fewer words -> text transformer     -> CLS -> linear /

No code of MAC was ever published. From the abstract and the figures: the two towers, the CLS
features, the contrastive loss as the only one, visible patches only, masks that differ from frame
to frame. Our reading: the sizes, Frozen-in-Time's divided attention, DistilBERT's text tower,
linear projections, the temperature, the ratios. With all masks off it is MAC's own baseline (recipe
`mac_unmasked`); with the settings of recipe `frozen` it is Frozen-in-Time as published
(arXiv 2104.00650). Legend: see simvtp/batch.py; a tube is one patch of one frame here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MACConfig
from simvtp.models.common.embeddings import (
    PAD_ID,
    TEXT_NORM_EPS,
    InputEmbedding,
    cut_tubes,
    embedding_dropout,
    pixel_normalization,
    require_vocabulary,
)
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.initial_weights import draw_default_linear, initialise
from simvtp.models.common.layers import BLOCK_NORM_EPS, gather_tokens
from simvtp.models.mac.mac_layers import DividedBlocks, PostNormBlocks, nearest_partners
from simvtp.models.mac.mac_masks import FrameMasks


class PatchEmbedding(InputEmbedding):
    """One linear layer over each visible patch, plus learned positions in space and in time.

    Pixels are normalised with the ImageNet mean and standard deviation, as in SimVTP's embedding.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: MACConfig) -> None:
        super().__init__()
        slots, height, width = config.grid
        self.config = config
        self.proj = nn.Linear(config.tube_values, config.dim)
        # an image model's CLS token plus the position of CLS
        self.cls = nn.Parameter(torch.zeros(1, config.dim))
        self.spatial = nn.Parameter(torch.zeros(height * width, config.dim))
        self.temporal = nn.Parameter(torch.zeros(slots, config.dim))
        scale, shift = pixel_normalization(config)
        self.register_buffer("scale", scale, persistent=False)  # [P]
        self.register_buffer("shift", shift, persistent=False)  # [P]

    def forward(self, clips: Tensor, visible: Tensor | None, slots: int) -> Tensor:
        """Returns tokens [B, 1 + S, D], CLS first.

        The frames that are used have the first positions in time, whichever frames they are.

        Args:
            clips: uint8 [B, T, H, W, 3], of which `slots` frames are used.
            visible: int64 [B, S], slot by slot; None for all patches of a clip.
            slots: number of frames that are used.
        """
        tubes = cut_tubes(clips, replace(self.config, frames=clips.shape[1]))
        if visible is None:
            spatial = self.spatial.repeat(slots, 1)[None]
        else:
            tubes = gather_tokens(tubes, visible)
            spatial = self.spatial[visible % len(self.spatial)]
        values = tubes.to(self.proj.weight.dtype) * self.scale + self.shift
        tokens = self.proj(values) + spatial
        tokens = (tokens.unflatten(1, (slots, -1)) + self.temporal[:slots, None]).flatten(1, 2)
        return torch.cat([self.cls.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)


class VideoTower(nn.Module):
    """Space-time transformer; its feature is CLS after the final norm."""

    def __init__(self, config: MACConfig) -> None:
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
        self,
        clips: Tensor,
        visible: Tensor | None = None,
        slots: int = 0,
        aligned: bool = False,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns features [B, D] of uint8 clips [B, T, H, W, 3].

        Args:
            visible: int64 [B, S] of `slots` frames, slot by slot; None for all patches.
            slots: number of frames that are used; 0 for all.
            aligned: every slot shows the same positions, as where `visible` is None.

        Raises:
            ValueError: the clips have more frames than the model has positions in time.
        """
        slots, kind, partners = slots or clips.shape[1], self.config.time_attention, None
        if slots > len(self.embedding.temporal):
            raise ValueError(
                f"clips of {slots} frames, but the model has positions for "
                f"{len(self.embedding.temporal)}"
            )
        if kind == "nearest" and (aligned or visible is None):
            kind = "rank"  # the same there, and cheaper
        if kind == "nearest" and visible is not None:
            partners = nearest_partners(visible, slots, self.config.grid[1:])
        tokens = self.embedding(clips, visible, slots)
        return self.norm(self.blocks(tokens, slots, kind, partners, options)[:, 0])


class WordEmbedding(InputEmbedding):
    """DistilBERT's embedding: word + learned position, LayerNorm, dropout."""

    def __init__(self, config: MACConfig) -> None:
        super().__init__()
        width = config.text_width
        self.word = nn.Embedding(config.vocab_size, width, padding_idx=PAD_ID)
        self.position = nn.Embedding(config.max_text_positions, width)
        self.norm = nn.LayerNorm(width, eps=TEXT_NORM_EPS)
        self.dropout = config.text_dropout

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns tokens [B, L, D] of int64 [B, L]; positions int64 [B, L], None for 0 .. L - 1."""
        position = (
            self.position.weight[: input_ids.shape[1]]
            if positions is None
            else self.position(positions)
        )
        tokens = self.norm(self.word(input_ids) + position)
        return embedding_dropout(tokens, self.dropout, self.training, options)


class TextTower(nn.Module):
    """DistilBERT's encoder; dropout in the blocks only where `text_block_dropout` says so."""

    def __init__(self, config: MACConfig) -> None:
        super().__init__()
        self.embedding = WordEmbedding(config)
        self.blocks = PostNormBlocks(
            config.text_width,
            config.text_depth,
            config.text_head_count,
            config.text_hidden,
            config.text_block_dropout,
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        positions: Tensor | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns all tokens [B, L, D] of word pieces int64 [B, L] and their mask bool [B, L]."""
        tokens = self.embedding(input_ids, positions, options)
        return self.blocks(tokens, attention_mask, options)


class MAC(nn.Module):
    """Both towers with their projections.

    Raises:
        ConfigError: `vocab_size` is not given.
    """

    def __init__(self, config: MACConfig) -> None:
        super().__init__()
        require_vocabulary(config)
        self.config = config
        self.objectives = ("vtc",)
        self.video_tower = VideoTower(config)
        self.text_tower = TextTower(config)
        self.video_projection = nn.Linear(config.dim, config.projection)
        self.text_projection = nn.Linear(config.text_width, config.projection)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draws initial weights as `initial_weights.initialise` does.

        Attention over time and positions in time begin with no effect (Frozen's inflation): of
        attention by `model.time_init`. The projections begin by `model.projection_init`.
        """
        initialise(self, seed)
        self.video_tower.embedding.temporal.zero_()
        for block in self.video_tower.blocks.divided_blocks():
            if self.config.time_init == "zero_qkv":
                block.time_attn.qkv.weight.zero_()
                block.time_attn.proj.weight.fill_(1.0)
            else:
                block.time_attn.proj.weight.zero_()
        if self.config.projection_init == "torch":
            for name in ("video_projection", "text_projection"):
                draw_default_linear(self.get_submodule(name), name, seed)

    def forward(
        self, batch: Batch, masks: Masks | None, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, Tensor]:
        """Returns video_feature and text_feature, [B, projection] each, not normalised.

        Without masks everything is visible.
        """
        visible, slots, aligned = None, 0, False
        input_ids, attention_mask, positions = batch.input_ids, batch.attention_mask, None
        if masks is not None:
            visible, input_ids = masks.visible, masks.input_ids
        if isinstance(masks, FrameMasks):
            slots, aligned = masks.slots, masks.aligned
            attention_mask, positions = masks.attention_mask, masks.positions
        video = self.video_tower(batch.clips, visible, slots, aligned, options)
        text = self.text_tower(input_ids, attention_mask, positions, options)
        return {
            "video_feature": self.video_projection(video),
            "text_feature": self._project_text(text),
        }

    def _project_text(self, tokens: Tensor) -> Tensor:
        """Returns the feature [B, projection] of all tokens [B, L, D]: of CLS."""
        cls = tokens[:, 0]
        return self.text_projection(F.relu(cls) if self.config.text_projection == "relu" else cls)

    def embed_video(self, clips: Tensor) -> Tensor:
        """Returns features [B, projection], not normalised, of uint8 clips [B, T, H, W, 3].

        T is at most `model.frames`; nothing is masked.
        """
        return self.video_projection(self.video_tower(clips))

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns features [B, projection], not normalised, of word pieces [B, L]."""
        return self._project_text(self.text_tower(input_ids, attention_mask))
