"""Run directories as experiments write them, and rows as the tracker's database has them."""

import dataclasses
import json
import math
import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

from simvtp import tracking
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.config.recipes import get_recipe
from simvtp.config.tree import to_dict
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.journal import Journal
from simvtp.runs.results import Protocol, Result
from simvtp.tracking import (
    Mirror,
)

UNREACHABLE = "http://127.0.0.1:9"
ROOT = Path(__file__).resolve().parents[2]
METRICS = ("loss/total", "loss/mvm", "lr", "speed/clips_per_s", "acc/R@1")


def runtime(root: Path, uri: str, **changes: Any) -> RuntimeConfig:
    return RuntimeConfig(root=str(root), tracking_uri=uri, tracking_experiment="tests", **changes)


def make_result(direction: str = "t2v", seed: int = 0, r1: float = 12.5) -> Result:
    protocol = Protocol(
        "retrieval",
        "shapes",
        "test",
        "finetuned",
        direction,
        8,
        3,
        3,
        "pessimistic",
        seed,
        "ab" * 32,
    )
    names = ("R1", "R5", "R10", "R50", "MdR", "MnR")
    metrics = dict(zip(names, (r1, 30.0, 50.0, 99.0, 7.0, 9.25), strict=True))
    return Result(
        protocol,
        metrics,
        {name: value / 10 for name, value in metrics.items()},
        256,
        256,
        (1, 7, 2),
    )


def make_answers() -> Result:
    """Open-ended questions, with both baselines and a category."""
    protocol = Protocol(
        "qa", "shapes", "test", "finetuned", "", 8, 3, 3, "pessimistic", 0, "ab" * 32, "open-ended"
    )
    values = (
        {"accuracy": value, "accuracy-colour": value + 1} for value in (40.0, 6.25, 31.0, 33.0)
    )
    metrics, guessed, prior, blind = values
    return Result(
        protocol,
        metrics,
        guessed,
        400,
        16,
        (1, 7, 2),
        baselines={"prior": prior, "video hidden": blind},
    )


class Run:
    """Writes a run directory as an experiment would."""

    def __init__(self, root: Path, uri: str, seed: int, **settings_changed: Any) -> None:
        tiny = get_recipe("tiny")
        self.experiment: Experiment = dataclasses.replace(
            tiny, seed=seed, runtime=runtime(root, uri), **settings_changed
        )
        self.dir = self.experiment.run_dir
        self.dir.mkdir(parents=True)
        record = {
            "schema": 1,
            "fingerprint": self.experiment.fingerprint,
            "cell_fingerprint": self.experiment.cell_fingerprint,
            "experiment": to_dict(self.experiment),
        }
        write_atomically(self.dir / "experiment.json", json.dumps(record))
        self.journal = Journal(self.dir / "journal.jsonl")

    def train(self, first: int, last: int, stage: str = "pretrain") -> None:
        for step in range(first, last):
            values = {name: math.sin(step) + number for number, name in enumerate(METRICS)}
            self.journal.write("metrics", stage=stage, step=step, metrics=values)

    def status(self, state: str, **fields: Any) -> None:
        whole = {
            "state": state,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated": time.time(),
            "cpu_hours": 0.5,
            "gpu_hours": 0.0,
        }
        write_atomically(self.dir / "status.json", json.dumps(whole | fields))

    def finish(self, *results: Result) -> None:
        write_atomically(
            self.dir / "results.json", json.dumps([result.to_dict() for result in results])
        )
        (self.dir / "figures").mkdir(exist_ok=True)
        (self.dir / "figures" / "masked.png").write_bytes(b"not really a picture")
        (self.dir / "figures" / "examples_evaluate_qa.html").write_text("not really a page")
        (self.dir / "stages").mkdir(exist_ok=True)
        (self.dir / "stages" / "items_evaluate.jsonl.gz").write_bytes(b"not really items")
        (self.dir / "log.txt").write_text("the log\n")
        self.status("finished")

    def sync(self, final: bool = False) -> tracking.SyncReport:
        return Mirror(self.dir, self.experiment.runtime).sync(final)


def rows(uri: str, fingerprint: str | None = None) -> list[tuple[Any, ...]]:
    """(metric, step, value, NaN?, time) of one run or of all, from the database."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        where = (
            "where run_uuid in (select run_uuid from tags where key = 'run_key' and value = ?)"
            if fingerprint
            else ""
        )
        found = database.execute(
            f"select key, step, value, is_nan, timestamp from metrics {where}",
            (fingerprint,) if fingerprint else (),
        )
        return sorted(found.fetchall())


def counts(uri: str) -> dict[str, int]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return {
            table: database.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("runs", "metrics", "params", "tags")
        }


def artifacts(uri: str, run_id: str) -> set[str]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        [(address,)] = database.execute(
            "select artifact_uri from runs where run_uuid = ?", (run_id,)
        ).fetchall()
    folder = Path(address.removeprefix("file://"))
    assert folder.is_absolute() and folder.is_relative_to(
        Path(uri.removeprefix("sqlite:///")).parent
    )
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def ended(run: Run, cause: str, at: float, message: str = "") -> None:
    """Writes job.json as the engine does when a job was ended from outside."""
    job = {
        "executor": "local",
        "job_id": "7",
        "submitted": at - 100,
        "ended": {"cause": cause, "message": message, "at": at, "by": "user"},
    }
    write_atomically(run.dir / "job.json", json.dumps(job))


def make_plan(runs: list[Run], **changes: Any) -> dict[str, Any]:
    points = [
        {
            "cell": {
                "masks.video_ratio": run.experiment.masks.video_ratio,
                "masks.text_ratio": run.experiment.masks.text_ratio,
            },
            "seed": run.experiment.seed,
            "fingerprint": run.experiment.fingerprint,
            "cell_fingerprint": run.experiment.cell_fingerprint,
        }
        for run in runs
    ]
    plan = {
        "sweep_id": f"mask_ratio-{runs[0].experiment.fingerprint[:8]}",
        "ablation": "mask_ratio",
        "title": "Mask ratios",
        "question": "?",
        "paper_says": "0.9",
        "dataset": "shapes",
        "recipe": "tiny",
        "seeds": [0, 1],
        "metric": "test/finetuned/t2v/R1",
        "metric_label": "R@1",
        "axes": [
            {"key": "masks.video_ratio", "label": "video", "values": [0.5, 0.9]},
            {"key": "masks.text_ratio", "label": "text", "values": [0.75]},
        ],
        "published_optimum": None,
        "points": points,
    }
    return plan | changes


def make_sweep(root: Path, uri: str, first_seed: int) -> list[Run]:
    masks = get_recipe("tiny").masks
    return [
        Run(root, uri, seed=seed, masks=dataclasses.replace(masks, video_ratio=ratio))
        for ratio in (0.5, 0.9)
        for seed in (first_seed, first_seed + 1)
    ]
