"""Manifests: which videos, with which captions, in which split."""

from simvtp.data.manifest.content_digest import content_digest, default_cache
from simvtp.data.manifest.manifest_facts import shared_note
from simvtp.data.manifest.manifest_reader import read_manifest
from simvtp.data.manifest.splits import (
    SPLITS,
    assign_splits,
    by_split,
    files_in_several_splits,
    hash_unit,
    take_fraction,
)

__all__ = [
    "SPLITS",
    "assign_splits",
    "by_split",
    "content_digest",
    "default_cache",
    "files_in_several_splits",
    "hash_unit",
    "read_manifest",
    "shared_note",
    "take_fraction",
]
