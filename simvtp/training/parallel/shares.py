"""Work of an evaluation, dealt out to the ranks so that no figure depends on their number.

A rank's share is a run of whole batches. A batch holds the same items whatever the number of ranks,
so it gives the same values, and what is gathered is what one process has, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from simvtp.training.parallel.distributed import from_all, rank, together, world
from simvtp.training.parallel.kept_parts import KeptParts

T = TypeVar("T")


def whole_batches(batch_size: int, rows: int = 1) -> int:
    """Returns the smallest number of items that fill whole batches.

    Args:
        batch_size: rows in a batch.
        rows: rows of each item.
    """
    return math.lcm(batch_size, rows) // rows


def share_of(count: int, unit: int, rank: int, world: int) -> range:
    """Returns the items of a rank: of `count` items in order, dealt out in whole units."""
    units = -(-count // unit)
    first, last = (units * number // world * unit for number in (rank, rank + 1))
    return range(min(first, count), min(last, count))


def over_ranks(
    count: int, unit: int, work: Callable[[range], T], kept: KeptParts | None = None
) -> list[T]:
    """Returns `work` of all items, in parts; all ranks call it and get every part, in order.

    If a part raises a UserError, all ranks raise it. So a request to stop may be met inside `work`,
    and nowhere else between two calls.

    Args:
        count: number of items, 1 or more.
        unit: items that stay together, see `whole_batches`.
        work: called with the numbers of this rank's items, unless it has none; returns tensors and
            numbers.
        kept: cuts long work, and keeps what is finished.
    """
    parts = kept or KeptParts()
    if world() == 1:
        return parts.run(range(count), unit, work)
    mine = share_of(count, unit, rank(), world())
    own = together(lambda: parts.run(mine, unit, work))
    return [part for parts in from_all(own) for part in parts]
