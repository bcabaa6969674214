"""The loop of a sweep: look at the run directories, start what is missing, watch, report.

One controller a sweep (a lock sees to it), any number of calls one after the other. All state is in
files, so this process may be killed at any line: the next call finds the jobs that are still
running and takes them over."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from ablations.design import Ablation, Point
from ablations.search import Search
from simvtp.runs import provenance
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.scores import read_curve
from sweeps.engine.budget import Budget
from sweeps.engine.controller_lock import count_interrupts, only_controller
from sweeps.engine.retry_policy import Continuations, Ending, find_causes, needs_cause, write_cause
from sweeps.engine.sweep_outcome import (
    Comparison,
    Outcome,
    Summary,
    describe_failure,
    objective_values,
    outcome_of,
)
from sweeps.monitor.live_progress import (
    WAITING,
    Display,
    PointView,
    SweepView,
    clock,
    estimate,
    look,
    make_display,
)
from sweeps.monitor.run_state import (
    ALIVE,
    CANCELLED,
    FINISHED,
    GIVEN_UP,
    PRUNED,
    PointState,
    note_end,
    read_state,
    writer_record,
)
from sweeps.runner import Executor, Job, NotNow, Options, make_executor, point_state
from sweeps.runner.code_snapshot import freeze
from sweeps.runner.slurm_queue import alive, release_lost, shared_queue
from sweeps.study import GridStudy, SearchStudy, open_study

STOP_GRACE_S = 90.0  # how long a job may take to save a checkpoint after Ctrl-C
# running points whose files are read in one round, so that thousands do not weigh on the file
# system
LOOKED_AT = 40
SEARCHED_AT_ONCE = 8  # points of a search on a cluster, where --parallel does not say
PATIENCE_S = (5.0, 60.0)  # wait after a submission that SLURM did not take: at first, at most


def _nothing() -> None:
    return None


def sweep_folder(comparison: Comparison) -> Path:
    """`<runtime.root>/sweeps/<sweep id>`."""
    return Path(comparison.base.runtime.root) / "sweeps" / comparison.sweep_id


def run_sweep(
    comparison: Comparison,
    options: Options,
    *,
    retry: bool = False,
    selected: Collection[str] | None = None,
    budget_gpu_hours: float | None = None,
    detach: bool = False,
    parent_run_id: str = "",
    on_point: Callable[[], None] = _nothing,
    every_s: float = 12.0,
    poll_s: float = 0.5,
) -> Summary:
    """Bring the grid to its desired state: every selected point finished, once. Or a search: until
    it has its number of points.

    Args: retry: also run points again that failed or were cancelled earlier. (Stopped and killed
        ones always continue.) selected: fingerprints to care about; None = all. budget_gpu_hours:
        see `sweeps.engine.budget`. detach: leave as soon as everything has been handed in (SLURM).
        parent_run_id: the tracker's run of this sweep, written to each point's sweep.json.
        on_point: called after a point has ended, for example to update the tracker. every_s:
        seconds between plain progress lines.
    """
    folder = sweep_folder(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    with only_controller(folder), make_display(folder / "sweep.log", every_s) as display:
        plan = folder / "plan.json"
        recorded = read_json(plan)["points"] if plan.exists() else []
        study = open_study(folder / "study.journal", comparison, recorded)
        write_plan(folder, comparison, study)
        code = (
            freeze(Path(comparison.base.runtime.root), options.entry)
            if options.executor != "debug"
            else None
        )
        size = len(study.points()) if isinstance(comparison, Ablation) else comparison.trials
        executor = make_executor(options, folder, comparison.sweep_id, size, code)
        # a search must not propose all its points before it has learnt from the first ones
        slots = (
            min(executor.slots, options.parallel or SEARCHED_AT_ONCE)
            if isinstance(comparison, Search)
            else executor.slots
        )
        sweep = _Sweep(
            comparison,
            executor,
            study,
            display,
            selected,
            parent_run_id,
            retry,
            on_point,
            poll_s,
            detach,
            slots,
        )
        sweep.budget, sweep.continuations = (
            Budget(budget_gpu_hours),
            Continuations(options.continuations),
        )
        return sweep.run()


def write_plan(folder: Path, comparison: Comparison, study: GridStudy | SearchStudy) -> None:
    """plan.json: what the reports and a rebuilding need. A search's grows with each point."""
    plan = comparison.plan(study.points()) if isinstance(comparison, Search) else comparison.plan()
    write_atomically(folder / "plan.json", json.dumps(plan, indent=1))


