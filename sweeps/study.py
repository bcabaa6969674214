"""The Optuna study of a sweep: trials that one controller plans, asks for and tells.

The study is a cache. What happened to a point is read from its run directory, and a study that is lost or damaged is made anew from
there. A grid keeps one because people look at it (optuna-dashboard reads the file); a search needs one to choose its next point.

The file is an Optuna journal. Two things are known to go wrong with one and are dealt with when it is opened: a last line that was
torn by a crash makes the whole file unreadable from the second append on, and a lock that a killed writer left behind holds up the
next one. Lines are appended in batches, one lock and one flush to disk for each call, so that thousands of points are no burden on
a network file system. Cells of a paper table are never pruned.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablations.design import Ablation, Point
from ablations.search import Parameter, Search
from simvtp.errors import ConfigError, UserError

optuna.logging.set_verbosity(optuna.logging.WARNING)

Direction = Literal["minimize", "maximize"]
Wanted = Callable[[Point, TrialState | None], bool]
TPE_TRIES, RANDOM_TRIES = 10, 15  # proposals for one new point: so many by TPE, then so many at random


class Study(Protocol):
    """What the engine needs of a study, whether its points are given (grid) or proposed (search)."""

    path: Path
    repairs: list[str]
    notes: list[str]

    def points(self) -> tuple[Point, ...]: ...
    def plan(self, wanted: Wanted) -> None: ...
    def running(self) -> set[str]: ...
    def ask(self) -> Point | None: ...
    def note(self, fingerprint: str, **attributes: Any) -> None: ...
    def report(self, fingerprint: str, step: int, value: float) -> bool: ...
    def tell(self, fingerprint: str, values: Sequence[float] | None, reason: str = "", pruned: bool = False) -> None: ...
    def counts(self) -> dict[str, int]: ...


def open_study(path: Path, comparison: Ablation | Search, recorded: Sequence[Mapping[str, Any]] = ()) -> GridStudy | SearchStudy:
    """The study of a grid or of a search at `path`, opened or created.

    Args:
        recorded: the `points` of the plan.json that lies beside the study, so that a search knows its points again if the study is lost.
    """
    if isinstance(comparison, Search):
        return SearchStudy(path, comparison, recorded)
    return GridStudy(path, comparison.sweep_id, comparison.points(), comparison.metric_label)


class _Trials:
    """The trials of one sweep. Only one process may have it open (the controller's lock sees to that).

    Kept in memory, so that no call has to look through all trials: the last trial of each point, the waiting ones in their order and
    the running ones.
    """

    def __init__(self, path: Path, name: str, directions: Sequence[Direction], labels: Sequence[str], pruner: BasePruner) -> None:
        self.path = path
        self.repairs: list[str] = []  # what had to be mended, for the user
        self.notes: list[str] = []  # what else the user should know, for example why a search ends early
        self._name, self._directions, self._labels, self._pruner = name, list(directions), list(labels), pruner
        self._points: dict[str, Point] = {}
        self._distributions: dict[str, BaseDistribution] = {}
        self._last: dict[str, FrozenTrial] = {}
        self._waiting: deque[tuple[int, str]] = deque()  # (trial id, fingerprint)
        self._running: dict[str, int] = {}
        self._study = self._open()
        self._id = self._storage.get_study_id_from_name(name)

    # ---- opening

    def _open(self) -> optuna.Study:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".bak"))
            condition = repair_journal(self.path)
            if condition == "mended":
                self.repairs.append(f"the torn last line of {self.path} was dropped; the file as it was is kept as {self.path.name}.bak")
            if condition == "damaged":
                self._set_aside("a line in its middle is damaged")
        try:
            return self._load()
        except OSError as error:
            raise UserError(f"cannot open {self.path}: {error.strerror or error}; free some space or choose another --root.") from error
        except Exception as error:  # optuna raises what its replay happens to hit: KeyError, ValueError, RuntimeError, ...
            self._set_aside(f"{type(error).__name__}: {error}")
            return self._load()

    def _set_aside(self, why: str) -> None:
        aside = self.path.with_name(self.path.name + ".unreadable")
        self.path.replace(aside)
        self.repairs.append(
            f"{self.path} cannot be read ({why}): it is kept as {aside.name}, and the study is rebuilt from the run directories"
        )

    def _load(self) -> optuna.Study:
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)  # we are the only writer: a lock here is a dead one's
        self._file = _JournalFile(self.path)
        self._storage = JournalStorage(self._file)
        sampler = optuna.samplers.RandomSampler(seed=0)  # a search sets its own before each proposal
        try:
            return optuna.load_study(study_name=self._name, storage=self._storage, sampler=sampler, pruner=self._pruner)
        except KeyError:
            with self._file.batch():
                study = optuna.create_study(
                    study_name=self._name, storage=self._storage, sampler=sampler, pruner=self._pruner, directions=self._directions
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(self._labels)  # what the dashboard writes at its axes
            return study

    def _take_up(self) -> None:
        """Sort the trials of the file by point. Trials that are nobody's (another writer's, or torn off half-made) are closed."""
        lost = []
        for frozen in self._frozen():
            fingerprint = self._known(frozen)
            if fingerprint is None:
                if not frozen.state.is_finished():
                    lost.append(frozen)
            elif "duplicate_of" not in frozen.user_attrs:
                self._last[fingerprint] = frozen
                if frozen.state == TrialState.WAITING:
                    self._waiting.append((frozen._trial_id, fingerprint))
                elif frozen.state == TrialState.RUNNING:
                    self._running[fingerprint] = frozen._trial_id
        if lost:
            with self._file.batch():
                for frozen in lost:
                    self._finish(frozen._trial_id, TrialState.FAIL, None, "not a point of this sweep")

    def _known(self, frozen: FrozenTrial) -> str | None:
        """Fingerprint of the point of a trial, None if it is not of this sweep."""
        fingerprint = frozen.user_attrs.get("fingerprint", "")
        return fingerprint if fingerprint in self._points else None

    # ---- planning, asking, telling

    def points(self) -> tuple[Point, ...]:
        """All points that are known, in the order in which they became known."""
        return tuple(self._points.values())

    def plan(self, wanted: Wanted) -> None:
        """Enqueue each known point that `wanted(point, state of its last trial or None)` asks for.

        A point with a waiting trial is never enqueued again, so calling this twice gives the exact set. (Fingerprints are compared,
        which does what optuna's `skip_if_exists` does, exactly and without its comparison of every trial with every other.)
        """
        with self._file.batch():
            for fingerprint, point in self._points.items():
                before = self._last.get(fingerprint)
                if before is not None and before.state == TrialState.WAITING:
                    continue
                if wanted(point, before.state if before else None):
                    self._close_lost(fingerprint)
                    self._enqueue(point, {"retry_of": before.number} if before else {})

    def _close_lost(self, fingerprint: str) -> None:
        """The running trial of a point that is to be run again: its controller died, and so did its job."""
        trial_id = self._running.pop(fingerprint, None)
        if trial_id is not None and self._is_open(trial_id):
            self._finish(trial_id, TrialState.FAIL, None, "its job went away")

    def _enqueue(self, point: Point, again: Mapping[str, Any]) -> None:
        # Parameters and distributions are part of the waiting trial, so that taking it up is one line and not one for each parameter.
        template = create_trial(
            state=TrialState.WAITING,
            params=self._params(point),
            distributions=self._distributions,
            user_attrs={**_facts(point), **again},
        )
        trial_id = self._storage.create_new_trial(self._id, template)
        self._last[point.fingerprint] = self._storage.get_trial(trial_id)
        self._waiting.append((trial_id, point.fingerprint))

    def _params(self, point: Point) -> dict[str, Any]:
        return dict(point.cell)

    def running(self) -> set[str]:
        """Fingerprints of the trials that were asked for and not told yet."""
        return set(self._running)

    def ask(self) -> Point | None:
        """The next point to run, whose trial is then running; None when there is nothing to start now."""
        with self._file.batch():
            while self._waiting:
                trial_id, fingerprint = self._waiting.popleft()
                if self._storage.get_trial(trial_id).state == TrialState.WAITING:  # else another program has closed it
                    self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
                    return self._take(trial_id, fingerprint)
        return None

    def _take(self, trial_id: int, fingerprint: str) -> Point:
        self._running[fingerprint] = trial_id
        self._last[fingerprint] = self._storage.get_trial(trial_id)
        return self._points[fingerprint]

    def note(self, fingerprint: str, **attributes: Any) -> None:
        """Attach facts such as `job_id` to the running trial of a point."""
        trial_id = self._running[fingerprint]
        with self._file.batch():
            for key, value in attributes.items() if self._is_open(trial_id) else ():
                self._storage.set_trial_user_attr(trial_id, key, value)

    def _is_open(self, trial_id: int) -> bool:
        """Whether a trial can be written to: another program (a dashboard has buttons) may have closed it."""
        return not self._storage.get_trial(trial_id).state.is_finished()

    def report(self, fingerprint: str, step: int, value: float) -> bool:
        """An intermediate figure of a running point; True if the point should be pruned. Cells of a table never are."""
        return False

    def tell(self, fingerprint: str, values: Sequence[float] | None, reason: str = "", pruned: bool = False) -> None:
        """Close the running trial of a point: with a figure for each objective, as pruned, or as failed with a reason.

        Without such a trial: nothing. Figures that are missing, not numbers or of the wrong count make the trial a failed one.
        """
        trial_id = self._running.pop(fingerprint, None)
        if trial_id is None:
            return
        with self._file.batch():
            if not self._is_open(trial_id):
                pass
            elif pruned:
                curve = self._storage.get_trial(trial_id).intermediate_values
                last = curve[max(curve)] if curve else math.nan
                self._finish(trial_id, TrialState.PRUNED, None if math.isnan(last) else [last], reason)
            elif values is None or len(values) != len(self._directions) or any(math.isnan(value) for value in values):
                self._finish(trial_id, TrialState.FAIL, None, reason)
            else:
                self._finish(trial_id, TrialState.COMPLETE, [float(value) for value in values], reason)
        self._last[fingerprint] = self._storage.get_trial(trial_id)

    def _finish(self, trial_id: int, state: TrialState, values: Sequence[float] | None, reason: str) -> None:
        if reason:
            self._storage.set_trial_user_attr(trial_id, "reason", reason)
        self._storage.set_trial_state_values(trial_id, state, values)

    def counts(self) -> dict[str, int]:
        """Number of trials in each state, by optuna's names (COMPLETE, RUNNING, WAITING, FAIL, PRUNED)."""
        found: dict[str, int] = {}
        for frozen in self._frozen():
            found[frozen.state.name] = found.get(frozen.state.name, 0) + 1
        return found

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


class GridStudy(_Trials):
    """The study of a grid: every point is given, and each is run once."""

    def __init__(self, path: Path, sweep_id: str, points: Sequence[Point], label: str = "figure") -> None:
        """Open or create the study at `path`; enqueue nothing yet."""
        super().__init__(path, sweep_id, ["maximize"], [label], optuna.pruners.NopPruner())
        self._points = {point.fingerprint: point for point in points}
        self._distributions = _grid_distributions([self._params(point) for point in points])
        self._take_up()

    def _params(self, point: Point) -> dict[str, Any]:
        return {**point.cell, "seed": point.seed}


class SearchStudy(_Trials):
    """The study of a search: new points are proposed until `search.trials` are known.

    A proposal depends on the search's seed, the number of the trial and what was told before, and on nothing that a restarted
    controller could have lost. Values are rounded before they are stored, so the study shows what was run. A proposal that comes to a
    point that exists is closed at once with that point's figures, an impossible one as failed with the reason; neither counts
    towards `search.trials`.
    """

    def __init__(self, path: Path, search: Search, recorded: Sequence[Mapping[str, Any]] = ()) -> None:
        directions = [objective.direction for objective in search.objectives]
        super().__init__(path, search.sweep_id, directions, [objective.label for objective in search.objectives], make_pruner(search))
        self._search = search
        self._distributions = {parameter.key: _distribution(parameter) for parameter in search.space}
        self._evaluations: dict[str, dict[int, int]] = {}  # of each point: training step -> number of the evaluation, from 1
        self._exhausted = False
        for entry in recorded:
            point = search.point(entry["cell"])
            if point.fingerprint != entry["fingerprint"]:
                self.repairs.append(f"the recorded point {point.name} would now be another experiment: it is left out of the search")
            else:
                self._points[point.fingerprint] = point
        self._take_up()

    def _known(self, frozen: FrozenTrial) -> str | None:
        """As for a grid; a point that was proposed right before its controller died is made again from its parameters."""
        fingerprint = frozen.user_attrs.get("fingerprint", "")
        if fingerprint and fingerprint not in self._points and set(frozen.params) == set(self._distributions):
            point = self._search.point(frozen.params)
            if point.fingerprint == fingerprint:
                self._points[fingerprint] = point
        return super()._known(frozen)

    def ask(self) -> Point | None:
        """A waiting point, else a new proposal while fewer than `search.trials` points are known."""
        waiting = super().ask()
        if waiting is not None or len(self._points) >= self._search.trials or self._exhausted:
            return waiting
        first = self._search.first() if not self._points else None
        if first is not None:
            self._points[first.fingerprint] = first
            with self._file.batch():
                self._enqueue(first, {"base": True})
            return super().ask()
        for attempt in range(TPE_TRIES + RANDOM_TRIES):
            with self._file.batch():
                point = self._propose(at_random=attempt >= TPE_TRIES)
            if point is not None:
                return point
        self._exhausted = True  # until something new is told
        tries = TPE_TRIES + RANDOM_TRIES
        self.notes.append(
            f"{tries} proposals in a row were known already or impossible: the search starts nothing new with {len(self._points)} of "
            f"{self._search.trials} points (--space makes the space wider)"
        )
        return None

    def _propose(self, at_random: bool) -> Point | None:
        """One proposal: a running trial and its point, or None where it was closed at once."""
        number = len(self._frozen())
        self._study.sampler = _Rounding(make_sampler(self._search, number, at_random), self._search)
        trial = self._study.ask(self._distributions)
        trial_id = trial._trial_id
        try:
            point = self._search.point(trial.params)
        except ConfigError as error:
            self._finish(trial_id, TrialState.FAIL, None, f"impossible: {error}")
            return None
        for key, value in _facts(point).items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        before = self._last.get(point.fingerprint)
        if before is not None or point.fingerprint in self._points:
            self._close_duplicate(trial_id, before)
            return None
        self._points[point.fingerprint] = point
        return self._take(trial_id, point.fingerprint)

    def _close_duplicate(self, trial_id: int, before: FrozenTrial | None) -> None:
        number = -1 if before is None else before.number
        self._storage.set_trial_user_attr(trial_id, "duplicate_of", number)
        if before is not None and before.state == TrialState.COMPLETE:
            self._finish(trial_id, TrialState.COMPLETE, before.values, f"the same as trial {number}")
        elif before is not None and before.state == TrialState.PRUNED:
            for step, value in before.intermediate_values.items():
                self._storage.set_trial_intermediate_value(trial_id, step, value)
            self._finish(trial_id, TrialState.PRUNED, before.values, f"the same as trial {number}")
        else:
            self._finish(trial_id, TrialState.FAIL, None, f"the same as trial {number}, which has no figure")

    def report(self, fingerprint: str, step: int, value: float) -> bool:
        """An evaluation of a running point; True if the point should be pruned.

        Give the evaluations of a point in their order, all from the first; one that was given before is not stored again. The pruner
        counts evaluations (1, 2, ...), not training steps, so points of different length are comparable. After the last evaluation
        nothing is left to save, so there is no pruning then.
        """
        trial_id = self._running.get(fingerprint)
        if trial_id is None or self._search.pruner == "none":
            return False
        seen = self._evaluations.setdefault(fingerprint, {})
        resource = seen.setdefault(step, len(seen) + 1)
        with self._file.batch():
            trial = self._storage.get_trial(trial_id)
            if trial.state.is_finished() or "pruned_at" in trial.user_attrs:
                return "pruned_at" in trial.user_attrs
            if resource in trial.intermediate_values:
                return False
            self._storage.set_trial_intermediate_value(trial_id, resource, float(value))
            if resource >= self._search.evaluations or not self._pruner.prune(self._study, self._storage.get_trial(trial_id)):
                return False
            self._storage.set_trial_user_attr(trial_id, "pruned_at", resource)  # decided once: a restarted controller must know it
            return True

    def tell(self, fingerprint: str, values: Sequence[float] | None, reason: str = "", pruned: bool = False) -> None:
        if fingerprint in self._running:
            self._exhausted = False
        super().tell(fingerprint, values, reason, pruned)


# ---- what a search uses of optuna --------------------------------------------------------------------------------------------


def make_sampler(search: Search, number: int, at_random: bool = False) -> BaseSampler:
    """The sampler for trial `number`, seeded by the search and that number: a restarted controller proposes what the first would have.

    TPE is named with all that matters here: multivariate (parameters depend on each other), running trials count as bad ones
    (`constant_liar`), so that parallel jobs do not all try the same place.
    """
    seed = zlib.crc32(f"{search.seed} {number}".encode())
    if at_random or search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(n_startup_trials=search.startup, multivariate=True, group=False, constant_liar=True, seed=seed)


def make_pruner(search: Search) -> BasePruner:
    """The pruner, with its largest resource given: the number of evaluations of a run."""
    if search.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=search.evaluations, reduction_factor=2)
    return optuna.pruners.NopPruner()


