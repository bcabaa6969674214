"""Limit on the variants that torch.compile makes of one function.

All blocks of a model share one function, and each width, mask, gradient mode and precision that
they are called with is a variant. Beyond torch's limit of 8 the rest runs uncompiled, with a
warning alone.

Remove when torch.compile takes the limit as an argument.
"""

from __future__ import annotations


def allow_variants(count: int) -> None:
    """Allows so many variants of a function in this process."""
    from torch._dynamo import config  # late: torch's compiler takes seconds to import

    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, count)
