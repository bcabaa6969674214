"""Figures and scores do not depend on the number of ranks that share the scoring, bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.errors import Stopped, StopReason
from simvtp.methods import build_model
from simvtp.tasks import open_retrieval, open_task
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.twostage import Matcher
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.parallel import distributed, kept_parts
from simvtp.training.parallel.shares import over_ranks, share_of, whole_batches
from tests.small import small_experiment
from tests.tasks.task_helpers import context_of
from tests.training.training_runs import on_ranks

TASKS: dict[str, tuple[str, ...]] = {
    "retrieval": ("evaluate.rerank=3", "evaluate.dual_softmax=true", "evaluate.frame_orders=true"),
    "imagetext": ("finetune.task=imagetext", "evaluate.rerank=2"),
    "open questions": ("finetune.task=qa",),
    "questions with choices": ("finetune.task=qa", "finetune.task.questions=choice"),
    "choice": ("finetune.task=choice",),
    "grounding": ("finetune.task=grounding", "finetune.task.segments=4"),
    "action": ("finetune.task=action",),
    "attentive probe": ("finetune.task=action", "finetune.task.probe=attentive"),
}
# Three views a clip and batches of four: a batch does not end where a clip ends.
VIEWS = ("evaluate.segments=3", "evaluate.crops=1", "evaluate.batch_size=4")


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("batch", "views"), [(16, 1), (16, 9), (4, 3), (1, 9), (7, 3)])
@pytest.mark.parametrize("count", [1, 2, 16, 17, 100, 1000])
def test_shares_are_whole_batches_of_whole_clips(
    world: int, batch: int, views: int, count: int
) -> None:
    unit = whole_batches(batch, views)
    assert unit * views % batch == 0 and unit * math.gcd(batch, views) == batch
    shares = [share_of(count, unit, rank, world) for rank in range(world)]
    assert [number for share in shares for number in share] == list(range(count))
    assert all(share.start % unit == 0 for share in shares if share)
    sizes = [-(-len(share) // unit) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def plain(value: Any) -> Any:
    """Returns a value that json can write, with the bytes of arrays; without durations."""
    if isinstance(value, Tensor):
        return plain(value.numpy())
    if isinstance(value, np.ndarray):
        return [list(value.shape), str(value.dtype), value.tobytes().hex()]
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {f.name: plain(getattr(value, f.name)) for f in fields if "seconds" not in f.name}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def score_all(experiment: Experiment, directory: Path) -> None:
    """Writes the scores of each task, by models that nothing but the settings decides."""
    for name, settings in TASKS.items():
        changed = override(experiment, [*VIEWS, *settings])
        context = context_of(changed, rank=distributed.rank(), world=distributed.world())
        unified = build_model(context.experiment.model, changed.losses.wanted, 3).eval()
        task = open_task(context)
        model = task.build(unified).eval()
        if isinstance(task, Retrieval):
            scored = task.report(model, "test", "test", "", Matcher(unified, "other"))
        else:
            scored = task.score(model, "test", "test", "")
        text = json.dumps(plain(scored))
        assert len(set(distributed.from_all(hashlib.sha256(text.encode()).hexdigest()))) == 1
        (directory / f"{name}.{distributed.world()}.json").write_text(text)


@pytest.mark.slow
def test_one_two_and_three_ranks_score_the_same(tmp_path: Path, shapes_cache: Path) -> None:
    experiment = small_experiment(tmp_path, shapes_cache)
    for ranks in (1, 2, 3):
        on_ranks(ranks, score_all, experiment, tmp_path)
    for name in TASKS:
        one, two, three = ((tmp_path / f"{name}.{ranks}.json").read_text() for ranks in (1, 2, 3))
        assert one == two == three, name
        assert len(one) > 1000


def stop_one_rank(experiment: Experiment) -> None:
    """One rank is asked to stop while it scores: all of them stop, and can go on together."""
    stop = StopFlag()
    if distributed.rank() == 1:
        stop.set("test", StopReason.REQUEUE)
    context = context_of(override(experiment, VIEWS), check=stop.check)
    task = open_task(context)
    model = task.build(build_model(context.experiment.model, seed=3)).eval()
    with pytest.raises(Stopped) as stopped:
        task.score(model, "test", "test", "")
    assert stopped.value.reason == StopReason.REQUEUE
    assert distributed.from_all(distributed.rank()) == [0, 1]


@pytest.mark.slow
def test_a_request_to_stop_ends_the_scoring_of_all_ranks(
    tmp_path: Path, shapes_cache: Path
) -> None:
    on_ranks(2, stop_one_rank, small_experiment(tmp_path, shapes_cache, "finetune.task=action"))


def work_that_breaks(kind: str) -> None:
    def work(mine: range) -> Tensor:
        if distributed.rank() == 1 and kind == "user":
            raise Stopped("enough")
        return torch.arange(mine.start, mine.stop)

    if kind == "user":
        with pytest.raises(Stopped, match="enough"):
            over_ranks(10, 2, work)
        return
    assert torch.cat(over_ranks(10, 4, work)).tolist() == list(range(10))
    assert torch.cat(over_ranks(1, 4, work)).tolist() == [0]  # a rank has nothing to do


@pytest.mark.parametrize("kind", ["user", "none"])
def test_parts_come_in_order_or_none_of_them(kind: str) -> None:
    on_ranks(2, work_that_breaks, kind)


@pytest.mark.parametrize(
    "name", [pytest.param("retrieval", marks=pytest.mark.slow), "open questions"]
)
def test_scores_from_kept_parts_are_the_same(
    tmp_path: Path, shapes_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(kept_parts, "KEPT_FROM_S", 0.0)
    monkeypatch.setattr(kept_parts, "FIRST_UNITS", 1)
    monkeypatch.setattr(kept_parts, "PART_S", 1e-9)
    experiment = small_experiment(tmp_path, shapes_cache, *VIEWS, *TASKS[name])
    context = context_of(experiment)
    unified = build_model(context.experiment.model, experiment.losses.wanted, 3).eval()
    task = open_task(context)
    model = task.build(unified).eval()

    def scores() -> Any:
        if isinstance(task, Retrieval):
            return plain(task.report(model, "test", "test", "", Matcher(unified, "other")))
        return plain(task.score(model, "test", "test", ""))

    whole = scores()
    for _ in range(2):
        with context.kept.stage(tmp_path / "parts", lambda: None):
            assert scores() == whole
    assert len(list((tmp_path / "parts").glob("*.part"))) >= 2


@pytest.mark.slow
def test_the_precision_of_scoring_is_a_part_of_the_protocol(
    tmp_path: Path, shapes_cache: Path
) -> None:
    """bf16 is used in every pass, changes scores a little, and stands with the figure."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for precision in ("fp32", "bf16"):
        experiment = small_experiment(
            tmp_path, shapes_cache, f"evaluate.precision={precision}", "evaluate.rerank=2", *VIEWS
        )
        context = context_of(experiment)
        task = open_retrieval(context)
        unified = build_model(context.experiment.model, experiment.losses.wanted, 3).eval()
        scored = task.report(unified, "test", "test", "", Matcher(unified, "other"))
        named = {one.result.protocol.precision for one in scored}
        assert named == {"" if precision == "fp32" else precision}
        embedded = task._embed(unified, "test")
        assert embedded.texts.dtype == torch.float32 and embedded.videos.dtype == torch.float64
        found[precision] = embedded.texts.double(), embedded.videos
    for plain_features, half in zip(found["fp32"], found["bf16"], strict=True):
        off = (half - plain_features).norm() / plain_features.norm()
        assert 1e-4 < float(off) < 0.05
