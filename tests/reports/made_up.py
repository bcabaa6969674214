"""Made-up sweeps: the plan as ablations/design.py writes it, and runs as the tracker gives them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from reports.kinds.registry import report_type_of
from reports.study.collect import gather
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import Protocol, Result
from simvtp.tracking import TrackedRun

VIDEO, TEXT = "masks.video_ratio", "masks.text_ratio"
METRIC = "test/finetuned/t2v/R1"
CHANCE = {"R1": 0.4, "R5": 2.0, "R10": 3.9, "R50": 19.5, "MdR": 128.5, "MnR": 128.5}


def digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def plan(
    video: Sequence[float] = (0.5, 0.9),
    text: Sequence[float] = (0.15, 0.75),
    seeds: Sequence[int] = (0,),
    *,
    axes: Sequence[dict[str, Any]] | None = None,
    cells: Sequence[dict[str, Any]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A plan.json. By default the product of both ratios."""
    axes = axes or [
        {"key": VIDEO, "label": "video mask ratio", "values": list(video)},
        {"key": TEXT, "label": "text mask ratio", "values": list(text)},
    ]
    cells = cells or [{VIDEO: v, TEXT: t} for v in video for t in text]
    made = {
        "sweep_id": "mask_ratio-0123abcd",
        "ablation": "mask_ratio",
        "title": "Video and text mask ratio",
        "question": "Which share should be hidden?",
        "paper_says": "90 % of the video and 75 % of the text.",
        "dataset": "shapes",
        "recipe": "tiny",
        "axes": list(axes),
        "seeds": list(seeds),
        "metric": METRIC,
        "metric_label": "text-to-video R@1 (%)",
        "published_optimum": {VIDEO: 0.9, TEXT: 0.75},
        "points": [
            {
                "cell": cell,
                "seed": seed,
                "fingerprint": digest(cell, seed),
                "cell_fingerprint": digest(cell),
            }
            for seed in seeds
            for cell in cells
        ],
    }
    return made | changes


def result(
    r1: float, setting: str = "finetuned", direction: str = "t2v", seed: int = 0, **protocol: Any
) -> Result:
    how = Protocol(
        "retrieval",
        "shapes",
        "test",
        setting,
        direction,
        8,
        1,
        1,
        "pessimistic",
        seed,
        digest(r1, setting, direction),
    )
    metrics = {
        "R1": r1,
        "R5": min(100.0, 2 * r1),
        "R10": min(100.0, 3 * r1),
        "R50": min(100.0, 5 * r1),
        "MdR": 100 / r1,
        "MnR": 150 / r1,
    }
    return Result(replace(how, **protocol), metrics, CHANCE, 256, 256, (1, 2, 3))


def run(
    point: dict[str, Any],
    *results: Result,
    state: str = "finished",
    run_id: str = "",
    metrics: dict[str, float] | None = None,
    hours: float = 0.25,
    **tags: str,
) -> TrackedRun:
    status = {"finished": "FINISHED", "failed": "FAILED"}.get(
        state, "KILLED" if state in ("stopped", "pruned", "cancelled") else "RUNNING"
    )
    return TrackedRun(
        run_id=run_id or digest("run", point["fingerprint"])[:32],
        status=status,
        state=state,
        fingerprint=point["fingerprint"],
        cell_fingerprint=point["cell_fingerprint"],
        seed=point["seed"],
        params={"pretrain.batch_size": "64", "finetune.train.batch_size": "16"},
        metrics={"cost/parameters": 1.2e6, "cost/forward_flops": 3.4e8} | (metrics or {}),
        tags={
            "git_commit": "c0ffee" * 6 + "c0ff",
            "git_dirty": "false",
            "hardware": "a CPU (2 cores)",
            **tags,
        },
        results=list(results),
        cpu_hours=hours,
        gpu_hours=0.0,
        start_time=1.0,
        steps={"pretrain": 200, "finetune": 100},
    )


def all_results(r1: float, seed: int = 0) -> list[Result]:
    """Both settings and both directions, as one experiment gives them."""
    return [
        result(r1 / 2, "zero-shot", "t2v", seed),
        result(r1 / 2.5, "zero-shot", "v2t", seed),
        result(r1, "finetuned", "t2v", seed),
        result(r1 * 0.9, "finetuned", "v2t", seed),
    ]


