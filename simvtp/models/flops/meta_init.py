"""Models that have shapes and no values, made only to be counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWING = (
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
)  # those in torch.nn.init that tell a mode of the call


class _NothingDrawn(TorchFunctionMode):
    """Initial values are not drawn: without memory there is nothing to fill, and torch would import
    its compiler to find that out.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Modules that are made inside have parameters on the device "meta": no memory, no values."""
    with torch.device("meta"), _NothingDrawn():
        yield
