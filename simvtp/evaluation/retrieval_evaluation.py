"""Text-video retrieval of one model on one test set, both directions, with the protocol written on
each figure.

A video may be seen in several views (temporal segments x spatial crops, method notes 1.8). Its
feature is the plain mean of the pooled, not normalised features of its views, and the cosine is
taken after that ("averaged", released behaviour; whether the released code normalised before
averaging is not known, the order is our choice). With one view both orders are the same.

Embedding and scoring are two steps (`embed_test_set`, `score`), so that one pass over the videos
serves plain, dual-softmax and re-ranked (rerank.py) figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from simvtp.errors import DataError
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.metrics import TIES, chance, dual_softmax_ranks, ranks_of_features, summarise
from simvtp.runs.results import Protocol, Result

DUAL_SOFTMAX = "dual-softmax"
DIRECTIONS = {
    "retrieval": ("t2v", "v2t"),
    "image_text": ("t2i", "i2t"),
}  # an image is a video of one frame


class Embedder(Interface):
    """What a model needs to be scored."""

    def embed_video(self, clips: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> [B, D]."""

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [B, L], bool [B, L] -> [B, D]."""


@dataclass(frozen=True)
class Embedded:
    """A test set as features on the CPU.

    Attributes:
        texts: float32 [C, D].
        videos: float64 [V, D].
        owners: int64 [C], number of the video that each caption describes.
        text_seconds, video_seconds: what embedding all captions and all videos took (decoding
            included), wall clock.
    """

    texts: Tensor
    videos: Tensor
    owners: Tensor
    text_seconds: float
    video_seconds: float


def evaluate_retrieval(
    model: nn.Module,
    views: Iterable[tuple[Tensor, Tensor]],
    texts: Iterable[tuple[Tensor, Tensor]],
    owners: Tensor,
    *,
    dataset: str,
    split: str,
    setting: str,
    frames: int,
    segments: int,
    crops: int,
    seed: int,
    checkpoint: str,
    variant: str = "",
    device: torch.device | str = "cpu",
    video_names: Sequence[str] = (),
    rows_per_chunk: int = 512,
) -> tuple[Result, Result]:
    """Score `model` and return the results (t2v, v2t).

    Args:
        model: has `embed_video` and `embed_text` (see `Embedder`); it is run in evaluation mode and
            left in the mode it was in.
        views: batches (clips uint8 [b, T, H, W, 3], number of the video int64 [b]), in any order.
        texts: batches (input_ids int64 [b, L], attention_mask bool [b, L]), in the order of
            `owners`.
        owners: int64 [captions], number of the video (from 0) that each caption describes.
        dataset ... variant: fields of `simvtp.runs.results.Protocol`.
        video_names: names of the videos, for messages; without them, videos are as many as `owners`
            names.
        rows_per_chunk: captions that are compared at once; the results do not depend on it.

    Raises:
        DataError: a video got no view or has no caption, or captions and owners differ in number.
        TrainingDiverged: a feature is not a number.
    """
    embedded = embed_test_set(model, views, texts, owners, device=device, video_names=video_names)
    protocol = Protocol(
        task="retrieval", dataset=dataset, split=split, setting=setting, direction="t2v", frames=frames, segments=segments,
        crops=crops, ties=TIES, seed=seed, checkpoint=checkpoint, variant=variant,
    )  # fmt: skip
    return score(embedded, protocol, rows_per_chunk=rows_per_chunk)


def embed_test_set(
    model: nn.Module,
    views: Iterable[tuple[Tensor, Tensor]],
    texts: Iterable[tuple[Tensor, Tensor]],
    owners: Tensor,
    *,
    device: torch.device | str = "cpu",
    video_names: Sequence[str] = (),
) -> Embedded:
    """Features of all videos (mean over their views) and captions; arguments and errors as for
    `evaluate_retrieval`.
    """
    videos = len(video_names) or int(owners.max()) + 1
    with evaluating(model):
        began = time.perf_counter()
        video_features = _video_features(model, views, videos, video_names, device)
        between = time.perf_counter()
        text_features = torch.cat(
            [
                model.embed_text(ids.to(device), mask.to(device)).float().cpu()  # type: ignore[operator]
                for ids, mask in texts
            ]
        )
    return Embedded(
        text_features, video_features, owners.cpu(), time.perf_counter() - between, between - began
    )


def score(
    embedded: Embedded, protocol: Protocol, *, rows_per_chunk: int = 512
) -> tuple[Result, Result]:
    """(t2v, v2t) by cosine; `protocol` is given for one direction, the other's is made from it."""
    return results_of(
        ranks_of_features(
            embedded.texts, embedded.videos, embedded.owners, rows_per_chunk=rows_per_chunk
        ),
        embedded,
        protocol,
    )


def score_dual_softmax(
    embedded: Embedded, protocol: Protocol, *, temperature: float = 0.05
) -> tuple[Result, Result]:
    """(t2v, v2t) after dual-softmax re-scoring, with the setting `<setting>, dual-softmax`: a
    column of its own, never the headline.

    It needs all queries of the test set at once, which a user's single query is not: see
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
    """Results (t2v, v2t; for images t2i, i2t) of the ranks of both directions."""
    captions, videos = len(embedded.owners), len(embedded.videos)
    there, back = DIRECTIONS[protocol.task]
    right = embedded.owners.bincount(minlength=videos).tolist()
    return (
        _result(replace(protocol, direction=there), ranks[0], gallery=videos, right=[1] * captions),
        _result(replace(protocol, direction=back), ranks[1], gallery=captions, right=right),
    )


def _video_features(
    model: nn.Module,
    views: Iterable[tuple[Tensor, Tensor]],
    videos: int,
    names: Sequence[str],
    device: torch.device | str,
) -> Tensor:
    """Mean feature of each video over its views, float64 [videos, D] on the CPU."""
    total: Tensor | None = None
    seen = torch.zeros(videos, dtype=torch.int64)
    for clips, numbers in views:
        feature = model.embed_video(clips.to(device)).to(torch.float32).cpu().to(torch.float64)  # type: ignore[operator]
        numbers = numbers.cpu()
        if total is None:
            total = torch.zeros(videos, feature.shape[1], dtype=torch.float64)
        total.index_add_(0, numbers, feature)
        seen += numbers.bincount(minlength=videos)
    if total is None or not bool(seen.all()):
        number = int((seen == 0).nonzero()[0])
        name = f"'{names[number]}'" if names else f"number {number}"
        raise DataError(
            f"video {name} of the test set gave no clip to score ({int((seen == 0).sum())} of {videos} did not): "
            "check that it decodes with `python -m simvtp data check`."
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
