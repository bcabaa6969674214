"""Finds everything that is wrong under a root, with its repair: for `sweeps/doctor.py`.

Looking changes nothing: no lock is taken, and a study is opened as a copy. A run directory is
repaired while its lease is held, a sweep while no controller can start, so nothing that is being
written is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from simvtp import tracking
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import UserError
from simvtp.tracking import resolve_uri
from simvtp.tracking.address import database_path, display_uri, require_answer
from sweeps.monitor.controller_lock import controller
from sweeps.monitor.overview import SweepFolder, find_sweeps
from sweeps.monitor.point_state import read_job
from sweeps.monitor.repair.diagnose_runs import (
    diagnose_cores,
    diagnose_run,
    is_alive,
    run_dirs,
)
from sweeps.monitor.repair.diagnose_sweeps import (
    diagnose_plans,
    diagnose_study,
    diagnose_submissions,
)
from sweeps.monitor.repair.diagnosis import Diagnosis
from sweeps.monitor.repair.rebuild import tracked_runs
from sweeps.runner.slurm_queue import SlurmQueue

LITTLE_SPACE = 1 << 30  # bytes
FRESH_S = 3600.0  # a snapshot younger than this may belong to a submission in progress


def diagnose(root: Path, queue: SlurmQueue) -> Iterator[Diagnosis]:
    """Yields every problem under `root`, in the order in which they must be repaired."""
    yield from _disk(root)
    sweeps = find_sweeps(root)
    yield from diagnose_plans(root, {sweep.folder for sweep in sweeps})
    busy: dict[str, str] = {}  # name of a run directory -> the controller that works on it
    for sweep in sweeps:
        by = controller(sweep.folder)
        if by:
            busy |= {point.run_dir.name: by for point in sweep.points}
    alive = set()
    for run_dir in run_dirs(root):
        if is_alive(run_dir, queue):
            alive.add(run_dir.name)
            yield from diagnose_cores(run_dir)
        else:
            yield from diagnose_run(run_dir, busy.get(run_dir.name, ""))
    for sweep in sweeps:
        yield from diagnose_submissions(sweep, queue)
        yield from diagnose_study(sweep, queue)
    yield from _tracker(root, sweeps, alive, busy)
    yield from _snapshots(root, alive, bool(busy))


# ---- the disk ------------------------------------------------------------------------------------


def _disk(root: Path) -> Iterator[Diagnosis]:
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Diagnosis(
            root,
            f"{root} cannot be written: {error.strerror or error}",
            "free some space, or give yourself the right to write",
        )
        return
    free = shutil.disk_usage(root).free
    if free < LITTLE_SPACE:
        yield Diagnosis(
            root,
            f"only {free / 1e6:.0f} MB are free under {root}",
            "free some space before the next checkpoint needs it",
        )


# ---- the tracker ---------------------------------------------------------------------------------


def _tracker(
    root: Path, sweeps: list[SweepFolder], alive: set[str], busy: Mapping[str, str]
) -> Iterator[Diagnosis]:
    tracked = tracked_runs(root)
    by_address: dict[str, RuntimeConfig] = {
        uri: runtime for runtime in tracked.values() if (uri := resolve_uri(runtime)) is not None
    }
    for uri, runtime in sorted(by_address.items()):
        path = database_path(uri)
        if path is not None and not path.exists():
            problem = f"there is no tracker store {path}"
            remedy = "build it from the run directories"
            yield Diagnosis(root, problem, remedy, lambda: tracking.sync_all(root))
            continue
        try:
            require_answer(uri)
            running = tracking.running_runs(uri)
        except UserError as error:
            command = f"`python -m simvtp sync --root {root}`"
            yield Diagnosis(root, str(error), f"run {command} when {display_uri(uri)} is back")
            continue
        yield from _runs_without_process(root, tracked, running, alive, busy)
        yield from _sweeps_without_process(sweeps, runtime, running, alive)


def _runs_without_process(
    root: Path,
    tracked: Mapping[Path, RuntimeConfig],
    running: Sequence[tracking.RunningRun],
    alive: set[str],
    busy: Mapping[str, str],
) -> Iterator[Diagnosis]:
    def sync(run_dir: Path) -> Callable[[], object]:
        runtime = tracked[run_dir]
        return lambda: tracking.Mirror(run_dir, runtime, abandoned=True).sync(final=True)

    for run in running:
        run_dir = root / run.fingerprint[:12]
        if run.fingerprint and run_dir in tracked and run_dir.name not in alive:
            yield Diagnosis(
                root,
                f"{run_dir.name} is RUNNING in the tracker (run {run.run_id}), "
                "and no process is there",
                "update the tracker from its run directory",
                sync(run_dir),
                blocked=busy.get(run_dir.name, ""),
            )


def _sweeps_without_process(
    sweeps: list[SweepFolder],
    runtime: RuntimeConfig,
    running: Sequence[tracking.RunningRun],
    alive: set[str],
) -> Iterator[Diagnosis]:
    def finish(sweep: SweepFolder) -> Callable[[], object]:
        return lambda: tracking.finish_sweep(sweep.plan.to_dict(), runtime, final=True)

    ids = {run.sweep_id for run in running}
    for sweep in sweeps:
        if sweep.sweep_id not in ids or controller(sweep.folder):
            continue
        if any(point.run_dir.name in alive for point in sweep.points):
            continue
        yield Diagnosis(
            sweep.root,
            f"{sweep.sweep_id} is RUNNING in the tracker, and neither its command nor one of its "
            "jobs is there",
            "record its progress",
            finish(sweep),
        )


# ---- code snapshots ------------------------------------------------------------------------------


def _snapshots(root: Path, alive: set[str], running: bool) -> Iterator[Diagnosis]:
    """Yields snapshots that no living job uses; none while a sweep command runs.

    It may be about to use the one that it has taken.
    """
    jobs = [read_job(root / name) for name in alive]
    used = [Path(job.code).resolve() for job in jobs if job is not None and job.code]

    def remove(folder: Path) -> Callable[[], object]:
        return lambda: shutil.rmtree(folder)

    for folder in sorted(root.glob("sweeps/code/*")):
        fresh = time.time() - folder.stat().st_mtime < FRESH_S
        if running or fresh or any(path.is_relative_to(folder.resolve()) for path in used):
            continue
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        size = sum(path.stat().st_size for path in files) / 1e6
        problem = f"no job uses the code snapshot {folder.relative_to(root)} ({size:.1f} MB)"
        yield Diagnosis(folder, problem, "remove it", remove(folder), minor=True)
