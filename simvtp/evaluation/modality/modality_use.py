"""Manipulation checks: what a pre-trained model uses of the modality that it does not predict.

A model is scored on the same clips three times: with its own partner (the clip of a caption, the
caption of a clip), with the partner of another sample, and with none. Only a model that uses the
partner is better with its own. Masks are fixed: they depend neither on the masks of the training
nor on the batch size, so that figures of models trained in different ways can be compared.

All figures are columns with a value for each clip; `use_results` makes figures of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MaskConfig, ModelConfig
from simvtp.config.train_config import MVMTarget
from simvtp.data.text.tokenizer import TokenBatch
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.modality.hidden_tubes import (
    Columns,
    HiddenFeatures,
    HiddenPixels,
    constant_feature,
)
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.common.layers import gather_tokens
from simvtp.models.common.masking import draw_masks
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.models.simvtp.video_targets import feature_target

MASK_SEED = 20_231_117  # of the evaluation masks, whatever the seed of the run
WORD_PARTS = ("mlm", "content")  # all masked words, and the content words among them


@dataclass(frozen=True)
class UseMask:
    """Mask ratios under which the use of the other modality is measured."""

    text_ratio: float
    video_ratio: float

    @property
    def name(self) -> str:
        """`text0.75_video0.5`."""
        return f"text{self.text_ratio:g}_video{self.video_ratio:g}"


USE_MASKS = tuple(UseMask(text, video) for text in (0.15, 0.75) for video in (0.5, 0.9))


@dataclass(frozen=True)
class UseSamples:
    """Clips with a caption each, all in memory.

    Attributes:
        ids: names of the n clips.
        clips: uint8 [n, T, H, W, 3].
        captions: of the clips, in one batch.
        content: bool [W], the pieces that are content words (see `content_pieces`).
        motion: captions in which a motion is replaced by another one; None if the data set has no
            such captions.
        has_motion: bool [n], the clips for which `motion` differs from the caption.
    """

    ids: tuple[str, ...]
    clips: Tensor
    captions: TokenBatch
    content: Tensor
    motion: TokenBatch | None = None
    has_motion: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def others(self) -> Tensor:
        """Number of another sample for each: int64 [n], half of the set further on.

        A derangement for n of 2 or more. Neighbours may show parts of one film, so it is not the
        next sample.
        """
        return (torch.arange(len(self)) + len(self) // 2) % len(self)

    def batch(self, clips: Tensor, captions: Tensor) -> Batch:
        """Returns a batch of the clips and the captions with these numbers, int64 [b] each."""
        tokens = self.captions
        return Batch(
            self.clips[clips],
            tokens.input_ids[captions],
            tokens.attention_mask[captions],
            tokens.word_ids[captions],
            tuple(self.ids[number] for number in clips.tolist()),
        )


def measure_use(
    model: nn.Module,
    samples: UseSamples,
    mask: UseMask,
    *,
    mask_id: int,
    target: MVMTarget,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Columns:
    """Returns what the model predicts better with its own partner, for each clip.

    `mlm_loss_own`, `_other`, `_none` (nat a word, with the clip of another sample, with none),
    `mlm_acc_*` (per cent), both also as `content_*`, with the counts `words` and `content_words`;
    `mvm_loss_own`, `_other`, `_none`, `mvm_loss_flat` and `psnr_model`, `psnr_flat` (dB over the
    masked pixels; for normalised targets with the true statistics of the tubes); for raw targets
    also `mvm_loss_mean_colour` and `psnr_mean_colour`, of the visible tubes; for targets that are
    no pixels `mvm_loss_constant`, and no PSNR. A model without a word head or a decoder has none of
    its columns, and one with neither has none at all.

    Args:
        mask: its ratios; tubes and single pieces are masked, by the exact rule.
        mask_id: id of [MASK].
        target: what MVM was trained on.
        batch_size: clips of a pass; the figures do not depend on it.
    """
    if not isinstance(model, SimVTP) or not {"mvm", "mlm"} & set(model.objectives):
        return {}
    everything = torch.arange(len(samples))
    config: ModelConfig = model.config
    ratios = MaskConfig(video_ratio=mask.video_ratio, text_ratio=mask.text_ratio)
    with evaluating(model):
        masks = draw_masks(
            samples.batch(everything, everything),
            config,
            ratios,
            mask_id=mask_id,
            seed=MASK_SEED,
            step=0,
            first_sample=0,
        )
        constant = None
        if "mvm" in model.objectives and (target == "hog" or target == "difference"):
            constant = constant_feature(samples.clips, target, config, batch_size).to(device)
        parts = [
            _Pass(model, samples, masks, numbers, device).columns(target, constant)
            for numbers in everything.split(batch_size)
        ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class _Pass:
    """The passes of some samples under the masks of one draw."""

    def __init__(
        self,
        model: SimVTP,
        samples: UseSamples,
        masks: Masks,
        numbers: Tensor,
        device: torch.device | str,
    ) -> None:
        self._model, self._samples, self._masks = model, samples, masks
        self._numbers, self._device = numbers, device
        self._content = samples.content.to(device)

    def columns(self, target: MVMTarget, constant: Tensor | None) -> Columns:
        """Returns the columns of these samples; `constant` as of `HiddenFeatures`."""
        own, other = self._numbers, self._samples.others[self._numbers]
        outputs = self._outputs(own, own)
        found: Columns = {}
        if "word_logits" in outputs:
            words = {
                "own": outputs,
                "other": self._outputs(other, own, ("mlm",)),
                "none": self._outputs(own, own, ("mlm",), video=False),
            }
            for name, each in words.items():
                found |= self._words(name, each)
        if "video_prediction" in outputs:
            hidden = self._hidden(outputs, target, constant)
            found |= hidden.columns(outputs["video_prediction"])
            pixels = {
                "other": self._outputs(own, other, ("mvm",)),
                "none": self._outputs(own, own, ("mvm",), text=False),
            }
            for name, each in pixels.items():
                found[f"mvm_loss_{name}"] = hidden.error(each["video_prediction"])
        return {name: column.double().cpu() for name, column in found.items()}

    def _hidden(
        self, outputs: dict[str, Tensor], target: MVMTarget, constant: Tensor | None
    ) -> HiddenPixels | HiddenFeatures:
        if target == "normalized" or target == "raw":
            colour = self._mean_colour() if target == "raw" else None
            return HiddenPixels(outputs["video_pixels"], colour)
        assert constant is not None
        tubes, masked = outputs["video_tubes"], outputs["masked_tubes"]
        wanted = feature_target(target, tubes, masked, self._model.config)
        return HiddenFeatures(wanted, constant)

    def _outputs(
        self,
        clips: Tensor,
        captions: Tensor,
        wanted: tuple[str, ...] = ("mvm", "mlm"),
        *,
        video: bool = True,
        text: bool = True,
    ) -> dict[str, Tensor]:
        """Returns the outputs for these clips under the masks of the samples' own tubes.

        Captions bring their own masks.
        """
        drawn, places = self._masks, self._numbers
        masks = Masks(
            visible=drawn.visible[places].to(self._device),
            masked=drawn.masked[places].to(self._device),
            input_ids=drawn.input_ids[captions].to(self._device),
            word_positions=drawn.word_positions[captions].to(self._device),
            word_labels=drawn.word_labels[captions].to(self._device),
            negative_noise=drawn.negative_noise[places].to(self._device),
        )
        batch = self._samples.batch(clips, captions).to(self._device)
        return self._model.reconstruct(batch, masks, wanted, video=video, text=text)

    def _mean_colour(self) -> Tensor:
        """Returns the mean colour of the visible tubes of each sample, [b, 3] in [0, 1]."""
        batch = self._samples.batch(self._numbers, self._numbers)
        tubes = cut_tubes(batch.clips, self._model.config)
        seen = gather_tokens(tubes, self._masks.visible[self._numbers]).float() / 255
        return seen.unflatten(-1, (-1, 3)).mean(dim=(1, 2)).to(self._device)

    def _words(self, name: str, outputs: dict[str, Tensor]) -> Columns:
        """Returns loss and hits (per cent) of each caption, means over its masked words."""
        logits, labels = outputs["word_logits"].float(), outputs["word_labels"]
        used = labels >= 0
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # 0 if unused
        hits = 100.0 * (logits.argmax(dim=-1) == labels)
        content = used & self._content[labels.clamp(min=0)]
        found: Columns = {"words": used.sum(dim=1), "content_words": content.sum(dim=1)}
        for part, scored in zip(WORD_PARTS, (used, content), strict=True):
            count = scored.sum(dim=1).clamp(min=1)  # without such words the means are 0
            for metric, values in (("loss", losses), ("acc", hits)):
                total = (values * scored).sum(dim=1, dtype=torch.float64)
                found[f"{part}_{metric}_{name}"] = total / count
        return found


# ---- pairs, nothing masked -----------------------------------------------------------------------


def measure_pairs(
    model: nn.Module,
    samples: UseSamples,
    objectives: tuple[str, ...],
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Columns:
    """Returns how well true pairs are distinguished from false ones, nothing masked.

    `vtm_acc_other` and `vtm_acc_motion`: per cent of right answers of the matching head about the
    true caption and a false one (of another clip; the true one with another motion).
    `vtc_acc_other`, `vtc_acc_motion`: per cent of clips whose feature is nearer to the true
    caption than to the false one; ties count half. Chance is 50 of all. `motion_captions` is 1
    for the clips that have a caption with another motion, whose other `_motion` values are 0.

    Args:
        objectives: that the model was trained for.
    """
    found: Columns = {}
    kinds = ("other",) if samples.motion is None else ("other", "motion")
    with evaluating(model):
        if "vtm" in objectives and isinstance(model, SimVTP):
            own = _match(model, samples, None, batch_size, device)
            for name in kinds:
                false = _match(model, samples, name, batch_size, device)
                found[f"vtm_acc_{name}"] = 50.0 * ((own > 0).double() + (false <= 0).double())
        if "vtc" in objectives:
            nearness = _cosines(model, samples, (None, *kinds), batch_size, device)
            for name in kinds:
                own, false = nearness[None], nearness[name]
                found[f"vtc_acc_{name}"] = 50.0 * ((own > false).double() + (own >= false).double())
    if samples.has_motion is not None and found:
        there = samples.has_motion.double()
        found = {
            name: column * there if name.endswith("motion") else column
            for name, column in found.items()
        }
        found["motion_captions"] = there
    return found


def _with_captions(samples: UseSamples, kind: str | None) -> tuple[UseSamples, Tensor]:
    """Returns samples that hold the captions of a kind, and which of them goes with each clip.

    None: its own; `other`: that of another clip; `motion`: its own with another motion.
    """
    order = torch.arange(len(samples))
    if kind == "motion":
        assert samples.motion is not None
        return replace(samples, captions=samples.motion), order
    return samples, samples.others if kind == "other" else order


def _match(
    model: SimVTP,
    samples: UseSamples,
    kind: str | None,
    batch_size: int,
    device: torch.device | str,
) -> Tensor:
    """Returns the log-odds of the matching head for each clip with a caption, float64 [n]."""
    changed, places = _with_captions(samples, kind)
    scores = []
    for numbers in torch.arange(len(samples)).split(batch_size):
        batch = changed.batch(numbers, places[numbers]).to(device)
        found = model.match(batch.clips, batch.input_ids, batch.attention_mask)
        scores.append(found.double().cpu())
    return torch.cat(scores)


def _cosines(
    model: nn.Module,
    samples: UseSamples,
    kinds: tuple[str | None, ...],
    batch_size: int,
    device: torch.device | str,
) -> dict[str | None, Tensor]:
    """Returns the cosine of each clip and its caption, float64 [n], for each kind of caption."""
    found: dict[str | None, list[Tensor]] = {kind: [] for kind in kinds}
    for numbers in torch.arange(len(samples)).split(batch_size):
        video = model.embed_video(samples.clips[numbers].to(device))  # type: ignore[operator]
        for kind in kinds:
            changed, places = _with_captions(samples, kind)
            tokens, rows = changed.captions, places[numbers]
            ids, mask = tokens.input_ids[rows].to(device), tokens.attention_mask[rows].to(device)
            text = model.embed_text(ids, mask)  # type: ignore[operator]
            found[kind].append(F.cosine_similarity(video.double(), text.double()).cpu())
    return {kind: torch.cat(parts) for kind, parts in found.items()}
