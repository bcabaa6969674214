"""Finds problems of sweeps: unreadable plans, interrupted submissions, damaged studies."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from simvtp.runs.lease import SILENT_S
from sweeps.monitor.controller_lock import controller, only_controller
from sweeps.monitor.overview import SweepFolder
from sweeps.monitor.repair.diagnose_runs import is_alive, journal_damage
from sweeps.monitor.repair.diagnosis import Diagnosis
from sweeps.monitor.repair.rebuild import close_trial, open_recorded, rebuild_study
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue

REBUILD = "rebuild the study from the run directories; the old one is kept next to it"
RUN_AGAIN = "run the sweep's command again"


def diagnose_plans(root: Path, readable: set[Path]) -> Iterator[Diagnosis]:
    """Yields the plans that cannot be read; `readable`: folders of the others."""
    for path in sorted(root.glob("sweeps/*/plan.json")):
        if path.parent not in readable:
            remedy = f"{RUN_AGAIN}: it writes a new one"
            yield Diagnosis(path.parent, f"{path} cannot be read", remedy)


def diagnose_submissions(sweep: SweepFolder, queue: SlurmQueue) -> Iterator[Diagnosis]:
    """Yields submissions to SLURM whose controller was killed before it recorded the answer."""
    for path in sorted(sweep.folder.glob("submissions/*.json")):
        values = read_json_or_none(path, dict)
        if not values or values.get("job_ids"):
            continue
        if time.time() - float(values.get("submitted", 0)) >= SILENT_S:
            yield _interrupted(sweep, path, values, queue)


def _interrupted(
    sweep: SweepFolder, path: Path, values: dict[str, Any], queue: SlurmQueue
) -> Diagnosis:
    name, points = values.get("name"), len(values.get("fingerprints", ()))
    problem = f"{sweep.sweep_id}: the submission {name} of {points} point(s) was interrupted"
    queued = queue.jobs()
    if queued is None:
        problem += ", and SLURM cannot be asked for its jobs here"
        return Diagnosis(sweep.folder, problem, "run this command where squeue answers")
    found = [job_id for job_id, job in queued.items() if job.name == name]
    if found:
        problem += f"; SLURM has job {', '.join(found[:3])}"
        return Diagnosis(sweep.folder, problem, f"{RUN_AGAIN}: it adopts them")

    def record() -> None:
        write_atomically(path, json.dumps({**values, "job_ids": ["none"]}))

    return Diagnosis(
        sweep.folder,
        f"{problem}, and SLURM has no job of it",
        "record that there is none",
        record,
        lambda: only_controller(sweep.folder),
        _blocked(sweep),
    )


def diagnose_study(sweep: SweepFolder, queue: SlurmQueue) -> Iterator[Diagnosis]:
    """Yields the problems of the study of a sweep."""
    path, blocked = sweep.folder / "study.journal", _blocked(sweep)

    def found(problem: str, remedy: str, repair: Callable[[], object]) -> Diagnosis:
        text = f"{sweep.sweep_id}: {problem}"
        lock = only_controller
        return Diagnosis(sweep.folder, text, remedy, repair, lambda: lock(sweep.folder), blocked)

    def rebuild() -> str:
        return rebuild_study(sweep, queue)

    lock = path.with_name(path.name + ".lock")
    if os.path.lexists(lock) and not blocked:
        yield found(
            "a killed process left the lock of the study behind",
            "remove it",
            lambda: lock.unlink(missing_ok=True),
        )
    if not path.exists():
        return
    torn, damaged = journal_damage(path)
    if damaged:
        yield found(f"line {damaged[0]} of study.journal is damaged", REBUILD, rebuild)
        return
    if torn:
        yield found(f"the last line of study.journal is torn ({torn} bytes)", REBUILD, rebuild)
        return
    lost, problem = _lost_trials(sweep, path, queue)
    if problem:
        yield found(f"study.journal cannot be used: {problem}", REBUILD, rebuild)
    elif lost:
        names = sorted(point.name for point in sweep.points if point.fingerprint in lost)
        shown = ", ".join([*names[:3], *(["..."] if len(lost) > 3 else [])])
        yield found(
            f"{len(lost)} trial(s) of the study are RUNNING without a job ({shown})",
            "close them by the state of the run directories",
            lambda: _close_lost(sweep, queue),
        )


def _blocked(sweep: SweepFolder) -> str:
    """Returns why a sweep is left alone; "" if no controller runs it."""
    by = controller(sweep.folder)
    return f"{sweep.sweep_id} is being run by {by}" if by else ""


def _lost_trials(sweep: SweepFolder, path: Path, queue: SlurmQueue) -> tuple[set[str], str]:
    """Returns (fingerprints of running trials without a job, why the study cannot be used)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        study = open_recorded(sweep, copy)
        if study.repairs:
            return set(), study.repairs[0].replace(str(copy), str(path))
        running = study.running()
        return {key for key in running if not is_alive(sweep.root / key[:12], queue)}, ""


def _close_lost(sweep: SweepFolder, queue: SlurmQueue) -> None:
    study = open_recorded(sweep)
    for fingerprint in study.running():
        run_dir = sweep.root / fingerprint[:12]
        if not is_alive(run_dir, queue):
            close_trial(study, sweep, fingerprint, state_of(run_dir, queue))