@dataclass
class _Sweep:
    """One call of `run_sweep`."""

    comparison: Comparison
    executor: Executor
    study: GridStudy | SearchStudy
    display: Display
    selected: Collection[str] | None
    parent_run_id: str
    retry: bool
    on_point: Callable[[], None]
    poll_s: float
    detach: bool
    slots: int  # jobs at once
    budget: Budget = field(default_factory=lambda: Budget(None))
    continuations: Continuations = field(default_factory=lambda: Continuations(0))
    points: dict[str, Point] = field(
        default_factory=dict
    )  # those that this call cares about, by fingerprint
    states: dict[str, PointState] = field(default_factory=dict)
    views: dict[str, PointView] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)  # running, by fingerprint
    absent: dict[str, int] = field(
        default_factory=dict
    )  # not in the queue: number of the queue's answer that said so first
    ending: dict[str, Ending] = field(default_factory=dict)
    held_back: list[Point] = field(default_factory=list)  # asked for, but not taken by SLURM yet
    next_try: float = 0.0
    patience_s: float = PATIENCE_S[0]
    turn: deque[str] = field(default_factory=deque)  # whose files are looked at next
    seen: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # by point name: when first seen running, share done then
    moving: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # from its first step on: preparing data says nothing of speed
    durations: list[float] = field(default_factory=list)
    begun: float = field(default_factory=time.time)
    told: set[str] = field(default_factory=set)  # notes that are given once

    def run(self) -> Summary:
        for repair in self.study.repairs:
            self.display.note(f"repaired: {repair}")
        self.source = provenance.capture()  # once: all jobs of this call run the code as it is now
        self._take_stock()
        detached = False
        with count_interrupts(install=not self.executor.in_process) as interrupts:
            while not interrupts:
                self._start_waiting()
                if not (self.jobs or self.ending or self.held_back):
                    break
                if self.detach and not self.held_back:
                    detached = True
                    break
                self._watch()
                self._keep_budget()
                self.display.show(self._view())
                time.sleep(self.poll_s)
            if interrupts:
                self._stop(interrupts)
        self.display.show(self._view(), now=True)
        outcomes = tuple(self._outcome(point) for point in self.points.values())
        return Summary(outcomes, bool(interrupts), self.study.path.parent, detached)

    # ---- the beginning: what is there already

    def _take_stock(self) -> None:
        """Read all run directories, bring the study up to date with them, and take over the jobs
        that are running.
        """
        known = [
            point
            for point in self.study.points()
            if self.selected is None or point.fingerprint in self.selected
        ]
        self.points = {point.fingerprint: point for point in known}
        while not self._recover():
            time.sleep(PATIENCE_S[0])
        self.states |= {
            fingerprint: point_state(point)
            for fingerprint, point in self.points.items()
            if fingerprint not in self.jobs
        }
        self._learn_causes()
        for fingerprint, point in self.points.items():
            if fingerprint in self.jobs:
                continue
            state = self.states[fingerprint]
            if state.state in ALIVE:
                self._adopt(point, state)
                continue
            self.budget.close(point.run_dir, state)
            if self._settled(state):
                self._close_trial(point)
        target = {
            fingerprint: self._trial_state(point) for fingerprint, point in self.points.items()
        }
        self.study.plan(
            lambda point, last: (
                point.fingerprint in target
                and (last is None or last.name != target[point.fingerprint])
            )
        )
        for fingerprint, point in self.points.items():
            waiting = not self._settled(self.states[fingerprint]) and fingerprint not in self.jobs
            self._see(point, WAITING if waiting else "")
        for point in self.points.values():
            if self.states[point.fingerprint].state in GIVEN_UP and not self.retry:
                self.display.note(f"earlier: {describe_failure(self._outcome(point))}")
        counts = {
            state: sum(v.state == state for v in self.views.values())
            for state in (FINISHED, *ALIVE, *GIVEN_UP, PRUNED, WAITING)
        }
        said = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
        self.display.note(
            f"{self.comparison.sweep_id}: {len(self.points)} points{', ' if said else ''}{said}"
        )

    def _recover(self) -> bool:
        """Take over jobs that were handed in but not written down: their controller was killed
        right then, or SLURM's answer was lost. False if SLURM cannot be asked now: then nothing may
        be submitted either."""
        try:
            found = self.executor.recover(list(self.points.values()))
        except NotNow as error:
            self._say_once(str(error))
            return False
        for job in found:
            job.write()
            self.display.note(
                f"{job.point.name} was submitted as job {job.id}, and that was not written down: watching it"
            )
            self.jobs[job.point.fingerprint] = job
            self.states[job.point.fingerprint] = read_state(job.point.run_dir, alive=True)
        return True

    def _learn_causes(self) -> None:
        """How jobs have ended while nobody watched."""
        open_ends = [
            (self.points[f].run_dir, state)
            for f, state in self.states.items()
            if state.state not in ALIVE and needs_cause(state)
        ]
        answered = set(find_causes(open_ends))
        for fingerprint, point in self.points.items():
            if point.run_dir in answered:
                self.states[fingerprint] = point_state(point)

    def _settled(self, state: PointState) -> bool:
        """Whether this call has nothing to do for a point in that state."""
        return state.state in (FINISHED, PRUNED) or (state.state in GIVEN_UP and not self.retry)

    def _trial_state(self, point: Point) -> str:
        """Which state of an optuna trial fits the point; "" where the point is to be run."""
        state = self.states[point.fingerprint]
        if state.state in ALIVE:
            return "RUNNING"
        if not self._settled(state):
            return ""
        if state.state == PRUNED:
            return "PRUNED"
        return "FAIL" if self._outcome(point).value is None else "COMPLETE"

    def _adopt(self, point: Point, state: PointState) -> None:
        # an experiment that somebody runs by hand has no (living) job: it is watched by the process
        # that writes its status
        recorded = bool(state.job) and alive(state.job, state.status, point.run_dir)
        record = dict(state.job) if recorded else writer_record(state.status)
        self.jobs[point.fingerprint] = self.executor.adopt(point, record)
        self.budget.open(point.run_dir)
        self.display.note(f"{point.name} is running already (job {record['job_id']}): watching it")

    # ---- starting

    def _start_waiting(self) -> None:
        """Hand in waiting points while there are free slots and budget."""
        if self.held_back:
            if time.monotonic() < self.next_try:
                return
            self.next_try = time.monotonic() + self.patience_s
            if self._recover():
                self._submit(
                    [point for point in self.held_back if point.fingerprint not in self.jobs]
                )
            return
        batch: list[Point] = []
        while len(self.jobs) + len(self.ending) + len(batch) < self.slots:
            if not self.budget.allows(len(self.jobs) + len(batch)):
                limit, spent = self.budget.limit, self.budget.spent
                self._say_once(
                    f"the budget of {limit:g} GPU-hours does not allow another point ({spent:.2f} spent): no more are started"
                )
                break
            point = self.study.ask()
            if point is None:
                break
            if self._to_submit(point):
                batch.append(point)
        for note in getattr(self.study, "notes", ()):
            self._say_once(note)
        if batch:
            self._prepare(batch)
            self._submit(batch)

    def _to_submit(self, point: Point) -> bool:
        """Whether a point that the study gave is to be run; otherwise its trial is closed."""
        fingerprint = point.fingerprint
        if fingerprint not in self.states:
            if isinstance(self.comparison, Search):  # proposed just now
                self.points[fingerprint] = point
                self.states[fingerprint] = point_state(point)
                write_plan(self.study.path.parent, self.comparison, self.study)
            else:  # left waiting by an earlier call; this call was told to care about other points only
                self.study.tell(fingerprint, None, "not selected in this call")
                return False
        if fingerprint in self.jobs:
            return False
        state = self.states[fingerprint] = point_state(
            point
        )  # cancelled or started by somebody else since we looked?
        if state.state in ALIVE:
            self._adopt(point, state)
            return False
        just_cancelled = state.state == CANCELLED and float(state.ended.get("at", 0)) > self.begun
        if self._settled(state) or just_cancelled:
            self._close_trial(point)
            self._see(point)
            return False
        return True

    def _prepare(self, batch: list[Point]) -> None:
        """What the jobs and the reports need to know about where the points come from."""
        for point in batch:
            origin = {
                "sweep_id": self.comparison.sweep_id,
                "ablation": self.comparison.name,
                "parent_run_id": self.parent_run_id,
                "cell": dict(point.cell),
            }
            write_atomically(point.run_dir / "sweep.json", json.dumps(origin, indent=1))
            provenance.write(point.run_dir, self.source)
            release_lost(point.run_dir, self.states[point.fingerprint].job)

    def _submit(self, batch: list[Point]) -> None:
        """Hand the points in; those that SLURM does not take now are held back and tried again."""
        self.held_back = []
        while batch:
            try:
                started = self.executor.submit(batch)
            except NotNow as error:
                self.held_back, self.next_try = batch, time.monotonic() + self.patience_s
                self.display.note(
                    f"{len(batch)} point(s) could not be submitted now: {error}. Trying again in {self.patience_s:.0f} s"
                )
                self.patience_s = min(PATIENCE_S[1], 2 * self.patience_s)
                for point in batch:
                    self._see(point, WAITING)
                return
            self.patience_s = PATIENCE_S[0]
            for job in started:
                self._started(job)
            batch = batch[len(started) :]

    def _started(self, job: Job) -> None:
        job.write()
        fingerprint, record = job.point.fingerprint, job.record
        self.jobs[fingerprint] = job
        self.states[fingerprint] = read_state(job.point.run_dir, alive=True)
        self.budget.open(job.point.run_dir)
        if fingerprint in self.study.running():
            self.study.note(
                fingerprint,
                job_id=job.id,
                executor=record["executor"],
                log=record.get("stdout", ""),
            )
        self._see(job.point)

    # ---- watching

    def _watch(self) -> None:
        """Look at the running jobs; close those that have ended."""
        for fingerprint, job in list(self.jobs.items()):
            if self.executor.alive(job):
                self.absent.pop(fingerprint, None)
            elif self._surely_gone(fingerprint, job):
                self._gone(fingerprint)
        self._find_causes()
        self._look_around()

    def _surely_gone(self, fingerprint: str, job: Job) -> bool:
        """A job of SLURM counts as gone when two answers of the queue in a row do not name it."""
        if job.record.get("executor") != "slurm":
            return True
        now = shared_queue().calls
        return now > self.absent.setdefault(fingerprint, now)

    def _gone(self, fingerprint: str) -> None:
        job = self.jobs.pop(fingerprint)
        self.absent.pop(fingerprint, None)
        # Without its job, a point may still have a process: one started by hand, or one whose
        # parent was killed.
        state = self.states[fingerprint] = point_state(job.point)
        self._see(job.point)
        if state.state in ALIVE:
            self._adopt(job.point, state)
        elif needs_cause(state):
            self.ending[fingerprint] = Ending(job.point, state)
        else:
            self._ended(job.point)

    def _find_causes(self) -> None:
        """Ask SLURM how jobs have ended; after a while go on without an answer."""
        if not self.ending:
            return
        answered = set(
            find_causes((ending.point.run_dir, ending.state) for ending in self.ending.values())
        )
        for fingerprint, ending in list(self.ending.items()):
            if ending.point.run_dir not in answered:
                if not ending.overdue:
                    continue
                write_cause(ending.point.run_dir, ending.state, None)
            del self.ending[fingerprint]
            self.states[fingerprint] = point_state(ending.point)
            self._see(ending.point)
            self._ended(ending.point)

    def _look_around(self) -> None:
        """Read the files of some running points, so that each has its turn."""
        if not self.turn:
            self.turn.extend(self.jobs)
        for _ in range(min(LOOKED_AT, len(self.turn))):
            job = self.jobs.get(fingerprint := self.turn.popleft())
            if job is None:
                continue
            self.states[fingerprint] = read_state(job.point.run_dir, alive=True)
            self._see(job.point)
            if self.states[fingerprint].state == FINISHED and job.record.get("executor") == "slurm":
                self._gone(
                    fingerprint
                )  # the results are there: no need to wait until SLURM has cleared the job away
            else:
                self._perhaps_prune(job)

    def _perhaps_prune(self, job: Job) -> None:
        """Report a search's running point to its pruner; stop the job if it is not worth going on."""
        search, fingerprint = self.comparison, job.point.fingerprint
        if (
            not isinstance(search, Search)
            or search.pruner == "none"
            or fingerprint not in self.study.running()
        ):
            return
        if self.states[fingerprint].ended:
            return  # it is leaving already
        for step, value in read_curve(job.point.run_dir, search.metric):
            if self.study.report(fingerprint, step, value):
                note_end(
                    job.point.run_dir,
                    PRUNED,
                    f"pruned at step {step}: {search.metric_label} {value:.1f}",
                    "controller",
                    job.record,
                )
                self.executor.stop(job)
                return

    def _ended(self, point: Point) -> None:
        self.budget.close(point.run_dir, self.states[point.fingerprint])
        self._close_trial(point)
        outcome = self._outcome(point)
        since, share = self.seen.get(point.name, (0.0, 1.0))
        took = f" after {clock(time.time() - since)}" if since else ""
        if outcome.state.state == FINISHED:
            if since and share < 0.01:
                self.durations.append(time.time() - since)
            label = self.comparison.metric_label
            figure = (
                ""
                if outcome.value is None
                else f": {label} {outcome.value:.1f}{_beside(outcome.chance)}"
            )
            self.display.note(f"finished {point.name}{took}{figure}")
        elif self.continuations.wanted(point, outcome.state):
            self.display.note(
                f"{describe_failure(outcome, short=True)}\n    it is started again and continues from what it has saved"
            )
            self.study.plan(lambda other, last: other.fingerprint == point.fingerprint)
            self._see(point, WAITING)
        else:
            self.display.note(describe_failure(outcome))
        self.on_point()

    def _close_trial(self, point: Point) -> None:
        state, outcome = self.states[point.fingerprint], self._outcome(point)
        values = objective_values(point, self.comparison) if state.state == FINISHED else None
        if (
            isinstance(self.comparison, Search)
            and self.comparison.pruner != "none"
            and point.fingerprint in self.study.running()
        ):
            for step, figure in read_curve(
                point.run_dir, self.comparison.metric
            ):  # a study that was lost has no history otherwise
                self.study.report(point.fingerprint, step, figure)
        self.study.tell(point.fingerprint, values, outcome.reason, pruned=state.state == PRUNED)

    # ---- stopping

    def _keep_budget(self) -> None:
        """Stop the running points once the budget is used up: they save, and a larger budget
        continues them.
        """
        self.budget.look(job.point.run_dir for job in self.jobs.values())
        if not self.budget.used_up or not self.jobs:
            return
        why = f"stopped: the budget of {self.budget.limit:g} GPU-hours is used up"
        self._say_once(
            f"{why} ({self.budget.spent:.2f} spent); a larger --budget-gpu-hours continues"
        )
        for job in self.jobs.values():
            if not read_state(job.point.run_dir, alive=True).ended:
                note_end(job.point.run_dir, "stopped", why, "controller", job.record)
                self.executor.stop(job)

    def _stop(self, interrupts: list[int]) -> None:
        """Ask the jobs to save and leave; kill them if they do not, or if the user asks again."""
        local = {
            fingerprint: job
            for fingerprint, job in self.jobs.items()
            if job.record.get("executor") == "local"
        }
        if len(local) < len(self.jobs):
            self.display.note(
                f"{len(self.jobs) - len(local)} job(s) of the cluster go on; the same command watches them again, sweeps/cancel.py stops them"
            )
        if local:
            self.display.note(
                f"stopping {len(local)} job(s): they save a checkpoint first (Ctrl-C again: kill them)"
            )
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

    def _say_once(self, text: str) -> None:
        if text.partition("(")[0] not in self.told:
            self.told.add(text.partition("(")[0])
            self.display.note(text)

    def _see(self, point: Point, instead: str = "") -> None:
        state = self.states[point.fingerprint]
        if instead:
            self.views[point.fingerprint] = PointView(point.name, instead)
            return
        value = self._outcome(point).value if state.state == FINISHED else None
        note = "" if value is None else f"{self.comparison.metric_label} {value:.1f}"
        queued = (
            (shared_queue().jobs() or {}).get(str(state.job.get("job_id")))
            if state.job.get("executor") == "slurm"
            else None
        )
        if queued and queued.waits and state.state in ALIVE:
            note = "in SLURM's queue" + (
                "" if queued.reason in ("", "None") else f": {queued.reason}"
            )
        view = look(
            point.name,
            point.experiment,
            point.run_dir,
            state,
            note,
            self.comparison.metric,
            queued.node if queued else "",
        )
        self.views[point.fingerprint] = view
        if state.state in ALIVE:
            self.seen.setdefault(point.name, (time.time(), view.share))
            if view.share > 0:
                self.moving.setdefault(point.name, (time.time(), view.share))

    def _view(self) -> SweepView:
        rows = tuple(self.views.values())
        slots = min(self.slots, max(1, len(rows)))
        return SweepView(
            self.comparison.title,
            rows,
            time.time() - self.begun,
            estimate(rows, self.moving, self.durations, slots),
        )

    def _outcome(self, point: Point) -> Outcome:
        return outcome_of(point, self.states[point.fingerprint], self.comparison)


def _beside(chance: float | None) -> str:
    return f" (chance {chance:.2g})" if chance is not None and chance == chance else ""
