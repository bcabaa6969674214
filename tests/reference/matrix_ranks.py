"""Ranks of a similarity matrix that is held as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.errors import TrainingDiverged
from simvtp.evaluation.metrics import block_ranks, check_owners


def ranks_of_matrix(
    similarity: Tensor, owners: Tensor | None = None, *, rows_per_chunk: int = 4096
) -> tuple[Tensor, Tensor]:
    """Returns the ranks (from 1) of the right candidates in a similarity matrix.

    Args:
        similarity: [C, V], any float type; larger is more alike.
        owners: int64 [C], the video of each caption; None: caption i belongs to video i.
        rows_per_chunk: captions handled at once.

    Returns:
        (t2v int64 [C], v2t int64 [V]).

    Raises:
        TrainingDiverged: a similarity is NaN.
        DataError: a video has no caption, or a caption names a video that does not exist.
    """
    captions, videos = similarity.shape
    owners = torch.arange(captions) if owners is None else owners
    check_owners(owners, captions, videos)
    broken = similarity.isnan().nonzero()
    if len(broken):
        row, column = broken[0].tolist()
        raise TrainingDiverged(
            f"the similarity of caption number {row} and video number {column} is not a number"
        )
    own = similarity.gather(1, owners[:, None])[:, 0]
    return block_ranks(
        lambda rows, columns: similarity[rows, columns].clone(),
        own,
        owners,
        videos,
        rows_per_chunk,
        max(videos, 1),
    )
