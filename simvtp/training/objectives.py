"""Named outputs of a model -> (weighted losses to be summed, report). An objective knows no model;
a model knows no weights.

The report holds detached 0-d tensors: the losses without their weights (`loss/mvm`) and accuracies
as shares of 1 (`acc/mlm`). Each is such that its mean over ranks and micro-batches is the figure of
the whole batch; the exception are the negatives of VTC and VTM, which are those of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from simvtp.batch import Masks
from simvtp.config.train_config import ContrastiveLossConfig, LossConfig
from simvtp.training.chunked_losses import pixel_loss_in_pieces, word_loss_in_pieces
from simvtp.training.losses import (
    contrastive_logits,
    matching_labels,
    matching_loss,
    word_share,
)

COLDEST = 0.01  # a learned temperature does not fall below it

Shares = dict[str, Tensor]
Losses = dict[str, Tensor]
Report = dict[str, Tensor]


class Objective(Protocol):
    """What the loop needs of an objective."""

    def shares(self, masks: Sequence[Masks | None]) -> Shares:
        """Divisors that belong to the whole step, from the masks of all its micro-batches (all
        ranks take part).
        """
        ...

    def __call__(
        self, outputs: dict[str, Tensor], shares: Shares | None = None
    ) -> tuple[Losses, Report]:
        """Losses and report of one micro-batch; without `shares` it is taken as the whole step."""
        ...


def learned_temperature(start: float, bias: Tensor) -> Tensor:
    """start * exp(bias), [1], not below 0.01: colder than that, a few pairs would decide everything
    (the limit of CLIP, arXiv 2103.00020).
    """
    return (start * bias.float().exp()).clamp(min=COLDEST)


def _contrastive(
    outputs: dict[str, Tensor], temperature: float | Tensor, negatives: str
) -> tuple[Tensor, Tensor]:
    """(loss, mean accuracy of the two directions among the candidates at hand)."""
    rows = contrastive_logits(
        outputs["video_feature"], outputs["text_feature"], temperature, gather=negatives == "global"
    )
    video_to_text, text_to_video, right = rows
    loss = F.cross_entropy(video_to_text, right) + F.cross_entropy(text_to_video, right)
    hits = [
        (logits.detach().argmax(dim=1) == right).float().mean()
        for logits in (video_to_text, text_to_video)
    ]
    return loss, (hits[0] + hits[1]) / 2


@dataclass(frozen=True)
class PretrainObjective:
    """MVM + MLM + VTC + VTM with the weights of `config`; a weight of 0 leaves its objective out at
    no cost.
    """

    config: ContrastiveLossConfig

    def shares(self, masks: Sequence[Masks | None]) -> Shares:
        labels = [part.word_labels for part in masks if part is not None]
        return {"mlm": word_share(labels)} if "mlm" in self.config.wanted else {}

    def __call__(
        self, outputs: dict[str, Tensor], shares: Shares | None = None
    ) -> tuple[Losses, Report]:
        """Outputs as `models/simvtp.py` names them; KeyError if one that a wanted objective needs
        is absent.
        """
        plain: Losses = {}
        report: Report = {}
        for name in self.config.wanted:
            if name == "mvm":
                assert isinstance(self.config, LossConfig)
                normalised = self.config.mvm_target == "normalized"
                plain["mvm"] = pixel_loss_in_pieces(
                    outputs["video_prediction"], outputs["video_pixels"], normalised
                )
            elif name == "mlm":
                logits, labels = outputs["word_logits"], outputs["word_labels"]
                share = (shares or whole_step(labels))["mlm"]
                plain["mlm"], right = word_loss_in_pieces(logits, labels, share)
                report["acc/mlm"] = right / share
            elif name == "vtc":
                temperature: float | Tensor = self.config.temperature
                if "temperature_bias" in outputs:
                    temperature = learned_temperature(
                        self.config.temperature, outputs["temperature_bias"]
                    )
                    report["temperature"] = temperature.detach()[0]
                plain["vtc"], report["acc/vtc"] = _contrastive(
                    outputs, temperature, self.config.vtc_negatives
                )
            elif name == "vtm":
                logits = outputs["match_logits"]
                plain["vtm"] = matching_loss(logits)
                report["acc/vtm"] = (
                    (logits.detach().argmax(dim=-1) == matching_labels(logits)).float().mean()
                )
        report |= {f"loss/{name}": loss.detach() for name, loss in plain.items()}
        weights = self.config.weights
        return {name: loss * weights[name] for name, loss in plain.items()}, report


def whole_step(labels: Tensor) -> Shares:
    """The shares of a step that is one micro-batch."""
    return {"mlm": word_share([labels])}


@dataclass(frozen=True)
class RetrievalObjective:
    """Fine-tuning for retrieval: the symmetric contrastive loss alone (method notes 1.8)."""

    temperature: float = 0.05
    negatives: Literal["global", "local"] = "global"

    def shares(self, masks: Sequence[Masks | None]) -> Shares:
        return {}

    def __call__(
        self, outputs: dict[str, Tensor], shares: Shares | None = None
    ) -> tuple[Losses, Report]:
        loss, accuracy = _contrastive(outputs, self.temperature, self.negatives)
        return {"vtc": loss}, {"loss/vtc": loss.detach(), "acc/vtc": accuracy}
