"""Who is measured: each makes its loss of the same weights, batch and masks.

transformers: `VideoMAEForPreTraining`, MVM alone. released: the plain transcription of the released
step, four losses. ours: the model of this project, four losses or MVM alone (then without a
caption, as VideoMAE works).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.bench.step.released_transcription import Released
from simvtp.bench.step.sizes import Inputs
from simvtp.bench.step.transformers_baseline import build_peer
from simvtp.config.schema import LossConfig, ModelConfig, TrainConfig
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.common.encoder import set_packed_text
from simvtp.models.common.layers import take
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from simvtp.models.weights.pretrained import import_state
from simvtp.training.loop import compile_blocks
from simvtp.training.objectives import PretrainObjective
from simvtp.training.optim import build_optimizer

# relative difference of the losses of two contestants in fp32 before any timing (transformers'
# decoder norm has eps 1e-5)
AGREE = 1e-4


class VideoAlone(nn.Module):
    """Our MVM without a caption."""

    def __init__(self, model: SimVTP) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, masks: Masks) -> dict[str, Tensor]:
        """video_prediction and video_pixels, as `SimVTP.forward` names them."""
        model = self.model
        tubes = cut_tubes(batch.clips, model.config)
        seen = model.encoder(model.video_embedding(tubes, masks.visible))
        return {
            "video_prediction": model.video_decoder(seen, masks.visible, masks.masked),
            "video_pixels": take(tubes, masks.masked),
        }


@dataclass
class Contestant:
    """A model that trains on `Inputs`. `loss` is a function of (model, inputs), so that a copy of
    the model can be measured, too.
    """

    name: str
    model: nn.Module
    loss: Callable[[nn.Module, Inputs], Tensor]

    def step(
        self, inputs: Inputs, optimizer: torch.optim.Optimizer, half: torch.dtype | None
    ) -> None:
        """One update; nothing waits for the device."""
        device = inputs.pixels.device.type
        with torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None):
            loss = self.loss(self.model, inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def optimizer(self, device: torch.device) -> torch.optim.Optimizer:
        """The same fused AdamW for all: the comparison is one of models."""
        return build_optimizer(self.model, TrainConfig(), device)

    def compiled(self) -> Contestant:
        """A copy that torch.compile has: ours by block, as in training, the others as a whole."""
        model = copy.deepcopy(self.model)
        if self.name == OURS:
            set_packed_text(model, False)  # as in training: compiled blocks want one shape
            compile_blocks(model)
        else:
            model.compile()
        return Contestant(self.name, model, self.loss)


TRANSFORMERS, RELEASED, OURS = "transformers", "released", "ours"


def _our_loss(objectives: tuple[str, ...]) -> Callable[[nn.Module, Inputs], Tensor]:
    off = dict.fromkeys(set(OBJECTIVES) - set(objectives), 0.0)
    objective = PretrainObjective(LossConfig(**off))  # type: ignore[arg-type]

    def loss(model: nn.Module, inputs: Inputs) -> Tensor:
        losses, _ = objective(model(inputs.batch, inputs.masks))
        return torch.stack(list(losses.values())).sum()

    return loss


def _released_loss(model: nn.Module, inputs: Inputs) -> Tensor:
    return torch.stack(list(model(inputs).values())).sum()


def _transformers_loss(model: nn.Module, inputs: Inputs) -> Tensor:
    return cast(Tensor, model(inputs.pixels, bool_masked_pos=inputs.hidden).loss)


def line_up(
    config: ModelConfig, what: str, device: torch.device, seed: int = 0
) -> list[Contestant]:
    """The contestants for `what` ("mvm": transformers and ours; "all": released and ours), from the
    same weights, ours last.
    """
    if what == "mvm":
        torch.manual_seed(seed)
        peer = build_peer(config)
        alone = cast(SimVTP, build_model(config, ("mvm",), seed))
        import_state(alone, peer.state_dict(), "the model of transformers")
        alone.text_embedding.requires_grad_(False)  # there is no caption
        rivals = [
            Contestant(TRANSFORMERS, peer, _transformers_loss),
            Contestant(OURS, VideoAlone(alone), _our_loss(("mvm",))),
        ]
    else:
        model = cast(SimVTP, build_model(config, seed=seed))
        plain = Released(config)
        plain.take_weights(model)
        rivals = [
            Contestant(RELEASED, plain, _released_loss),
            Contestant(OURS, model, _our_loss(OBJECTIVES)),
        ]
    for rival in rivals:
        rival.model.to(device).train()
        set_packed_text(
            rival.model, device.type == "cpu"
        )  # runtime.pack_text=auto; the peers have nothing that could be packed
    return rivals


def agreement(config: ModelConfig, what: str, inputs: Inputs) -> dict[str, float]:
    """The loss of each contestant in fp32 without dropout, on the CPU; raises RuntimeError where
    they do not agree.

    For "all" ours is given the settings of the recipe `released` that matter here (padding counts
    in the means, nothing is shared).
    """
    quiet = replace(config, text_dropout=0.0, pooling="with_pads", reuse_pair_pass=False)
    losses = {}
    for rival in line_up(quiet, what, torch.device("cpu")):
        with torch.no_grad():
            losses[rival.name] = float(rival.loss(rival.model, inputs))
    first, *others = losses.values()
    if any(abs(other - first) > AGREE * abs(first) for other in others):
        raise RuntimeError(f"the contestants do not compute the same loss: {losses}")
    return losses
