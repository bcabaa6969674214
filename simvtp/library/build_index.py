"""Makes an index of films, a few at a time, and goes on after a kill."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from simvtp.data.benchmarks.video_files import VIDEOS
from simvtp.data.progress import LogFn, throttled_progress
from simvtp.errors import DamagedFile, DataError
from simvtp.library.video_index import Film, VideoIndex, joined, load_index

log = logging.getLogger(__name__)

BLOCK = 32  # films that are kept at a time


@dataclass(frozen=True)
class Readable:
    """Features of the films that decode.

    Attributes:
        features: float32 [n, D], unit length, in the order of `numbers`.
        numbers: of the films, in the list that was given.
        unreadable: why each of the others does not decode, by its number.
    """

    features: Tensor
    numbers: tuple[int, ...]
    unreadable: dict[int, str]


class FilmEncoder(Protocol):
    """Model that makes the features of an index: a `VideoTextModel`."""

    @property
    def source(self) -> Path:
        """Returns what it was opened from."""
        ...

    @property
    def training(self) -> str:
        """Returns the training whose weights it has."""
        ...

    @property
    def digest(self) -> str:
        """Returns the digest of all that its features depend on."""
        ...

    def encode_readable(self, films: Sequence[Path]) -> Readable:
        """Returns the features of the films that decode."""
        ...


def build_index(
    model: FilmEncoder, films: str | Path | Sequence[str | Path], save: Path | None, say: LogFn
) -> VideoIndex:
    """Returns an index of films: see `VideoTextModel.index`.

    Blocks of BLOCK films are kept as indexes of their own in the folder `<save>.parts` until all
    are done.

    Raises:
        DataError: there is no film, or none decodes.
        UserError: a file cannot be written.
    """
    paths = _paths(films)
    present, unreadable = _present(paths)
    parts_folder = None if save is None else save.with_name(f"{save.name}.parts")
    parts = _kept(model, save, parts_folder)
    known = {film for part in parts for film in part.films}
    pending = [film for film in present if film not in known]
    if len(pending) < len(present):
        say(f"{len(present) - len(pending)} of {len(present)} films are in the index already")
    report, done = throttled_progress(say), 0
    for first in range(0, len(pending), BLOCK):
        block = pending[first : first + BLOCK]
        part = _embed(model, block)
        unreadable |= part.unreadable
        parts.append(part)
        if parts_folder is not None:
            part.save(parts_folder / f"{_name(block)}.safetensors")
        done += len(block)
        report("films indexed", done, len(pending))
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        say(f"{len(unreadable)} of {len(paths)} films cannot be read; the first: {path} ({reason})")
    if not any(len(part) for part in parts):
        raise DataError(f"none of {len(paths)} films can be read: there is nothing to index.")
    index = joined([part for part in parts if len(part)], present, unreadable)
    if save is not None and parts_folder is not None:
        index.save(save)
        shutil.rmtree(parts_folder, ignore_errors=True)
    return index


def _name(films: Sequence[Film]) -> str:
    return hashlib.sha256(repr(films).encode()).hexdigest()[:16]


def _embed(model: FilmEncoder, films: Sequence[Film]) -> VideoIndex:
    found = model.encode_readable([Path(film.path) for film in films])
    unreadable = {films[number].path: why for number, why in found.unreadable.items()}
    readable = tuple(films[number] for number in found.numbers)
    return VideoIndex(
        readable,
        found.features,
        model=model.digest,
        source=str(model.source.absolute()),
        training=model.training,
        unreadable=unreadable,
    )


def _kept(model: FilmEncoder, save: Path | None, parts_folder: Path | None) -> list[VideoIndex]:
    """Returns what an earlier call has kept of this model; what is damaged is made again."""
    if save is None or parts_folder is None:
        return []
    files = [save] if save.is_file() else []
    files += sorted(parts_folder.glob("*.safetensors"))
    return [part for file in files for part in _whole(file, model)]


def _whole(file: Path, model: FilmEncoder) -> Iterator[VideoIndex]:
    try:
        index = load_index(file)
    except DamagedFile as error:
        log.warning("%s; its films are decoded again", error)
        return
    if index.model == model.digest:
        yield index
    else:
        log.warning("%s is of another model: its films are decoded again", file)


def _paths(films: str | Path | Sequence[str | Path]) -> list[Path]:
    """Returns the absolute paths of films, each once, those of a folder in order of their names."""
    if isinstance(films, str | Path):
        folder = Path(films).expanduser().absolute()
        if not folder.is_dir():
            raise DataError(f"there is no folder '{folder}': give a folder, or a list of films.")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS)
        if not found:
            raise DataError(f"{folder} holds no film ({', '.join(VIDEOS[:5])} ...).")
        return found
    if not films:
        raise DataError("there are no films to index: the list is empty.")
    return list(dict.fromkeys(Path(film).expanduser().absolute() for film in films))


def _present(paths: Sequence[Path]) -> tuple[list[Film], dict[str, str]]:
    """Returns the films that exist, and why others cannot be read."""
    present: list[Film] = []
    missing: dict[str, str] = {}
    for path in paths:
        try:
            stat = path.stat()
            present.append(Film(str(path), stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            missing[str(path)] = error.strerror or str(error)
    return present, missing
