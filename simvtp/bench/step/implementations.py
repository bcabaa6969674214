"""Implementations that are compared; each computes its loss from the same weights, batch and masks.

transformers: `VideoMAEForPreTraining`, MVM alone. released: the plain transcription of the released
step, four losses. ours: the model of this project, four losses or MVM alone (then without a
caption, as in VideoMAE).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.bench.step.released_transcription import ReleasedSimVTP
from simvtp.bench.step.sizes import Inputs
from simvtp.bench.step.transformers_baseline import build_transformers_baseline
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.train_config import LossConfig, TrainConfig
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.layers import gather_tokens
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from simvtp.models.weights.pretrained import import_state
from simvtp.training.objectives import PretrainObjective
from simvtp.training.optim import build_optimizer
from simvtp.training.parallel.parallel_model import compile_blocks

# Largest relative difference of two candidates' losses in fp32, checked before any timing;
# transformers' decoder norm has another eps, 1e-5.
AGREE = 1e-4


class VideoAlone(nn.Module):
    """SimVTP with MVM alone, without a caption."""

    def __init__(self, model: SimVTP) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: Batch, masks: Masks, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, Tensor]:
        """Returns video_prediction and video_pixels, named as by `SimVTP.forward`."""
        model = self.model
        tubes = cut_tubes(batch.clips, model.config)
        seen = model.encoder(model.video_embedding(tubes, masks.visible), options=options)
        return {
            "video_prediction": model.video_decoder(seen, masks.visible, masks.masked),
            "video_pixels": gather_tokens(tubes, masks.masked),
        }


@dataclass
class Candidate:
    """A model that trains on `Inputs`.

    Attributes:
        name: The implementation.
        model: The network.
        loss_of: Function of (model, inputs, options), so that a copy of the model can be measured
            too.
        options: Those of our forward pass; the others have none.
    """

    name: str
    model: nn.Module
    loss_of: Callable[[nn.Module, Inputs, ForwardOptions], Tensor]
    options: ForwardOptions = DEFAULT_OPTIONS

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Returns the loss of `model`, which is this one's or a copy of it."""
        return self.loss_of(model, inputs, self.options)

    def step(
        self, inputs: Inputs, optimizer: torch.optim.Optimizer, half: torch.dtype | None
    ) -> None:
        """Runs one update; nothing waits for the device."""
        device = inputs.pixels.device.type
        with torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None):
            loss = self.loss(self.model, inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def optimizer(self, device: torch.device) -> torch.optim.Optimizer:
        """Returns the fused AdamW that all candidates use: models are compared, not optimizers."""
        return build_optimizer(self.model, TrainConfig(), device)

    def compiled(self) -> Candidate:
        """Returns a copy with torch.compile: ours by block, as in training, the others whole."""
        model = copy.deepcopy(self.model)
        if self.name == OURS:
            compile_blocks(model)
        else:
            model.compile()
        # as in training, padding stays: compiled blocks need one shape
        return Candidate(self.name, model, self.loss_of)


TRANSFORMERS, RELEASED, OURS = "transformers", "released", "ours"


def _our_loss(
    objectives: tuple[str, ...],
) -> Callable[[nn.Module, Inputs, ForwardOptions], Tensor]:
    off = dict.fromkeys(set(OBJECTIVES) - set(objectives), 0.0)
    objective = PretrainObjective(LossConfig(**off))  # type: ignore[arg-type]

    def loss(model: nn.Module, inputs: Inputs, options: ForwardOptions) -> Tensor:
        losses, _ = objective(model(inputs.batch, inputs.masks, options))
        return torch.stack(list(losses.values())).sum()

    return loss


def _released_loss(model: nn.Module, inputs: Inputs, options: ForwardOptions) -> Tensor:
    return torch.stack(list(model(inputs).values())).sum()


def _transformers_loss(model: nn.Module, inputs: Inputs, options: ForwardOptions) -> Tensor:
    return cast(Tensor, model(inputs.pixels, bool_masked_pos=inputs.hidden).loss)


def build_all(
    config: SimVTPConfig, what: str, device: torch.device, seed: int = 0
) -> list[Candidate]:
    """Returns the candidates for `what` with the same weights, ours last.

    Args:
        config: Sizes of the model.
        what: "mvm" (transformers and ours) or "all" losses (released and ours).
        device: The device of all models.
        seed: Seed of the weights.
    """
    if what == "mvm":
        torch.manual_seed(seed)
        baseline = build_transformers_baseline(config)
        alone = cast(SimVTP, build_model(config, ("mvm",), seed))
        import_state(alone, baseline.state_dict(), "the model of transformers")
        alone.text_embedding.requires_grad_(False)  # there is no caption
        candidates = [
            Candidate(TRANSFORMERS, baseline, _transformers_loss),
            Candidate(OURS, VideoAlone(alone), _our_loss(("mvm",))),
        ]
    else:
        model = cast(SimVTP, build_model(config, seed=seed))
        plain = ReleasedSimVTP(config)
        plain.copy_weights_from(model)
        candidates = [
            Candidate(RELEASED, plain, _released_loss),
            Candidate(OURS, model, _our_loss(OBJECTIVES)),
        ]
    for candidate in candidates:
        candidate.model.to(device).train()
        if candidate.name == OURS:  # as runtime.pack_text=auto
            candidate.options = ForwardOptions(pack_text=device.type == "cpu")
    return candidates


def agreement(config: SimVTPConfig, what: str, inputs: Inputs) -> dict[str, float]:
    """Returns the loss of each candidate in fp32 without dropout, on the CPU.

    Ours has the settings of the recipe `released` that matter here: padding counts in the means,
    and no pass is shared.

    Raises:
        RuntimeError: The losses differ by more than AGREE.
    """
    released = replace(config, text_dropout=0.0, pooling="with_pads", reuse_pair_pass=False)
    losses = {}
    for candidate in build_all(released, what, torch.device("cpu")):
        with torch.no_grad():
            losses[candidate.name] = float(candidate.loss(candidate.model, inputs))
    first, *others = losses.values()
    if any(abs(other - first) > AGREE * abs(first) for other in others):
        raise RuntimeError(f"the candidates do not compute the same loss: {losses}")
    return losses
