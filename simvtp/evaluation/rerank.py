"""Two-stage retrieval: a dual encoder ranks the gallery, a matching head re-ranks the first k.

The first stage compares features and is cheap for any gallery; the second puts each query and
candidate through the pair encoder together, which only pays for a short list. Within the list the
pair scores decide; everything outside keeps its first-stage order behind the list, so a right
candidate that the first stage put at rank 40 stays at rank 40 when 16 are re-ranked.

Ties are pessimistic in both stages: at equal similarity wrong candidates enter the list first, at
equal pair score they come first. The second stage is timed apart from the first, and the figures
carry the setting `<setting>, re-ranked top k`: they share no column with figures of one stage. How
the published method used its matching head for retrieval is not known: this is ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from simvtp.errors import ConfigError, TrainingDiverged
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.metrics import check_owners, cosines, ranks_of_features, unit_features
from simvtp.evaluation.retrieval_evaluation import DIRECTIONS, Embedded, results_of
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Protocol, Result

# Numbers of queries int64 [P] and of candidates int64 [P] -> scores [P], larger is better.
ScorePairs = Callable[[Tensor, Tensor], Tensor]
# (queries, queries in whole batches, work on some of them) -> what it gave, in parts, in order
OverRanks = Callable[
    [int, int, Callable[[range], tuple[Tensor, float]]], list[tuple[Tensor, float]]
]
SIMILARITIES_AT_ONCE = 2**24  # of a chunk of the first stage: 64 MiB of float32


@dataclass(frozen=True)
class Shortlist:
    """First k candidates of each query, best first.

    Attributes:
        candidates: int64 [Q, k], numbers in the gallery.
        right: bool [Q, k].
        ranks: int64 [Q], first-stage rank of the best right candidate, in the list or not.
    """

    candidates: Tensor
    right: Tensor
    ranks: Tensor


@dataclass(frozen=True)
class Reranked:
    """Short lists after the second stage, best first.

    Attributes:
        candidates: int64 [Q, k].
        right: bool [Q, k].
        scores: [Q, k].
        ranks: int64 [Q].
        seconds: time of scoring all pairs, of all ranks together.
    """

    candidates: Tensor
    right: Tensor
    scores: Tensor
    ranks: Tensor
    seconds: float


@dataclass(frozen=True)
class TwoStages:
    """Results of two-stage retrieval in both directions.

    Attributes:
        results: (t2v, v2t).
        lists: the re-ranked lists of both directions, for inspection.
        seconds: seconds per query on one rank: `t2v/first_stage_s` (embedding the query and
            searching the gallery, which is embedded beforehand), `t2v/second_stage_s` (scoring its
            k pairs), and the same for v2t; of images t2i and i2t.
    """

    results: tuple[Result, Result]
    lists: tuple[Reranked, Reranked]
    seconds: dict[str, float]


def make_shortlist(
    queries: Tensor,
    gallery: Tensor,
    query_owners: Tensor,
    gallery_owners: Tensor,
    ranks: Tensor,
    k: int,
) -> Shortlist:
    """Returns the k most similar candidates of each query, without holding the matrix.

    Args:
        queries: [Q, D] of `metrics.unit_features`.
        gallery: [G, D] of `metrics.unit_features`.
        query_owners: int64 [Q].
        gallery_owners: int64 [G]; a candidate is right for a query of the same owner.
        ranks: int64 [Q], first-stage ranks (`metrics.ranks_of_features`).
        k: length of the lists; limited to the gallery.

    Raises:
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError(f"re-ranking the first {k} candidates: choose 1 or more.")
    k = min(k, len(gallery))
    rows = max(1, SIMILARITIES_AT_ONCE // len(gallery))
    similarity = cosines(queries, gallery)
    candidates = torch.empty(len(queries), k, dtype=torch.int64)
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        block = similarity(part, slice(None)).cpu()
        candidates[part] = _first(block, query_owners[part], gallery_owners, k)
    return Shortlist(candidates, gallery_owners[candidates] == query_owners[:, None], ranks)


def _first(block: Tensor, query_owners: Tensor, gallery_owners: Tensor, k: int) -> Tensor:
    """Returns the first k columns of each row.

    The larger come first, among equals the wrong ones, then the lower numbers.
    """
    values, columns = block.topk(k, dim=1)
    order = _order(values, gallery_owners[columns] == query_owners[:, None], columns)
    columns = columns.gather(1, order)
    # `topk` takes any of the columns that tie for the end of the list: such rows are sorted by the
    # rule.
    for row in ((block >= values[:, -1:]).sum(dim=1) > k).nonzero()[:, 0].tolist():
        tied = (block[row] >= values[row, -1]).nonzero()[:, 0]
        order = _order(block[row, tied], gallery_owners[tied] == query_owners[row], tied)
        columns[row] = tied[order[:k]]
    return columns


def _order(scores: Tensor, right: Tensor, numbers: Tensor) -> Tensor:
    """Returns the order of the last axis.

    Larger scores come first, then wrong before right, then lower numbers.
    """
    return torch.from_numpy(np.lexsort((numbers.numpy(), right.numpy(), -scores.numpy()), axis=-1))


def _alone(
    count: int, unit: int, work: Callable[[range], tuple[Tensor, float]]
) -> list[tuple[Tensor, float]]:
    return [work(range(count))]


def rerank(
    shortlist: Shortlist,
    score_pairs: ScorePairs,
    *,
    pairs_per_batch: int = 64,
    over_ranks: OverRanks = _alone,
) -> Reranked:
    """Sorts the short lists by pair scores.

    Args:
        score_pairs: called with at most pairs_per_batch pairs, query by query.
        over_ranks: deals the queries out.

    Raises:
        TrainingDiverged: a pair score is NaN.
    """
    queries, k = shortlist.candidates.shape

    def scores_of(mine: range) -> tuple[Tensor, float]:
        began = time.perf_counter()
        pairs = zip(
            torch.arange(mine.start, mine.stop).repeat_interleave(k).split(pairs_per_batch),
            shortlist.candidates[mine.start : mine.stop].flatten().split(pairs_per_batch),
            strict=True,
        )
        found = [_checked_scores(score_pairs, query, candidate) for query, candidate in pairs]
        return torch.cat(found), time.perf_counter() - began

    parts = over_ranks(queries, math.lcm(k, pairs_per_batch) // k, scores_of)
    scores = torch.cat([found for found, _ in parts]).view(queries, k)
    order = _order(scores, shortlist.right, shortlist.candidates)
    candidates, right, scores = (
        x.gather(1, order) for x in (shortlist.candidates, shortlist.right, scores)
    )
    # In the sorted list the first right one is behind all wrong ones with a score as good as its
    # own.
    ranks = torch.where(right.any(dim=1), 1 + right.int().argmax(dim=1), shortlist.ranks)
    return Reranked(candidates, right, scores, ranks, sum(seconds for _, seconds in parts))


def _checked_scores(score_pairs: ScorePairs, queries: Tensor, candidates: Tensor) -> Tensor:
    scores = score_pairs(queries, candidates).detach().float().cpu()
    if scores.shape != queries.shape:
        raise ValueError(
            f"{len(queries)} pairs need as many scores, not an array of shape {tuple(scores.shape)}"
        )
    broken = scores.isnan().nonzero()
    if len(broken):
        number = int(broken[0])
        raise TrainingDiverged(
            f"the pair score of query number {int(queries[number])} and candidate number "
            f"{int(candidates[number])} is not a number: the model's weights are broken, start "
            "again from an earlier checkpoint or with a lower learning rate."
        )
    return scores


@dataclass(frozen=True)
class _Side:
    """One direction of a test set: arguments of `make_shortlist` and `rerank`."""

    queries: Tensor
    gallery: Tensor
    query_owners: Tensor
    gallery_owners: Tensor
    ranks: Tensor
    score_pairs: ScorePairs


def score_reranked(
    embedded: Embedded,
    score_pairs: ScorePairs,
    protocol: Protocol,
    *,
    k: int,
    pairs_per_batch: int = 64,
    over_ranks: OverRanks = _alone,
) -> TwoStages:
    """Scores both stages in both directions, timed.

    Args:
        embedded: the test set as features of the first stage's model.
        score_pairs: called with numbers of *captions* and of *videos* in both directions.
        protocol: of the first stage; where another model scores the pairs, `checkpoint` names both
            (`<first>+<second>`).
        k: how many candidates are re-ranked.
        over_ranks: deals the queries of the second stage out.
    """
    owners, numbers = embedded.owners, torch.arange(len(embedded.videos))
    check_owners(owners, len(embedded.texts), len(embedded.videos))
    first = ranks_of_features(embedded.texts, embedded.videos, owners)
    texts = unit_features(embedded.texts, "caption")
    videos = unit_features(embedded.videos, "video")

    def score_video_queries(query: Tensor, candidate: Tensor) -> Tensor:
        return score_pairs(candidate, query)

    seconds, lists = {}, []
    for direction, side in zip(
        DIRECTIONS[protocol.task],
        (
            _Side(texts, videos, owners, numbers, first[0], score_pairs),
            _Side(videos, texts, numbers, owners, first[1], score_video_queries),
        ),
        strict=True,
    ):
        began = time.perf_counter()
        shortlist = make_shortlist(
            side.queries, side.gallery, side.query_owners, side.gallery_owners, side.ranks, k
        )
        between = time.perf_counter()
        lists.append(
            rerank(
                shortlist,
                side.score_pairs,
                pairs_per_batch=pairs_per_batch,
                over_ranks=over_ranks,
            )
        )
        embedding = embedded.text_seconds if side.queries is texts else embedded.video_seconds
        seconds[f"{direction}/first_stage_s"] = (embedding + between - began) / len(side.queries)
        seconds[f"{direction}/second_stage_s"] = lists[-1].seconds / len(side.queries)
    protocol = replace(protocol, setting=f"{protocol.setting}, re-ranked top {k}")
    results = results_of((lists[0].ranks, lists[1].ranks), embedded, protocol)
    return TwoStages(results, (lists[0], lists[1]), seconds)


@dataclass(frozen=True)
class MatchScores:
    """`ScorePairs` by the matching head of a pre-trained model, nothing masked.

    Attributes:
        model: with the matching head (losses.vtm above 0).
        clips: numbers of videos int64 [n] -> uint8 [n, T, H, W, 3], one view each; called once a
            batch, each video named once.
        input_ids: of all captions, [C, L].
        attention_mask: of all captions, [C, L].
    """

    model: SimVTP
    clips: Callable[[Tensor], Tensor]
    input_ids: Tensor
    attention_mask: Tensor
    device: torch.device | str = "cpu"

    def __call__(self, captions: Tensor, videos: Tensor) -> Tensor:
        once, position = videos.unique(return_inverse=True)
        clips = self.clips(once).to(self.device)[position.to(self.device)]
        ids = self.input_ids[captions].to(self.device)
        mask = self.attention_mask[captions].to(self.device)
        with evaluating(self.model):
            return self.model.match(clips, ids, mask)
