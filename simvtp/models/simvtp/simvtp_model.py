r"""SimVTP: masked video-text pre-training with one encoder (arXiv 2212.03490; notes 1.1-1.6).

    clips   -> tubes  -> visible tubes   \                 / video part -> video decoder   MVM
                                          encoder(pair) --<  text part  -> text decoder    MLM
    caption -> pieces -> [MASK] at words /                 \ mean       -> match head      VTM
    tubes alone, caption alone -> encoder -> mean          -> two features                 VTC

Legend: see simvtp/batch.py. The model names its outputs and knows no loss: simvtp/training turns
outputs into losses. The encoder passes of a step are planned in `encoder_passes`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import SimVTPConfig
from simvtp.errors import ConfigError
from simvtp.models.common.decoder_masking import select_decoded_tubes
from simvtp.models.common.decoders import (
    Negatives,
    TextDecoder,
    VideoDecoder,
    choose_negatives,
)
from simvtp.models.common.embeddings import (
    TextEmbedding,
    TubeEmbedding,
    cut_tubes,
    require_vocabulary,
)
from simvtp.models.common.encoder import Encoder, TokenSequence, pair_sequence, pool
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.initial_weights import initialise
from simvtp.models.common.layers import gather_tokens
from simvtp.models.common.token_merging import unmerge
from simvtp.models.common.two_encoders import build_encoder, modality_encoder
from simvtp.models.simvtp.encoder_passes import EncoderPass, PassPlan, plan_passes
from simvtp.models.simvtp.pass_inputs import (
    CaptionEmbedder,
    PassInputs,
    VideoTokens,
    embed_video_inputs,
    embed_visible,
)

OBJECTIVES = ("mvm", "mlm", "vtc", "vtm")
# the published contrastive temperature, here only the sharpness of the draw of negatives
HARD_NEGATIVE_TEMPERATURE = 0.05

Encoded = dict[EncoderPass, TokenSequence]


class SimVTP(nn.Module):
    """The pre-training model. Modules that no wanted objective needs are not built.

    Args:
        config: sizes and wiring; `vocab_size` must be above 0.
        objectives: those of mvm, mlm, vtc and vtm that the forward pass serves.
    """

    def __init__(self, config: SimVTPConfig, objectives: tuple[str, ...] = OBJECTIVES) -> None:
        super().__init__()
        require_vocabulary(config)
        if not objectives or not set(objectives) <= set(OBJECTIVES):
            raise ConfigError(
                f"objectives {list(objectives)}: choose one or more from {', '.join(OBJECTIVES)}."
            )
        self.config = config
        self.objectives = tuple(name for name in OBJECTIVES if name in objectives)
        self.video_embedding = TubeEmbedding(config)
        self.text_embedding = TextEmbedding(config)
        self.encoder = build_encoder(config)
        if config.mlm_video == "none":  # no gradient reaches these
            self.video_embedding.requires_grad_(False)
            if config.encoders == "two":
                modality_encoder(self.encoder, "video").requires_grad_(False)
        if "mvm" in objectives:
            self.video_decoder = VideoDecoder(config)
        if "mlm" in objectives:
            self.text_decoder = TextDecoder(config)
        if "vtm" in objectives:
            self.match_head = nn.Linear(config.dim, 2)
        if "vtc" in objectives and config.learned_temperature:
            # logarithm of the temperature, relative to that at the start
            self.temperature_bias = nn.Parameter(torch.zeros(1))

    def initialise(self, seed: int) -> None:
        """Draws initial weights, each parameter by (seed, name): see `initial_weights`."""
        initialise(self, seed)

    # ---- one training step -----------------------------------------------------------------------

    def forward(
        self, batch: Batch, masks: Masks, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, Tensor]:
        """Returns the outputs of the wanted objectives.

        mvm: video_prediction [B, M, P] and video_pixels uint8 [B, M, P] (the objective normalises
            them); in training, of round(decoder_keep_ratio * M) masked tubes; their numbers
            masked_tubes int64 [B, M] and all tubes, video_tubes uint8 [B, N, P], for other targets
        mlm: word_logits [B, K, W], word_labels [B, K]
        vtc: video_feature [B, D], text_feature [B, D] (pooled, not normalised); temperature_bias
            [1] if it is learned
        vtm: match_logits [2B, 2] (positives first, class 1 = a true pair), negative_index [B];
            with vtm_directions=both also wrong_text_logits [B, 2], wrong_text_index [B]
        """
        plan = self._plan(masks, options)
        tubes = cut_tubes(batch.clips, self.config)  # uint8 [B, N, P]
        # without tubes the pair pass of MLM, which is then the only one, is the caption alone
        seen = masks.visible if self.config.mlm_video == "visible" else masks.visible[:, :0]
        pair_video, contrast_video = embed_video_inputs(
            self.video_embedding, tubes, seen, self.config, plan
        )
        captions = CaptionEmbedder(self.text_embedding, batch, masks, options)
        inputs = PassInputs(pair_video, contrast_video, captions, batch.attention_mask, self.config)

        encoded: Encoded = {}
        negatives: Negatives | None = None
        for group in plan.groups:
            if EncoderPass.MATCH in group.passes:
                negatives = self._negatives(encoded, inputs, masks, plan)
            sequences = [inputs.sequence(name, plan, negatives) for name in group.passes]
            with torch.set_grad_enabled(torch.is_grad_enabled() and group.needs_grad):
                results = self.encoder.forward_many(sequences, options)
            for name, sequence, tokens in zip(group.passes, sequences, results, strict=True):
                encoded[name] = sequence._replace(tokens=tokens)

        outputs: dict[str, Tensor] = {}
        if "mvm" in self.objectives:
            pair, groups = encoded[EncoderPass.PAIR], inputs.pair_video.groups
            video = VideoTokens(pair.tokens[:, : pair.text_start], groups)
            outputs |= self._predict_pixels(video, tubes, masks, options)
        if "mlm" in self.objectives:
            pair = encoded[EncoderPass.PAIR]
            text = pair.tokens[:, pair.text_start :]
            outputs |= self._predict_words(text, batch, masks, options)
        if "vtc" in self.objectives:
            outputs["video_feature"], outputs["text_feature"] = self._features(encoded, inputs)
            if self.config.learned_temperature:
                outputs["temperature_bias"] = self.temperature_bias
        if "vtm" in self.objectives and negatives is not None:
            outputs |= self._match(encoded, inputs, negatives, plan)
        return outputs

    def _plan(self, masks: Masks, options: ForwardOptions) -> PassPlan:
        # with drop path, other calls would draw other numbers
        both = self.config.vtm_directions == "both"
        given = masks.negative_index is not None
        mergeable = isinstance(self.encoder, Encoder) and not self.encoder.draws_drop_path
        return plan_passes(
            self.config,
            self.objectives,
            merge=options.merge_passes and mergeable,
            negatives_given=given and not (both and masks.text_negative_index is None),
        )

    def _predict_pixels(
        self, video: VideoTokens, tubes: Tensor, masks: Masks, options: ForwardOptions
    ) -> dict[str, Tensor]:
        """Returns the outputs of MVM from the encoded video part of the pair pass."""
        masked = masks.masked
        if self.training and self.config.decoder_keep_ratio < 1:
            given = masks.decoded
            masked = select_decoded_tubes(masked, self.config) if given is None else given
        tokens = unmerge(video.tokens, video.groups)
        return {
            "video_prediction": self.video_decoder(tokens, masks.visible, masked, options),
            "video_pixels": gather_tokens(tubes, masked),
            "video_tubes": tubes,
            "masked_tubes": masked,
        }

    def _predict_words(
        self, text: Tensor, batch: Batch, masks: Masks, options: ForwardOptions
    ) -> dict[str, Tensor]:
        """Returns the outputs of MLM from the encoded text part [B, L, D] of the pair pass."""
        logits = self.text_decoder(text, batch.attention_mask, masks.word_positions, options)
        return {"word_logits": logits, "word_labels": masks.word_labels}

    def _features(self, encoded: Encoded, inputs: PassInputs) -> tuple[Tensor, Tensor]:
        """Returns the video feature and the text feature, [B, D] each, not normalised."""
        video = unmerge(encoded[EncoderPass.VIDEO].tokens, inputs.contrast_video.groups)
        text = encoded[EncoderPass.TEXT].tokens
        return video.mean(dim=1), pool(text, inputs.attention_mask, self.config.pooling)

    def _negatives(
        self, encoded: Encoded, inputs: PassInputs, masks: Masks, plan: PassPlan
    ) -> Negatives:
        """Returns the clip that is each text's negative, and the text that is each clip's."""
        if inputs.attention_mask.shape[0] < 2:
            raise ConfigError(
                "losses.vtm needs another clip as negative, but this batch has one sample: "
                "raise the batch size or set losses.vtm=0."
            )
        scores, transposed = None, None
        if plan.scores_negatives:
            with torch.no_grad():
                features = self._features(encoded, inputs)
                video, text = (F.normalize(feature, dim=-1) for feature in features)
                scores = (text @ video.T) / HARD_NEGATIVE_TEMPERATURE  # [texts, clips]
                transposed = scores.T
        clips = choose_negatives(scores, masks.negative_noise, masks.negative_index)
        if self.config.vtm_directions == "text":
            return Negatives(clips)
        noise, given = masks.text_negative_noise, masks.text_negative_index
        if noise is None:
            raise ValueError("vtm_directions=both, but these masks have no text_negative_noise")
        return Negatives(clips, choose_negatives(transposed, noise, given))

    def _match(
        self, encoded: Encoded, inputs: PassInputs, negatives: Negatives, plan: PassPlan
    ) -> dict[str, Tensor]:
        """Returns the outputs of VTM.

        A negative is the same text with another clip under that clip's own mask, or the same clip
        with another text.
        """
        own, match = inputs.contrast_video.groups, encoded[EncoderPass.MATCH]
        groups = None
        if own is not None:
            other = own.index_select(0, negatives.clips)
            parts = [] if plan.pair_gives_positives else [own]
            groups = torch.cat([*parts, other, *([] if negatives.texts is None else [own])])
        features = self._pool_pairs(match, groups)
        if plan.pair_gives_positives:
            positives = self._pool_pairs(encoded[EncoderPass.PAIR], own)
            features = torch.cat([positives, features])
        logits, count = self.match_head(features), 2 * negatives.clips.shape[0]
        outputs = {"negative_index": negatives.clips, "match_logits": logits[:count]}
        if negatives.texts is not None:
            outputs["wrong_text_index"] = negatives.texts
            outputs["wrong_text_logits"] = logits[count:]
        return outputs

    def _pool_pairs(self, pairs: TokenSequence, groups: Tensor | None) -> Tensor:
        """Returns encoded pairs pooled [B, D]; each tube counts, merged or not."""
        tokens, mask, text_start = pairs
        assert mask is not None and text_start is not None
        if groups is not None:
            video = unmerge(tokens[:, :text_start], groups)
            tokens = torch.cat([video, tokens[:, text_start:]], dim=1)
            mask = torch.cat([mask.new_ones(groups.shape), mask[:, text_start:]], dim=1)
            text_start = groups.shape[1]
        return pool(tokens, mask, self.config.pooling, text_start)

    def reconstruct(
        self,
        batch: Batch,
        masks: Masks,
        wanted: tuple[str, ...] = ("mvm", "mlm"),
        *,
        video: bool = True,
        text: bool = True,
    ) -> dict[str, Tensor]:
        """Returns the outputs of MVM and MLM as `forward` names them, of one encoder pass.

        Args:
            wanted: objectives whose outputs are returned; those without a head give none.
            video: False: the encoder sees the masked caption alone, which gives no pixels; always
                so with `mlm_video=none`.
            text: False: the encoder sees the visible tubes alone, which gives no words.
        """
        outputs: dict[str, Tensor] = {}
        video = video and self.config.mlm_video == "visible"
        tubes = cut_tubes(batch.clips, self.config)
        sequence = TokenSequence(tubes.new_zeros(0))
        groups, count = None, 0
        if video:
            seen = embed_visible(self.video_embedding, tubes, masks.visible, self.config)
            sequence, groups, count = TokenSequence(seen.tokens), seen.groups, seen.tokens.shape[1]
        if text:
            words, mask = self.text_embedding(masks.input_ids), batch.attention_mask
            sequence = (
                pair_sequence(sequence.tokens, words, mask) if video else TokenSequence(words, mask)
            )
        tokens = self.encoder(*sequence)
        if video and "mvm" in wanted and "mvm" in self.objectives:
            encoded = VideoTokens(tokens[:, :count], groups)
            outputs |= self._predict_pixels(encoded, tubes, masks, DEFAULT_OPTIONS)
        if text and "mlm" in wanted and "mlm" in self.objectives:
            outputs |= self._predict_words(tokens[:, count:], batch, masks, DEFAULT_OPTIONS)
        return outputs

    # ---- clips and captions, nothing masked ------------------------------------------------------

    def embed_video(self, clips: Tensor) -> Tensor:
        """Returns features [B, D], not normalised, of uint8 clips [B, T, H, W, 3]."""
        return self.encoder(self.video_embedding(cut_tubes(clips, self.config))).mean(dim=1)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns features [B, D], not normalised, of word pieces [B, L] and their mask [B, L]."""
        tokens = self.encoder(self.text_embedding(input_ids), attention_mask)
        return pool(tokens, attention_mask, self.config.pooling)

    def encode_pair(self, video: Tensor, text: Tensor, attention_mask: Tensor) -> TokenSequence:
        """Returns [video ; text] encoded, of tokens [B, V, D] and [B, L, D].

        `attention_mask` is bool [B, L], False at the text's padding.
        """
        pair = pair_sequence(video, text, attention_mask)
        return pair._replace(tokens=self.encoder(*pair))

    def match(self, clips: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the log-odds [B] of the VTM head that each clip and its caption are a pair.

        Log-odds order pairs as the probability does, without ties at 0 and 1. Shapes as for
        `embed_video` and `embed_text`.

        Raises:
            ConfigError: the model has no VTM head.
        """
        if "vtm" not in self.objectives:
            raise ConfigError(
                "this model was trained without the matching objective (losses.vtm=0): "
                "it cannot score pairs."
            )
        video = self.video_embedding(cut_tubes(clips, self.config))
        pair = self.encode_pair(video, self.text_embedding(input_ids), attention_mask)
        logits = self.match_head(self._pool_pairs(pair, None))
        return logits[:, 1] - logits[:, 0]
