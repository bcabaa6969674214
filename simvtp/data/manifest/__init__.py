"""Manifests: which videos, with which captions, in which split."""

from simvtp.data.manifest.manifest_reader import read_manifest
from simvtp.data.manifest.splits import (
    SPLITS,
    assign_splits,
    files_in_several_splits,
    hash_unit,
    take_fraction,
)

__all__ = [
    "SPLITS",
    "assign_splits",
    "files_in_several_splits",
    "hash_unit",
    "read_manifest",
    "take_fraction",
]
