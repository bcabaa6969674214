"""Retrieval metrics: exact ranks, recall at K, median and mean rank, and what guessing would give.

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
forgotten. Cosines of features are exact (`unit_features`), so the ranks are the same for all sizes
of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simvtp.errors import DataError, TrainingDiverged

RECALLS = (1, 5, 10, 50)
TIES = "pessimistic"  # the value of `Protocol.ties` for everything in this file
_GRID = 2.0**26  # features are rounded to multiples of 1 / _GRID: see `unit_features`

Block = tuple[slice, slice]  # captions, videos
Similarity = Callable[
    [slice, slice], Tensor
]  # a block of captions and videos -> their similarities [captions, videos]


def ranks_of_matrix(
    similarity: Tensor, owners: Tensor | None = None, *, rows_per_chunk: int = 4096
) -> tuple[Tensor, Tensor]:
    """Ranks (from 1) of the right candidates in a similarity matrix.

    Args:
        similarity: [C, V], any float type; larger is more alike.
        owners: int64 [C], the video of each caption; None: caption i belongs to video i.
        rows_per_chunk: captions handled at once.

    Returns:
        (t2v int64 [C], v2t int64 [V]).

    Raises:
        TrainingDiverged: a similarity is NaN.
        DataError: a video has no caption, or a caption names a video that is not there.
    """
    similarity = similarity.cpu()
    captions, videos = similarity.shape
    owners = torch.arange(captions) if owners is None else owners.cpu()
    check_owners(owners, captions, videos)
    for start in range(0, captions, rows_per_chunk):
        _check_numbers(similarity[start : start + rows_per_chunk], start)
    own = similarity.gather(1, owners[:, None])[:, 0]
    return _ranks(
        lambda rows, columns: similarity[rows, columns].clone(),
        own,
        owners,
        videos,
        rows_per_chunk,
        max(videos, 1),
    )


def ranks_of_features(
    texts: Tensor,
    videos: Tensor,
    owners: Tensor,
    *,
    rows_per_chunk: int = 512,
    columns_per_chunk: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """As `ranks_of_matrix` with cosine similarity of features texts [C, D] and videos [V, D], never
    holding the matrix.

    Similarities are computed in float64 and rounded to float32, so that equal features give equal
    similarities whatever their place in the matrix product. Memory besides the features: 8 * (C +
    V) * D bytes for their float64 copies and about 14 * rows_per_chunk * columns_per_chunk bytes
    for a block, whatever C and V. Time: one matrix product of C * V * D.

    Args:
        rows_per_chunk, columns_per_chunk: captions and videos of a block; the ranks do not depend
            on them.
        device: where blocks are computed; it must know float64.

    Raises:
        TrainingDiverged: a feature is not a number.
        DataError: see `ranks_of_matrix`.
    """
    owners = owners.cpu()
    check_owners(owners, len(texts), len(videos))
    unit_texts, unit_videos = (
        unit_features(texts, "caption").to(device),
        unit_features(videos, "video").to(device),
    )
    own = own_cosines(unit_texts, unit_videos, owners)
    return _ranks(
        cosines(unit_texts, unit_videos),
        own,
        owners,
        len(videos),
        rows_per_chunk,
        columns_per_chunk,
    )


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
    """As `ranks_of_features` after dual-softmax re-scoring: a cosine is multiplied with the softmax
    over all *queries* of its candidate.

    t2v: score[c, v] = cos[c, v] * softmax over the captions c of cos / temperature; v2t: the
    softmax over the videos v. So a candidate that many queries like counts for less.

    This looks at all queries of the test set at once and profits from each candidate being right
    for about one of them, which no single user's query can: it is not comparable with a plain
    cosine, belongs in a column of its own and is never the headline figure.

    The softmax sums are float64; unlike plain cosines they may differ in the last bits with the
    sizes of the blocks.
    """
    owners = owners.cpu()
    check_owners(owners, len(texts), len(videos))
    unit_texts, unit_videos = (
        unit_features(texts, "caption").to(device),
        unit_features(videos, "video").to(device),
    )
    cosine, own = (
        cosines(unit_texts, unit_videos, torch.float64),
        own_cosines(unit_texts, unit_videos, owners, torch.float64),
    )

    def weight(similarity: Tensor) -> Tensor:
        return (
            (similarity - 1) / temperature
        ).exp()  # a cosine is at most 1, so this cannot overflow

    totals = [
        torch.zeros(len(x), dtype=torch.float64, device=unit_texts.device)
        for x in (unit_videos, unit_texts)
    ]
    for rows, columns in _blocks(len(texts), len(videos), rows_per_chunk, columns_per_chunk):
        block = weight(cosine(rows, columns))
        totals[0][columns] += block.sum(dim=0)
        totals[1][rows] += block.sum(dim=1)

    def of_captions(rows: slice, columns: slice) -> Tensor:
        block = cosine(rows, columns)
        return (block * weight(block) / totals[0][columns]).float()

    def of_videos(rows: slice, columns: slice) -> Tensor:
        block = cosine(rows, columns)
        return (block * weight(block) / totals[1][rows, None]).float()

    own_scores = own * weight(own)
    sizes = len(videos), rows_per_chunk, columns_per_chunk
    t2v, _ = _ranks(
        of_captions, (own_scores / totals[0][owners.to(own.device)]).float(), owners, *sizes
    )
    _, v2t = _ranks(of_videos, (own_scores / totals[1]).float(), owners, *sizes)
    return t2v, v2t


def unit_features(features: Tensor, what: str) -> Tensor:
    """Features [N, D] of length 1, float64, rounded to multiples of 2^-26 (the grid of float32
    between 1/8 and 1/4).

    Products of two such values are multiples of 2^-52, and by Cauchy-Schwarz all partial sums of a
    scalar product stay below 2, so they fit into the 53 bits of a float64: the product is exact,
    whatever the order of summation, the sizes of the blocks or the device.

    Raises TrainingDiverged, with `what` (caption, video) and the number, if a feature is not a
    number.
    """
    unit = torch.nn.functional.normalize(features.to(torch.float64), dim=1)
    unit = unit.mul_(_GRID).round_().div_(_GRID)
    broken = (~unit.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise TrainingDiverged(
            f"the feature of {what} number {int(broken[0])} is not a number: the model's weights are broken, start again from an earlier "
            "checkpoint or with a lower learning rate."
        )
    return unit


def cosines(
    unit_texts: Tensor, unit_videos: Tensor, dtype: torch.dtype = torch.float32
) -> Similarity:
    """Cosines of a block of `unit_features`, exact, then rounded to `dtype`."""
    return lambda rows, columns: (unit_texts[rows] @ unit_videos[columns].T).to(dtype)


def own_cosines(
    unit_texts: Tensor, unit_videos: Tensor, owners: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """[C] cosines of the captions with their own videos, as `cosines` gives them."""
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


def _ranks(
    similarity: Similarity, own: Tensor, owners: Tensor, videos: int, rows: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Both directions in one pass over the blocks; `own` [C] is the similarity of each caption with
    its own video.
    """
    captions, device = len(owners), own.device
    owners = owners.to(device)
    best_own = torch.full(
        (videos,), -torch.inf, dtype=own.dtype, device=device
    )  # of a video, with a caption of its own
    best_own.scatter_reduce_(0, owners, own, "amax")
    t2v = torch.ones(captions, dtype=torch.int64, device=device)
    v2t = torch.ones(videos, dtype=torch.int64, device=device)
    for row_part, column_part in _blocks(captions, videos, rows, columns):
        block = similarity(row_part, column_part)
        here, place = _own_places(owners[row_part], column_part)
        block[here, place] = (
            torch.nan
        )  # never >= anything: what is right is not before itself, nor before another caption of its video
        t2v[row_part] += (block >= own[row_part, None]).sum(dim=1)
        v2t[column_part] += (block >= best_own[column_part]).sum(dim=0)
    return t2v.cpu(), v2t.cpu()


