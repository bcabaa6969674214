"""Small real experiments for the tests of sweeps.

They write status, journal and results as `simvtp.experiment.run` does, resume where they were
killed, stop when asked to, and cost no training. Their behaviour is read from the settings, so that
each point can behave differently:

    pretrain.max_steps   number of steps
    finetune.enabled     false: fail in the middle
    losses.mvm           2: end without a message (as an out-of-memory kill does)

While the file `hold` exists in the folder of the runs, they pause after their next step: so a test
can act on running jobs without a race, and need not make them long.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from pathlib import Path

from simvtp.config.experiment_config import Experiment
from simvtp.errors import TrainingDiverged
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import Journal
from simvtp.runs.results import Protocol, Result

HOLD = "hold"
STEP_S = 0.005
EVALUATION_S = 0.2  # of `scored`


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
            while (folder.parent / HOLD).exists() and not stop:
                time.sleep(STEP_S)
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
    """Runs a fine-tuning with five val scores that grow towards 100 x the video mask ratio."""
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
            until = time.monotonic() + EVALUATION_S
            while time.monotonic() < until:
                time.sleep(STEP_S)
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


def noisy(experiment: Experiment, *, say=print) -> list[Result]:
    """Finishes at once with a value that depends on the cell and the seed (`noisy_value`)."""
    folder = experiment.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "starts.txt", "a") as file:
        file.write(f"{os.getpid()}\n")
    if not experiment.finetune.enabled or (folder.parent / f"fail_{folder.name}").exists():
        raise TrainingDiverged("the loss became NaN at step 1")
    while (folder.parent / HOLD).exists():
        time.sleep(STEP_S)
    finish_noisy(experiment)
    return []


def finish_noisy(experiment: Experiment) -> None:
    """Writes what `noisy` leaves behind."""
    folder, found = experiment.run_dir, result(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    found.metrics["R1"] = noisy_value(experiment)
    write_atomically(folder / "results.json", json.dumps([found.to_dict()]))
    status(folder, "finished", 1, 1)


def noisy_value(experiment: Experiment) -> float:
    """Returns 20, an effect of the seed, one of the cell and an error.

    Video 0.9, text 0.75 is the baseline. Text 0.15 at video 0.9 is the same but for a small error,
    at another video ratio it is 10 points worse, where text 0.75 has an error of 6 points.
    """
    video, text = experiment.masks.video_ratio, experiment.masks.text_ratio
    effect = -10.0 if video != 0.9 and text == 0.15 else 0.0
    spread = 6.0 if video != 0.9 and text == 0.75 else 0.3
    shared = random.Random(experiment.seed).gauss(0, 3)
    error = random.Random(f"{experiment.seed} {video} {text}").gauss(0, spread)
    return 20 + shared + effect + error


def crash(experiment: Experiment, *, say=print) -> list[Result]:
    """Raises as a defect of the code does, not of the input."""
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


def run_ten_minutes_behind(experiment: Experiment, *, say=print) -> list[Result]:
    """Runs as on a node whose clock is ten minutes behind."""
    clock = time.time
    time.time = lambda: clock() - 600
    return run(experiment, say=say)
