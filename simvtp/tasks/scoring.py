"""Scores of (clip, text) pairs over all views of the clips, with one pass over the videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from simvtp.data.manifest import Clip
from simvtp.data.text import TokenBatch
from simvtp.errors import DataError
from simvtp.evaluation.mode import evaluating
from simvtp.tasks.task import Context

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # (clips [b, T, H, W, 3], input_ids, attention_mask) -> [b, ...]


def score_texts(
    context: Context, model: nn.Module, predict: Predict, clips: Sequence[Clip], texts: TokenBatch, owners: Sequence[int]
) -> Tensor:
    """Mean over the views of `predict`'s answer for each text with its clip: float64 [texts, ...], on the CPU.

    Args:
        model: put into evaluation mode meanwhile.
        clips: the videos, each once.
        texts: row i ([L], or [C, L]) belongs to clip number owners[i].

    Raises DataError if a text's clip gave no view.
    """
    size = context.experiment.evaluate.batch_size
    total: Tensor | None = None
    seen = torch.zeros(len(owners), dtype=torch.int64)
    asked: dict[int, list[int]] = {}
    for row, owner in enumerate(owners):
        asked.setdefault(owner, []).append(row)
    with evaluating(model):
        for views, numbers in context.until_stopped(context.view_loader(clips).batches()):
            pairs = [(view, row) for view, number in enumerate(numbers.tolist()) for row in asked.get(number, ())]
            for first in range(0, len(pairs), size):
                context.check()
                view, rows = torch.tensor(pairs[first : first + size]).unbind(1)
                moved = (part.to(context.device) for part in (views[view], texts.input_ids[rows], texts.attention_mask[rows]))
                answer = predict(*moved).to(torch.float32).cpu().to(torch.float64)
                if total is None:
                    total = torch.zeros(len(owners), *answer.shape[1:], dtype=torch.float64)
                total.index_add_(0, rows, answer)
                seen.index_add_(0, rows, torch.ones_like(rows))
    if total is None or not bool(seen.all()):
        raise DataError(f"{int((seen == 0).sum())} of {len(owners)} texts have no clip that could be scored.")
    return total / seen.view(-1, *[1] * (total.dim() - 1))
