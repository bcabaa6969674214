"""Encoders for retrieval: two copies, fine-tuned separately (method notes 1.8), or one (ours)."""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, Literal, TypeVar

from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import SimVTPConfig
from simvtp.errors import ConfigError
from simvtp.models.common.embeddings import (
    TextEmbedding,
    TubeEmbedding,
    cut_tubes,
    require_vocabulary,
)
from simvtp.models.common.encoder import Encoder, pool
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.initial_weights import initialise
from simvtp.models.common.layers import BLOCK_NORM_EPS
from simvtp.models.common.two_encoders import modality_encoder
from simvtp.models.simvtp.simvtp_model import SimVTP

Embedding = TypeVar("Embedding", TubeEmbedding, TextEmbedding)
Sides = Literal["dual", "shared"]


class _Tower(nn.Module, Generic[Embedding]):
    """Embedding, blocks without a final norm, mean, LayerNorm."""

    embedding: Embedding

    def __init__(self, embedding: Embedding, config: SimVTPConfig) -> None:
        super().__init__()
        self.embedding = embedding
        self.encoder = Encoder(config, final_norm=False)
        self.fc_norm = nn.LayerNorm(config.dim, eps=BLOCK_NORM_EPS)


class _RetrievalEncoder(nn.Module):
    """Base class of the two retrieval encoders."""

    def __init__(self, config: SimVTPConfig) -> None:
        super().__init__()
        require_vocabulary(config)
        self.config = config

    def initialise(self, seed: int) -> None:
        """Draws initial weights, each parameter by (seed, name): see `initial_weights`."""
        initialise(self, seed)

    def forward(
        self, batch: Batch, masks: Masks | None = None, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, Tensor]:
        """Returns video_feature and text_feature, [B, D] each, not normalised.

        With `masks` they are those of the visible tubes and the masked text.
        """
        visible = None if masks is None else masks.visible
        input_ids = batch.input_ids if masks is None else masks.input_ids
        return {
            "video_feature": self.embed_video(batch.clips, visible, options),
            "text_feature": self.embed_text(input_ids, batch.attention_mask, options),
        }

    def embed_video(
        self,
        clips: Tensor,
        visible: Tensor | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns features [B, D] of uint8 clips [B, T, H, W, 3].

        `visible` int64 [B, V] restricts them to those tubes.
        """
        raise NotImplementedError

    def embed_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns features [B, D] of word pieces [B, L] and their mask bool [B, L]."""
        raise NotImplementedError


class DualEncoder(_RetrievalEncoder):
    """A video encoder and a text encoder; a feature is the mean over the tokens, then a LayerNorm.

    Padding counts in the text's mean with `config.pooling` `with_pads` (released) and does not with
    `content` (ours). Each copy holds only the embeddings that it uses; the released copies hold
    both.
    """

    def __init__(self, config: SimVTPConfig) -> None:
        super().__init__(config)
        self.video_encoder = _Tower(TubeEmbedding(config), config)
        self.text_encoder = _Tower(TextEmbedding(config), config)

    @classmethod
    def from_unified(
        cls,
        model: SimVTP,
        config: SimVTPConfig | None = None,
        *,
        drop_path: float | None = None,
        pooling: Literal["content", "with_pads", "cls"] | None = None,
    ) -> DualEncoder:
        """Returns two copies of the unified encoder of `model`, on its device and in its dtype.

        The pre-trained final norm is not carried over: `fc_norm` starts as 1 and 0 (released
        behaviour). `drop_path` and `pooling`, where given, replace those of `config` (default: the
        model's own).
        """
        config = config or model.config
        config = replace(
            config,
            drop_path=config.drop_path if drop_path is None else drop_path,
            pooling=config.pooling if pooling is None else pooling,
        )
        weight = model.video_embedding.proj.weight
        dual = cls(config).to(device=weight.device, dtype=weight.dtype)
        dual.video_encoder.embedding.load_state_dict(model.video_embedding.state_dict())
        dual.text_encoder.embedding.load_state_dict(model.text_embedding.state_dict())
        dual.video_encoder.encoder.blocks.load_state_dict(
            modality_encoder(model.encoder, "video").blocks.state_dict()
        )
        dual.text_encoder.encoder.blocks.load_state_dict(
            modality_encoder(model.encoder, "text").blocks.state_dict()
        )
        return dual

    def embed_video(
        self,
        clips: Tensor,
        visible: Tensor | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        tower = self.video_encoder
        tokens = tower.embedding(cut_tubes(clips, self.config), visible)
        return tower.fc_norm(tower.encoder(tokens, options=options).mean(dim=1))

    def embed_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        tower = self.text_encoder
        tokens = tower.embedding(input_ids, options)
        tokens = tower.encoder(tokens, attention_mask, options=options)
        return tower.fc_norm(pool(tokens, attention_mask, self.config.pooling))


class SharedEncoder(_RetrievalEncoder):
    """One encoder for both modalities (ours; the published way is `DualEncoder`).

    It is the pre-training model's, trained further.

    Blocks and final norm serve clips and texts alike, so it has about half the weights of the two
    copies, and before the first step its features are those of the zero-shot test. `config.pooling`
    as for `DualEncoder`.
    """

    def __init__(self, config: SimVTPConfig) -> None:
        super().__init__(config)
        self.video_embedding = TubeEmbedding(config)
        self.text_embedding = TextEmbedding(config)
        self.encoder = Encoder(config)

    @classmethod
    def from_unified(cls, model: SimVTP, config: SimVTPConfig) -> SharedEncoder:
        """Returns a copy of the embeddings and of the encoder of `model`, final norm included."""
        weight = model.video_embedding.proj.weight
        shared = cls(config).to(device=weight.device, dtype=weight.dtype)
        for name in ("video_embedding", "text_embedding", "encoder"):
            getattr(shared, name).load_state_dict(getattr(model, name).state_dict())
        return shared

    def embed_video(
        self,
        clips: Tensor,
        visible: Tensor | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        tokens = self.video_embedding(cut_tubes(clips, self.config), visible)
        return self.encoder(tokens, options=options).mean(dim=1)

    def embed_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        tokens = self.text_embedding(input_ids, options)
        tokens = self.encoder(tokens, attention_mask, options=options)
        return pool(tokens, attention_mask, self.config.pooling)


def retrieval_encoder(
    model: SimVTP,
    config: SimVTPConfig,
    *,
    drop_path: float,
    pooling: Literal["content", "with_pads", "cls"],
    encoder: Sides = "dual",
) -> DualEncoder | SharedEncoder:
    """Returns the model that retrieval fine-tunes, from the pre-trained `model`.

    Args:
        config: may ask for fewer frames than `model` was trained with.
        encoder: `finetune.task.encoder`.

    Raises:
        ConfigError: one encoder is asked for of a model that has two.
    """
    if encoder == "shared" and config.encoders == "two":
        raise ConfigError(
            "one encoder for both modalities (finetune.task.encoder=shared, or pictures) "
            "does not go with model.encoders=two."
        )
    config = replace(config, drop_path=drop_path, pooling=pooling)
    return (
        SharedEncoder.from_unified(model, config)
        if encoder == "shared"
        else DualEncoder.from_unified(model, config)
    )
