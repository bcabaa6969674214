"""Keeping the memory that a training step on a CPU frees for the next one (ours).

The C library gives large blocks back to the system as soon as they are freed. A training step frees
and asks for the same tables again and again, and each time the system hands out fresh pages, one
fault a 4 KiB and zeros written over all of them: a tenth to a seventh of a step on a CPU. A step
needs the same memory each time, so it is kept; nothing is gained by giving it back.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # parameters of mallopt(3), from malloc.h
PAD = 256 * 2**20  # bytes asked of the system at a time; what is not touched costs nothing


def keep_host_memory() -> bool:
    """Let this process keep what it frees, from now on and to its end. False: its C library (not
    glibc) has no such switch.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(
        library.mallopt(*setting) == 1
        for setting in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD))
    )
