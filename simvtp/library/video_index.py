"""An index of films: their features in one file, and the exact search in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from simvtp.errors import DamagedFile, UserError
from simvtp.runs.atomic_files import write_atomically

FORMAT = "simvtp index 1"
ADVICE = "make the index again with the same call."


@dataclass(frozen=True)
class SearchHit:
    """A film that a search has found.

    Attributes:
        path: of the film, as it was when the index was made.
        score: cosine of the features of film and text, -1 to 1.
        rank: from 1, the best.
    """

    path: str
    score: float
    rank: int


@dataclass(frozen=True)
class Film:
    """A film of an index: path, and size (bytes) and time of change (ns) when it was read."""

    path: str
    size: int
    changed: int


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Features of films.

    Attributes:
        films: with a feature each.
        features: float32 [n, D], unit length.
        model: digest of the model (`VideoTextModel.digest`).
        source: absolute path that the model was opened from.
        training: training whose weights it has.
        unreadable: why films do not decode, by path; they have no feature.
    """

    films: tuple[Film, ...]
    features: Tensor = field(repr=False)
    model: str
    source: str
    training: str
    unreadable: dict[str, str]

    def __len__(self) -> int:
        """Returns the number of films that can be found."""
        return len(self.films)

    def require_model(self, digest: str, name: str) -> None:
        """Raises UserError if another model than that of `digest` has made the index."""
        if digest != self.model:
            raise UserError(
                f"the index was made by {self.source}, whose features are not those of {name}: "
                "search with that model, or make an index with this one."
            )

    def nearest(self, feature: Tensor, k: int) -> list[SearchHit]:
        """Returns the k films with the largest cosine to a feature, best first.

        Of films with the same cosine the one that is earlier in the index comes first.

        Args:
            feature: float32 [D], unit length.
            k: at most so many.

        Raises:
            UserError: k is below 1.
        """
        if k < 1:
            raise UserError(f"k={k}: ask for 1 film or more.")
        scores = torch.mv(self.features, feature)
        k = min(k, len(scores))
        # All films that tie with the last of the k, so that the order does not depend on topk.
        least = scores.topk(k).values[-1]
        candidates = (scores >= least).nonzero()[:, 0]
        order = scores[candidates].argsort(descending=True, stable=True)[:k]
        return [
            SearchHit(self.films[number].path, float(scores[number]), rank)
            for rank, number in enumerate(candidates[order].tolist(), start=1)
        ]

    def save(self, path: Path) -> None:
        """Writes the index with a digest of its content; the file appears whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        content = json.dumps(
            {
                "films": [[film.path, film.size, film.changed] for film in self.films],
                "model": self.model,
                "source": self.source,
                "training": self.training,
                "unreadable": self.unreadable,
            }
        )
        metadata = {
            "format": FORMAT,
            "content": content,
            "sha256": _digest(content, self.features),
        }
        tensors = {"features": self.features.contiguous()}
        write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_index(path: str | Path) -> VideoIndex:
    """Returns the index in a file that `VideoTextModel.index` has written.

    Raises:
        UserError: there is no such file.
        DamagedFile: it is no index, or its content does not have its digest.

    Examples:
        >>> index = simvtp.load("runs/demo").index("videos", save="videos.idx", say=str)
        >>> len(simvtp.load_index("videos.idx"))
        8
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no index '{path}': make it with `python -m simvtp index`.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            features = file.get_tensor("features")
    except (safetensors.SafetensorError, OSError) as error:
        raise DamagedFile(path, f"no index: {error}", ADVICE) from error
    content = metadata.get("content", "")
    if metadata.get("format") != FORMAT:
        raise DamagedFile(path, "no index of this version", ADVICE)
    if metadata.get("sha256") != _digest(content, features):
        raise DamagedFile(path, "its content does not have its sha256", ADVICE)
    values: dict[str, Any] = json.loads(content)
    films = tuple(Film(*film) for film in values["films"])
    return VideoIndex(
        films,
        features,
        model=values["model"],
        source=values["source"],
        training=values["training"],
        unreadable=values["unreadable"],
    )


def joined(
    parts: Sequence[VideoIndex], films: Sequence[Film], unreadable: dict[str, str]
) -> VideoIndex:
    """Returns an index of those of `films` that parts of one model hold, in the order of `films`.

    Args:
        parts: at least one.
        unreadable: see `VideoIndex`.
    """
    rows = torch.cat([part.features for part in parts])
    numbers = {film: n for n, film in enumerate(film for part in parts for film in part.films)}
    kept = tuple(film for film in films if film in numbers)
    features = rows[[numbers[film] for film in kept]]
    return replace(parts[-1], films=kept, features=features, unreadable=unreadable)


def _digest(content: str, features: Tensor) -> str:
    found = hashlib.sha256(content.encode())
    found.update(str(list(features.shape)).encode())
    found.update(features.contiguous().numpy().tobytes())
    return found.hexdigest()
