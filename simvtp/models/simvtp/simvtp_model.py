"""SimVTP: masked video-text pre-training with one encoder (arXiv 2212.03490; method notes 1.1-1.6).

    clips  -> tubes -> visible tubes -> tokens \\                      / video part -> video decoder -> pixels   (MVM)
                                                encoder(pair) --------<  text part  -> text decoder  -> words    (MLM)
    caption -> [MASK] words -> tokens          /                       \\ mean       -> match head    -> yes/no   (VTM)
    tokens of one side alone -> encoder -> mean                                                                  (VTC)

Legend: see simvtp/batch.py. The model names its outputs and knows no loss: simvtp/training turns
outputs into losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.schema import ModelConfig
from simvtp.errors import ConfigError
from simvtp.models.common.decoder_masking import rebuilt
from simvtp.models.common.decoders import TextDecoder, VideoDecoder, choose_negatives
from simvtp.models.common.embeddings import TextEmbedding, TubeEmbedding, cut_tubes
from simvtp.models.common.encoder import Encoder, pool
from simvtp.models.common.layers import initialise, take
from simvtp.models.common.token_merging import merge, merge_groups, merged_count
from simvtp.models.common.two_encoders import build_encoder

OBJECTIVES = ("mvm", "mlm", "vtc", "vtm")
HARD_NEGATIVE_TEMPERATURE = (
    0.05  # the published contrastive temperature, here only to weigh candidates
)


class SimVTP(nn.Module):
    """The pre-training model. Modules that only an unwanted objective needs are not built.

    Args:
        config: sizes and wiring; `vocab_size` must be above 0.
        objectives: which of mvm, mlm, vtc, vtm the forward pass serves.
    """

    def __init__(self, config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES) -> None:
        super().__init__()
        if config.vocab_size <= 0:
            raise ConfigError(
                f"model.vocab_size={config.vocab_size}: the model needs the size of the tokenizer's vocabulary."
            )
        if not objectives or not set(objectives) <= set(OBJECTIVES):
            raise ConfigError(
                f"objectives {list(objectives)}: choose one or more of {', '.join(OBJECTIVES)}."
            )
        self.config = config
        # the encoder passes of a step in one call, where that gives the same (runtime.merge_passes)
        self.merge_passes = False
        self.objectives = tuple(name for name in OBJECTIVES if name in objectives)
        self.video_embedding = TubeEmbedding(config)
        self.text_embedding = TextEmbedding(config)
        self.encoder = build_encoder(config)
        if "mvm" in objectives:
            self.video_decoder = VideoDecoder(config)
        if "mlm" in objectives:
            self.text_decoder = TextDecoder(config)
        if "vtm" in objectives:
            self.match_head = nn.Linear(config.dim, 2)
        if "vtc" in objectives and config.learned_temperature:
            self.temperature_bias = nn.Parameter(
                torch.zeros(1)
            )  # log of the temperature, from its logarithm at the start

    def initialise(self, seed: int) -> None:
        """Initial weights, each parameter by (seed, name): see `layers.initialise`."""
        initialise(self, seed)

    def forward(self, batch: Batch, masks: Masks) -> dict[str, Tensor]:
        """Outputs of the wanted objectives.

        mvm: video_prediction [B, M, P], video_pixels uint8 [B, M, P] (the objective normalises
            them); while training, of round(decoded_share * M) masked tubes
        mlm: word_logits [B, K, W], word_labels [B, K] vtc: video_feature [B, D], text_feature [B,
        D] (pooled, not normalised); temperature_bias [1] if it is learned vtm: match_logits [2B, 2]
        (positives first, class 1 = belongs together), negative_index [B]
        """
        passes = _Passes(self, batch, masks)
        if self.merge_passes:
            passes.run_together()
        outputs: dict[str, Tensor] = {}
        if "mvm" in self.objectives:
            video, _ = passes.pair
            masked = (
                rebuilt(masks.masked, self.config)
                if self.training and self.config.decoded_share < 1
                else masks.masked
            )
            outputs["video_prediction"] = self.video_decoder(video, masks.visible, masked)
            outputs["video_pixels"] = take(passes.tubes, masked)
        if "mlm" in self.objectives:
            _, text = passes.pair
            outputs["word_logits"] = self.text_decoder(
                text, batch.attention_mask, masks.word_positions
            )
            outputs["word_labels"] = masks.word_labels
        if "vtc" in self.objectives:
            outputs["video_feature"] = passes.video_feature
            outputs["text_feature"] = passes.text_feature
            if self.config.learned_temperature:
                outputs["temperature_bias"] = self.temperature_bias
        if "vtm" in self.objectives:
            outputs["negative_index"] = passes.negative_index
            outputs["match_logits"] = self.match_head(passes.match_features)
        return outputs

    def embed_video(self, clips: Tensor) -> Tensor:
        """uint8 clips [B, T, H, W, 3], nothing masked -> features [B, D], not normalised."""
        return self.encoder(self.video_embedding(cut_tubes(clips, self.config))).mean(dim=1)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Word pieces [B, L] and where they are (bool [B, L]) -> features [B, D], not normalised."""
        return pool(
            self.encoder(self.text_embedding(input_ids), attention_mask),
            attention_mask,
            self.config.pooling,
        )

    def encode_pair(self, video: Tensor, text: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Encode [video ; text], tokens [B, V, D] and [B, L, D] -> tokens [B, V + L, D] and where
        they are not padding, bool [B, V + L].

        keys: bool [B, L], False at the text's padding.
        """
        tokens, keys = _joined(video, text, keys)
        return self.encoder(tokens, keys, video.shape[1]), keys

    def match(self, clips: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Log-odds [B] that each clip and its caption belong together by the VTM head, nothing
        masked.

        Log-odds order pairs as the probability does, but do not run into ties at 0 and 1. Shapes as
        for `embed_video` and `embed_text`.
        """
        if "vtm" not in self.objectives:
            raise ConfigError(
                "this model was trained without the matching objective (losses.vtm=0): it cannot say whether a pair belongs together."
            )
        video = self.video_embedding(cut_tubes(clips, self.config))
        pair = self.encode_pair(video, self.text_embedding(input_ids), attention_mask)
        logits = self.match_head(pool(*pair, self.config.pooling, video.shape[1]))
        return logits[:, 1] - logits[:, 0]


def _joined(video: Tensor, text: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """[video ; text] [B, V + L, D], and where they are not padding, bool [B, V + L]."""
    return torch.cat([video, text.to(video.dtype)], dim=1), torch.cat(
        [keys.new_ones(video.shape[:2]), keys], dim=1
    )


def _unmerged(tokens: Tensor, groups: Tensor | None) -> Tensor:
    """For each tube what came out of the token it was in: [B, G, D] -> [B, V, D]."""
    return tokens if groups is None else take(tokens, groups)


def set_merged_passes(model: nn.Module, on: bool) -> None:
    """Switch whether the encoder passes of a step run in one call, in every pre-training model
    inside `model`.
    """
    for module in model.modules():
        if isinstance(module, SimVTP):
            module.merge_passes = on


def shares_pair_pass(config: ModelConfig) -> bool:
    """Whether the pass of MVM and MLM gives VTM's positives too: asked for, and VTM sees what is
    masked there.
    """
    return (
        config.reuse_pair_pass and config.contrastive_text == config.contrastive_video == "masked"
    )


Value = TypeVar("Value")


def _once(method: Callable[[_Passes], Value]) -> Callable[[_Passes], Value]:
    """The method's value, computed at the first call. (functools.cached_property takes a lock,
    which torch.compile cannot trace.)
    """

    def value(passes: _Passes) -> Value:
        if method.__name__ not in passes.done:
            passes.done[method.__name__] = method(passes)
        return passes.done[method.__name__]

    return value


class _Passes:
    """The encoder passes of one step. Each runs when it is first asked for and is then shared by
    all objectives that need it.
    """

    def __init__(self, model: SimVTP, batch: Batch, masks: Masks) -> None:
        self.model, self.batch, self.masks = model, batch, masks
        self.done: dict[str, Any] = {}  # name of the pass -> its output
        self._text_tokens: dict[bool, Tensor] = {}

    @property
    @_once
    def tubes(self) -> Tensor:
        """uint8 [B, N, P]."""
        return cut_tubes(self.batch.clips, self.model.config)

    @property
    @_once
    def groups(self) -> Tensor | None:
        """The token that each visible tube goes through the encoder in, int64 [B, V]; None: one of
        its own (`merged_share` is 0).
        """
        visible, config = self.masks.visible, self.model.config
        return (
            merge_groups(take(self.tubes, visible), visible, config)
            if merged_count(visible.shape[1], config.merged_share)
            else None
        )

    @property
    @_once
    def video_tokens(self) -> Tensor:
        """Embedded visible tubes [B, V, D], those that were merged as one: the same in every pass."""
        visible, groups = self.masks.visible, self.groups
        tokens = self.model.video_embedding(self.tubes, visible)
        if groups is None:
            return tokens
        return merge(
            tokens,
            groups,
            visible.shape[1] - merged_count(visible.shape[1], self.model.config.merged_share),
        )

    @property
    @_once
    def contrast_tokens(self) -> Tensor:
        """The tubes that VTC and VTM see, embedded: the visible ones [B, V, D], or all [B, N, D]
        with `contrastive_video=clean`.
        """
        return (
            self.video_tokens
            if self.model.config.contrastive_video == "masked"
            else self.model.video_embedding(self.tubes)
        )

    @property
    def contrast_groups(self) -> Tensor | None:
        """As `groups`, for `contrast_tokens`: where all tubes are seen none are merged."""
        return self.groups if self.model.config.contrastive_video == "masked" else None

    def text_tokens(self, clean: bool) -> Tensor:
        """Embedded caption [B, L, D], with its words masked or clean.

        One dropout draw serves all passes, unless `reuse_pair_pass` is off: then each pass draws
        its own, as released.
        """
        if clean not in self._text_tokens or not self.model.config.reuse_pair_pass:
            self._text_tokens[clean] = self.model.text_embedding(
                self.batch.input_ids if clean else self.masks.input_ids
            )
        return self._text_tokens[clean]

    @property
    @_once
    def _pair_output(self) -> tuple[Tensor, Tensor]:
        return self.model.encode_pair(
            self.video_tokens, self.text_tokens(clean=False), self.batch.attention_mask
        )

    @property
    @_once
    def pair(self) -> tuple[Tensor, Tensor]:
        """The pair pass of MVM and MLM, cut into its video part [B, V, D] and its text part [B, L,
        D].
        """
        (tokens, _), words_from = self._pair_output, self.video_tokens.shape[1]
        return _unmerged(tokens[:, :words_from], self.groups), tokens[:, words_from:]

    @property
    def _contrast_clean(self) -> bool:
        return self.model.config.contrastive_text == "clean"

    @property
    @_once
    def _video_output(self) -> Tensor:
        return self.model.encoder(self.contrast_tokens)

    @property
    @_once
    def _text_output(self) -> Tensor:
        return self.model.encoder(self.text_tokens(self._contrast_clean), self.batch.attention_mask)

    @property
    @_once
    def video_feature(self) -> Tensor:
        """Mean over the tubes of the video-only pass [B, D]."""
        return _unmerged(self._video_output, self.contrast_groups).mean(dim=1)

    @property
    @_once
    def text_feature(self) -> Tensor:
        """Pooled text-only pass [B, D]."""
        return pool(self._text_output, self.batch.attention_mask, self.model.config.pooling)

    def run_together(self) -> None:
        """Run the passes that are needed in one call of the encoder over all their tokens, as far
        as they do not need each other.

        The outputs are those of one call each, but for rounding. Where they would not be (random
        drop path; encoders that are not one; a single pass) nothing is done, and each pass runs
        when it is asked for.
        """
        model, wanted = self.model, self.model.objectives
        if type(model.encoder) is not Encoder or (model.config.drop_path > 0 and model.training):
            return
        inputs: dict[str, tuple[Tensor, Tensor | None]] = {}
        pair_matches = "vtm" in wanted and shares_pair_pass(model.config)
        if "mvm" in wanted or "mlm" in wanted or pair_matches:
            inputs["_pair_output"] = _joined(
                self.video_tokens, self.text_tokens(clean=False), self.batch.attention_mask
            )
        if "vtc" in wanted:
            inputs["_video_output"] = self.contrast_tokens, None
            inputs["_text_output"] = (
                self.text_tokens(self._contrast_clean),
                self.batch.attention_mask,
            )
        if "vtm" in wanted and not self._negatives_need_features:
            inputs["_match_output"] = _joined(*self._match_input)
        if len(inputs) < 2:
            return
        for (name, (_, keys)), tokens in zip(
            inputs.items(), model.encoder.together(list(inputs.values())), strict=True
        ):
            self.done[name] = (
                (tokens, keys) if name in ("_pair_output", "_match_output") else tokens
            )

    @property
    def _negatives_need_features(self) -> bool:
        return self.model.config.vtm_negatives == "hard" and self.masks.negative_index is None

    @property
    @_once
    def negative_index(self) -> Tensor:
        """The clip that is each text's negative, int64 [B]."""
        if len(self.batch) < 2:
            raise ConfigError(
                "losses.vtm needs another clip as negative, but this batch has one sample: raise the batch size or set losses.vtm=0."
            )
        scores = None
        if self._negatives_need_features:
            # Embedded before gradients are switched off: later passes share these tokens and need
            # their gradient.
            _ = self.contrast_tokens, self.text_tokens(self._contrast_clean)
            with torch.set_grad_enabled(torch.is_grad_enabled() and "vtc" in self.model.objectives):
                text, video = (
                    F.normalize(self.text_feature, dim=-1),
                    F.normalize(self.video_feature, dim=-1),
                )
            scores = (
                text.detach() @ video.detach().T
            ) / HARD_NEGATIVE_TEMPERATURE  # [texts, clips]
        return choose_negatives(scores, self.masks.negative_noise, self.masks.negative_index)

    @property
    @_once
    def match_features(self) -> Tensor:
        """Pooled pair passes [2B, D]: B positives, then B negatives (same text, another clip with
        that clip's own mask).
        """
        own = self.contrast_groups
        other = None if own is None else own.index_select(0, self.negative_index)
        if shares_pair_pass(self.model.config):
            return torch.cat(
                [self._pooled(*self._pair_output, own), self._pooled(*self._match_output, other)]
            )
        return self._pooled(
            *self._match_output, None if own is None or other is None else torch.cat([own, other])
        )

    def _pooled(self, tokens: Tensor, keys: Tensor, groups: Tensor | None) -> Tensor:
        """What VTM sees of encoded pairs, [B, S, D] and their keys bool [B, S] -> [B, D]; each tube
        counts, merged or not.
        """
        words_from = self.contrast_tokens.shape[1]
        if groups is not None:
            tokens = torch.cat(
                [_unmerged(tokens[:, :words_from], groups), tokens[:, words_from:]], dim=1
            )
            keys = torch.cat([keys.new_ones(groups.shape), keys[:, words_from:]], dim=1)
            words_from = groups.shape[1]
        return pool(tokens, keys, self.model.config.pooling, words_from)

    @property
    @_once
    def _match_output(self) -> tuple[Tensor, Tensor]:
        return self.model.encode_pair(*self._match_input)

    @property
    @_once
    def _match_input(self) -> tuple[Tensor, Tensor, Tensor]:
        """Video, text and keys of the pairs that only VTM needs: the negatives, and the positives
        where the pair pass is not they.
        """
        keys, own_video = self.batch.attention_mask, self.contrast_tokens
        other_video = own_video.index_select(0, self.negative_index)
        if shares_pair_pass(self.model.config):
            return other_video, self.text_tokens(clean=False), keys
        # The pair pass cannot serve as positives: something in it is masked and is not here, or a
        # second pass is asked for.
        text = self.text_tokens(self._contrast_clean)
        return torch.cat([own_video, other_video]), torch.cat([text, text]), torch.cat([keys, keys])
