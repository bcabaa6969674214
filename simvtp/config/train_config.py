"""Settings of training stages and of the losses of pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simvtp.config.tree import added, setting

FeatureTarget = Literal["hog", "difference"]
MVMTarget = Literal["normalized", "raw", "hog", "difference"]
HOG_BINS = 9  # orientations of a histogram
Negatives = Literal["global", "local"]
Schedule = Literal["cosine", "wsd"]
NEGATIVES = "clips that VTC contrasts with: of all ranks, or (released) of the own rank"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training stage. The learning rate is base_lr * batch_size / 256."""

    epochs: float = setting(200.0, "passes over the training split")
    max_steps: int = setting(0, "above 0: exactly this many steps, whatever the epochs")
    batch_size: int = setting(1024, "samples of a step, over all ranks and accumulation steps")
    base_lr: float = setting(1.5e-4, "peak of the learning rate for a batch of 256")
    base_min_lr: float = setting(1e-5, "end of the cosine for a batch of 256")
    warmup_ratio: float = setting(0.2, "of all steps, in which the rate rises linearly from 0")
    weight_decay: float = setting(0.05, "of AdamW")
    beta1: float = setting(0.9, "of AdamW")
    beta2: float = setting(0.95, "of AdamW")
    eps: float = setting(1e-8, "of AdamW")
    clip_norm: float = setting(0.0, "largest norm of the gradient; 0 = off")
    layer_decay: float = setting(1.0, "rate of a layer over that of the next one; 1 = off")
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", "of autocast")
    ema_decay: float = setting(0.0, "of the moving average of the weights; 0 = off")
    schedule: Schedule = added(
        "cosine",
        "of the rate after the warm-up: half a cosine, or wsd = constant, then a straight line to "
        "its end over decay_ratio",
    )
    decay_ratio: float = added(0.2, "wsd: of all steps, the last ones, in which the rate falls")

    @property
    def lr(self) -> float:
        return self.base_lr * self.batch_size / 256

    @property
    def min_lr(self) -> float:
        return self.base_min_lr * self.batch_size / 256


@dataclass(frozen=True, kw_only=True)
class ContrastiveLossConfig:
    """Settings of pre-training with the contrastive loss (VTC) alone, as MAC has it."""

    vtc: float = setting(1.0, "weight of the video-text contrastive loss; 0 = off, at no cost")
    temperature: float = setting(0.05, "of the contrastive loss")
    vtc_negatives: Negatives = setting("global", NEGATIVES)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the objectives with a weight above zero."""
        return ("vtc",) if self.vtc > 0 else ()

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each objective, also of those that are off."""
        return {"vtc": self.vtc}


@dataclass(frozen=True, kw_only=True)
class LossConfig(ContrastiveLossConfig):
    """Settings of SimVTP's four objectives (method notes 1.5)."""

    mvm: float = setting(1.0, "weight of masked video modelling; 0 = off, at no cost")
    mlm: float = setting(1.0, "weight of masked language modelling; 0 = off, at no cost")
    vtm: float = setting(1.0, "weight of video-text matching; 0 = off, at no cost")
    mlm_mean: Literal["words", "ranks"] = added(
        "words",
        "MLM is a mean over all masked words of a step; ranks = released: over those of each "
        "micro-batch, then over these means",
    )
    mvm_target: MVMTarget = setting(
        "normalized",
        "of a masked tube, that MVM predicts: its pixels, normalised (released) or raw; hog = "
        "gradients of its first frame (MaskFeat); difference = of its frames",
    )

    @property
    def wanted(self) -> tuple[str, ...]:
        return tuple(name for name, weight in self.weights.items() if weight > 0)

    @property
    def weights(self) -> dict[str, float]:
        return {"mvm": self.mvm, "mlm": self.mlm, "vtc": self.vtc, "vtm": self.vtm}
