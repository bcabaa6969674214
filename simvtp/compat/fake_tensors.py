"""Tensors that have a shape, a dtype and a device, and no values: torch's fake tensors.

torch uses them, and modes that see every operation, in its compiler and documents both, but their
modules have private names.

Remove when torch offers them under public ones.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextlib.contextmanager
def fake_tensors() -> Iterator[None]:
    """Gives every tensor that is made in the block a shape and no memory.

    Real tensors that meet them in an operation are taken by their shape.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # late: few runs count memory

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


class LivingStorages(TorchDispatchMode):
    """Adds up the bytes of tensors that are made in the block, while they live.

    Attributes:
        peak: the largest sum.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._living: dict[int, int] = {}
        self._sum = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        known = {id(one.untyped_storage()) for one in given}
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._note(one.untyped_storage(), known)
        return result

    def _note(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        name = id(storage)
        if name in known or name in self._living:
            return
        self._living[name] = storage.nbytes()
        self._sum += storage.nbytes()
        self.peak = max(self.peak, self._sum)
        weakref.finalize(storage, self._free, name)

    def _free(self, name: int) -> None:
        self._sum -= self._living.pop(name)
