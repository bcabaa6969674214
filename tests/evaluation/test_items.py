"""Per-item outcomes give back the figures they stand behind, and survive their file."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.errors import DamagedFile, DataError
from simvtp.evaluation import metrics
from simvtp.evaluation.answers import accuracy, answer_ranks, top_k
from simvtp.evaluation.items import (
    Items,
    distinct,
    find_items,
    items_of,
    items_path,
    read_items,
    run_items,
    write_items,
)
from simvtp.evaluation.temporal_spans import DEPTHS, grounding_metrics
from simvtp.runs.results import Protocol, Result

PROTOCOL = Protocol(
    "retrieval", "shapes", "test", "finetuned", "t2v", 8, 1, 1, "pessimistic", 0, "ab" * 32
)


def made(ranks: list[int]) -> Items:
    result = Result(PROTOCOL, {}, {}, len(ranks), 60, tuple(ranks))
    return items_of(result, [f"clip{n}#0" for n in range(len(ranks))])


def test_outcomes_have_the_figures_as_means() -> None:
    ranks = torch.randint(1, 61, (101,), generator=torch.Generator().manual_seed(0))
    items = made(ranks.tolist())
    for name, value in (metrics.summarise(ranks) | top_k(ranks)).items():
        assert items.figure(name) == pytest.approx(value, rel=1e-12), name
    twice = np.array([3, 3, 8])
    assert items.figure("MnR", twice) == pytest.approx(float(ranks[[3, 3, 8]].double().mean()))


def test_categories_are_means_over_their_own_items() -> None:
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    ranks = answer_ranks(scores, torch.zeros(40, dtype=torch.int64))
    groups = [("what colour", "how many?")[n % 3 > 0] for n in range(40)]
    items = replace(made(ranks.tolist()), groups=tuple(groups))
    figures = accuracy(ranks, groups)
    assert set(figures) == {"accuracy", "accuracy-what-colour", "accuracy-how-many"}
    for name, value in figures.items():
        assert items.figure(name) == pytest.approx(value)
    assert np.isnan(items.outcomes("accuracy-how-many")[0]), (
        "an item of another category is left out, not wrong"
    )


def test_overlaps_give_the_grounding_figures() -> None:
    random = np.random.default_rng(2)
    truths = np.sort(random.uniform(0, 10, (30, 2)), axis=1) + np.array([0, 0.1])
    predictions = [
        (np.sort(random.uniform(0, 10, (5, 2)), axis=1) + np.array([0, 0.1]), random.normal(size=5))
        for _ in truths
    ]
    figures, _ = grounding_metrics(predictions, truths)
    columns = {
        f"IoU-top{depth}": tuple(
            grounding_metrics([p], t[None])[0] and _best(p, t, depth)
            for p, t in zip(predictions, truths, strict=True)
        )
        for depth in DEPTHS
    }
    for name in ("mAP", "mAP-IoU0.5", "mAP-IoU0.75"):  # columns of their own
        columns[name] = tuple(
            grounding_metrics([p], t[None])[0][name]
            for p, t in zip(predictions, truths, strict=True)
        )
    items = Items(replace(PROTOCOL, task="grounding"), tuple(f"m{n}" for n in range(30)), columns)
    for name, value in figures.items():
        assert items.figure(name) == pytest.approx(value), name


def _best(prediction: tuple[np.ndarray, np.ndarray], truth: np.ndarray, depth: int) -> float:
    """Overlap by counting, not by the formula under test."""
    best = 0.0
    for number in np.argsort(-prediction[1])[:depth]:
        start, end = prediction[0][number]
        shared = max(0.0, min(end, truth[1]) - max(start, truth[0]))
        best = max(best, shared / (end - start + truth[1] - truth[0] - shared))
    return best


def test_a_metric_that_does_not_follow_is_refused() -> None:
    for name in ("mIoU", "MSE", "accuracy-colour", "R1-IoU0.5"):
        with pytest.raises(DataError, match=f"{name} does not follow"):
            made([1, 2]).outcomes(name)


def test_the_file_gives_back_what_was_written_and_the_same_bytes(tmp_path: Path) -> None:
    cards = {
        "clip1#0": {
            "text": "a\u2028b <b> \U0001f600 \u05e9\u05dc\u05d5\u05dd",
            "top": [["clip7", 0.25]],
        }
    }
    first = replace(made([4, 1, 60]), cards=cards)
    blind = Items(
        replace(PROTOCOL, direction="", task="qa"),
        ("q",),
        {"MSE": (0.25,)},
        ("count",),
        "video hidden",
    )
    write_items(items_path(tmp_path, "evaluate"), [first, blind])
    stored = items_path(tmp_path, "evaluate").read_bytes()
    assert run_items(tmp_path) == [first, blind]
    write_items(items_path(tmp_path, "evaluate"), run_items(tmp_path))
    assert items_path(tmp_path, "evaluate").read_bytes() == stored
    assert find_items([first, blind], PROTOCOL) == first
    assert find_items([first, blind], blind.protocol) is None, "a baseline is not the figure"
    assert find_items([first, blind], blind.protocol, "video hidden") == blind


def test_runs_without_the_file_have_no_items_and_a_damaged_one_is_reported(tmp_path: Path) -> None:
    assert run_items(tmp_path) == []
    path = items_path(tmp_path, "zero_shot")
    write_items(path, [made([1])])
    whole = path.read_bytes()
    for broken in (
        whole[:-9],
        b"nothing of the kind",
        gzip.compress(b'{"ids":[]}\n'),
        gzip.compress(b"["),
    ):
        path.write_bytes(broken)
        with pytest.raises(DamagedFile, match="damaged: "):
            read_items(path)


def test_items_are_distinguished_even_where_the_annotation_does_not() -> None:
    assert distinct(["a", "b", "a", "a (2)", "a"]) == ("a", "b", "a (3)", "a (2)", "a (4)")
    with pytest.raises(DataError, match="rank has 1"):
        Items(PROTOCOL, ("a", "b"), {"rank": (1.0,)})
