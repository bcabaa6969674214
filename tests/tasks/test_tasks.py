"""Downstream tasks: what they train and test on, exact continuation, what is frozen, what is
hidden, rates per layer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from simvtp.batch import Batch
from simvtp.config.experiment_config import TASK_CONFIGS, Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.overrides import override, replace_key
from simvtp.data.annotations import open_annotations
from simvtp.data.clips import Clip
from simvtp.data.datasets import open_dataset
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.errors import ConfigError, DataError, Stopped
from simvtp.evaluation.items import find_items, run_items
from simvtp.experiment import run, with_vocabulary
from simvtp.methods import build_model
from simvtp.models.common.forward_options import BatchSlice, ForwardOptions
from simvtp.models.downstream.action_model import VideoClassifier
from simvtp.models.downstream.cross_encoder import PairModel
from simvtp.resolve import finalise
from simvtp.runs.journal import read_journal
from simvtp.runs.rundir import load_results
from simvtp.runs.scores import read_metric
from simvtp.tasks import TASKS, Context, open_task
from simvtp.tasks.choice import distinct_numbers
from simvtp.tasks.pair_scoring import score_texts
from simvtp.tasks.qa import QuestionAnswering, padded, shaped
from simvtp.training.optim import build_optimizer, set_rate
from tests.small import small_experiment, small_settings

MODEL = SimVTPConfig(
    image_size=16, frames=4, patch_size=8, tubelet_size=2, dim=16, depth=3, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=1,
    vocab_size=40, text_length=8, max_text_positions=8, text_dropout=0.0,
)  # fmt: skip


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Path:
    """The run directory of a finished pre-training."""
    experiment = small_experiment(tmp_path_factory.mktemp("pretrained"), shapes_cache)
    run(experiment, say=silent, until="pretrain")
    return experiment.run_dir


def downstream(root: Path, cache: Path, init: Path, *more: str) -> Experiment:
    return small_experiment(
        root,
        cache,
        f"finetune.init={init}",
        "evaluate.zero_shot=false",
        "finetune.evaluations=1",
        *more,
    )


def context_of(experiment: Experiment, **changes: object) -> Context:
    tokenizer = load_tokenizer("builtin")
    dataset = open_dataset(experiment.data, experiment.runtime)
    usual = Context(
        with_vocabulary(experiment, tokenizer), dataset, tokenizer, torch.device("cpu"), say=silent
    )
    return replace(usual, **changes)


def batch_of(size: int = 2, seed: int = 0, texts: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, texts, 8) if texts else (size, 8)
    ids = torch.randint(4, 40, shape, generator=generator)
    clips = torch.randint(0, 256, (size, 4, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return Batch(
        clips,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        ids,
        tuple("ab"[:size]),
        torch.zeros(size, dtype=torch.int64),
    )


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key", "metric", "baselines"),
    [
        (
            ("task=qa", "task.baseline=true"),
            "test/finetuned/qa/open-ended",
            "accuracy",
            {"prior", "video hidden"},
        ),
        (
            ("task=qa", "task.questions=choice", "task.blind=true"),
            "test/finetuned-video-hidden/qa/multiple-choice",
            "accuracy",
            {"prior"},
        ),
        (("task=qa", "task.questions=count"), "test/finetuned/qa/count", "MSE", {"prior"}),
        (
            ("task=choice", "task.candidates=4"),
            "test/finetuned/choice/4-captions",
            "accuracy",
            {"prior"},
        ),
        (("task=action", "train.layer_decay=0.7"), "test/finetuned/action/full", "top1", {"prior"}),
        (
            ("task=action", "task.probe=attentive"),
            "test/finetuned/action/attentive-probe",
            "top1",
            {"prior"},
        ),
        (
            ("task=grounding", "task.segments=4", "task.baseline=true"),
            "test/finetuned/grounding/NMS-0.5",
            "mIoU",
            {"prior", "video hidden"},
        ),
    ],
)
def test_a_task_runs_from_given_weights_and_a_sweep_can_ask_for_its_metric(
    tmp_path: Path,
    shapes_cache: Path,
    pretrained: Path,
    settings: tuple[str, ...],
    key: str,
    metric: str,
    baselines: set[str],
) -> None:
    experiment = finalise(
        downstream(tmp_path, shapes_cache, pretrained, *(f"finetune.{text}" for text in settings))
    )
    lines: list[str] = []
    results = run(experiment, say=lines.append)
    assert [result.key for result in results] == [key]
    assert set(results[0].baselines) == baselines and all(
        metric in other for other in results[0].baselines.values()
    )
    assert any(line.startswith(key) and "chance" in line and "prior" in line for line in lines)
    found = read_metric(experiment.run_dir, f"{key}/{metric}")
    assert found == (results[0].metrics[metric], results[0].chance[metric])
    assert load_results(experiment.run_dir) == results
    items = find_items(run_items(experiment.run_dir), results[0].protocol)
    assert items is not None and {
        name: items.figure(name) for name in results[0].metrics
    } == pytest.approx(results[0].metrics)
    assert [path.name for path in (experiment.run_dir / "figures").iterdir()] == [
        f"examples_evaluate_{results[0].protocol.task}.html"
    ]
    chosen = read_metric(experiment.run_dir, f"val/{metric}")
    assert chosen is not None and chosen[0] >= 0
    assert not list(
        (experiment.run_dir / "checkpoints").glob("pretrain*")
    )  # the weights were given


@pytest.mark.parametrize("task", ["qa", "grounding"])
def test_a_stopped_task_continues_exactly(
    tmp_path: Path, shapes_cache: Path, pretrained: Path, task: str
) -> None:
    """Once in the training of the baseline and once in that of the task; also journal and results
    are those of the unbroken run.
    """
    settings = (
        f"finetune.task={task}",
        "finetune.task.baseline=true",
        "finetune.drop_path=0.2",
        "finetune.task.drop_tubes=0.5",
    )
    whole = finalise(downstream(tmp_path / "whole", shapes_cache, pretrained, *settings))
    straight = run(whole, say=silent)
    broken = replace(whole, runtime=replace(whole.runtime, root=str(tmp_path / "broken")))
    for when in ("finetune_blind 2/4", "finetune 2/4"):

        def ask(line: str, when: str = when) -> None:
            if line.startswith(when):
                os.kill(os.getpid(), signal.SIGUSR2)

        with pytest.raises(Stopped):
            run(broken, say=ask)
    assert run(broken, say=silent) == straight
    for name in ("finetune_blind", "finetune"):
        ours, theirs = (
            load_file(e.run_dir / "checkpoints" / f"{name}.safetensors") for e in (broken, whole)
        )
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[key], theirs[key]) for key in ours
        )
    assert losses(broken.run_dir) == losses(whole.run_dir)


def losses(run_dir: Path) -> list[tuple[str, int, float]]:
    lines = [
        line for _, line in read_journal(run_dir / "journal.jsonl") if line["kind"] == "metrics"
    ]
    return [
        (line["stage"], line["step"], line["metrics"]["loss/total"])
        for line in lines
        if "loss/total" in line["metrics"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("task=qa", "task.baseline=true", "task.drop_tubes=0.5"),
        ("task=qa", "task.questions=choice", "task.drop_tubes=0.5"),
        ("task=grounding", "task.segments=4", "task.drop_tubes=0.5"),
        ("task=action", "task.mixup=0.8", "train.layer_decay=0.7"),
        ("task=action", "task.probe=attentive", "rand_augment=2"),
    ],
    ids=lambda settings: "-".join(settings[:2]),
)
def test_two_ranks_train_a_task_as_one_does(
    tmp_path: Path, shapes_cache: Path, pretrained: Path, settings: tuple[str, ...]
) -> None:
    """Losses of all steps, the weights that were chosen, and the figures; drop path is on."""
    more = (
        f"finetune.init={pretrained}",
        "evaluate.zero_shot=false",
        "finetune.drop_path=0.2",
        "runtime.log_every=1",
    )
    more += tuple(f"finetune.{text}" for text in settings)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "simvtp",
        "run",
        "tiny",
    ]
    overrides = small_settings(tmp_path / "two", shapes_cache, *more)
    done = subprocess.run(
        [*command, *overrides],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    alone = finalise(small_experiment(tmp_path / "alone", shapes_cache, *more))
    results = run(alone, say=silent)
    together = tmp_path / "two" / alone.run_dir.name
    assert [line[:2] for line in losses(together)] == [line[:2] for line in losses(alone.run_dir)]
    assert [value for *_, value in losses(together)] == pytest.approx(
        [value for *_, value in losses(alone.run_dir)], rel=1e-5
    )
    one, two = (
        load_file(directory / "checkpoints" / "finetune.safetensors")
        for directory in (alone.run_dir, together)
    )
    for name, value in one.items():
        if name == "head.out.bias" and value.numel() == 1:
            # added to all candidates alike: its gradient is 0 but for rounding, which the optimizer
            # makes as large as any step
            continue
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    for mine, other in zip(load_results(together), results, strict=True):
        assert mine.metrics.keys() == other.metrics.keys() and mine.chance == other.chance
        assert mine.metrics == pytest.approx(
            other.metrics, abs=15
        )  # of 8 clips: a rank that changes by a rounding error moves them


def test_given_weights_count_by_content(
    tmp_path: Path, shapes_cache: Path, pretrained: Path
) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes((pretrained / "checkpoints" / "pretrain.safetensors").read_bytes())
    one, two = (finalise(downstream(tmp_path, shapes_cache, path)) for path in (pretrained, copy))
    assert (
        one.fingerprint
        == two.fingerprint
        != finalise(small_experiment(tmp_path, shapes_cache)).fingerprint
    )
    with pytest.raises(ConfigError, match="no such file, run or exported model"):
        finalise(downstream(tmp_path, shapes_cache, tmp_path / "nothing"))


def test_the_commands(
    tmp_path: Path, shapes_cache: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from simvtp.__main__ import main

    # The small sizes come from the run; of the recipe only the fine-tuning.
    overrides = [
        f"runtime.root={tmp_path}",
        "finetune.train.max_steps=2",
        "finetune.train.batch_size=8",
    ]
    assert main(["finetune", "action", "--init", str(pretrained), *overrides]) == 0
    printed = capsys.readouterr().out
    assert "test/finetuned/action/full: top1" in printed and "chance top1 12.5, prior" in printed
    run_dir = next(path.parent for path in tmp_path.glob("*/results.json"))
    assert main(["evaluate", str(run_dir)]) == 0
    assert "test/finetuned/action/full: top1" in capsys.readouterr().out
    for wrong in (
        ["qaa", "--init", str(pretrained)],
        ["qa"],
        ["qa", "--init", "nothing.safetensors"],
    ):
        assert main(["finetune", *wrong]) == 2


# ---- what is asked -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path, pretrained: Path
) -> Experiment:
    return small_experiment(tmp_path_factory.mktemp("small"), shapes_cache, "finetune.task=qa")


def test_the_answers_are_those_of_training(small: Experiment) -> None:
    task = open_task(context_of(small))
    assert isinstance(task, QuestionAnswering)
    questions = open_annotations(small.data, small.runtime, "qa").questions
    assert set(task.answers) == {q.answer for q in questions if q.split == "train"}
    assert {q.split for q in task.learnt} == {"train"} and task.samples == len(task.learnt)
    few = QuestionAnswering(context_of(replace_key(small, "finetune.task.answers", 3)))
    assert few.answers == task.answers[:3] and {q.answer for q in few.learnt} == set(few.answers)
    assert len(few.questions["test"]) == len(
        task.questions["test"]
    )  # what cannot be answered stays in the test


def test_texts_and_targets_belong_to_the_clips_of_the_batch(small: Experiment) -> None:
    task = QuestionAnswering(context_of(small))
    batch = next(task.loader(small.finetune.train, "finetune").batches(0))
    assert batch.targets is not None
    tokenizer, asked = load_tokenizer("builtin"), {(q.video, q.text): q.answer for q in task.learnt}
    for ids, name, target in zip(
        batch.input_ids, batch.sample_ids, batch.targets.tolist(), strict=True
    ):
        assert task.answers[target] == asked[name, tokenizer.decode(ids)]


def test_candidates_hold_the_answer_and_do_not_change(small: Experiment) -> None:
    questions = open_annotations(small.data, small.runtime, "qa", "choice").questions
    assert questions == open_annotations(small.data, small.runtime, "qa", "choice").questions
    assert all(
        q.answer in q.candidates and len(set(q.candidates)) == len(q.candidates) for q in questions
    )
    places = [q.candidates.index(q.answer) for q in questions if len(q.candidates) == 4]
    assert {0, 1, 2, 3} == set(places)  # the place tells nothing


def test_captions_of_other_clips_only() -> None:
    assert distinct_numbers([0.0, 0.0, 0.999], 0, 4) == [1, 2, 3]
    assert distinct_numbers([0.999, 0.999], 3, 4) == [2, 1]
    for own in range(5):
        assert sorted([own, *distinct_numbers([0.3, 0.7, 0.1, 0.5], own, 5)]) == list(range(5))


def test_tasks_that_cannot_be(small: Experiment) -> None:
    assert set(TASKS) == set(TASK_CONFIGS)
    with pytest.raises(ConfigError, match="finetune.task=cooking: choose from retrieval, imag"):
        replace_key(small, "finetune.task", "cooking")
    for name in ("retrieval", "action"):  # without the video nothing would be left
        with pytest.raises(ConfigError, match="it belongs to finetune.task=qa or finetune.task=ch"):
            override(small, [f"finetune.task={name}", "finetune.task.blind=true"])
    with pytest.raises(DataError, match="has captions only"):
        open_annotations(replace(small.data, dataset="manifest"), small.runtime, "qa")


# ---- models --------------------------------------------------------------------------------------


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
    """VideoMAE averages probabilities. Computed here view by view with numpy; a candidate that is
    absent (-inf) stays absent.
    """
    evaluate = replace(small.evaluate, segments=2, crops=2, batch_size=3, view_merging=merging)  # type: ignore[arg-type]
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
        shares = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
        expected = shares if merging == "softmax" else np.mean(several, axis=0)
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
    """3 blocks and decay 0.75: embeddings 0.75^4, blocks 0.75^3, 0.75^2, 0.75, norm and head 1, of
    the rate of the step.
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
    task = QuestionAnswering(context_of(replace_key(small, "finetune.task.questions", questions)))  # type: ignore[arg-type]
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
    """`data.fraction` is of the pre-training: fine-tuning after it sees all questions, and so has
    the same answers.
    """
    few = replace(small, data=replace(small.data, fraction=0.25))
    assert (
        QuestionAnswering(context_of(few)).answers == QuestionAnswering(context_of(small)).answers
    )
