"""Models of the tasks: masking, probes, learning rates, scores, questions as tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import replace_key
from simvtp.data.clips import Clip
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.errors import DataError
from simvtp.methods import build_model
from simvtp.models.common.forward_options import BatchSlice, ForwardOptions
from simvtp.models.downstream.action_model import VideoClassifier
from simvtp.models.downstream.cross_encoder import PairModel
from simvtp.tasks.pair_scoring import score_texts
from simvtp.tasks.qa import QuestionAnswering, padded, shaped
from simvtp.training.optim import build_optimizer, set_rate
from tests.tasks.task_helpers import MODEL, batch_of, context_of


def test_a_blind_model_does_not_see_the_clip() -> None:
    unified = build_model(MODEL, seed=1)
    one = batch_of()
    other = replace(one, clips=255 - one.clips)
    for blind in (True, False):
        model = PairModel.from_unified(unified, MODEL, 5, seed=2, blind=blind).eval()
        assert torch.equal(model(one)["logits"], model(other)["logits"]) == blind
        assert any("video" in name for name, _ in model.named_parameters()) != blind


def test_dropped_tubes_are_few_in_training_and_do_not_depend_on_how_the_batch_is_cut() -> None:
    model = PairModel.from_unified(build_model(MODEL, seed=1), MODEL, 5, seed=2, drop_tubes=0.75)
    clips = batch_of(size=2).clips.repeat(2, 1, 1, 1, 1)
    assert model.eval().pair.embed_video(clips).shape[1] == MODEL.tubes == 8
    model.train()
    torch.manual_seed(3)
    whole = model.pair.embed_video(clips)
    assert whole.shape[1] == 2
    parts = []
    for first in (0, 2):
        options = ForwardOptions(batch_slice=BatchSlice(first, 2, 4))
        torch.manual_seed(3)
        parts.append(model.pair.embed_video(clips[first : first + 2], options))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(whole[:2], whole[2:])  # each sample has tubes of its own


def test_candidates_are_scored_one_by_one_and_absent_ones_never_win() -> None:
    model = PairModel.from_unified(
        build_model(MODEL, seed=1), MODEL, 1, seed=2, kind="match"
    ).eval()
    batch = batch_of(texts=3)
    scores = model(batch)["logits"]
    for number in range(3):
        alone = model.score(
            batch.clips, batch.input_ids[:, number], batch.attention_mask[:, number]
        )
        torch.testing.assert_close(scores[:, number], alone[:, 0])
    there = torch.tensor([[True, True, False], [True, False, True]])
    tokens = load_tokenizer("builtin").encode(["a"] * 6, 8)
    mask = shaped(tokens, there).attention_mask
    hidden = model.score(batch.clips, batch.input_ids, mask)
    assert torch.equal(hidden.isinf(), ~there) and not hidden.isnan().any()
    assert padded(("x",), 3) == ["x", "", ""]


def test_dropout_of_candidates_does_not_depend_on_how_the_batch_is_cut() -> None:
    model = PairModel.from_unified(
        build_model(MODEL, seed=1), MODEL, 1, seed=2, kind="match", drop_path=0.5
    ).train()
    batch = batch_of(size=2, texts=3)
    clips, ids, seen = (
        tensor.repeat(2, *[1] * (tensor.dim() - 1))
        for tensor in (batch.clips, batch.input_ids, batch.attention_mask)
    )

    def scores(first: int, count: int) -> torch.Tensor:
        options = ForwardOptions(batch_slice=BatchSlice(first, count, 4))
        torch.manual_seed(3)
        rows = slice(first, first + count)
        return model.score(clips[rows], ids[rows], seen[rows], options)

    whole = scores(0, 4)
    torch.testing.assert_close(torch.cat([scores(0, 2), scores(2, 2)]), whole)
    assert not torch.allclose(whole[:2], whole[2:]), "nothing was dropped"


def test_the_match_head_starts_as_the_pretrained_one() -> None:
    unified = build_model(MODEL, seed=1).eval()
    model = PairModel.from_unified(unified, MODEL, 1, seed=2, kind="match").eval()
    batch = batch_of()
    torch.testing.assert_close(
        model(batch)["logits"][:, 0],
        unified.match(batch.clips, batch.input_ids, batch.attention_mask),
    )


def test_scores_are_means_over_the_views_of_the_right_clip(small: Experiment) -> None:
    experiment = replace(small, evaluate=replace(small.evaluate, segments=3, batch_size=2))
    context = context_of(experiment)
    clips = context.dataset.splits["val"][:3]
    texts = context.tokenizer.encode(["one", "two", "three", "four"], 8)
    owners = [2, 0, 0, 1]

    def predict(views: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.stack([views.float().mean(dim=(1, 2, 3, 4)), ids.float().sum(dim=1)], dim=1)

    found = score_texts(context, torch.nn.Identity(), predict, clips, texts, owners)
    brightness = torch.zeros(3, dtype=torch.float64)
    for views, numbers in context.view_loader(clips).batches():
        brightness.index_add_(0, numbers, views.double().mean(dim=(1, 2, 3, 4)) / 3)
    torch.testing.assert_close(found[:, 0], brightness[owners], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[:, 1], texts.input_ids.double().sum(dim=1))
    with pytest.raises(DataError, match="no clip"):
        score_texts(context, torch.nn.Identity(), predict, clips[:1], texts, owners)


@pytest.mark.parametrize("merging", ["softmax", "logits"])
def test_views_of_a_classification_are_merged_as_the_protocol_says(
    small: Experiment, merging: str
) -> None:
    # VideoMAE averages probabilities. Computed here view by view with numpy; a candidate that is
    # absent (-inf) stays absent.
    evaluate = replace(
        small.evaluate,
        segments=2,
        crops=2,
        batch_size=3,
        view_merging=merging,  # type: ignore[arg-type]
    )
    context = context_of(replace(small, evaluate=evaluate))
    clips = context.dataset.splits["val"][:2]
    texts = context.tokenizer.encode(["one", "two"], 8)

    def logits_of(view: torch.Tensor) -> np.ndarray:
        seed = int(view.long().sum()) % 1000
        return np.array([*np.random.default_rng(seed).normal(0, 4, 3), -np.inf])

    def predict(views: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([logits_of(view) for view in views]))

    model = torch.nn.Identity()
    found = score_texts(context, model, predict, clips, texts, [0, 1], classifies=True).numpy()
    seen: list[list[np.ndarray]] = [[], []]
    for views, numbers in context.view_loader(clips).batches():
        for view, number in zip(views, numbers.tolist(), strict=True):
            seen[number].append(logits_of(view))
    for row, several in zip(found, seen, strict=True):
        assert len(several) == 4
        weights = np.exp(several)
        fractions = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
        expected = fractions if merging == "softmax" else np.mean(several, axis=0)
        np.testing.assert_allclose(np.exp(row) if merging == "softmax" else row, expected, 1e-5)
    protocol = context.protocol("action", "test", "finetuned", "", ties="", classifies=True)
    assert protocol.merging == merging
    assert context.protocol("grounding", "test", "finetuned", "", ties="").merging == ""
    once = replace(small, evaluate=replace(evaluate, segments=1, crops=1))
    alone = context_of(once).protocol("qa", "test", "", "", ties="", classifies=True)
    assert alone.merging == "", "one view is not merged"


@pytest.mark.parametrize("probe", ["linear", "attentive"])
def test_a_probe_leaves_the_encoder_as_it_is(probe: str) -> None:
    unified = build_model(MODEL, seed=1)
    model = VideoClassifier.from_unified(
        unified, MODEL, 3, seed=2, probe=probe, drop_path=0.5
    ).train()  # type: ignore[arg-type]
    trained = {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {"head", "fc_norm"} | ({"pool"} if probe == "attentive" else set())
    batch = batch_of()
    assert torch.equal(
        model(batch)["logits"], model(batch)["logits"]
    )  # nothing of the frozen part is left to chance
    model(batch)["logits"].sum().backward()
    assert all(
        (parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters()
    )
    assert torch.equal(model.encoder.norm.weight, unified.encoder.norm.weight)


@pytest.mark.parametrize("build", ["action", "pair"])
def test_layer_decay_gives_each_layer_its_own_learning_rate(small: Experiment, build: str) -> None:
    """3 blocks and decay 0.75.

    Embeddings 0.75^4, blocks 0.75^3, 0.75^2, 0.75, norm and head 1, of the rate of the step.
    """
    unified = build_model(MODEL, seed=1)
    model: torch.nn.Module = (
        VideoClassifier.from_unified(unified, MODEL, 3, seed=2)
        if build == "action"
        else PairModel.from_unified(unified, MODEL, 3, seed=2)
    )
    optimizer = build_optimizer(
        model, replace(small.finetune.train, layer_decay=0.75), torch.device("cpu")
    )
    set_rate(optimizer, 0.1)
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    def expected(name: str) -> float:
        if "embedding" in name:
            return 0.75**4
        return next(
            (0.75 ** (3 - number) for number in range(3) if f"blocks.{number}." in name), 1.0
        )

    seen = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert seen == {name: pytest.approx(0.1 * expected(name)) for name in seen}
    assert len({round(rate, 9) for rate in seen.values()}) == 5


def test_a_clip_is_asked_about_as_often_as_it_has_questions(small: Experiment) -> None:
    task = QuestionAnswering(context_of(small))
    loader = task.loader(small.finetune.train, "finetune")
    names: list[str] = []
    for step, batch in zip(range(loader.steps_per_epoch), loader.batches(0), strict=False):
        assert step < loader.steps_per_epoch
        names += batch.sample_ids
    assert len(names) == task.samples // 8 * 8
    assert len(set(names)) > 1 and isinstance(Clip(names[0], Path(), ()), Clip)


def test_counting_questions_have_numbers_and_every_clip_has_some(small: Experiment) -> None:
    experiment = replace_key(small, "finetune.task.questions", "count")
    task = QuestionAnswering(context_of(experiment))
    clips = {clip.id for clip in task.context.dataset.splits["test"]}
    assert {q.video for q in task.questions["test"]} == clips and len(
        task.questions["test"]
    ) > 2 * len(clips)
    model = task.build(build_model(task.context.experiment.model, seed=0))
    [scored] = task.score(model, "test", "finetuned", "")
    result = scored.result
    assert (
        0 <= result.metrics["accuracy"] <= 100
        and result.metrics.keys() == result.baselines["prior"].keys() == result.chance.keys()
    )


@pytest.mark.parametrize("questions", ["open", "choice"])
def test_no_text_is_cut_and_none_has_padding_that_no_other_needs(
    small: Experiment, questions: str
) -> None:
    changed = replace_key(small, "finetune.task.questions", questions)
    task = QuestionAnswering(context_of(changed))  # type: ignore[arg-type]
    limit = task.context.experiment.model.text_length
    asked = [
        text
        for split in ("train", "val", "test")
        for q in task.questions[split]
        for text in task._worded(q)
    ]
    longest = task.context.tokenizer.encode(asked, limit).attention_mask.sum(dim=1).max()
    assert task.text_length == longest < limit
    assert task._texts(task.questions["test"]).input_ids.shape[-1] == longest


def test_the_answers_do_not_depend_on_the_share_of_the_data(small: Experiment) -> None:
    """`data.fraction` is of the pre-training.

    Fine-tuning after it sees all questions, and so has the same answers.
    """
    few = replace(small, data=replace(small.data, fraction=0.25))
    assert (
        QuestionAnswering(context_of(few)).answers == QuestionAnswering(context_of(small)).answers
    )
