"""The loop of a sweep: look at the run directories, start what is missing, watch, report.

One controller a sweep (a lock sees to it), any number of calls one after the other. All state is in files, so this process may be
killed at any line: the next call finds the jobs that are still running and takes them over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.design import Ablation, Point
from simvtp import provenance
from simvtp.errors import UserError
from simvtp.journal import write_atomically
from sweeps.progress import WAITING, Display, PointView, SweepView, clock, estimate, look, make_display
from sweeps.rundir import ALIVE, FAILED, FINISHED, KILLED, STOPPED, RunState, failure_log, read_state, read_value, writer_record
from sweeps.runner import Executor, Job, Options, is_alive, make_executor, point_state
from sweeps.study import GridStudy

STOP_GRACE_S = 90.0  # how long a job may take to save a checkpoint after Ctrl-C


@dataclass(frozen=True)
class Outcome:
    """How a point stands at the end of a call. `value` and `chance` are of the ablation's metric."""

    point: Point
    state: RunState
    value: float | None = None
    chance: float | None = None
    reason: str = ""
    log: Path | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """How all selected points stand at the end of a call."""

    outcomes: tuple[Outcome, ...]
    interrupted: bool
    sweep_dir: Path

    @property
    def unfinished(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.state.state != FINISHED)


def _nothing() -> None:
    return None


def sweep_folder(ablation: Ablation) -> Path:
    """`<runtime.root>/sweeps/<sweep id>`."""
    return Path(ablation.base.runtime.root) / "sweeps" / ablation.sweep_id


def run_sweep(
    ablation: Ablation,
    options: Options,
    *,
    retry: bool = False,
    selected: Collection[str] | None = None,
    parent_run_id: str = "",
    on_point: Callable[[], None] = _nothing,
    every_s: float = 12.0,
    poll_s: float = 0.5,
) -> Summary:
    """Bring the grid to its desired state: every selected point finished, once.

    Args:
        retry: also run points again that failed in an earlier call. (Stopped and killed ones always continue.)
        selected: fingerprints to care about; None = all.
        parent_run_id: the tracker's run of this sweep, written to each point's sweep.json.
        on_point: called after a point has ended, for example to update the tracker.
        every_s: seconds between plain progress lines.
    """
    folder = sweep_folder(ablation)
    folder.mkdir(parents=True, exist_ok=True)
    points = [point for point in ablation.points() if selected is None or point.fingerprint in selected]
    executor = make_executor(options, folder, ablation.sweep_id, len(points))
    with _only_controller(folder), make_display(folder / "sweep.log", every_s) as display:
        write_atomically(folder / "plan.json", json.dumps(ablation.plan(), indent=1))
        study = GridStudy(folder / "study.journal", ablation.sweep_id, ablation.points())
        return _Sweep(ablation, points, executor, study, display, parent_run_id, retry, on_point, poll_s).run()


