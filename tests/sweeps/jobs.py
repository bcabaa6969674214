"""A small real experiment for the runner's tests: it writes status, journal and results as
`simvtp.experiment.run` does, resumes where it was killed, stops when it is asked to, and costs no
training. How long it takes and whether it fails is read from the experiment's settings, so that
each point can behave differently:

    pretrain.max_steps   steps of 0.05 s
    finetune.enabled     false: fail in the middle
    losses.mvm           2: end without a word (as an out-of-memory kill does)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

from simvtp.config.schema import Experiment
from simvtp.errors import TrainingDiverged
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import Journal
from simvtp.runs.results import Protocol, Result

STEP_S = 0.05


def run(experiment: Experiment, *, say=print) -> list[Result]:
    folder = experiment.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "results.json").exists():
        say("finished already")
        return []
    with open(folder / "starts.txt", "a") as file:
        file.write(f"{os.getpid()}\n")
    total = experiment.pretrain.max_steps
    saved = folder / "checkpoint.json"
    first = read_json(saved)["step"] if saved.exists() else 0
    journal = Journal(folder / "journal.jsonl")
    stop: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    try:
        for step in range(first + 1, total + 1):
            time.sleep(STEP_S)
            journal.write(
                "metrics",
                stage="pretrain",
                step=step,
                metrics={"loss/total": 1 / step, "speed/clips_per_s": 20.0},
            )
            write_atomically(saved, json.dumps({"step": step}))
            status(folder, "running", step, total)
            if step == total // 2 and experiment.losses.mvm == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if step >= total // 2 and not experiment.finetune.enabled:
                say("a line before the failure")
                raise TrainingDiverged(f"the loss became NaN at step {step}")
            if stop:
                status(folder, "stopped", step, total, "stopped by SIGTERM")
                return []
    finally:
        signal.signal(signal.SIGTERM, before)
        journal.close()
    results = [result(experiment)]
    write_atomically(folder / "results.json", json.dumps([r.to_dict() for r in results]))
    status(folder, "finished", total, total)
    return results


def scored(experiment: Experiment, *, say=print) -> list[Result]:
    """A fine-tuning that is scored five times on val; the figure grows towards 100 x the video mask
    ratio.
    """
    folder = experiment.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    journal, stop = Journal(folder / "journal.jsonl"), []
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    try:
        for step in range(1, 6):
            value = 100 * experiment.masks.video_ratio * step / 5
            journal.write(
                "metrics",
                stage="finetune",
                step=step,
                metrics={"val/t2v/R1": value, "val/mean_recall": value},
            )
            status(folder, "running", step, 5)
            for _ in range(20):
                time.sleep(0.02)
                if stop:
                    status(folder, "stopped", step, 5, "stopped by SIGTERM")
                    return []
    finally:
        signal.signal(signal.SIGTERM, before)
        journal.close()
    results = [result(experiment)]
    write_atomically(folder / "results.json", json.dumps([r.to_dict() for r in results]))
    status(folder, "finished", 5, 5)
    return results


def crash(experiment: Experiment, *, say=print) -> list[Result]:
    """A defect of the code, not of the input."""
    raise ZeroDivisionError("a defect")


def result(experiment: Experiment) -> Result:
    value = 100 * experiment.masks.video_ratio * experiment.masks.text_ratio
    metrics, chance = (
        dict.fromkeys(("R1", "R5", "R10", "R50", "MdR", "MnR"), value),
        dict.fromkeys(("R1", "R5", "R10", "R50", "MdR", "MnR"), 0.5),
    )
    setting = "finetuned" if experiment.finetune.enabled else "zero-shot"
    protocol = Protocol(
        "retrieval",
        "shapes",
        "test",
        setting,
        "t2v",
        8,
        1,
        1,
        "pessimistic",
        experiment.seed,
        "0" * 64,
    )
    return Result(protocol, metrics, chance, 200, 200)


def status(folder: Path, state: str, step: int, total: int, message: str = "") -> None:
    values = {
        "state": state,
        "stage": "pretrain",
        "step": step,
        "total_steps": total,
        "message": message,
        "pid": os.getpid(),
    }
    values |= {
        "host": socket.gethostname(),
        "updated": time.time(),
        "cpu_hours": 0.0,
        "gpu_hours": 0.0,
    }
    write_atomically(folder / "status.json", json.dumps(values))
