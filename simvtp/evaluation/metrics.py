"""Retrieval metrics: exact ranks, recall at K, median and mean rank, and chance levels.

A test set has V videos and C captions; `owners[i]` is the video that caption i describes. A square
test set is the case C = V with one caption each. Two directions:

* t2v: each caption is a query, all videos are candidates, one of them is right.
* v2t: each video is a query, all captions are candidates, the video's own captions are right; its
  rank is that of the best of them (the common practice for multi-caption sets), that is 1 + the
  number of wrong captions before it.

Ties are pessimistic: a wrong candidate with the same similarity counts as ranked before the right
one. So ranks do not depend on the order of the test set, and a model whose features have collapsed
scores nothing.

The matrix of similarities is never held: it is computed in blocks, each of which is counted and
dropped. Cosines of features are exact (`unit_features`), so the ranks are the same for all block
sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simvtp.errors import DataError, TrainingDiverged

RECALLS = (1, 5, 10, 50)
TIES = "pessimistic"  # the value of `Protocol.ties` for everything in this file
_GRID = 2.0**26  # features are rounded to multiples of 1 / _GRID, see `unit_features`

Block = tuple[slice, slice]  # captions, videos
# A block of captions and videos -> their similarities [captions, videos].
Similarity = Callable[[slice, slice], Tensor]


def ranks_of_features(
    texts: Tensor,
    videos: Tensor,
    owners: Tensor,
    *,
    rows_per_chunk: int = 512,
    columns_per_chunk: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Returns the ranks (from 1) of the right candidates by cosine similarity.

    Similarities are computed in float64 and rounded to float32, so that equal features give equal
    similarities wherever they are in the matrix product. Memory apart from the features: 8 * (C +
    V) * D bytes for their float64 copies and about 14 * rows_per_chunk * columns_per_chunk bytes
    for a block. Time: one matrix product of C * V * D.

    Args:
        texts: features [C, D].
        videos: features [V, D].
        owners: int64 [C], the video of each caption.
        rows_per_chunk: captions of a block; the ranks do not depend on it.
        columns_per_chunk: videos of a block; the ranks do not depend on it.
        device: where blocks are computed; it must support float64.

    Returns:
        (t2v int64 [C], v2t int64 [V]).

    Raises:
        TrainingDiverged: a feature is not a number.
        DataError: a video has no caption, or a caption names a video that does not exist.
    """
    owners = owners.cpu()
    check_owners(owners, len(texts), len(videos))
    unit_texts = unit_features(texts, "caption").to(device)
    unit_videos = unit_features(videos, "video").to(device)
    own = own_cosines(unit_texts, unit_videos, owners)
    sizes = len(videos), rows_per_chunk, columns_per_chunk
    return block_ranks(cosines(unit_texts, unit_videos), own, owners, *sizes)