class _Rounding(BaseSampler):
    """Another sampler, whose proposals are rounded: what the study stores is what is run."""

    def __init__(self, inner: BaseSampler, search: Search) -> None:
        self._inner, self._search = inner, search

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {key: self._search.rounded(key, value) for key, value in self._inner.sample_relative(study, trial, search_space).items()}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._search.rounded(param_name, self._inner.sample_independent(study, trial, param_name, param_distribution))


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.choices)
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


# ---- the file ----------------------------------------------------------------------------------------------------------------


class _Lock(JournalFileSymlinkLock):
    """Optuna's lock file, which its holder may take again."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._depth = 0

    def acquire(self) -> bool:
        self._depth += 1
        return self._depth > 1 or super().acquire()

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            super().release()


class _JournalFile(BaseJournalBackend):
    """Optuna's journal file. Inside `batch()` lines are held back and appended together; the lock is held meanwhile, so that a line
    of another program (optuna-dashboard writes notes) cannot come between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = _Lock(str(path))
        self._file = JournalFileBackend(str(path), lock_obj=self._lock)
        self._lines = 0  # of the file, as far as they were counted
        self._held: list[dict[str, Any]] | None = None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        held = self._held
        if held is None or log_number_from < self._lines:
            yield from self._file.read_logs(log_number_from)
        if held is not None:
            yield from held[max(0, log_number_from - self._lines) :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is None:
            self._file.append_logs(logs)
        else:
            self._held += [json.loads(json.dumps(log)) for log in logs]  # as they will be read from the file

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Append what is written inside at its end, also if that ends with an error: memory and file must not differ."""
        if self._held is not None:
            yield
            return
        self._lock.acquire()
        try:
            self._count()
            held = self._held = []
            try:
                yield
            finally:
                self._held = None
                if held:
                    self._file.append_logs(held)
                    self._count()
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}; free some space and start again.") from error
        finally:
            self._lock.release()

    def _count(self) -> None:
        """Read up to the end, so that the next reader starts there and not at the beginning."""
        self._lines += sum(1 for _ in self._file.read_logs(self._lines))


def repair_journal(path: Path) -> Literal["whole", "mended", "damaged"]:
    """Drop a torn last line of an Optuna journal, in one step; say what was found.

    Only the last line may be dropped: trials are numbered by their place in the file, so without a line from the middle all later
    lines would speak of the wrong trials. Such a file is `damaged` and left as it is.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    if not lines or (all(_is_json(line) for line in lines) and lines[-1].endswith(b"\n")):
        return "whole"
    if not all(_is_json(line) for line in lines[:-1]):
        return "damaged"
    last = lines[-1].rstrip(b"\n") + b"\n" if _is_json(lines[-1]) else b""  # complete but for its line end
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(b"".join([*lines[:-1], last]))
    temporary.replace(path)
    return "mended"


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _facts(point: Point) -> dict[str, Any]:
    return {"fingerprint": point.fingerprint, "run_dir": str(point.run_dir), "point": point.name}


def _grid_distributions(cells: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """A distribution for each axis, for people to look at: numbers as a range (short in the file, an axis with a scale in a plot),
    anything else as sorted choices. The same for the same grid, in whatever order it was written."""
    values: dict[str, set[Any]] = {}
    for cell in cells:
        for key, value in cell.items():
            values.setdefault(key, set()).add(value)
    return {key: _range(found) for key, found in values.items()}


def _range(values: set[Any]) -> BaseDistribution:
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution(sorted(values, key=lambda value: (str(type(value)), value)))
