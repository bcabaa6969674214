"""Objectives: named outputs of a model -> (weighted losses to be summed, report).

An objective knows no model; a model knows no weights. The report holds detached 0-d tensors: the
losses without their weights (`loss/mvm`) and accuracies in [0, 1] (`acc/mlm`). The mean of each
over ranks and micro-batches is the value of the global batch; the exception are the negatives of
VTC and VTM, which are those of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from simvtp.batch import Masks
from simvtp.config.model_config import ModelConfig
from simvtp.config.train_config import ContrastiveLossConfig, LossConfig, MVMTarget
from simvtp.models.simvtp.video_targets import feature_target
from simvtp.training.chunked_losses import chunked_pixel_loss, chunked_word_loss
from simvtp.training.losses import (
    IGNORED,
    contrastive_logits,
    masked_pixel_loss,
    matching_accuracy,
    matching_loss,
    tokens_per_rank,
)

LOWEST_TEMPERATURE = 0.01  # a learned temperature does not fall below it

Normalizers = dict[str, Tensor]
Losses = dict[str, Tensor]
Report = dict[str, Tensor]


class Objective(Protocol):
    """Interface of the objectives to the training loop."""

    def loss_normalizers(self, masks: Sequence[Masks | None]) -> Normalizers:
        """Returns divisors of the step's losses, from the masks of all its micro-batches.

        All ranks take part.
        """
        ...

    def __call__(
        self, outputs: dict[str, Tensor], normalizers: Normalizers | None = None
    ) -> tuple[Losses, Report]:
        """Returns losses and report of one micro-batch.

        Without `normalizers` the micro-batch is the whole step.
        """
        ...


def learned_temperature(start: float, bias: Tensor) -> Tensor:
    """Returns start * exp(bias), [1], at least 0.01.

    Below that a few pairs would dominate (the limit of CLIP, arXiv 2103.00020).
    """
    return (start * bias.float().exp()).clamp(min=LOWEST_TEMPERATURE)


def _contrastive(
    outputs: dict[str, Tensor], temperature: float | Tensor, negatives: str
) -> tuple[Tensor, Tensor]:
    """Returns the loss, and the mean accuracy of the two directions among the candidates."""
    features = outputs["video_feature"], outputs["text_feature"]
    video_to_text, text_to_video, right = contrastive_logits(
        *features, temperature, gather=negatives == "global"
    )
    loss = F.cross_entropy(video_to_text, right) + F.cross_entropy(text_to_video, right)
    hits = [
        (logits.detach().argmax(dim=1) == right).float().mean()
        for logits in (video_to_text, text_to_video)
    ]
    return loss, (hits[0] + hits[1]) / 2


@dataclass(frozen=True)
class PretrainObjective:
    """MVM + MLM + VTC + VTM with the weights of `config`.

    A weight of 0 leaves its objective out at no cost.

    Attributes:
        config: weights and kinds of the losses.
        sizes: of the tubes; targets of MVM that are not pixels need them.
    """

    config: ContrastiveLossConfig
    sizes: ModelConfig | None = None

    def loss_normalizers(self, masks: Sequence[Masks | None]) -> Normalizers:
        labels = [part.word_labels for part in masks if part is not None]
        if "mlm" not in self.config.wanted or self._means_of_ranks:
            return {}
        return {"mlm": tokens_per_rank(labels)}

    @property
    def _means_of_ranks(self) -> bool:
        return isinstance(self.config, LossConfig) and self.config.mlm_mean == "ranks"

    def __call__(
        self, outputs: dict[str, Tensor], normalizers: Normalizers | None = None
    ) -> tuple[Losses, Report]:
        """Returns losses and report; the outputs are those of `SimVTP.forward`.

        Raises:
            KeyError: an output that a wanted objective needs is absent.
        """
        plain: Losses = {}
        report: Report = {}
        wanted = self.config.wanted
        if "mvm" in wanted:
            assert isinstance(self.config, LossConfig)
            plain["mvm"] = self._mvm(outputs, self.config.mvm_target)
        if "mlm" in wanted:
            logits, labels = outputs["word_logits"], outputs["word_labels"]
            if self._means_of_ranks:
                normalizer = (labels != IGNORED).sum().clamp(min=1).to(torch.float32)
            else:
                normalizer = (normalizers or single_batch(labels))["mlm"]
            plain["mlm"], right = chunked_word_loss(logits, labels, normalizer)
            report["acc/mlm"] = right / normalizer
        if "vtc" in wanted:
            temperature = self._temperature(outputs, report)
            plain["vtc"], report["acc/vtc"] = _contrastive(
                outputs, temperature, self.config.vtc_negatives
            )
        if "vtm" in wanted:
            pairs, wrong_texts = outputs["match_logits"], outputs.get("wrong_text_logits")
            plain["vtm"] = matching_loss(pairs, wrong_texts)
            report["acc/vtm"] = matching_accuracy(pairs, wrong_texts)
        plain = {name: plain[name] for name in wanted}
        report |= {f"loss/{name}": loss.detach() for name, loss in plain.items()}
        weights = self.config.weights
        return {name: loss * weights[name] for name, loss in plain.items()}, report

    def _mvm(self, outputs: dict[str, Tensor], target: MVMTarget) -> Tensor:
        prediction = outputs["video_prediction"]
        if target == "normalized" or target == "raw":
            return chunked_pixel_loss(prediction, outputs["video_pixels"], target == "normalized")
        if self.sizes is None:
            raise ValueError(f"losses.mvm_target={target} needs the sizes of the tubes")
        tubes, masked = outputs["video_tubes"], outputs["masked_tubes"]
        wanted = feature_target(target, tubes, masked, self.sizes)
        return masked_pixel_loss(prediction[..., : wanted.shape[-1]], wanted)

    def _temperature(self, outputs: dict[str, Tensor], report: Report) -> float | Tensor:
        """Returns the temperature, and adds it to the report if it is learned."""
        if "temperature_bias" not in outputs:
            return self.config.temperature
        temperature = learned_temperature(self.config.temperature, outputs["temperature_bias"])
        report["temperature"] = temperature.detach()[0]
        return temperature


def single_batch(labels: Tensor) -> Normalizers:
    """Returns the normalizers of a step that is one micro-batch."""
    return {"mlm": tokens_per_rank([labels])}


@dataclass(frozen=True)
class RetrievalObjective:
    """Fine-tuning for retrieval: the symmetric contrastive loss alone (method notes 1.8)."""

    temperature: float = 0.05
    negatives: Literal["global", "local"] = "global"

    def loss_normalizers(self, masks: Sequence[Masks | None]) -> Normalizers:
        return {}

    def __call__(
        self, outputs: dict[str, Tensor], normalizers: Normalizers | None = None
    ) -> tuple[Losses, Report]:
        loss, accuracy = _contrastive(outputs, self.temperature, self.negatives)
        return {"vtc": loss}, {"loss/vtc": loss.detach(), "acc/vtc": accuracy}
