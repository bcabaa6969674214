"""The model as one rank holds it: as it is, in DistributedDataParallel, or cut into shards over the
ranks (FSDP2).

Whichever it is, weights and optimizer state leave this file whole and enter it whole. So a
checkpoint does not tell how it was trained, and a run may continue with shards or without, on any
number of ranks.

With shards, the model that the caller gave stays whole on the CPU: rank 0 scores with it, and the
chosen weights are put into it at the end. What is trained is a copy of it, of which each rank holds
its part.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from simvtp.config.train_config import TrainConfig
from simvtp.models.common.layers import TransformerBlock
from simvtp.training.optim import update_average
from simvtp.training.parallel import distributed
from simvtp.training.parallel.dtensor import is_cut

State = dict[str, Any]


class Replica:
    """The trained model of this rank with the moving average of its weights.

    Attributes:
        model: holds the parameters that are trained.
        average: the same with averaged weights, or None.
        wrapped: what is called in a step.
        sharded: whether this rank holds only its part of `model` and `average`.
    """

    def __init__(
        self, model: nn.Module, train: TrainConfig, device: torch.device, shard: bool = False
    ) -> None:
        self.given, self.device = model, device
        self.sharded = shard and distributed.world() > 1
        self.model = copy.deepcopy(model) if self.sharded else model.to(device)
        self.average = (
            copy.deepcopy(self.model).eval().requires_grad_(False) if train.ema_decay > 0 else None
        )
        self._decay = train.ema_decay
        self.wrapped = self.model
        if self.sharded:
            mesh = init_device_mesh(device.type, (distributed.world(),))
            for held in (self.model, self.average):
                if held is not None:
                    _cut(held, mesh)

    def wrap(self) -> None:
        """Prepare the exchange of gradients; after the model was compiled and before its first
        step.
        """
        if not self.sharded:
            self.wrapped = distributed.wrap(self.model)

    def unsynchronised(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward of a micro-batch: gradients are exchanged only after the last
        one.
        """
        if self.sharded:
            cast(Any, self.wrapped).set_requires_gradient_sync(last)
            return contextlib.nullcontext()
        return distributed.unsynchronised(self.wrapped, last)

    def follow(self) -> None:
        """Move the average a step towards the weights."""
        if self.average is not None:
            update_average(self.average, self.model, self._decay)

    def finite(self) -> bool:
        """Whether every weight is finite, on every rank (waits for the device)."""
        checks = [torch.isfinite(_local(parameter)).all() for parameter in self.model.parameters()]
        return bool(distributed.min_over_ranks(torch.stack(checks).all().to(torch.uint8)))

    # ---- whole states ----------------------------------------------------------------------------

    def weights(self) -> State:
        """The whole weights, to be written by rank 0; all ranks take part, and with shards the
        others get none.
        """
        return whole(self.model.state_dict())

    def averaged(self) -> State | None:
        """As `weights`, of the average."""
        return None if self.average is None else whole(self.average.state_dict())

    def load(self, weights: State, average: State | None) -> None:
        """Put whole weights back, on every rank."""
        for module, state in ((self.model, weights), (self.average, average)):
            if module is not None and state is not None:
                _load(module, state)

    @contextlib.contextmanager
    def scored(self) -> Iterator[nn.Module]:
        """The model to be scored, in evaluation mode: the average if there is one. With shards it
        is whole on rank 0 only.
        """
        source = self.average if self.average is not None else self.model
        if not self.sharded:
            source.eval()
            try:
                yield source
            finally:
                self.model.train()
            return
        weights = whole(source.state_dict())
        if distributed.is_main():
            self.given.load_state_dict(weights)
            self.given.to(self.device)
        self.given.eval()
        try:
            yield self.given
        finally:
            self.given.to("cpu")

    def settle(self, weights: State, path: Path) -> None:
        """Put the final weights into the model that the caller gave, on every rank. `path`: where
        they lie, for ranks that hold a part.
        """
        self.given.load_state_dict(safetensors.torch.load_file(path) if self.sharded else weights)
        self.given.to(self.device)


def _cut(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard block by block, so that one block at a time is whole in memory, and then what is left."""
    from torch.distributed.fsdp import fully_shard  # takes seconds to import, and few runs need it

    for module in model.modules():
        if isinstance(module, TransformerBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _local(tensor: Tensor) -> Tensor:
    return cast(Any, tensor).to_local() if is_cut(tensor) else tensor


def whole(value: Any) -> Any:
    """The same state with every shard gathered on the CPU; all ranks take part, rank 0 keeps the
    tensors and the others drop them.
    """
    if is_cut(value):
        gathered = value.full_tensor()
        return gathered.cpu() if distributed.is_main() else None
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def _part(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, cut as `like` is; the tensor itself where nothing is cut.
    No communication.
    """
    if not is_cut(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    cut: Any = like
    return distribute_tensor(
        value.to(like.device), cut.device_mesh, cut.placements, src_data_rank=None
    )


def _load(module: nn.Module, state: State) -> None:
    own = module.state_dict()
    module.load_state_dict(
        {name: _part(value, own[name]) if name in own else value for name, value in state.items()}
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put a whole optimizer state back, of which each rank takes what belongs to its part of the
    weights.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {
        number: {
            name: _part(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})
