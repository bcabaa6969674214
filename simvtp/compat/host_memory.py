"""Keeps the memory that a training step on a CPU frees for the next one (ours).

The C library gives large blocks back to the system as soon as they are freed. A training step frees
and allocates the same tables again and again, and each time the system hands out fresh pages, one
fault for each 4 KiB and zeros written over all of them: a tenth to a seventh of a step on a CPU. A
step needs the same memory each time, so it is kept.

Remove when torch's CPU allocator caches freed blocks, as its CUDA allocator does.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # parameters of mallopt(3), from malloc.h
PAD = 256 * 2**20  # bytes asked of the system at a time; untouched pages cost nothing


def keep_host_memory() -> bool:
    """Makes this process keep the memory that it frees, from now on and to its end.

    Returns:
        False if its C library (not glibc) has no such switch.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD))
    return all(library.mallopt(*setting) == 1 for setting in settings)
