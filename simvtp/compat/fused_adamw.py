"""torch's AdamW without its wrapper against compilation.

torch wraps some methods so that torch.compile leaves them alone, and imports its whole compiler at
the first call of one: seconds of processor time at the start of each experiment. Only blocks are
compiled here, never the optimizer. The methods are torch's own; where a version of torch does not
wrap one, nothing changes.

Remove when torch.optim.AdamW.step no longer imports torch._dynamo.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


def _unwrapped(name: str) -> Any:
    """Returns the method of torch's AdamW below its wrappers."""
    return inspect.unwrap(getattr(torch.optim.AdamW, name))


class UnwrappedAdamW(torch.optim.AdamW):
    """AdamW whose methods do not import torch's compiler."""

    add_param_group = _unwrapped("add_param_group")
    zero_grad = _unwrapped("zero_grad")
    state_dict = _unwrapped("state_dict")
    load_state_dict = _unwrapped("load_state_dict")
    step = torch.no_grad()(_unwrapped("step"))
