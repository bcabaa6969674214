"""What can be wrong under a root, and how each thing is mended: the findings of `sweeps/doctor.py`.

Looking changes nothing: no lock is taken, and a study is opened as a copy. A run directory is
mended while its lease is held, a sweep while no controller can start, so nothing that is being
written is touched."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from simvtp import tracking
from simvtp.config.schema import RuntimeConfig
from simvtp.errors import UserError
from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from simvtp.runs.attempts import is_alive_here, owner
from simvtp.runs.lease import SILENT_S, hold
from simvtp.tracking import resolve_uri
from simvtp.tracking.address import database_path, require_answer, shown
from sweeps.engine.controller_lock import only_controller
from sweeps.monitor.overview import SweepFolder, controller, find_sweeps, state_of
from sweeps.monitor.run_state import ALIVE, RUNNING, STOPPED
from sweeps.repair.rebuild import open_recorded, rebuild_study, runtimes, set_aside, settle
from sweeps.runner.slurm_queue import shared_queue

LITTLE_SPACE = 1 << 30  # bytes
LEFTOVER_S = 600.0  # a temporary file that nobody has touched for so long is nobody's
REMARKS = (
    b'{"kind":"event","time":0,"message":"a damaged line was here"}',
    b'{"kind":"event","time":0,"message":""}',
)
FRESH_S = 3600.0  # frozen code of a submission that may be under way
GONE = "its process ended without a word; the same command continues it"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `repair`: what mending does, or what the user can do where `mend` is
    None.

    Attributes:
        place: findings of one place are mended together, inside `guard()`.
        held: why it is left alone now, for example because the sweep is being run.
        minor: costs space only: mended with --yes alone, and no reason for a bad exit status.
    """

    place: Path
    what: str
    repair: str
    mend: Callable[[], object] | None = None
    guard: Callable[[], AbstractContextManager[object]] = nullcontext
    held: str = ""
    minor: bool = False


def examine(root: Path) -> Iterator[Finding]:
    """Everything that is wrong under `root`, in the order in which it has to be mended."""
    yield from _disk(root)
    sweeps = find_sweeps(root)
    yield from _plans(root, {sweep.folder for sweep in sweeps})
    busy = {
        point.run_dir.name: who
        for sweep in sweeps
        if (who := controller(sweep.folder))
        for point in sweep.points
    }
    living = set()
    for run_dir in _run_dirs(root):
        if _lives(run_dir):
            living.add(run_dir.name)
        else:
            yield from _run(run_dir, busy.get(run_dir.name, ""))
    for sweep in sweeps:
        yield from _submissions(sweep)
        yield from _study(sweep)
    yield from _tracker(root, sweeps, living, busy)
    yield from _code(root, living, bool(busy))


def _run_dirs(root: Path) -> list[Path]:
    names = ("experiment.json", "status.json", "job.json", "journal.jsonl")
    return sorted(
        path
        for path in root.iterdir()
        if path.name != "sweeps" and any((path / name).exists() for name in names)
    )


def _lives(run_dir: Path) -> bool:
    """Whether a job works there, or an attempt that its job knows nothing of."""
    if state_of(run_dir).state in ALIVE:
        return True
    holder = owner(run_dir)
    if holder is None or is_alive_here(holder) is False:
        return False
    return bool(is_alive_here(holder)) or time.time() - holder.last_beat < SILENT_S


# ---- the disk ------------------------------------------------------------------------------------


def _disk(root: Path) -> Iterator[Finding]:
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Finding(
            root,
            f"{root} cannot be written: {error.strerror or error}",
            "free some space, or give yourself the right to write",
        )
        return
    free = shutil.disk_usage(root).free
    if free < LITTLE_SPACE:
        yield Finding(
            root,
            f"only {free / 1e6:.0f} MB are free under {root}",
            "free some space before the next checkpoint needs it",
        )


def _plans(root: Path, readable: set[Path]) -> Iterator[Finding]:
    for path in sorted(root.glob("sweeps/*/plan.json")):
        if path.parent not in readable:
            yield Finding(
                path.parent,
                f"{path} cannot be read",
                "give the sweep's command again: it writes a new one",
            )


# ---- run directories -----------------------------------------------------------------------------


