"""Ablations judged on other tasks than retrieval: cells, headline metric."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations import ABLATIONS, losses
from ablations.headline import PROBES, QUESTIONS, headline
from ablations.prediction_vs_alignment import OBJECTIVES, cells
from simvtp.config.experiment_config import differences
from simvtp.config.overrides import override, replace_keys
from simvtp.config.recipes import get_recipe
from simvtp.errors import ConfigError
from simvtp.experiment import run
from simvtp.tasks import action, grounding, qa
from tests.small import small_experiment

TASKS = {
    "tiny": "test/finetuned/t2v/R1",
    "tiny_qa": "test/finetuned/qa/open-ended/accuracy",
    "tiny_qa_choice": "test/finetuned/qa/multiple-choice/accuracy",
    "tiny_count": "test/finetuned/qa/count/accuracy",
    "tiny_choice": "test/finetuned/choice/5-captions/accuracy",
    "tiny_grounding": "test/finetuned/grounding/coverage/mIoU",
    "tiny_action": "test/finetuned/action/full/top1",
    "tiny_imagetext": "test/finetuned/t2i/R1",
}
RETRIEVAL_ONLY = ("mac", "prediction_vs_alignment", "unified_encoder")
GRIDS = [name for name in ABLATIONS if name != "search"]


@pytest.mark.parametrize("recipe", TASKS)
def test_every_ablation_goes_with_every_task_or_says_why_not(recipe: str) -> None:
    base = get_recipe(recipe)
    for name in GRIDS:
        if name in RETRIEVAL_ONLY and recipe != "tiny":
            with pytest.raises(ConfigError, match="choose a recipe that is fine-tuned for retr"):
                ABLATIONS[name](base)
            continue
        ablation = ABLATIONS[name](base)
        assert ablation.metric == TASKS[recipe] and ablation.metric_label
        assert ablation.points()


def test_names_are_those_of_the_tasks() -> None:
    assert (QUESTIONS, PROBES) == (qa.VARIANTS, action.VARIANTS)
    suppressed = headline(override(get_recipe("tiny_grounding"), ["finetune.task.spans=nms"]))
    assert suppressed.metric == f"test/finetuned/grounding/NMS-{grounding.NMS:g}/mIoU"
    probe = headline(override(get_recipe("tiny_action"), ["finetune.task.probe=linear"]))
    assert probe.metric == "test/finetuned/action/linear-probe/top1"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["qa", "choice", "grounding", "action", "imagetext"])
def test_a_finished_run_has_the_headline_metric(task: str, tmp_path: Path) -> None:
    base = small_experiment(tmp_path / "runs", tmp_path / "cache", f"finetune.task={task}")
    control = losses.build(base, ["none"]).points()[0]
    results = run(control.experiment, say=lambda text: None)
    names = {str(result.name(metric)) for result in results for metric in result.metrics}
    assert losses.build(base).metric in names


@pytest.mark.parametrize("recipe", ["tiny", "tiny_mac"])
def test_like_for_like_only_the_objectives_differ(recipe: str) -> None:
    base = get_recipe(recipe)
    found = {name: replace_keys(base, settings) for name, settings in cells(base).items()}
    alike = [name for name in found if name.startswith(("align only", "both"))]
    first = found["prediction, same samples"]
    assert len(alike) == 3
    for name in alike:
        changed = set(differences(first, found[name]))
        assert changed and changed <= {f"losses.{one}" for one in OBJECTIVES}, name
    assert found["align only: VTC"].losses.wanted == ("vtc",)
    assert found["both: MVM+MLM+VTC+VTM"].losses.wanted == OBJECTIVES
    for method in ("MAC", "SimVTP"):
        null = found[f"none, {method}"]
        assert (null.finetune.init, null.model.method) == ("initial", method.lower())