def dual_softmax_ranks(
    texts: Tensor,
    videos: Tensor,
    owners: Tensor,
    *,
    temperature: float = 0.05,
    rows_per_chunk: int = 512,
    columns_per_chunk: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Returns the ranks of `ranks_of_features` after dual-softmax re-scoring.

    A cosine is multiplied with the softmax over all *queries* of its candidate. t2v: score[c, v] =
    cos[c, v] * softmax over the captions c of cos / temperature; v2t: the softmax over the videos
    v. So a candidate that many queries like counts for less.

    This uses all queries of the test set at once and profits from each candidate being right for
    about one of them, which no single user's query can: it is not comparable with a plain cosine,
    belongs in a column of its own and is never the headline figure.

    The softmax sums are float64; unlike plain cosines they may differ in the last bits with the
    block sizes.
    """
    owners = owners.cpu()
    check_owners(owners, len(texts), len(videos))
    unit_texts = unit_features(texts, "caption").to(device)
    unit_videos = unit_features(videos, "video").to(device)
    cosine = cosines(unit_texts, unit_videos, torch.float64)
    own = own_cosines(unit_texts, unit_videos, owners, torch.float64)

    def weight(similarity: Tensor) -> Tensor:
        # A cosine is at most 1, so this cannot overflow.
        return ((similarity - 1) / temperature).exp()

    video_totals, text_totals = (
        torch.zeros(len(features), dtype=torch.float64, device=unit_texts.device)
        for features in (unit_videos, unit_texts)
    )
    for rows, columns in _blocks(len(texts), len(videos), rows_per_chunk, columns_per_chunk):
        block = weight(cosine(rows, columns))
        video_totals[columns] += block.sum(dim=0)
        text_totals[rows] += block.sum(dim=1)

    def of_captions(rows: slice, columns: slice) -> Tensor:
        block = cosine(rows, columns)
        return (block * weight(block) / video_totals[columns]).float()

    def of_videos(rows: slice, columns: slice) -> Tensor:
        block = cosine(rows, columns)
        return (block * weight(block) / text_totals[rows, None]).float()

    own_scores = own * weight(own)
    sizes = len(videos), rows_per_chunk, columns_per_chunk
    of_own_captions = (own_scores / video_totals[owners.to(own.device)]).float()
    of_own_videos = (own_scores / text_totals).float()
    t2v, _ = block_ranks(of_captions, of_own_captions, owners, *sizes)
    _, v2t = block_ranks(of_videos, of_own_videos, owners, *sizes)
    return t2v, v2t


def unit_features(features: Tensor, what: str) -> Tensor:
    """Returns features [N, D] of length 1, float64, rounded to multiples of 2^-26.

    That is the grid of float32 between 1/8 and 1/4. Products of two such values are multiples of
    2^-52, and by Cauchy-Schwarz all partial sums of a scalar product stay below 2, so they fit into
    the 53 bits of a float64: the product is exact, for any order of summation, block size and
    device.

    Args:
        what: caption or video, for messages.

    Raises:
        TrainingDiverged: a feature is not a number.
    """
    unit = torch.nn.functional.normalize(features.to(torch.float64), dim=1)
    unit = unit.mul_(_GRID).round_().div_(_GRID)
    broken = (~unit.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise TrainingDiverged(
            f"the feature of {what} number {int(broken[0])} is not a number: the model's weights "
            "are broken, start again from an earlier checkpoint or with a lower learning rate."
        )
    return unit


def cosines(
    unit_texts: Tensor, unit_videos: Tensor, dtype: torch.dtype = torch.float32
) -> Similarity:
    """Returns a function of blocks of `unit_features`: exact cosines, rounded to `dtype`."""
    return lambda rows, columns: (unit_texts[rows] @ unit_videos[columns].T).to(dtype)


def own_cosines(
    unit_texts: Tensor, unit_videos: Tensor, owners: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Returns the cosines [C] of the captions with their own videos, as `cosines` gives them."""
    parts = [
        torch.linalg.vecdot(text, unit_videos[number.to(unit_videos.device)])
        for text, number in zip(unit_texts.split(4096), owners.split(4096), strict=True)
    ]
    return torch.cat(parts).to(dtype)


def _blocks(captions: int, videos: int, rows: int, columns: int) -> Iterator[Block]:
    for row in range(0, captions, rows):
        for column in range(0, videos, columns):
            yield (
                slice(row, min(row + rows, captions)),
                slice(column, min(column + columns, videos)),
            )


def block_ranks(
    similarity: Similarity, own: Tensor, owners: Tensor, videos: int, rows: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Returns the ranks of both directions in one pass over the blocks.

    Args:
        own: [C], similarity of each caption with its own video.
        owners: int64 [C], the video of each caption.
        videos: number of videos.
        rows: captions of a block.
        columns: videos of a block.

    Returns:
        (t2v int64 [C], v2t int64 [V]).
    """
    captions, device = len(owners), own.device
    owners = owners.to(device)
    # Of each video, the best similarity with a caption of its own.
    best_own = torch.full((videos,), -torch.inf, dtype=own.dtype, device=device)
    best_own.scatter_reduce_(0, owners, own, "amax")
    t2v = torch.ones(captions, dtype=torch.int64, device=device)
    v2t = torch.ones(videos, dtype=torch.int64, device=device)
    for row_part, column_part in _blocks(captions, videos, rows, columns):
        block = similarity(row_part, column_part)
        # NaN is never >= anything: what is right is not before itself, nor before another caption
        # of its video.
        block[_own_cells(owners[row_part], column_part)] = torch.nan
        t2v[row_part] += (block >= own[row_part, None]).sum(dim=1)
        v2t[column_part] += (block >= best_own[column_part]).sum(dim=0)
    return t2v.cpu(), v2t.cpu()


def _own_cells(owners: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Returns (row, column) of the captions' own videos that are in a block."""
    inside = ((owners >= columns.start) & (owners < columns.stop)).nonzero()[:, 0]
    return inside, owners[inside] - columns.start


def check_owners(owners: Tensor, captions: int, videos: int) -> None:
    """Checks that each caption has a video that exists and each video a caption.

    Raises:
        DataError: they do not.
    """
    if len(owners) != captions:
        raise DataError(
            f"the test set names the video of {len(owners)} captions, but {captions} captions "
            "were scored."
        )
    if captions == 0 or videos == 0:
        raise DataError(
            f"the test set is empty ({captions} captions, {videos} videos): choose another split."
        )
    if int(owners.min()) < 0 or int(owners.max()) >= videos:
        raise DataError(
            f"a caption belongs to video number {int(owners.max())}, but the test set has "
            f"{videos} videos (numbers from 0)."
        )
    lonely = (owners.bincount(minlength=videos) == 0).nonzero().flatten()
    if len(lonely):
        raise DataError(
            f"video number {int(lonely[0])} of the test set has no caption: remove it from the "
            "manifest or caption it."
        )


def summarise(ranks: Tensor) -> dict[str, float]:
    """Returns the metrics of ranks.

    R1, R5, R10, R50: per cent of queries with rank <= K; MdR: median rank, mean of the two middle
    ones; MnR: mean rank.
    """
    values = ranks.cpu().numpy()
    recalls = {f"R{k}": float(100 * np.mean(values <= k)) for k in RECALLS}
    return recalls | {"MdR": float(np.median(values)), "MnR": float(np.mean(values))}


def chance(candidates: int, right: Sequence[int]) -> dict[str, float]:
    """Returns the expected metrics of a random order of the candidates, keys of `summarise`.

    With m right ones among n in random order, the best of them is behind rank k with probability
    S(k) = C(n-k, m) / C(n, m) = prod_{i<k} (n-m-i) / (n-i). So recalls are exact expectations 100 *
    mean(1 - S(K)), and MnR is the exact expectation mean((n+1) / (m+1)). MdR is the median of the
    mixture of these distributions over the queries (for m = 1 it is (n+1)/2, which is also the
    expected sample median).

    Args:
        candidates: size of the gallery, n.
        right: for each query, the number m of right candidates (t2v: 1; v2t: the number of the
            video's captions).

    Raises:
        ValueError: a query has no right candidate, or more than there are.
    """
    counts, weights = np.unique(np.asarray(right), return_counts=True)
    weights = weights / weights.sum()
    if not len(counts) or counts[0] < 1 or counts[-1] > candidates:
        raise ValueError(
            f"each query needs between 1 and {candidates} right candidates, got {counts.tolist()}"
        )
    before = np.arange(candidates)
    behind = np.zeros(candidates)  # behind[k - 1] = S(k), averaged over the queries
    for m, weight in zip(counts, weights, strict=True):
        behind += weight * np.cumprod(
            np.maximum(candidates - m - before, 0) / (candidates - before)
        )
    reached = 1 - behind
    # Half of the mass is reached at `low`; where it is reached exactly, the median lies half-way to
    # the next rank with mass.
    low, high = (1 + int(np.argmax(reached >= 0.5 + slack)) for slack in (-1e-12, 1e-12))
    recalls = {f"R{k}": float(100 * reached[min(k, candidates) - 1]) for k in RECALLS}
    return recalls | {
        "MdR": (low + high) / 2,
        "MnR": float(np.sum(weights * (candidates + 1) / (counts + 1))),
    }