def sweep_results(
    made: dict[str, Any], value: Callable[[dict[str, Any], int], float | None]
) -> SweepResults:
    """Every point for which `value(cell, seed)` gives a number has finished with it."""
    runs = []
    for point in made["points"]:
        number = value(point["cell"], point["seed"])
        if number is not None:
            runs.append(run(point, *all_results(number, point["seed"])))
    return gather(made, runs, report_type_of(made).make_axis)


# ---- other tasks ---------------------------------------------------------------------------------

QA = "test/finetuned/qa/open-ended/accuracy"
CATEGORIES = ("colour", "shape")
PRIOR = 31.0


def qa_result(
    accuracy: float,
    *,
    prior: float = PRIOR,
    blind: float | None = None,
    categories: Sequence[str] = CATEGORIES,
) -> Result:
    """Makes a result of question answering; `blind`: accuracy of a model without the video."""
    how = Protocol(
        "qa",
        "shapes",
        "test",
        "finetuned",
        "",
        8,
        1,
        1,
        "pessimistic",
        0,
        digest(accuracy),
        "open-ended",
    )
    names = ["accuracy", *(f"accuracy-{category}" for category in categories)]
    baselines = {"prior": dict.fromkeys(names, prior)} | (
        {} if blind is None else {"video hidden": dict.fromkeys(names, blind)}
    )
    metrics = {name: accuracy + number for number, name in enumerate(names)}
    return Result(how, metrics, dict.fromkeys(names, 6.25), 400, 16, (1, 2, 3), baselines=baselines)


def count_result(error: float) -> Result:
    """Counting questions: squared error; guessing gives 6, the mean of training 2."""
    how = Protocol(
        "qa", "shapes", "test", "finetuned", "", 8, 1, 1, "pessimistic", 0, digest(error), "count"
    )
    guessed, prior = (
        {"accuracy": accuracy, "MSE": mse, "MSE-raw": mse}
        for accuracy, mse in ((10.0, 6.0), (25.0, 2.0))
    )
    metrics = {"accuracy": 50 - 10 * error, "MSE": error, "MSE-raw": error + 0.125}
    return Result(how, metrics, guessed, 400, 0, scores=(1.2, 3.4), baselines={"prior": prior})


def action_result(top1: float) -> Result:
    how = Protocol(
        "action",
        "shapes",
        "test",
        "finetuned",
        "",
        8,
        1,
        1,
        "pessimistic",
        0,
        digest(top1),
        "linear-probe",
    )
    values = (
        {"top1": first, "top5": fifth}
        for first, fifth in ((top1, top1 + 20), (5.0, 25.0), (8.0, 30.0))
    )
    metrics, guessed, prior = values
    return Result(how, metrics, guessed, 300, 20, (1, 2), baselines={"prior": prior})


def grounding_result(overlap: float) -> Result:
    how = Protocol(
        "grounding",
        "charades_sta",
        "test",
        "finetuned",
        "",
        16,
        1,
        1,
        "pessimistic",
        0,
        digest(overlap),
        "NMS 0.5",
    )
    names = ("R1-IoU0.5", "R5-IoU0.5", "mIoU")
    metrics = dict(zip(names, (overlap * 0.9, overlap * 1.5, overlap), strict=True))
    baselines = {"prior": dict(zip(names, (27.7, 50.0, 30.0), strict=True))}
    return Result(
        how,
        metrics,
        dict(zip(names, (11.0, 40.0, 20.0), strict=True)),
        3720,
        0,
        scores=(0.5, 0.75),
        baselines=baselines,
    )


def task_results(
    made: dict[str, Any], value: Callable[[dict[str, Any], int], Result | None]
) -> SweepResults:
    """Makes a sweep: points whose `value(cell, seed)` is a result finished, with zero-shot too."""
    runs = []
    for point in made["points"]:
        found = value(point["cell"], point["seed"])
        if found is not None:
            measured = replace(found, protocol=replace(found.protocol, seed=point["seed"]))
            runs.append(run(point, result(2.0, "zero-shot", "t2v", point["seed"]), measured))
    return gather(made, runs, report_type_of(made).make_axis)


# ---- a search ------------------------------------------------------------------------------------
