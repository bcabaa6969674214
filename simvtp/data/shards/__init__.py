"""Tar shards: those that `data shard` writes, and those that others made."""

from simvtp.data.shards.foreign_shards import index_foreign_shards, is_foreign
from simvtp.data.shards.tar_shards import (
    FAILURES,
    FORMAT,
    PLAN,
    RAW_ENDING,
    SUMMARY,
    is_shards,
    read_shards,
    read_summary,
)

__all__ = [
    "FAILURES",
    "FORMAT",
    "PLAN",
    "RAW_ENDING",
    "SUMMARY",
    "index_foreign_shards",
    "is_foreign",
    "is_shards",
    "read_shards",
    "read_summary",
]
