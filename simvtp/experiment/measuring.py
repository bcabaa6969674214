"""The stages that measure: use of the modalities, zero-shot retrieval, the fine-tuned model.

Each is measured once; its results are kept in `stages/<name>.json`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from simvtp.evaluation.examples.example_cards import Scored, add_baseline, items_of_scored
from simvtp.evaluation.examples.gallery import draw_examples
from simvtp.evaluation.items import Items, items_path, write_items
from simvtp.experiment.context import BLIND, ExperimentContext
from simvtp.experiment.measuring_use import measures_use, score_use
from simvtp.experiment.pictures import draw_pictures
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from simvtp.runs.results import Result
from simvtp.runs.rundir import load_stage_results
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.twostage import Matcher
from simvtp.training.meters import CostMeter
from simvtp.training.parallel.distributed import on_main
from simvtp.training.parallel.kept_parts import remove_parts


def use(context: ExperimentContext) -> list[Result]:
    """Measures what the pre-trained model uses of the other modality (`evaluate.modality_use`)."""
    if not measures_use(context):
        return []
    return _measure_stage(context, "use", "pretrain", functools.partial(score_use, context))


def zero_shot(context: ExperimentContext) -> list[Result]:
    """Scores retrieval with the pre-trained encoder, whatever the task of the fine-tuning."""
    if context.zero_shot is None:
        return []
    split = context.experiment.evaluate.split
    return _measure_stage(
        context,
        "zero_shot",
        "pretrain",
        functools.partial(score_zero_shot, context),
        functools.partial(draw_pictures, context, split),
    )


def score_zero_shot(context: ExperimentContext, checkpoint: str) -> list[Scored]:
    """Returns all results of the pre-trained model; none if the experiment asks for none."""
    split = context.experiment.evaluate.split
    if context.zero_shot is None:
        return []
    return _score_retrieval(context, context.zero_shot, "pretrain", split, "zero-shot", checkpoint)


def zero_shot_on_the_way(
    context: ExperimentContext,
) -> Callable[[nn.Module, int], dict[str, float]] | None:
    """Returns the scoring at points of the pre-training, on the val split; None if not wanted.

    Metrics are `val/zero-shot/<direction>/<metric>`: those of the zero-shot test.
    """
    task, wanted = context.zero_shot, context.experiment.evaluate.during_pretraining
    if task is None or not wanted or context.experiment.finetune.init:
        return None

    def measure(model: nn.Module, step: int) -> dict[str, float]:
        scored = [one.result for one in task.score(model, "val", "zero-shot", "")]
        return {
            f"val/zero-shot/{result.protocol.direction}/{name}": value
            for result in scored
            for name, value in result.metrics.items()
        }

    return measure


def evaluate(context: ExperimentContext) -> list[Result]:
    """Scores the fine-tuned model on the test split."""
    if not context.experiment.finetune.enabled:
        return []
    score = functools.partial(score_finetuned, context)
    return _measure_stage(context, "evaluate", "finetune", score)


def score_finetuned(context: ExperimentContext, checkpoint: str) -> list[Scored]:
    """Returns all results of the fine-tuned model, with its trained baseline if there is one."""
    settings, split = context.experiment.finetune, context.experiment.evaluate.split
    task = context.tasks["finetune"]
    setting = (
        "finetuned"
        + ", video hidden" * settings.blind
        + ", selected on test" * (settings.selection == "test")
    )
    if isinstance(task, Retrieval):
        return _score_retrieval(context, task, "finetune", split, setting, checkpoint)
    scored = task.score(context.models["finetune"], split, setting, checkpoint)
    if not settings.baseline:
        return scored
    blind = context.tasks[BLIND].score(
        context.models[BLIND], split, setting, context.outcomes[BLIND].sha256
    )
    pairs = zip(scored, blind, strict=True)
    return [add_baseline(one, other, "video hidden") for one, other in pairs]


def _score_retrieval(
    context: ExperimentContext,
    task: Retrieval,
    trained: str,
    split: str,
    setting: str,
    checkpoint: str,
) -> list[Scored]:
    """Returns the plain results first, then those of other rankings that were asked for.

    Whatever was trained, the pre-trained pair encoder (if any) re-ranks.
    """
    unified, matcher = context.models["pretrain"], None
    if isinstance(unified, SimVTP):
        matcher = Matcher(unified, context.outcomes["pretrain"].sha256)
    return task.report(context.models[trained], split, setting, checkpoint, matcher)


def _measure_stage(
    context: ExperimentContext,
    name: str,
    trained: str,
    score: Callable[[str], list[Scored]],
    afterwards: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Returns the results of a measuring stage; on ranks other than 0 there are none.

    Args:
        context: of the experiment.
        name: name of the stage.
        trained: the training whose model is scored.
        score: returns the results, from the sha256 of the weights.
        afterwards: called once they are measured.
    """
    results: list[Result] = []
    if on_main(lambda: _take_stored(context, name, trained, results)):
        return results
    on_main(lambda: _begin(context, name, trained))
    cost = CostMeter(gpus=int(context.device.type == "cuda"))
    checkpoint = context.outcomes[trained].sha256
    unfinished = context.directory / "stages" / f"{name}.parts"
    with context.kept.stage(unfinished / checkpoint[:12], context.check_ownership):
        scored = score(checkpoint)
    measured, items = [one.result for one in scored], items_of_scored(scored)
    del scored  # as large as the test set
    cost.update()
    spent = cost.total()

    def keep() -> None:
        _keep_results(context, name, trained, measured, items, afterwards, cost, spent)
        results.extend(measured)
        remove_parts(unfinished)

    on_main(keep)
    return results


