"""The trials of one sweep: the common part of grid and search studies."""

from __future__ import annotations

import math
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from simvtp.errors import UserError
from sweeps.compat.optuna_private import TrialStorage, trial_id
from sweeps.study.journal_file import JournalFile, repair_journal

optuna.logging.set_verbosity(optuna.logging.WARNING)

Direction = Literal["minimize", "maximize"]


class StudyPoint(Protocol):
    """A point as a study sees it: of an ablation, or read from plan.json."""

    @property
    def name(self) -> str: ...
    @property
    def cell(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def run_dir(self) -> Path: ...


P = TypeVar("P", bound=StudyPoint)


class Trials(Generic[P]):
    """The trials of one sweep. Only one process may have it open (see the controller's lock).

    In memory, so that no call has to search all trials: the last trial of each point, the waiting
    ones in their order, and the running ones.

    Attributes:
        path: the journal.
        repairs: what was repaired when it was opened, for the user.
        notes: what else the user should know, for example why a search ends early.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        directions: Sequence[Direction],
        labels: Sequence[str],
        pruner: BasePruner,
    ) -> None:
        self.path = path
        self.repairs: list[str] = []
        self.notes: list[str] = []
        self._name, self._pruner = name, pruner
        self._directions, self._labels = list(directions), list(labels)
        self._points: dict[str, P] = {}
        self._distributions: dict[str, BaseDistribution] = {}
        self._last: dict[str, FrozenTrial] = {}
        self._waiting: deque[tuple[int, str]] = deque()  # (trial id, fingerprint)
        self._running: dict[str, int] = {}
        self._study = self._open()
        self._id = self._storage.study_id(name)

    # ---- opening

    def _open(self) -> optuna.Study:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".bak"))
            condition = repair_journal(self.path)
            if condition == "repaired":
                self.repairs.append(
                    f"the torn last line of {self.path} was dropped; the original file is kept as "
                    f"{self.path.name}.bak"
                )
            if condition == "damaged":
                self._set_aside("a line in its middle is damaged")
        try:
            return self._load()
        except OSError as error:
            raise UserError(
                f"cannot open {self.path}: {error.strerror or error}; free some space or choose "
                "another --root."
            ) from error
        except Exception as error:  # optuna raises what its replay hits: KeyError, ValueError, ...
            self._set_aside(f"{type(error).__name__}: {error}")
            return self._load()

    def _set_aside(self, why: str) -> None:
        aside = self.path.with_name(self.path.name + ".unreadable")
        self.path.replace(aside)
        self.repairs.append(
            f"{self.path} cannot be read ({why}): it is kept as {aside.name}, and the study is "
            "rebuilt from the run directories"
        )

    def _load(self) -> optuna.Study:
        # this is the only writer: an existing lock was left by a killed one
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)
        self._file = JournalFile(self.path)
        self._storage = TrialStorage(self._file)
        common: dict[str, Any] = {
            "study_name": self._name,
            "storage": self._storage.storage,
            "sampler": optuna.samplers.RandomSampler(seed=0),  # a search sets one per proposal
            "pruner": self._pruner,
        }
        try:
            return optuna.load_study(**common)
        except KeyError:
            with self._file.batch():
                study = optuna.create_study(**common, directions=self._directions)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(self._labels)  # axis labels of the dashboard
            return study

    def _load_trials(self) -> None:
        """Sorts the trials of the file by point.

        Trials of no known point (another writer's, or torn off half-made) are closed.
        """
        unknown = []
        for frozen in self._frozen():
            fingerprint = self._known(frozen)
            if fingerprint is None:
                if not frozen.state.is_finished():
                    unknown.append(trial_id(frozen))
            elif "duplicate_of" not in frozen.user_attrs:
                self._last[fingerprint] = frozen
                if frozen.state == TrialState.WAITING:
                    self._waiting.append((trial_id(frozen), fingerprint))
                elif frozen.state == TrialState.RUNNING:
                    self._running[fingerprint] = trial_id(frozen)
        if unknown:
            with self._file.batch():
                for number in unknown:
                    reason = "not a point of this sweep"
                    self._storage.finish(number, TrialState.FAIL, None, reason)

    def _known(self, frozen: FrozenTrial) -> str | None:
        """Returns the fingerprint of a trial's point; None if it is not of this sweep."""
        fingerprint: str = frozen.user_attrs.get("fingerprint", "")
        return fingerprint if fingerprint in self._points else None

    # ---- planning, asking, telling

    def points(self) -> tuple[P, ...]:
        """Returns all known points, in the order in which they became known."""
        return tuple(self._points.values())

    def plan(self, wanted: Callable[[P, TrialState | None], bool]) -> None:
        """Enqueues each known point for which `wanted(point, state of its last trial)` is true.

        A point with a waiting trial is never enqueued again, so a second call changes nothing.
        (Fingerprints are compared; that is optuna's `skip_if_exists`, but exact and without its
        comparison of every trial with every other.)
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
        """Closes the running trial of a point whose controller and job have died."""
        number = self._running.pop(fingerprint, None)
        if number is not None and self._storage.is_open(number):
            self._storage.finish(number, TrialState.FAIL, None, "its job was lost")

    def _enqueue(self, point: P, attributes: Mapping[str, Any]) -> None:
        # Parameters and distributions are part of the waiting trial, so that starting it is one
        # line and not one per parameter.
        template = create_trial(
            state=TrialState.WAITING,
            params=self._params(point),
            distributions=self._distributions,
            user_attrs={**trial_attributes(point), **attributes},
        )
        trial = self._storage.create(self._id, template)
        self._last[point.fingerprint] = trial
        self._waiting.append((trial_id(trial), point.fingerprint))

    def _params(self, point: P) -> dict[str, Any]:
        return dict(point.cell)

    def running(self) -> set[str]:
        """Returns the fingerprints of trials that were asked for and not closed yet."""
        return set(self._running)

    def ask(self) -> P | None:
        """Returns the next point to run and starts its trial; None if there is none now."""
        with self._file.batch():
            while self._waiting:
                number, fingerprint = self._waiting.popleft()
                # otherwise another program has closed it
                if self._storage.get(number).state == TrialState.WAITING:
                    self._storage.start(number)
                    return self._take(number, fingerprint)
        return None

    def _take(self, number: int, fingerprint: str) -> P:
        self._running[fingerprint] = number
        self._last[fingerprint] = self._storage.get(number)
        return self._points[fingerprint]

    def note(self, fingerprint: str, **attributes: Any) -> None:
        """Attaches attributes such as `job_id` to the running trial of a point."""
        number = self._running[fingerprint]
        with self._file.batch():
            if self._storage.is_open(number):
                for key, value in attributes.items():
                    self._storage.set_attribute(number, key, value)

    def report(self, fingerprint: str, step: int, value: float) -> bool:
        """Reports an intermediate value of a running point; True if it should be pruned.

        Cells of a table never are.
        """
        return False

    def report_curve(self, fingerprint: str, curve: Iterable[tuple[int, float]]) -> int | None:
        """Reports (step, value) pairs; returns the step at which to prune the point, else None."""
        for step, value in curve:
            if self.report(fingerprint, step, value):
                return step
        return None

    def tell(
        self,
        fingerprint: str,
        values: Sequence[float] | None,
        reason: str = "",
        pruned: bool = False,
    ) -> None:
        """Closes the running trial of a point: with one value per objective, pruned, or failed.

        Does nothing without such a trial. Missing values, NaN or a wrong number of values make the
        trial a failed one.
        """
        number = self._running.pop(fingerprint, None)
        if number is None:
            return
        with self._file.batch():
            if self._storage.is_open(number):
                state, final = self._result(number, values, pruned)
                self._storage.finish(number, state, final, reason)
        self._last[fingerprint] = self._storage.get(number)

    def _result(
        self, number: int, values: Sequence[float] | None, pruned: bool
    ) -> tuple[TrialState, list[float] | None]:
        """Returns the final state and values of a trial."""
        if pruned:
            curve = self._storage.get(number).intermediate_values
            last = curve[max(curve)] if curve else math.nan
            return TrialState.PRUNED, None if math.isnan(last) else [last]
        if values is None or len(values) != len(self._directions) or any(map(math.isnan, values)):
            return TrialState.FAIL, None
        return TrialState.COMPLETE, [float(value) for value in values]

    def counts(self) -> dict[str, int]:
        """Returns the number of trials in each state.

        Keys are optuna's names: COMPLETE, RUNNING, WAITING, FAIL, PRUNED.
        """
        return dict(Counter(frozen.state.name for frozen in self._frozen()))

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


def trial_attributes(point: StudyPoint) -> dict[str, Any]:
    """Returns the attributes by which a trial is recognised as that of a point."""
    return {"fingerprint": point.fingerprint, "run_dir": str(point.run_dir), "point": point.name}
