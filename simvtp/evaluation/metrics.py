"""Retrieval metrics: exact ranks, recall at K, median and mean rank, and what guessing would give.

A test set has V videos and C captions; `owners[i]` is the video that caption i describes. A square test set is the case C = V
with one caption each. Two directions:

* t2v: each caption is a query, all videos are candidates, one of them is right.
* v2t: each video is a query, all captions are candidates, the video's own captions are right; its rank is that of the best of
  them (the common practice for multi-caption sets), that is 1 + the number of wrong captions before it.

Ties are pessimistic: a wrong candidate with the same similarity counts as ranked before the right one. So ranks do not depend
on the order of the test set, and a model whose features have collapsed scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from simvtp.errors import DataError, TrainingDiverged

RECALLS = (1, 5, 10, 50)
TIES = "pessimistic"  # the value of `Protocol.ties` for everything in this file

Similarity = Callable[[int, int], Tensor]  # (start, stop) -> similarities [stop - start, V] of these captions with all videos


def ranks_of_matrix(similarity: Tensor, owners: Tensor | None = None, *, rows_per_chunk: int = 4096) -> tuple[Tensor, Tensor]:
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
    captions, videos = similarity.shape
    owners = torch.arange(captions) if owners is None else owners.cpu()
    return _ranks(lambda start, stop: similarity[start:stop].cpu(), owners, captions, videos, rows_per_chunk)


def ranks_of_features(texts: Tensor, videos: Tensor, owners: Tensor, *, rows_per_chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """As `ranks_of_matrix` with cosine similarity of features texts [C, D] and videos [V, D], never holding the whole matrix.

    Similarities are computed in float64 and rounded to float32, so that equal features give equal similarities whatever their
    place in the matrix product. Needs about 12 * rows_per_chunk * V bytes besides the features.
    """
    unit_texts, unit_videos = (torch.nn.functional.normalize(x.cpu().to(torch.float64), dim=1) for x in (texts, videos))
    return _ranks(lambda a, b: (unit_texts[a:b] @ unit_videos.T).float(), owners.cpu(), len(texts), len(videos), rows_per_chunk)


def _ranks(similarity: Similarity, owners: Tensor, captions: int, videos: int, rows: int) -> tuple[Tensor, Tensor]:
    _check_owners(owners, captions, videos)
    t2v = torch.empty(captions, dtype=torch.int64)
    best_own = torch.full((videos,), -torch.inf, dtype=torch.float64)  # largest similarity of a video with a caption of its own
    for start in range(0, captions, rows):
        chunk = similarity(start, start + rows)
        _check_numbers(chunk, start)
        own = chunk.gather(1, owners[start : start + rows, None])
        t2v[start : start + rows] = (chunk >= own).sum(dim=1)  # the right video itself is the 1 that ranks start from
        best_own.scatter_reduce_(0, owners[start : start + rows], own[:, 0].to(torch.float64), "amax")
    v2t = torch.ones(videos, dtype=torch.int64)
    numbers = torch.arange(videos)
    for start in range(0, captions, rows):
        chunk = similarity(start, start + rows)
        wrong = owners[start : start + rows, None] != numbers
        v2t += ((chunk >= best_own.to(chunk.dtype)) & wrong).sum(dim=0)
    return t2v, v2t


def _check_owners(owners: Tensor, captions: int, videos: int) -> None:
    if len(owners) != captions:
        raise DataError(f"the test set names the video of {len(owners)} captions, but {captions} captions were scored.")
    if captions == 0 or videos == 0:
        raise DataError(f"the test set is empty ({captions} captions, {videos} videos): choose another split.")
    if int(owners.min()) < 0 or int(owners.max()) >= videos:
        raise DataError(f"a caption belongs to video number {int(owners.max())}, but the test set has {videos} videos (numbers from 0).")
    lonely = (owners.bincount(minlength=videos) == 0).nonzero().flatten()
    if len(lonely):
        raise DataError(f"video number {int(lonely[0])} of the test set has no caption: remove it from the manifest or caption it.")


def _check_numbers(chunk: Tensor, start: int) -> None:
    bad = chunk.isnan().nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise TrainingDiverged(
            f"the similarity of caption number {start + row} and video number {column} is not a number: the model's weights or features "
            "are broken, start again from an earlier checkpoint or with a lower learning rate."
        )


def summarise(ranks: Tensor) -> dict[str, float]:
    """R1, R5, R10, R50 (per cent of queries with rank <= K), MdR (median rank, mean of the two middle ones) and MnR (mean rank)."""
    values = ranks.cpu().numpy()
    recalls = {f"R{k}": float(100 * np.mean(values <= k)) for k in RECALLS}
    return recalls | {"MdR": float(np.median(values)), "MnR": float(np.mean(values))}


def chance(candidates: int, right: Sequence[int]) -> dict[str, float]:
    """What a random order of the candidates would give, with the keys of `summarise`.

    Args:
        candidates: size of the gallery, n.
        right: for each query, how many candidates are right, m (t2v: 1; v2t: the number of the video's captions).

    With m right ones among n in random order, the best of them stands behind rank k with probability
    S(k) = C(n-k, m) / C(n, m) = prod_{i<k} (n-m-i) / (n-i). So recalls are exact expectations 100 * mean(1 - S(K)), and MnR is the exact
    expectation mean((n+1) / (m+1)). MdR is the median of the mixture of these distributions over the queries (for m = 1 it is
    (n+1)/2, which is also the expected sample median).
    """
    counts, weights = np.unique(np.asarray(right), return_counts=True)
    weights = weights / weights.sum()
    if not len(counts) or counts[0] < 1 or counts[-1] > candidates:
        raise ValueError(f"each query needs between 1 and {candidates} right candidates, got {counts.tolist()}")
    before = np.arange(candidates)
    behind = np.zeros(candidates)  # behind[k - 1] = S(k), averaged over the queries
    for m, weight in zip(counts, weights, strict=True):
        behind += weight * np.cumprod(np.maximum(candidates - m - before, 0) / (candidates - before))
    reached = 1 - behind
    # Half of the mass is reached at `low`; where it is reached exactly, the median lies half-way to the next rank with mass.
    low, high = (1 + int(np.argmax(reached >= 0.5 + slack)) for slack in (-1e-12, 1e-12))
    recalls = {f"R{k}": float(100 * reached[min(k, candidates) - 1]) for k in RECALLS}
    return recalls | {"MdR": (low + high) / 2, "MnR": float(np.sum(weights * (candidates + 1) / (counts + 1)))}
