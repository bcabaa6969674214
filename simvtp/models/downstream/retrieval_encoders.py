"""Encoders for retrieval: two copies, fine-tuned apart (method notes 1.8), or one copy for both
sides (ours).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, Literal, TypeVar

from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.schema import ModelConfig
from simvtp.errors import ConfigError
from simvtp.models.common.embeddings import TextEmbedding, TubeEmbedding, cut_tubes
from simvtp.models.common.encoder import Encoder, pool
from simvtp.models.common.layers import BLOCK_NORM_EPS, initialise
from simvtp.models.common.two_encoders import one_side
from simvtp.models.simvtp.simvtp_model import SimVTP

Embedding = TypeVar("Embedding", TubeEmbedding, TextEmbedding)
Sides = Literal["dual", "shared"]


class _Tower(nn.Module, Generic[Embedding]):
    """Embedding, blocks without a final norm, mean, LayerNorm."""

    embedding: Embedding

    def __init__(self, embedding: Embedding, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = embedding
        self.encoder = Encoder(config, final_norm=False)
        self.fc_norm = nn.LayerNorm(config.dim, eps=BLOCK_NORM_EPS)


class _RetrievalEncoder(nn.Module):
    """What both ways to encode clips and texts apart have in common; the ways differ in their
    weights and in the two `embed` methods.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size <= 0:
            raise ConfigError(
                f"model.vocab_size={config.vocab_size}: the model needs the size of the tokenizer's vocabulary."
            )
        self.config = config

    def initialise(self, seed: int) -> None:
        """Initial weights, each parameter by (seed, name): see `layers.initialise`."""
        initialise(self, seed)

    def forward(self, batch: Batch, masks: Masks | None = None) -> dict[str, Tensor]:
        """video_feature [B, D] and text_feature [B, D], not normalised; with `masks`, of the
        visible tubes and the masked text.
        """
        input_ids = batch.input_ids if masks is None else masks.input_ids
        return {
            "video_feature": self.embed_video(
                batch.clips, None if masks is None else masks.visible
            ),
            "text_feature": self.embed_text(input_ids, batch.attention_mask),
        }

    def embed_video(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """uint8 clips [B, T, H, W, 3] -> [B, D]; `visible` int64 [B, V] restricts it to those
        tubes.
        """
        raise NotImplementedError

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Word pieces [B, L] and where they are (bool [B, L]) -> [B, D]."""
        raise NotImplementedError


class DualEncoder(_RetrievalEncoder):
    """A video encoder and a text encoder; a feature is the mean over the tokens, then a LayerNorm
    of its own.

    `config.pooling` says whether padding counts in the text's mean (`with_pads` = released) or not
    (`content`, ours). Each copy holds only the embeddings that it uses; the released copies hold
    both.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.video_encoder = _Tower(TubeEmbedding(config), config)
        self.text_encoder = _Tower(TextEmbedding(config), config)

    @classmethod
    def from_unified(
        cls,
        model: SimVTP,
        config: ModelConfig | None = None,
        *,
        drop_path: float | None = None,
        pooling: Literal["content", "with_pads", "cls"] | None = None,
    ) -> DualEncoder:
        """Both copies from the unified encoder of `model`, on its device and in its dtype.

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
            one_side(model.encoder, "video").blocks.state_dict()
        )
        dual.text_encoder.encoder.blocks.load_state_dict(
            one_side(model.encoder, "text").blocks.state_dict()
        )
        return dual

    def embed_video(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """uint8 clips [B, T, H, W, 3] -> [B, D]; `visible` int64 [B, V] restricts it to those
        tubes.
        """
        tower = self.video_encoder
        tokens = tower.embedding(cut_tubes(clips, self.config), visible)
        return tower.fc_norm(tower.encoder(tokens).mean(dim=1))

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Word pieces [B, L] and where they are (bool [B, L]) -> [B, D]."""
        tower = self.text_encoder
        tokens = tower.encoder(tower.embedding(input_ids), attention_mask)
        return tower.fc_norm(pool(tokens, attention_mask, self.config.pooling))


class SharedEncoder(_RetrievalEncoder):
    """One encoder for both sides (ours; the published way is `DualEncoder`): the features of the
    pre-training model, trained on.

    Blocks and final norm serve clips and texts alike, so it has about half the weights of the two
    copies, and before the first step its features are those of the zero-shot test. `config.pooling`
    as for `DualEncoder`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.video_embedding = TubeEmbedding(config)
        self.text_embedding = TextEmbedding(config)
        self.encoder = Encoder(config)

    @classmethod
    def from_unified(cls, model: SimVTP, config: ModelConfig) -> SharedEncoder:
        """A copy of the embeddings and of the encoder of `model`, final norm included, on its
        device and in its dtype.
        """
        weight = model.video_embedding.proj.weight
        shared = cls(config).to(device=weight.device, dtype=weight.dtype)
        for name in ("video_embedding", "text_embedding", "encoder"):
            getattr(shared, name).load_state_dict(getattr(model, name).state_dict())
        return shared

    def embed_video(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """uint8 clips [B, T, H, W, 3] -> [B, D]; `visible` int64 [B, V] restricts it to those
        tubes.
        """
        return self.encoder(self.video_embedding(cut_tubes(clips, self.config), visible)).mean(
            dim=1
        )

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Word pieces [B, L] and where they are (bool [B, L]) -> [B, D]."""
        return pool(
            self.encoder(self.text_embedding(input_ids), attention_mask),
            attention_mask,
            self.config.pooling,
        )


def retrieval_encoder(
    model: SimVTP,
    config: ModelConfig,
    *,
    drop_path: float,
    pooling: Literal["content", "with_pads", "cls"],
    encoder: Sides = "dual",
) -> DualEncoder | SharedEncoder:
    """What is fine-tuned for retrieval from the pre-trained `model`: `finetune.encoder`. `config`
    may ask for fewer frames.

    Raises ConfigError if one encoder is asked for of a model that has two.
    """
    if encoder == "shared" and config.encoders == "two":
        raise ConfigError(
            "one encoder for both sides (finetune.encoder=shared, or pictures) does not go with model.encoders=two."
        )
    config = replace(config, drop_path=drop_path, pooling=pooling)
    return (
        SharedEncoder.from_unified(model, config)
        if encoder == "shared"
        else DualEncoder.from_unified(model, config)
    )