def _take_stored(
    context: ExperimentContext, name: str, trained: str, results: list[Result]
) -> bool:
    """Adds the results of a stage that was measured before, of the same weights, if there are."""
    path = context.directory / "stages" / f"{name}.json"
    outcome = context.outcomes[trained]
    stored = read_json_or_none(path, dict)
    if stored is None and path.exists():
        context.say(f"damaged: {path} is not JSON; the stage is measured again.")
    if stored is not None and stored.get("checkpoint") == outcome.sha256:
        _keep_journal(context, trained, int(stored.get("journal_length", 0)))
        results += _stored_results(context, name, stored)
        return True
    return False


def _begin(context: ExperimentContext, name: str, trained: str) -> None:
    assert context.journal is not None
    context.status.update(stage=name, step=0, total_steps=0)
    # drops the first lines of an attempt that was killed in this stage
    context.journal.truncate(context.outcomes[trained].journal_length)


def _keep_results(
    context: ExperimentContext,
    name: str,
    trained: str,
    results: Sequence[Result],
    items: Sequence[Items],
    afterwards: Callable[[], object],
    cost: CostMeter,
    spent_s: tuple[float, float],
) -> None:
    """Writes and says the results of a stage on rank 0.

    Args:
        cost: of this rank so far.
        spent_s: CPU-seconds and GPU-seconds of scoring, of all ranks.
    """
    assert context.journal is not None
    path = context.directory / "stages" / f"{name}.json"
    outcome, before = context.outcomes[trained], (cost.cpu_s, cost.gpu_s)
    for result in results:
        context.journal.write("result", result=result.to_dict())
        compared = baseline_text(result)
        context.say(f"{result.line}  ({compared})" if compared else result.line)
    write_items(items_path(context.directory, name), items, context.check_ownership)
    afterwards()
    cost.update()
    cpu_s, gpu_s = spent_s[0] + cost.cpu_s - before[0], spent_s[1] + cost.gpu_s - before[1]
    spent = {"cpu_hours": cpu_s / 3600, "gpu_hours": gpu_s / 3600}
    context.status.spent[name] = spent["cpu_hours"], spent["gpu_hours"]
    records = [result.to_dict() for result in results]
    length = context.journal.length()
    content = {"checkpoint": outcome.sha256, "results": records, "journal_length": length, **spent}
    write_atomically(path, json.dumps(content), context.check_ownership)
    _keep_journal(context, trained, length)
    draw_examples(
        context.directory,
        name,
        results,
        items,
        context.dataset,
        context.experiment,
        context.experiment.runtime.examples,
        context.check_ownership,
    )


def _keep_journal(context: ExperimentContext, trained: str, length: int) -> None:
    """Keeps the lines of a stage when the next one on the same weights drops what follows them."""
    outcome = context.outcomes[trained]
    longest = max(length, outcome.journal_length)
    context.outcomes[trained] = replace(outcome, journal_length=longest)


def _stored_results(context: ExperimentContext, name: str, stored: dict[str, Any]) -> list[Result]:
    spent = (float(stored.get(cost) or 0.0) for cost in ("cpu_hours", "gpu_hours"))
    context.status.spent[name] = next(spent), next(spent)
    return load_stage_results(context.directory / "stages" / f"{name}.json")


def baseline_text(result: Result) -> str:
    """Returns what a result is to be compared with, of its first metric, and what it took.

    `chance accuracy 6.2, prior 31.0, video hidden 32.4`.
    """
    name = next(iter(result.metrics))
    parts = [f"chance {name} {result.chance[name]:.1f}"] if name in result.chance else []
    parts += [
        f"{other} {metrics[name]:.1f}"
        for other, metrics in result.baselines.items()
        if name in metrics
    ]
    parts += [f"{stage} {seconds:.2g} per query" for stage, seconds in result.seconds.items()]
    return ", ".join(parts)