@dataclass
class _Sweep:
    """One call of `run_sweep`."""

    ablation: Ablation
    points: list[Point]
    executor: Executor
    study: GridStudy
    display: Display
    parent_run_id: str
    retry: bool
    on_point: Callable[[], None]
    poll_s: float
    states: dict[str, RunState] = field(default_factory=dict)
    views: dict[str, PointView] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)  # running, by fingerprint
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)  # by point name: when first seen running, share done then
    moving: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # the same from its first step on: preparing data says nothing of speed
    durations: list[float] = field(default_factory=list)
    begun: float = field(default_factory=time.time)

    def run(self) -> Summary:
        for repair in self.study.repairs:
            self.display.note(f"repaired: {repair}")
        self._take_stock()
        with _count_interrupts(install=not self.executor.in_process) as interrupts:
            while not interrupts:
                self._start_waiting()
                if not self.jobs:
                    break
                self._watch()
                self.display.show(self._view())
                time.sleep(self.poll_s)
            if interrupts:
                self._stop(interrupts)
        self.display.show(self._view(), now=True)
        return Summary(tuple(self._outcome(point) for point in self.points), bool(interrupts), self.study.path.parent)

    # ---- the beginning: what is there already

    def _take_stock(self) -> None:
        """Read all run directories, bring the study up to date with them, and take over the jobs that are running."""
        wanted = {point.fingerprint for point in self.points}
        for point in self.points:
            state = self.states[point.fingerprint] = point_state(point)
            if state.state in ALIVE:
                self._adopt(point, state)
            elif self._settled(state):
                self._close_trial(point)
        target = {point.fingerprint: self._trial_state(point) for point in self.points}

        def missing(point: Point, last: Any) -> bool:
            return point.fingerprint in wanted and (last is None or last.name != target[point.fingerprint])

        self.study.plan(missing)
        for point in self.points:
            waiting = not self._settled(self.states[point.fingerprint]) and point.fingerprint not in self.jobs
            self._see(point, WAITING if waiting else "")
        for point in self.points:
            if self.states[point.fingerprint].state == FAILED and not self.retry:
                self.display.note(f"earlier: {describe_failure(self._outcome(point))}")
        counts = {state: sum(view.state == state for view in self.views.values()) for state in (FINISHED, *ALIVE, FAILED, WAITING)}
        self.display.note(f"{self.ablation.sweep_id}: {len(self.points)} points, " + ", ".join(f"{n} {s}" for s, n in counts.items() if n))

    def _settled(self, state: RunState) -> bool:
        """Whether this call has nothing to do for a point in that state."""
        return state.state == FINISHED or (state.state == FAILED and not self.retry)

    def _trial_state(self, point: Point) -> str:
        """Which state of an optuna trial fits the point; "" where the point is to be run."""
        state = self.states[point.fingerprint]
        if state.state in ALIVE:
            return "RUNNING"
        if not self._settled(state):
            return ""
        return "FAIL" if self._outcome(point).value is None else "COMPLETE"

    def _adopt(self, point: Point, state: RunState) -> None:
        # an experiment that somebody runs by hand has no (living) job: it is watched by the process that writes its status
        record = dict(state.job) if state.job and is_alive(state.job, state.status) else writer_record(state.status)
        self.jobs[point.fingerprint] = self.executor.adopt(point, record)
        self.display.note(f"{point.name} is running already (job {record['job_id']}): watching it")

    # ---- the loop

    def _start_waiting(self) -> None:
        """Hand in waiting points while there are free slots."""
        batch: list[Point] = []
        while len(self.jobs) + len(batch) < self.executor.slots and (point := self.study.ask()) is not None:
            state = self.states.get(point.fingerprint)
            if state is None:  # left waiting by an earlier call; this call was told to care about other points only
                self.study.tell(point.fingerprint, None, "not selected in this call")
            elif point.fingerprint in self.jobs:
                continue
            elif self._settled(state):
                self._close_trial(point)
            else:
                batch.append(point)
        if not batch:
            return
        source = provenance.capture()
        for point in batch:
            self._prepare(point, source)
        for job in self.executor.submit(batch):
            job.write()
            fingerprint = job.point.fingerprint
            self.jobs[fingerprint] = job
            self.study.note(
                fingerprint, job_id=str(job.record["job_id"]), executor=job.record["executor"], log=job.record.get("stdout", "")
            )
            self._see(job.point)

    def _prepare(self, point: Point, source: provenance.Provenance) -> None:
        """What the job and the reports need to know about where the point comes from."""
        origin = {
            "sweep_id": self.ablation.sweep_id,
            "ablation": self.ablation.name,
            "parent_run_id": self.parent_run_id,
            "cell": dict(point.cell),
        }
        write_atomically(point.run_dir / "sweep.json", json.dumps(origin, indent=1))
        provenance.write(point.run_dir, source)

    def _watch(self) -> None:
        """Look at the running jobs; close those that have ended."""
        for fingerprint, job in list(self.jobs.items()):
            alive = self.executor.alive(job)
            # Without its job, a point may still have a process: one started by hand, or one whose parent was killed.
            state = self.states[fingerprint] = read_state(job.point.run_dir, alive=alive or None)
            self._see(job.point)
            if not alive:
                del self.jobs[fingerprint]
                if state.state in ALIVE:
                    self._adopt(job.point, state)
                else:
                    self._ended(job.point)

    def _ended(self, point: Point) -> None:
        self._close_trial(point)
        outcome = self._outcome(point)
        since, share = self.seen.get(point.name, (0.0, 1.0))
        took = f" after {clock(time.time() - since)}" if since else ""
        if outcome.state.state == FINISHED:
            if since and share < 0.01:
                self.durations.append(time.time() - since)
            figure = "" if outcome.value is None else f": {self.ablation.metric_label} {outcome.value:.1f} (chance {outcome.chance:.2g})"
            self.display.note(f"finished {point.name}{took}{figure}")
        else:
            self.display.note(describe_failure(outcome))
        self.on_point()

    def _close_trial(self, point: Point) -> None:
        outcome = self._outcome(point)
        self.study.tell(point.fingerprint, outcome.value, outcome.reason)

    def _stop(self, interrupts: list[int]) -> None:
        """Ask the jobs to save and leave; kill them if they do not, or if the user asks again."""
        local = {fingerprint: job for fingerprint, job in self.jobs.items() if job.record.get("executor") == "local"}
        if len(local) < len(self.jobs):
            self.display.note(
                f"{len(self.jobs) - len(local)} job(s) of the cluster go on; the same command watches them again, scancel stops them"
            )
        if local:
            self.display.note(f"stopping {len(local)} job(s): they save a checkpoint first (Ctrl-C again: kill them)")
        for job in local.values():
            self.executor.stop(job)
        asked, deadline = len(interrupts), time.time() + STOP_GRACE_S
        while any(self.executor.alive(job) for job in local.values()):
            if len(interrupts) > asked or time.time() > deadline:
                for job in local.values():
                    self.executor.kill(job)
                deadline = float("inf")
                asked = len(interrupts)
            time.sleep(0.1)
        for fingerprint, job in local.items():
            del self.jobs[fingerprint]
            self.states[fingerprint] = read_state(job.point.run_dir, alive=False)
            self._close_trial(job.point)
            self._see(job.point)

    # ---- what is shown

    def _see(self, point: Point, instead: str = "") -> None:
        state = self.states[point.fingerprint]
        value = self._outcome(point).value if state.state == FINISHED else None
        note = "" if value is None else f"{self.ablation.metric_label} {value:.1f}"
        view = look(point.name, point.experiment, point.run_dir, state, note)
        self.views[point.fingerprint] = PointView(point.name, instead) if instead else view
        if state.state in ALIVE and not instead:
            self.seen.setdefault(point.name, (time.time(), view.share))
            if view.share > 0:
                self.moving.setdefault(point.name, (time.time(), view.share))

    def _view(self) -> SweepView:
        rows = tuple(self.views.values())
        slots = min(self.executor.slots, max(1, len(rows)))
        return SweepView(self.ablation.title, rows, time.time() - self.begun, estimate(rows, self.moving, self.durations, slots))

    def _outcome(self, point: Point) -> Outcome:
        state = self.states[point.fingerprint]
        if state.state == FINISHED:
            value, chance = read_value(point.run_dir, self.ablation.metric) or (None, None)
            reason = "" if value is not None else f"its results hold no {self.ablation.metric}"
            return Outcome(point, state, value, chance, reason)
        log, lines = failure_log(state, point.run_dir)
        words = {
            FAILED: state.message or "no reason given",
            STOPPED: state.message or "stopped",
            KILLED: "its job went away without a word (killed from outside, or out of memory)",
        }
        return Outcome(point, state, reason=words.get(state.state, state.state), log=log, lines=tuple(lines))


def describe_failure(outcome: Outcome, short: bool = False) -> str:
    """What went wrong with a point, the last lines of its log (unless `short`), and where the whole log lies."""
    head = f"{outcome.state.state} {outcome.point.name}: {outcome.reason}"
    if outcome.state.state == STOPPED:
        return head
    lines = [f"    | {line}" for line in outcome.lines if not short and line != f"failed: {outcome.reason}"]
    return "\n".join([head, *lines, f"    log: {outcome.log}"])


@contextmanager
def _only_controller(folder: Path) -> Iterator[None]:
    """Only one process at a time may run a sweep. The lock is a POSIX record lock: it goes with its process, however that ends."""
    path = folder / "controller.lock"
    with open(path, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"this sweep is being run by {holder} already: wait for it or stop it (--dry-run shows how far it is, {folder / 'sweep.log'} what it says)."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})")
        file.flush()
        yield


@contextmanager
def _count_interrupts(install: bool = True) -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM are appended to, so that no line of the controller is interrupted half-way."""
    found: list[int] = []
    if not install:
        yield found
        return
    before = {number: signal.signal(number, lambda number, frame: found.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
