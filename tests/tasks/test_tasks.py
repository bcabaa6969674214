"""Downstream tasks.

What they train and test on, exact continuation, what is frozen, what is hidden, rates per layer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simvtp.config.experiment_config import TASK_CONFIGS, Experiment
from simvtp.config.overrides import override, replace_key
from simvtp.data.annotations import open_annotations
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.errors import ConfigError, DataError, Stopped
from simvtp.evaluation.items import find_items, run_items
from simvtp.experiment import run
from simvtp.resolve import finalise
from simvtp.runs.journal import read_journal
from simvtp.runs.rundir import load_results
from simvtp.runs.scores import read_metric
from simvtp.tasks import TASKS, open_task
from simvtp.tasks.choice import distinct_numbers
from simvtp.tasks.qa import QuestionAnswering
from tests.small import small_experiment, small_settings
from tests.tasks.task_helpers import context_of, downstream, silent

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
    """Once in the training of the baseline and once in that of the task.

    Also journal and results are those of the unbroken run.
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
