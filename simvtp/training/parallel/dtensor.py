"""Recognises tensors that are sharded over the ranks (FSDP2's DTensor).

Without importing the module that defines them: that takes two seconds at every start.
"""

from __future__ import annotations

import sys
from typing import Any


def is_dtensor(value: Any) -> bool:
    """Returns True if `value` is a DTensor; if nobody has imported them, there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)
