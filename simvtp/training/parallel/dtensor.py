"""Tensors that are cut over the ranks (FSDP2's DTensor), without importing what makes them: that
takes two seconds at every start.
"""

from __future__ import annotations

import sys
from typing import Any


def is_cut(value: Any) -> bool:
    """Whether `value` is a DTensor; where nobody has imported them, there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)
