"""Made-up sweeps: the plan as ablations/design.py writes it, and runs as the tracker gives them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from reports.collect import Study, gather
from simvtp.results import Protocol, Result
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
            {"cell": cell, "seed": seed, "fingerprint": digest(cell, seed), "cell_fingerprint": digest(cell)}
            for seed in seeds
            for cell in cells
        ],
    }
    return made | changes


def result(r1: float, setting: str = "finetuned", direction: str = "t2v", seed: int = 0, **protocol: Any) -> Result:
    how = Protocol("retrieval", "shapes", "test", setting, direction, 8, 1, 1, "pessimistic", seed, digest(r1, setting, direction))
    metrics = {"R1": r1, "R5": min(100.0, 2 * r1), "R10": min(100.0, 3 * r1), "R50": min(100.0, 5 * r1), "MdR": 100 / r1, "MnR": 150 / r1}
    return Result(replace(how, **protocol), metrics, CHANCE, 256, 256, (1, 2, 3))


def run(point: dict[str, Any], *results: Result, state: str = "finished", run_id: str = "", **tags: str) -> TrackedRun:
    status = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}.get(state, "RUNNING")
    return TrackedRun(
        run_id=run_id or digest("run", point["fingerprint"])[:32],
        status=status,
        state=state,
        fingerprint=point["fingerprint"],
        cell_fingerprint=point["cell_fingerprint"],
        seed=point["seed"],
        params={},
        metrics={},
        tags={"git_commit": "c0ffee" * 6 + "c0ff", "git_dirty": "false", "hardware": "a CPU (2 cores)", **tags},
        results=list(results),
        cpu_hours=0.25,
        gpu_hours=0.0,
        start_time=1.0,
    )


def all_results(r1: float, seed: int = 0) -> list[Result]:
    """Both settings and both directions, as one experiment gives them."""
    return [
        result(r1 / 2, "zero-shot", "t2v", seed),
        result(r1 / 2.5, "zero-shot", "v2t", seed),
        result(r1, "finetuned", "t2v", seed),
        result(r1 * 0.9, "finetuned", "v2t", seed),
    ]


def study(made: dict[str, Any], value: Callable[[dict[str, Any], int], float | None]) -> Study:
    """Every point for which `value(cell, seed)` gives a number has finished with it."""
    runs = []
    for point in made["points"]:
        number = value(point["cell"], point["seed"])
        if number is not None:
            runs.append(run(point, *all_results(number, point["seed"])))
    return gather(made, runs)
