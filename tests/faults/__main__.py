"""Disturbs a tiny experiment at random and compares it with an undisturbed one.

Each trial is a run in a folder of its own. One to three of its attempts suffer a fault; then the
same command is given until the run ends. Its weights, journal and results must be those of the
undisturbed run, bit by bit. If the command refuses to go on, it must name the damaged file; that
file is then deleted, as the message says, and the command is given again.

A trial is a function of its seed: `--seed N --trials 1` draws the faults of trial N again (their
moments depend on the machine). The folder of a trial that fails is kept.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simvtp.config.experiment_config import Experiment
from tests.faults.injection import AttemptEnd, Attempts, Fault
from tests.slurm.user import assert_same_run
from tests.small import small_experiment, small_settings

MOST_ATTEMPTS = 8  # without a fault, after the last one
DAMAGED = re.compile(r"(?:damaged|cannot be read)[^/]*: ?(/[^\s:;(]+)|damaged: (/[^\s:;(]+)")


@dataclass(frozen=True)
class Trial:
    """One disturbed run.

    Attributes:
        seed: of its faults.
        faults: that its attempts suffered, with notes.
        refusals: damaged files that the command named and that were deleted.
        failure: what is wrong; empty: it equals the undisturbed run.
    """

    seed: int
    faults: tuple[str, ...]
    refusals: tuple[str, ...]
    failure: str


def run_trial(seed: int, folder: Path, cache: Path, whole: Experiment, seconds: float) -> Trial:
    """Runs one trial in an empty folder.

    Args:
        seed: of the faults.
        folder: of the trial.
        cache: of the embedded data set, which is whole.
        whole: the undisturbed run.
        seconds: that it took.
    """
    random_ = random.Random(seed)
    own = small_experiment(folder, cache)
    words = ["run", "tiny", *small_settings(folder, cache)]
    attempts = Attempts(words, own.run_dir, seconds)
    faults: list[str] = []
    for fault in random_.choices(list(Fault), k=random_.randint(1, 3)):
        end = attempts.disturbed(fault, random_)
        faults.append(f"{fault} ({end.notes})" if end.notes else str(fault))
        if "Traceback" in end.output and fault is not Fault.STOP:
            return Trial(seed, tuple(faults), (), f"a traceback:\n{end.output}")
    refusals: list[str] = []
    end = AttemptEnd(1, "")
    for _ in range(MOST_ATTEMPTS):
        end = attempts.undisturbed()
        if end.status == 0:
            break
        named = DAMAGED.search(end.output)
        if named is None or "Traceback" in end.output:
            return Trial(seed, tuple(faults), tuple(refusals), f"no way on:\n{end.output}")
        refusals.append(next(filter(None, named.groups())).rstrip(".,"))
        Path(refusals[-1]).unlink(missing_ok=True)
    return Trial(seed, tuple(faults), tuple(refusals), difference(own.run_dir, whole.run_dir, end))


def difference(run_dir: Path, undisturbed: Path, end: AttemptEnd) -> str:
    """Returns how the run differs from the undisturbed one; empty: not at all."""
    if end.status != 0:
        return f"it did not end in {MOST_ATTEMPTS} attempts:\n{end.output}"
    try:
        assert_same_run(run_dir, undisturbed)
    except (AssertionError, OSError, ValueError) as error:
        return f"another result: {error}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs trials until the time is over; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="time (default 30)")
    parser.add_argument("--trials", type=int, default=0, help="stop after so many; 0 = by time")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial (default 0)")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    work = Path(tempfile.mkdtemp(prefix="simvtp-faults-"))
    whole, seconds = undisturbed_run(work)
    print(f"undisturbed run: {seconds:.1f} s; trials in {work}", flush=True)
    trials: list[Trial] = []
    while time.monotonic() < end and not 0 < options.trials <= len(trials):
        seed = options.seed + len(trials)
        folder = work / f"trial{seed}"
        trial = run_trial(seed, folder, work / "cache", whole, seconds)
        trials.append(trial)
        print(line_of(trial), flush=True)
        if not trial.failure:
            shutil.rmtree(folder, ignore_errors=True)
    failed = [trial for trial in trials if trial.failure]
    print(summary(trials), flush=True)
    if not failed:
        shutil.rmtree(work)
    return int(bool(failed))


def undisturbed_run(work: Path) -> tuple[Experiment, float]:
    """Returns the finished experiment that trials are compared with, and its seconds."""
    cache = work / "cache"
    for name in ("warm-up", "whole"):  # the first one makes the embedded data set
        began = time.monotonic()
        experiment = small_experiment(work / name, cache)
        words = ["run", "tiny", *small_settings(work / name, cache)]
        done = Attempts(words, experiment.run_dir, 0.0).undisturbed()
        if done.status != 0:
            sys.exit(f"the undisturbed run failed:\n{done.output}")
    return experiment, time.monotonic() - began


def line_of(trial: Trial) -> str:
    """Returns a trial as a line, with what is wrong below it."""
    refused = f"; deleted: {', '.join(trial.refusals)}" if trial.refusals else ""
    verdict = f"FAILED\n{trial.failure}" if trial.failure else "same"
    return f"seed {trial.seed}: {', '.join(trial.faults)}{refused}: {verdict}"


def summary(trials: Sequence[Trial]) -> str:
    """Returns the number of trials and of faults of each kind, and the seeds that failed."""
    kinds = Counter(fault.partition(" (")[0] for trial in trials for fault in trial.faults)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    failed = [str(trial.seed) for trial in trials if trial.failure]
    verdict = f"different: seeds {', '.join(failed)}" if failed else "no difference"
    return f"{len(trials)} trials ({counts}): {verdict}"


if __name__ == "__main__":
    sys.exit(main())
