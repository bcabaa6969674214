"""Losses of the downstream tasks.

Each is a mean over samples, so that its mean over ranks is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from simvtp.batch import Masks
from simvtp.training.objectives import Losses, Normalizers, Report


class Classification:
    """Cross-entropy of `logits` [B, K] and `targets`.

    Targets are numbers of the right ones, int64 [B], or weights of each (mixup), float [B, K]. The
    reported accuracy is that of the right one, of a mixture that of its larger part.
    """

    def loss_normalizers(self, masks: Sequence[Masks | None]) -> Normalizers:
        return {}

    def __call__(
        self, outputs: dict[str, Tensor], normalizers: Normalizers | None = None
    ) -> tuple[Losses, Report]:
        logits, targets = outputs["logits"].float(), outputs["targets"]
        loss = F.cross_entropy(logits, targets)
        numbers = targets if targets.dim() == 1 else targets.argmax(dim=-1)
        right = (logits.detach().argmax(dim=-1) == numbers).float().mean()
        return {"answer": loss}, {"loss/answer": loss.detach(), "acc/answer": right}


class Regression:
    """Mean squared error of `logits` [B, 1] and the numbers `targets` float [B]."""

    def loss_normalizers(self, masks: Sequence[Masks | None]) -> Normalizers:
        return {}

    def __call__(
        self, outputs: dict[str, Tensor], normalizers: Normalizers | None = None
    ) -> tuple[Losses, Report]:
        loss = F.mse_loss(outputs["logits"].float()[:, 0], outputs["targets"])
        return {"count": loss}, {"loss/count": loss.detach()}
