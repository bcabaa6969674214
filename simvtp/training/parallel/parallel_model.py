"""The model on one rank: as it is, in DistributedDataParallel, or sharded over the ranks (FSDP2).

In each case weights and optimizer state leave this file in full and enter it in full. So a
checkpoint does not depend on how it was trained, and a run may continue with shards or without, on
any number of ranks.

With shards, the model that the caller gave stays unsharded on the CPU: all ranks evaluate with it,
and the chosen weights are loaded into it at the end. A copy of it is trained, of which each rank
holds its shard.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from simvtp.compat.recompile_limit import allow_variants
from simvtp.config.train_config import TrainConfig
from simvtp.models.common.layers import TransformerBlock
from simvtp.training.parallel import distributed
from simvtp.training.parallel.dtensor import is_dtensor

State = dict[str, Any]
VARIANTS = 64  # of a block's graph; the tests of a stage and its batches need some 10
_BLOCK = re.compile(r"(?:^|\.)blocks\.\d+$")


class ParallelModel:
    """The trained model of this rank with the moving average of its weights.

    Attributes:
        module: the model that the caller gave.
        model: holds the parameters that are trained.
        average: a copy with averaged weights, or None.
        wrapped: the module that is called in a step.
        sharded: True if this rank holds only its shard of `model` and `average`.
    """

    def __init__(
        self, model: nn.Module, train: TrainConfig, device: torch.device, shard: bool = False
    ) -> None:
        self.module, self.device = model, device
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
                    shard_blocks(held, mesh)

    def wrap(self) -> None:
        """Prepares the exchange of gradients.

        To be called after the model was compiled and before its first step.
        """
        if not self.sharded:
            self.wrapped = distributed.wrap(self.model)

    def unsynchronised(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Exchanges gradients only after the last micro-batch.

        A context around forward and backward of one micro-batch.
        """
        if self.sharded:
            cast(Any, self.wrapped).set_requires_gradient_sync(last)
            return contextlib.nullcontext()
        return distributed.unsynchronised(self.wrapped, last)

    def update_ema(self) -> None:
        """Moves the average a step towards the weights."""
        if self.average is not None:
            update_ema(self.average, self.model, self._decay)

    def finite(self) -> bool:
        """Returns True if every weight is finite, on every rank (waits for the device)."""
        checks = [torch.isfinite(_local(parameter)).all() for parameter in self.model.parameters()]
        return bool(distributed.min_over_ranks(torch.stack(checks).all().to(torch.uint8)))

    # ---- full states -----------------------------------------------------------------------------

    def weights(self) -> State:
        """Returns the full weights, to be written by rank 0.

        All ranks take part; with shards the other ranks get none.
        """
        return cast(State, gather_full(self.model.state_dict()))

    def averaged(self) -> State | None:
        """Returns the full weights of the average, as `weights` does."""
        return None if self.average is None else gather_full(self.average.state_dict())

    def load(self, weights: State, average: State | None) -> None:
        """Loads full weights, on every rank."""
        for module, state in ((self.model, weights), (self.average, average)):
            if module is not None and state is not None:
                _load(module, state)

    @contextlib.contextmanager
    def eval_model(self) -> Iterator[nn.Module]:
        """Gives the model to be evaluated, in evaluation mode: the average if there is one.

        It is complete on every rank, also with shards.
        """
        source = self.average if self.average is not None else self.model
        if not self.sharded:
            source.eval()
            try:
                yield source
            finally:
                self.model.train()
            return
        self.module.load_state_dict(gather_full(source.state_dict(), everywhere=True))
        self.module.to(self.device).eval()
        try:
            yield self.module
        finally:
            self.module.to("cpu")

    def load_final(self, weights: State, path: Path) -> None:
        """Loads the final weights into the given model, on every rank.

        `path` is the file that holds them, for ranks that have only a shard.
        """
        self.module.load_state_dict(safetensors.torch.load_file(path) if self.sharded else weights)
        self.module.to(self.device)


def compile_blocks(model: nn.Module, mode: str = "default", backend: str = "inductor") -> None:
    """Compiles `model` block by block (they share their graphs).

    To be called before DDP; this survives DDP and gradient checkpointing. A model without
    `blocks.N` modules is compiled as a whole. Names in the state dict stay the same.

    What was compiled before, for an earlier stage, is forgotten, so that its variants do not count
    against torch's limit. Sizes are constants: a second size makes a second graph, not a slower one
    for all sizes.
    """
    torch.compiler.reset()
    allow_variants(VARIANTS)
    blocks = [module for name, module in model.named_modules() if _BLOCK.search(name)]
    for module in blocks or [model]:
        module.compile(mode=mode, backend=backend, dynamic=False)


def shard_blocks(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shards block by block, so that one block at a time is gathered, and then the rest."""
    from torch.distributed.fsdp import fully_shard  # takes seconds to import, and few runs need it

    for module in model.modules():
        if isinstance(module, TransformerBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _local(tensor: Tensor) -> Tensor:
    return cast(Any, tensor).to_local() if is_dtensor(tensor) else tensor


def gather_full(value: Any, everywhere: bool = False) -> Any:
    """Returns a state with every shard gathered on the CPU.

    All ranks take part; rank 0 keeps the tensors, and the others with `everywhere`.
    """
    if is_dtensor(value):
        gathered = value.full_tensor()
        return gathered.cpu() if everywhere or distributed.is_main() else None
    if isinstance(value, dict):
        return {key: gather_full(item, everywhere) for key, item in value.items()}
    if isinstance(value, list):
        return [gather_full(item, everywhere) for item in value]
    return value


def _local_shard(value: Tensor, like: Tensor) -> Tensor:
    """Returns this rank's shard of a full tensor, sharded as `like` is, without communication."""
    if not is_dtensor(like):
        return value
    from torch.distributed.tensor import distribute_tensor  # as above

    sharded: Any = like
    return distribute_tensor(
        value.to(like.device), sharded.device_mesh, sharded.placements, src_data_rank=None
    )


def _load(module: nn.Module, state: State) -> None:
    own = module.state_dict()
    shards = {
        name: _local_shard(value, own[name]) if name in own else value
        for name, value in state.items()
    }
    module.load_state_dict(shards)


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Loads a full optimizer state, of which each rank takes what belongs to its shards."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def local(value: Any, parameter: Tensor) -> Any:
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return _local_shard(value, parameter) if same else value

    shards = {}
    for number, values in state["state"].items():
        shards[number] = {name: local(value, parameters[number]) for name, value in values.items()}
    optimizer.load_state_dict({**state, "state": shards})


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Sets average <- decay * average + (1 - decay) * model; buffers are copied."""
    averaged: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(averaged, current, 1 - decay)
    for target, buffer in zip(average.buffers(), model.buffers(), strict=True):
        target.copy_(buffer)