def _own_places(owners: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """(row, column) within a block of the captions' own videos, where they are in it."""
    inside = ((owners >= columns.start) & (owners < columns.stop)).nonzero()[:, 0]
    return inside, owners[inside] - columns.start


def check_owners(owners: Tensor, captions: int, videos: int) -> None:
    """Raises DataError unless each caption has a video that is there and each video a caption."""
    if len(owners) != captions:
        raise DataError(
            f"the test set names the video of {len(owners)} captions, but {captions} captions were scored."
        )
    if captions == 0 or videos == 0:
        raise DataError(
            f"the test set is empty ({captions} captions, {videos} videos): choose another split."
        )
    if int(owners.min()) < 0 or int(owners.max()) >= videos:
        raise DataError(
            f"a caption belongs to video number {int(owners.max())}, but the test set has {videos} videos (numbers from 0)."
        )
    lonely = (owners.bincount(minlength=videos) == 0).nonzero().flatten()
    if len(lonely):
        raise DataError(
            f"video number {int(lonely[0])} of the test set has no caption: remove it from the manifest or caption it."
        )


def _check_numbers(chunk: Tensor, start: int) -> None:
    bad = chunk.isnan().nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise TrainingDiverged(
            f"the similarity of caption number {start + row} and video number {column} is not a number: the model's weights or features "
            "are broken, start again from an earlier checkpoint or with a lower learning rate."
        )


def summarise(ranks: Tensor) -> dict[str, float]:
    """R1, R5, R10, R50 (per cent of queries with rank <= K), MdR (median rank, mean of the two
    middle ones) and MnR (mean rank).
    """
    values = ranks.cpu().numpy()
    recalls = {f"R{k}": float(100 * np.mean(values <= k)) for k in RECALLS}
    return recalls | {"MdR": float(np.median(values)), "MnR": float(np.mean(values))}


def chance(candidates: int, right: Sequence[int]) -> dict[str, float]:
    """What a random order of the candidates would give, with the keys of `summarise`.

    Args:
        candidates: size of the gallery, n.
        right: for each query, how many candidates are right, m (t2v: 1; v2t: the number of the
            video's captions).

    With m right ones among n in random order, the best of them stands behind rank k with
    probability S(k) = C(n-k, m) / C(n, m) = prod_{i<k} (n-m-i) / (n-i). So recalls are exact
    expectations 100 * mean(1 - S(K)), and MnR is the exact expectation mean((n+1) / (m+1)). MdR is
    the median of the mixture of these distributions over the queries (for m = 1 it is (n+1)/2,
    which is also the expected sample median).
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
