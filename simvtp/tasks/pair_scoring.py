"""Scores of (clip, text) pairs over all views of the clips, with one pass over the videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from simvtp.data.benchmarks.records import Moment, Question
from simvtp.data.clips import Clip
from simvtp.data.text.tokenizer import TokenBatch, Tokenizer
from simvtp.errors import DataError
from simvtp.tasks.task import Context

# (clips [b, T, H, W, 3], input_ids, attention_mask) -> [b, ...]
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]

CHUNK = 8192  # texts that are tokenised at a time


def needed_length(tokenizer: Tokenizer, texts: Iterable[str], limit: int) -> int:
    """Returns the number of pieces of the longest of the texts, at most `limit`.

    Padding that no text needs costs time and changes nothing.
    """
    different = list(dict.fromkeys(texts))
    parts = (
        tokenizer.encode(different[first : first + CHUNK], limit).attention_mask
        for first in range(0, len(different), CHUNK)
    )
    return max(int(mask.sum(dim=1).max()) for mask in parts)


def asked_clips(
    records: Sequence[Question | Moment], videos: Mapping[str, Path], split: str
) -> tuple[list[Clip], list[int]]:
    """Returns the videos that questions or moments are about.

    Returns:
        (each video once, in the order of its first record; for each record the number of its
        video).
    """
    names = list(dict.fromkeys(record.video for record in records))
    numbers = {name: number for number, name in enumerate(names)}
    clips = [Clip(name, videos[name], (), split) for name in names]
    return clips, [numbers[record.video] for record in records]


def score_texts(
    context: Context,
    model: nn.Module,
    predict: Predict,
    clips: Sequence[Clip],
    texts: TokenBatch,
    owners: Sequence[int],
    classifies: bool = False,
) -> Tensor:
    """Returns the mean over the views of `predict` for each text with its clip.

    The clips are dealt out to the ranks, which all call this and get the same.

    Of classes the views are merged by `evaluate.view_merging`: with `softmax` (VideoMAE's rule) the
    mean is that of the probabilities, and its logarithm is returned.

    Args:
        model: put into evaluation mode meanwhile.
        clips: the videos, each once.
        texts: row i ([L], or [C, L]) belongs to clip number owners[i].
        classifies: the last dimension of `predict` holds the logits of classes, of which one is
            right; -inf for one that cannot be chosen.

    Returns:
        float64 [texts, ...], on the CPU.

    Raises:
        DataError: a text's clip gave no view.
    """
    by_probability = classifies and context.experiment.evaluate.view_merging == "softmax"
    rows_of_clip: dict[int, list[int]] = {}
    for row, owner in enumerate(owners):
        rows_of_clip.setdefault(owner, []).append(row)

    def merged(mine: range) -> tuple[Tensor, Tensor]:
        return _merged_views(
            context, model, predict, clips, texts, rows_of_clip, by_probability, mine
        )

    parts = context.over_ranks(len(clips), context.clips_in_whole_batches, merged)
    scored = torch.cat([rows for rows, _ in parts])
    if len(scored) < len(owners):
        raise DataError(
            f"{len(owners) - len(scored)} of {len(owners)} texts have no clip that could be scored."
        )
    return torch.cat([values for _, values in parts if len(values)])[scored.argsort()]


def _merged_views(
    context: Context,
    model: nn.Module,
    predict: Predict,
    clips: Sequence[Clip],
    texts: TokenBatch,
    rows_of_clip: Mapping[int, Sequence[int]],
    by_probability: bool,
    mine: range,
) -> tuple[Tensor, Tensor]:
    """Returns the texts of some clips, int64 [n], and their means over the views, [n, ...]."""
    size = context.experiment.evaluate.batch_size
    rows_asked = [row for number in mine for row in rows_of_clip.get(number, ())]
    asked = torch.tensor(rows_asked, dtype=torch.int64)
    place = torch.zeros(len(texts.input_ids), dtype=torch.int64)
    place[asked] = torch.arange(len(asked))
    total, seen = torch.zeros(0), torch.zeros(len(asked), dtype=torch.int64)
    with context.scoring(model):
        batches = context.view_loader(clips, mine).batches()
        for views, numbers in context.until_stopped(batches):
            pairs = [
                (view, row)
                for view, number in enumerate(numbers.tolist())
                for row in rows_of_clip.get(number, ())
            ]
            for first in range(0, len(pairs), size):
                context.check()
                view, rows = torch.tensor(pairs[first : first + size]).unbind(1)
                inputs = views[view], texts.input_ids[rows], texts.attention_mask[rows]
                answer = predict(*(part.to(context.device) for part in inputs))
                answer = answer.to(torch.float32).cpu().to(torch.float64)
                if by_probability:
                    answer = answer.softmax(dim=-1)
                if not len(total):
                    total = torch.zeros(len(asked), *answer.shape[1:], dtype=torch.float64)
                total.index_add_(0, place[rows], answer)
                seen.index_add_(0, place[rows], torch.ones_like(rows))
    found = seen > 0
    if not bool(found.any()):
        return asked[:0], total[:0]
    merged = total[found] / seen[found].view(-1, *[1] * (total.dim() - 1))
    return asked[found], merged.log() if by_probability else merged