def _run(run_dir: Path, busy: str) -> Iterator[Finding]:
    def found(what: str, repair: str, mend: Callable[[], object]) -> Finding:
        return Finding(
            run_dir,
            f"{run_dir.name}: {what}",
            repair,
            mend,
            lambda: hold(run_dir, say=lambda text: None),
            busy,
        )

    holder = owner(run_dir)
    if holder is not None:
        yield found(
            f"the lease of {holder.who}, which is gone, was never ended", "end it", lambda: None
        )  # taking it over ends it
    journal = run_dir / "journal.jsonl"
    torn, damaged = _journal_damage(journal)
    if damaged:
        lines = ", ".join(str(number) for number in damaged[:5]) + (
            ", ..." if len(damaged) > 5 else ""
        )
        yield found(
            f"journal.jsonl is damaged in line {lines}",
            "replace these lines by remarks of the same length; the file as it is is kept beside it",
            lambda: _blank(journal, damaged),
        )
    if torn:
        yield found(
            f"the last line of journal.jsonl is torn ({torn} bytes)",
            "cut it off",
            lambda: _cut(journal),
        )
    status = read_json_or_none(run_dir / "status.json")
    if isinstance(status, dict) and status.get("state") == RUNNING:
        mark = {**status, "state": STOPPED, "message": GONE}
        yield found(
            "its status says running, and no process is there",
            "write that it was stopped",
            lambda: write_atomically(run_dir / "status.json", json.dumps(mark)),
        )
    results = run_dir / "results.json"
    if results.exists() and not isinstance(read_json_or_none(results), list):
        yield found(
            "results.json cannot be read",
            "put it aside: the same command scores the run again",
            lambda: set_aside(results),
        )
    leftovers = [
        path
        for path in run_dir.rglob("*.tmp")
        if path.is_file() and time.time() - path.stat().st_mtime > LEFTOVER_S
    ]
    if leftovers:
        size = sum(path.stat().st_size for path in leftovers) / 1e6
        repair = f"remove {', '.join(str(path.relative_to(run_dir)) for path in leftovers[:3])}{' ...' if len(leftovers) > 3 else ''}"
        yield found(
            f"{len(leftovers)} half-written file(s) of a killed process ({size:.1f} MB)",
            repair,
            lambda: _remove(leftovers),
        )


