"""The two stages that measure: zero-shot retrieval, and the test of what was fine-tuned. Each is
measured once and kept.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

from simvtp.evaluation.examples.example_cards import Scored, add_baseline, items_of_scored
from simvtp.evaluation.examples.gallery import draw_examples
from simvtp.evaluation.items import items_path, write_items
from simvtp.experiment.context import BLIND, Running
from simvtp.experiment.pictures import draw_pictures
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.results import Result
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.twostage import Matcher
from simvtp.training.meters import CostMeter
from simvtp.training.parallel.distributed import on_main


def zero_shot(running: Running) -> list[Result]:
    """Retrieval with the pre-trained encoder, whatever the task of the fine-tuning."""
    if running.zero_shot is None:
        return []
    pictures = functools.partial(draw_pictures, running, running.experiment.evaluate.split)
    return _scored(
        running, "zero_shot", "pretrain", functools.partial(zero_shot_figures, running), pictures
    )


def zero_shot_figures(running: Running, checkpoint: str) -> list[Scored]:
    """All figures of the pre-trained model; none if the experiment asks for none."""
    split = running.experiment.evaluate.split
    if running.zero_shot is None:
        return []
    return _retrieval_figures(
        running, running.zero_shot, "pretrain", split, "zero-shot", checkpoint
    )


def evaluate(running: Running) -> list[Result]:
    if not running.experiment.finetune.enabled:
        return []
    return _scored(running, "evaluate", "finetune", functools.partial(finetuned_figures, running))


def finetuned_figures(running: Running, checkpoint: str) -> list[Scored]:
    """All figures of the fine-tuned model, its trained baseline beside them."""
    settings, split, task = (
        running.experiment.finetune,
        running.experiment.evaluate.split,
        running.tasks["finetune"],
    )
    setting = (
        "finetuned"
        + ", video hidden" * settings.blind
        + ", selected on test" * (settings.selection == "test")
    )
    if isinstance(task, Retrieval):
        return _retrieval_figures(running, task, "finetune", split, setting, checkpoint)
    scored = task.score(running.models["finetune"], split, setting, checkpoint)
    if not settings.baseline:
        return scored
    blind = running.tasks[BLIND].score(
        running.models[BLIND], split, setting, running.outcomes[BLIND].sha256
    )
    pairs = zip(scored, blind, strict=True)
    return [add_baseline(one, other, "video hidden") for one, other in pairs]


def _retrieval_figures(
    running: Running, task: Retrieval, trained: str, split: str, setting: str, checkpoint: str
) -> list[Scored]:
    """The plain figures first, then those that were asked for; whatever was trained, the
    pre-trained pair encoder (if any) re-ranks.
    """
    unified = running.models["pretrain"]
    matcher = (
        Matcher(unified, running.outcomes["pretrain"].sha256)
        if isinstance(unified, SimVTP)
        else None
    )
    return task.report(running.models[trained], split, setting, checkpoint, matcher)


def _scored(
    running: Running,
    name: str,
    trained: str,
    measure: Callable[[str], list[Scored]],
    afterwards: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Figures of a trained stage, measured once and kept in `stages/<name>.json`; the results are
    rank 0's.
    """
    results: list[Result] = []
    on_main(lambda: results.extend(_score_once(running, name, trained, measure, afterwards)))
    return results


def _score_once(
    running: Running,
    name: str,
    trained: str,
    measure: Callable[[str], list[Scored]],
    afterwards: Callable[[], object],
) -> list[Result]:
    path = running.directory / "stages" / f"{name}.json"
    outcome = running.outcomes[trained]
    stored = read_json(path) if path.exists() else None
    if stored is not None and stored["checkpoint"] == outcome.sha256:
        running.status.spent[name] = stored["cpu_hours"], stored["gpu_hours"]
        return [Result.from_dict(values) for values in stored["results"]]
    assert running.journal is not None
    running.status.update(stage=name, step=0, total_steps=0)
    running.journal.truncate(
        outcome.journal_length
    )  # an attempt that was killed after its first lines starts anew
    cost = CostMeter(gpus=int(running.device.type == "cuda"))
    scored = measure(outcome.sha256)
    results = [one.result for one in scored]
    for result in results:
        running.journal.write("result", result=result.to_dict())
        running.say(f"{result.line}  ({beside(result)})")
    items = items_of_scored(scored)
    del scored  # as large as the test set
    write_items(items_path(running.directory, name), items, running.guard)
    afterwards()
    cost.update()
    spent = {"cpu_hours": cost.cpu_s / 3600, "gpu_hours": cost.gpu_s / 3600}
    running.status.spent[name] = spent["cpu_hours"], spent["gpu_hours"]
    content = json.dumps(
        {"checkpoint": outcome.sha256, "results": [result.to_dict() for result in results], **spent}
    )
    write_atomically(path, content, running.guard)
    shown = running.experiment.runtime.examples
    draw_examples(
        running.directory,
        name,
        results,
        items,
        running.dataset,
        running.experiment,
        shown,
        running.guard,
    )
    return results


def beside(result: Result) -> str:
    """What a result is to be compared with: `chance accuracy 6.2, prior 31.0, video hidden 32.4`,
    of its first metric; and what it took.
    """
    name = next(iter(result.metrics))
    others = [
        f"{other} {metrics[name]:.1f}"
        for other, metrics in result.baselines.items()
        if name in metrics
    ]
    others += [f"{stage} {seconds:.2g} per query" for stage, seconds in result.seconds.items()]
    return ", ".join(
        [f"chance {name} {result.chance[name]:.1f}"] * (name in result.chance) + others
    )
