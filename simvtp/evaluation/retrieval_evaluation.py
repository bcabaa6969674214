"""Text-video retrieval of one model on one test set, in both directions.

A video may be seen in several views (temporal segments x spatial crops, method notes 1.8). Its
feature is the plain mean of the pooled, not normalised features of its views, and the cosine is
taken after that (released behaviour).

Embedding and scoring are two steps (`embed_test_set`, `score`), so that one pass over the videos
serves plain, dual-softmax and re-ranked (rerank.py) figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from simvtp.errors import DataError
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.metrics import chance, dual_softmax_ranks, ranks_of_features, summarise
from simvtp.runs.results import Protocol, Result

DUAL_SOFTMAX = "dual-softmax"
# An image is a video of one frame.
DIRECTIONS = {"retrieval": ("t2v", "v2t"), "image_text": ("t2i", "i2t")}


@dataclass(frozen=True)
class Embedded:
    """Features of a test set on the CPU.

    Attributes:
        texts: float32 [C, D].
        videos: float64 [V, D].
        owners: int64 [C], number of the video that each caption describes.
        text_seconds: wall-clock time of embedding all captions.
        video_seconds: wall-clock time of embedding all videos, decoding included.
    """

    texts: Tensor
    videos: Tensor
    owners: Tensor
    text_seconds: float
    video_seconds: float


def embed_test_set(
    model: nn.Module,
    views: Iterable[tuple[Tensor, Tensor]],
    texts: Iterable[tuple[Tensor, Tensor]],
    owners: Tensor,
    *,
    device: torch.device | str = "cpu",
    video_names: Sequence[str] = (),
) -> Embedded:
    """Returns the features of all videos (mean over their views) and captions.

    Args:
        model: has embed_video(uint8 [B, T, H, W, 3]) -> [B, D] and embed_text(input_ids int64 [B,
            L], attention_mask bool [B, L]) -> [B, D]; it is run in evaluation mode and left in the
            mode that it was in.
        views: batches (clips uint8 [b, T, H, W, 3], number of the video int64 [b]), in any order.
        texts: batches (input_ids, attention_mask), in the order of `owners`.
        owners: int64 [C], number of the video (from 0) that each caption describes.
        video_names: names of the videos, for messages; without them, there are as many videos as
            `owners` names.

    Raises:
        DataError: a video got no view.
    """
    videos = len(video_names) or int(owners.max()) + 1
    with evaluating(model):
        began = time.perf_counter()
        videos_seen = video_features(model, views, videos, video_names, device)
        between = time.perf_counter()
        captions_read = text_features(model, texts, device)
        ended = time.perf_counter()
    return Embedded(captions_read, videos_seen, owners.cpu(), ended - between, between - began)


def text_features(
    model: nn.Module, texts: Iterable[tuple[Tensor, Tensor]], device: torch.device | str
) -> Tensor:
    """Returns the feature of each caption, float32 [C, D] on the CPU.

    Call it inside `evaluating(model)`; the arguments are those of `embed_test_set`.
    """
    embed: Callable[[Tensor, Tensor], Tensor] = model.embed_text  # type: ignore[assignment]
    return torch.cat([embed(ids.to(device), mask.to(device)).float().cpu() for ids, mask in texts])


def score(
    embedded: Embedded, protocol: Protocol, *, rows_per_chunk: int = 512
) -> tuple[Result, Result]:
    """Returns the results (t2v, v2t) by cosine.

    Args:
        protocol: of either direction; both are made from it.
        rows_per_chunk: captions that are compared at once; the results do not depend on it.

    Raises:
        DataError: a video has no caption, or captions and owners differ in number.
        TrainingDiverged: a feature is not a number.
    """
    ranks = ranks_of_features(
        embedded.texts, embedded.videos, embedded.owners, rows_per_chunk=rows_per_chunk
    )
    return results_of(ranks, embedded, protocol)


def score_dual_softmax(
    embedded: Embedded, protocol: Protocol, *, temperature: float = 0.05
) -> tuple[Result, Result]:
    """Returns the results (t2v, v2t) after dual-softmax re-scoring.

    They have the setting `<setting>, dual-softmax`: a column of their own, never the headline. Dual
    softmax needs all queries of the test set at once, which a user's single query is not: see
    `metrics.dual_softmax_ranks`.
    """
    ranks = dual_softmax_ranks(
        embedded.texts, embedded.videos, embedded.owners, temperature=temperature
    )
    return results_of(
        ranks, embedded, replace(protocol, setting=f"{protocol.setting}, {DUAL_SOFTMAX}")
    )


def results_of(
    ranks: tuple[Tensor, Tensor], embedded: Embedded, protocol: Protocol
) -> tuple[Result, Result]:
    """Returns the results (t2v, v2t; for images t2i, i2t) of the ranks of both directions."""
    captions, videos = len(embedded.owners), len(embedded.videos)
    t2v, v2t = (replace(protocol, direction=name) for name in DIRECTIONS[protocol.task])
    right = embedded.owners.bincount(minlength=videos).tolist()
    return (
        _result(t2v, ranks[0], gallery=videos, right=[1] * captions),
        _result(v2t, ranks[1], gallery=captions, right=right),
    )


def video_features(
    model: nn.Module,
    views: Iterable[tuple[Tensor, Tensor]],
    videos: int,
    names: Sequence[str],
    device: torch.device | str,
) -> Tensor:
    """Returns the mean feature of each video over its views, float64 [videos, D] on the CPU.

    Call it inside `evaluating(model)`.

    Args:
        model: see `embed_test_set`, as `views` and `device`.
        videos: number of videos.
        names: of the videos, for messages; may be empty.

    Raises:
        DataError: a video got no view.
    """
    total: Tensor | None = None
    seen = torch.zeros(videos, dtype=torch.int64)
    embed: Callable[[Tensor], Tensor] = model.embed_video  # type: ignore[assignment]
    for clips, numbers in views:
        feature = embed(clips.to(device)).to(torch.float32).cpu().to(torch.float64)
        numbers = numbers.cpu()
        if total is None:
            total = torch.zeros(videos, feature.shape[1], dtype=torch.float64)
        total.index_add_(0, numbers, feature)
        seen += numbers.bincount(minlength=videos)
    if total is None or not bool(seen.all()):
        number = int((seen == 0).nonzero()[0])
        name = f"'{names[number]}'" if names else f"number {number}"
        raise DataError(
            f"video {name} of the test set gave no clip to score ({int((seen == 0).sum())} of "
            f"{videos} did not): check that it decodes with `python -m simvtp data check`."
        )
    return total / seen[:, None]


def _result(protocol: Protocol, ranks: Tensor, *, gallery: int, right: list[int]) -> Result:
    return Result(
        protocol=protocol,
        metrics=summarise(ranks),
        chance=chance(gallery, right),
        queries=len(ranks),
        gallery=gallery,
        ranks=tuple(ranks.tolist()),
    )