def _journal_damage(path: Path) -> tuple[int, list[int]]:
    """(bytes of a torn last line, numbers of the damaged whole lines from 1)."""
    if not path.exists():
        return 0, []
    damaged, torn = [], 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                torn = len(line)
            elif not _is_object(line):
                damaged.append(number)
    return torn, damaged


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _cut(path: Path) -> None:
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _blank(path: Path, numbers: list[int]) -> None:
    """Same length, so that what checkpoints say of places in the journal stays true. A line too
    short for a remark is left out.
    """
    shutil.copyfile(path, path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"))
    lines: list[bytes | None] = [*path.read_bytes().split(b"\n")]
    for number in numbers:
        room = len(lines[number - 1] or b"")
        fitting = next((remark for remark in REMARKS if len(remark) <= room), None)
        lines[number - 1] = fitting.ljust(room) if fitting else None
    write_atomically(path, b"\n".join(line for line in lines if line is not None))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


# ---- submissions ---------------------------------------------------------------------------------


def _submissions(sweep: SweepFolder) -> Iterator[Finding]:
    """Submissions to SLURM that were written down before, and never after: their controller was
    killed in between.
    """
    who = controller(sweep.folder)
    for path in sorted(sweep.folder.glob("submissions/*.json")):
        values = read_json_or_none(path)
        if (
            not isinstance(values, dict)
            or values.get("job_ids")
            or time.time() - float(values.get("submitted", 0)) < SILENT_S
        ):
            continue
        what = f"{sweep.sweep_id}: the submission {values.get('name')} of {len(values.get('fingerprints', ()))} point(s) was interrupted"
        queued = shared_queue().jobs()
        if queued is None:
            yield Finding(
                sweep.folder,
                f"{what}, and SLURM cannot be asked for its jobs here",
                "give this command where squeue answers",
            )
            continue
        found = [job_id for job_id, job in queued.items() if job.name == values.get("name")]
        if found:
            yield Finding(
                sweep.folder,
                f"{what}; SLURM has job {', '.join(found[:3])}",
                "give the sweep's command again: it takes them over",
            )
            continue
        yield Finding(
            sweep.folder,
            f"{what}, and SLURM has no job of it",
            "write down that there is none",
            lambda path=path, values=values: write_atomically(
                path, json.dumps({**values, "job_ids": ["none"]})
            ),  # type: ignore[misc]
            lambda: only_controller(sweep.folder),
            f"{sweep.sweep_id} is being run by {who}" if who else "",
        )


# ---- studies -------------------------------------------------------------------------------------


def _study(sweep: SweepFolder) -> Iterator[Finding]:
    path, who = sweep.folder / "study.journal", controller(sweep.folder)

    def found(what: str, repair: str, mend: Callable[[], object]) -> Finding:
        held = f"{sweep.sweep_id} is being run by {who}" if who else ""
        return Finding(
            sweep.folder,
            f"{sweep.sweep_id}: {what}",
            repair,
            mend,
            lambda: only_controller(sweep.folder),
            held,
        )

    lock = path.with_name(path.name + ".lock")
    if os.path.lexists(lock) and not who:
        yield found(
            "a killed process left the lock of the study behind",
            "remove it",
            lambda: lock.unlink(missing_ok=True),
        )
    if not path.exists():
        return
    torn, damaged = _journal_damage(path)
    if torn or damaged:
        what = (
            f"line {damaged[0]} of study.journal is damaged"
            if damaged
            else f"the last line of study.journal is torn ({torn} bytes)"
        )
        yield found(
            what,
            "make the study anew from the run directories; the old one is kept beside it",
            lambda: rebuild_study(sweep),
        )
        return
    lost, problem = _lost_trials(sweep, path)
    if problem:
        repair = "make the study anew from the run directories; the old one is kept beside it"
        yield found(
            f"study.journal cannot be used: {problem}", repair, lambda: rebuild_study(sweep)
        )
    elif lost:
        names = ", ".join(
            sorted(point.name for point in sweep.points if point.fingerprint in lost)[:3]
        )
        yield found(
            f"{len(lost)} trial(s) of the study are RUNNING without a job ({names}{', ...' if len(lost) > 3 else ''})",
            "close them by what the run directories say",
            lambda: _settle(sweep),
        )


def _lost_trials(sweep: SweepFolder, path: Path) -> tuple[set[str], str]:
    """(fingerprints of trials that are running without a job, why the study cannot be used)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        study = open_recorded(sweep, copy)
        if study.repairs:
            return set(), study.repairs[0].replace(str(copy), str(path))
        return {f for f in study.running() if not _lives(sweep.root / f[:12])}, ""


def _settle(sweep: SweepFolder) -> None:
    study = open_recorded(sweep)
    for fingerprint in study.running():
        run_dir = sweep.root / fingerprint[:12]
        if not _lives(run_dir):
            settle(study, sweep, fingerprint, state_of(run_dir))


# ---- the tracker ---------------------------------------------------------------------------------


def _tracker(
    root: Path, sweeps: list[SweepFolder], living: set[str], busy: Mapping[str, str]
) -> Iterator[Finding]:
    tracked = runtimes(root)
    by_address: dict[str, RuntimeConfig] = {
        uri: runtime for runtime in tracked.values() if (uri := resolve_uri(runtime)) is not None
    }
    for uri, runtime in sorted(by_address.items()):
        path = database_path(uri)
        if path is not None and not path.exists():
            yield Finding(
                root,
                f"there is no tracker store {path}",
                "make it from the run directories",
                lambda: tracking.sync_all(root),
            )
            continue
        try:
            require_answer(uri)
            running = tracking.running_runs(uri)
        except UserError as error:
            yield Finding(
                root,
                str(error),
                f"nothing here; `python -m simvtp sync --root {root}` when {shown(uri)} is back",
            )
            continue
        yield from _runs_of_nobody(root, tracked, running, living, busy)
        yield from _sweeps_of_nobody(sweeps, runtime, running, living)


def _runs_of_nobody(
    root: Path,
    tracked: Mapping[Path, RuntimeConfig],
    running: Sequence[tracking.RunningRun],
    living: set[str],
    busy: Mapping[str, str],
) -> Iterator[Finding]:
    for run in running:
        run_dir = root / run.fingerprint[:12]
        if run.fingerprint and run_dir in tracked and run_dir.name not in living:
            yield Finding(
                root,
                f"{run_dir.name} is RUNNING in the tracker (run {run.run_id}), and no process is there",
                "bring the tracker up to date with its run directory",
                lambda run_dir=run_dir: tracking.Mirror(
                    run_dir, tracked[run_dir], abandoned=True
                ).sync(final=True),  # type: ignore[misc]
                held=busy.get(run_dir.name, ""),
            )


def _sweeps_of_nobody(
    sweeps: list[SweepFolder],
    runtime: RuntimeConfig,
    running: Sequence[tracking.RunningRun],
    living: set[str],
) -> Iterator[Finding]:
    for sweep in sweeps:
        ours = any(run.sweep_id == sweep.sweep_id for run in running)
        if (
            ours
            and not controller(sweep.folder)
            and not any(point.run_dir.name in living for point in sweep.points)
        ):
            yield Finding(
                sweep.root,
                f"{sweep.sweep_id} is RUNNING in the tracker, and neither its command nor one of its jobs is there",
                "write down how far it is",
                lambda sweep=sweep: tracking.finish_sweep(sweep.plan, runtime, final=True),  # type: ignore[misc]
            )


# ---- frozen code ---------------------------------------------------------------------------------


def _code(root: Path, living: set[str], under_way: bool) -> Iterator[Finding]:
    """Code that no living job runs from. While a sweep command runs, it may be about to use what it
    has frozen.
    """
    used = {
        str(Path(str(job.get("code") or "")).resolve())
        for name in living
        if (job := read_json_or_none(root / name / "job.json"))
    }
    for folder in sorted(root.glob("sweeps/code/*")):
        fresh = time.time() - folder.stat().st_mtime < FRESH_S
        if (
            under_way
            or fresh
            or any(
                path == str(folder.resolve()) or path.startswith(f"{folder.resolve()}/")
                for path in used
            )
        ):
            continue
        size = (
            sum(
                path.stat().st_size
                for path in folder.rglob("*")
                if path.is_file() and not path.is_symlink()
            )
            / 1e6
        )
        what = f"no job uses the frozen code {folder.relative_to(root)} any more ({size:.1f} MB)"
        yield Finding(
            folder, what, "remove it", lambda folder=folder: shutil.rmtree(folder), minor=True
        )  # type: ignore[misc]
