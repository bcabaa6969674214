"""Clips: videos with their captions, as records and as columns in files that processes share."""

from simvtp.data.clips.clip_columns import ClipColumns, ClipFields, ClipWriter, shared_columns
from simvtp.data.clips.clip_records import BenchmarkOrigin, Clip, Manifest, TableRows
from simvtp.data.clips.clip_view import ClipView
from simvtp.data.clips.column_file import ColumnFile, ColumnWriter, FileProof
from simvtp.data.clips.shared_memory import MappedFile, SharedBytes, SharedInts

__all__ = [
    "BenchmarkOrigin",
    "Clip",
    "ClipColumns",
    "ClipFields",
    "ClipView",
    "ClipWriter",
    "ColumnFile",
    "ColumnWriter",
    "FileProof",
    "Manifest",
    "MappedFile",
    "SharedBytes",
    "SharedInts",
    "TableRows",
    "shared_columns",
]
