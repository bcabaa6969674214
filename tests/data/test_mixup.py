"""Mixup: what is mixed with what, how the shares are distributed.

And that ranks, workers and interruptions change nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import ActionTask
from simvtp.config.overrides import replace_key
from simvtp.data.loading.mixup import MixingLoader, mix, mixing_weight
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.errors import ConfigError
from simvtp.resolve import finalise
from simvtp.tasks import open_task
from simvtp.tasks.task_objectives import Classification
from tests.small import small_experiment
from tests.tasks.task_helpers import context_of


def test_both_of_a_pair_become_mixtures_of_both() -> None:
    clips = torch.randint(
        0, 256, (4, 2, 3, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    mixed, targets = mix(clips, torch.eye(4), torch.tensor([0.75, 1.0], dtype=torch.float64))
    values = clips.double().numpy()
    for row, (own, other, share) in enumerate(
        ((0, 1, 0.75), (1, 0, 0.75), (2, 3, 1.0), (3, 2, 1.0))
    ):
        np.testing.assert_array_equal(
            mixed[row].numpy(), np.rint(share * values[own] + (1 - share) * values[other])
        )
        expected = torch.zeros(4)
        expected[own], expected[other] = share, 1 - share
        assert torch.equal(targets[row], expected)
    assert mixed.dtype == torch.uint8


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_shares_are_those_of_a_beta_distribution(alpha: float) -> None:
    shares = np.array([mixing_weight(alpha, 0, "finetune", pair) for pair in range(4000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    expected = np.random.default_rng(0).beta(alpha, alpha, 400_000)
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert (shares < level).mean() == pytest.approx((expected < level).mean(), abs=0.03)


def test_a_mixture_is_learnt_by_its_shares() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.3, 0.7, 0.0]])
    losses, report = Classification()({"logits": logits, "targets": targets})
    assert float(losses["answer"]) == pytest.approx(
        float(-(targets * logits.log_softmax(dim=1)).sum() / 2), rel=1e-6
    )
    hard, _ = Classification()({"logits": logits, "targets": torch.tensor([0, 1])})
    soft, _ = Classification()({"logits": logits, "targets": torch.eye(3)[:2]})
    assert float(hard["answer"]) == pytest.approx(float(soft["answer"]), rel=1e-6)
    right = (logits.argmax(dim=1) == torch.tensor([0, 1])).float().mean()
    assert float(report["acc/answer"]) == float(right)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Experiment:
    return small_experiment(
        tmp_path_factory.mktemp("mixup"),
        shapes_cache,
        "finetune.task=action",
        "finetune.train.batch_size=4",
    )


def loader_of(experiment: Experiment, mixup: float, **context: object) -> TrainLoader:
    changed = replace_key(experiment, "finetune.task.mixup", mixup)
    return open_task(context_of(changed, **context)).loader(changed.finetune.train, "finetune")


def test_it_is_off_by_default_and_mixes_the_samples_that_there_would_be(small: Experiment) -> None:
    assert small.finetune.task == ActionTask(mixup=0)
    plain, mixing = loader_of(small, 0), loader_of(small, 0.8)
    assert not isinstance(plain, MixingLoader)
    shares = []
    for step, one, two in zip(range(3), plain.batches(0), mixing.batches(0), strict=False):
        assert (
            one.targets is not None and two.targets is not None and one.sample_ids == two.sample_ids
        )
        shares += [mixing_weight(0.8, small.seed, "finetune", 2 * step + pair) for pair in range(2)]
        clips, targets = mix(
            one.clips,
            torch.nn.functional.one_hot(one.targets, 8).float(),
            torch.tensor(shares[-2:], dtype=torch.float64),
        )
        assert torch.equal(two.clips, clips) and torch.equal(two.targets, targets)
        torch.testing.assert_close(two.targets.sum(dim=1), torch.ones(4))
    assert len(set(shares)) == 6


def test_ranks_and_interruptions_change_nothing(small: Experiment) -> None:
    whole = [batch for _, batch in zip(range(3), loader_of(small, 0.8).batches(0), strict=False)]
    again = next(loader_of(small, 0.8).batches(2))
    assert torch.equal(again.clips, whole[2].clips)
    for rank in range(2):
        part = next(loader_of(small, 0.8, rank=rank, world=2).batches(1))
        assert torch.equal(part.clips, whole[1].clips[2 * rank : 2 * rank + 2])
        assert torch.equal(part.targets, whole[1].targets[2 * rank : 2 * rank + 2])


def test_settings_that_cannot_be(small: Experiment, tmp_path: Path, shapes_cache: Path) -> None:
    with pytest.raises(ConfigError, match="must be an even number for each of 4 processes"):
        loader_of(small, 0.8, rank=0, world=4)
    with pytest.raises(ConfigError, match="finetune.task.mixup=1.5: must be in"):
        finalise(
            small_experiment(
                tmp_path, shapes_cache, "finetune.task=action", "finetune.task.mixup=1.5"
            )
        )
    with pytest.raises(ConfigError, match="'finetune.task.mixup' here: it belongs to .*=action"):
        finalise(
            small_experiment(tmp_path, shapes_cache, "finetune.task=qa", "finetune.task.mixup=0.8")
        )
