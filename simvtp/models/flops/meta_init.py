"""Models that have shapes and no values, made only to be counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from simvtp.compat.skip_init import SkipInit


@contextlib.contextmanager
def on_meta_device() -> Iterator[None]:
    """Constructs modules on the device "meta": parameters without memory and without values."""
    with torch.device("meta"), SkipInit():
        yield
