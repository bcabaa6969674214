"""The trials of one sweep: what grids and searches have in common."""

from __future__ import annotations

import math
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablations.design import Point
from simvtp.errors import UserError
from sweeps.study.journal_file import JournalFile, repair_journal

optuna.logging.set_verbosity(optuna.logging.WARNING)

Direction = Literal["minimize", "maximize"]
Wanted = Callable[[Point, TrialState | None], bool]


class Trials:
    """The trials of one sweep. Only one process may have it open (the controller's lock sees to
    that).

    Kept in memory, so that no call has to look through all trials: the last trial of each point,
    the waiting ones in their order and the running ones."""

    def __init__(
        self,
        path: Path,
        name: str,
        directions: Sequence[Direction],
        labels: Sequence[str],
        pruner: BasePruner,
    ) -> None:
        self.path = path
        self.repairs: list[str] = []  # what had to be mended, for the user
        self.notes: list[
            str
        ] = []  # what else the user should know, for example why a search ends early
        self._name, self._directions, self._labels, self._pruner = (
            name,
            list(directions),
            list(labels),
            pruner,
        )
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
                self.repairs.append(
                    f"the torn last line of {self.path} was dropped; the file as it was is kept as {self.path.name}.bak"
                )
            if condition == "damaged":
                self._set_aside("a line in its middle is damaged")
        try:
            return self._load()
        except OSError as error:
            raise UserError(
                f"cannot open {self.path}: {error.strerror or error}; free some space or choose another --root."
            ) from error
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
        self.path.with_name(self.path.name + ".lock").unlink(
            missing_ok=True
        )  # we are the only writer: a lock here is a dead one's
        self._file = JournalFile(self.path)
        self._storage = JournalStorage(self._file)
        sampler = optuna.samplers.RandomSampler(
            seed=0
        )  # a search sets its own before each proposal
        try:
            return optuna.load_study(
                study_name=self._name, storage=self._storage, sampler=sampler, pruner=self._pruner
            )
        except KeyError:
            with self._file.batch():
                study = optuna.create_study(
                    study_name=self._name,
                    storage=self._storage,
                    sampler=sampler,
                    pruner=self._pruner,
                    directions=self._directions,
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(self._labels)  # what the dashboard writes at its axes
            return study

    def _take_up(self) -> None:
        """Sort the trials of the file by point. Trials that are nobody's (another writer's, or torn
        off half-made) are closed.
        """
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
                    self._finish(
                        frozen._trial_id, TrialState.FAIL, None, "not a point of this sweep"
                    )

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

        A point with a waiting trial is never enqueued again, so calling this twice gives the exact
        set. (Fingerprints are compared, which does what optuna's `skip_if_exists` does, exactly and
        without its comparison of every trial with every other.)"""
        with self._file.batch():
            for fingerprint, point in self._points.items():
                before = self._last.get(fingerprint)
                if before is not None and before.state == TrialState.WAITING:
                    continue
                if wanted(point, before.state if before else None):
                    self._close_lost(fingerprint)
                    self._enqueue(point, {"retry_of": before.number} if before else {})

    def _close_lost(self, fingerprint: str) -> None:
        """The running trial of a point that is to be run again: its controller died, and so did its
        job.
        """
        trial_id = self._running.pop(fingerprint, None)
        if trial_id is not None and self._is_open(trial_id):
            self._finish(trial_id, TrialState.FAIL, None, "its job went away")

    def _enqueue(self, point: Point, again: Mapping[str, Any]) -> None:
        # Parameters and distributions are part of the waiting trial, so that taking it up is one
        # line and not one for each parameter.
        template = create_trial(
            state=TrialState.WAITING,
            params=self._params(point),
            distributions=self._distributions,
            user_attrs={**facts(point), **again},
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
        """The next point to run, whose trial is then running; None when there is nothing to start
        now.
        """
        with self._file.batch():
            while self._waiting:
                trial_id, fingerprint = self._waiting.popleft()
                if (
                    self._storage.get_trial(trial_id).state == TrialState.WAITING
                ):  # else another program has closed it
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
        """Whether a trial can be written to: another program (a dashboard has buttons) may have
        closed it.
        """
        return not self._storage.get_trial(trial_id).state.is_finished()

    def report(self, fingerprint: str, step: int, value: float) -> bool:
        """An intermediate figure of a running point; True if the point should be pruned. Cells of a
        table never are.
        """
        return False

    def tell(
        self,
        fingerprint: str,
        values: Sequence[float] | None,
        reason: str = "",
        pruned: bool = False,
    ) -> None:
        """Close the running trial of a point: with a figure for each objective, as pruned, or as
        failed with a reason.

        Without such a trial: nothing. Figures that are missing, not numbers or of the wrong count
        make the trial a failed one."""
        trial_id = self._running.pop(fingerprint, None)
        if trial_id is None:
            return
        with self._file.batch():
            if not self._is_open(trial_id):
                pass
            elif pruned:
                curve = self._storage.get_trial(trial_id).intermediate_values
                last = curve[max(curve)] if curve else math.nan
                self._finish(
                    trial_id, TrialState.PRUNED, None if math.isnan(last) else [last], reason
                )
            elif (
                values is None
                or len(values) != len(self._directions)
                or any(math.isnan(value) for value in values)
            ):
                self._finish(trial_id, TrialState.FAIL, None, reason)
            else:
                self._finish(
                    trial_id, TrialState.COMPLETE, [float(value) for value in values], reason
                )
        self._last[fingerprint] = self._storage.get_trial(trial_id)

    def _finish(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None, reason: str
    ) -> None:
        if reason:
            self._storage.set_trial_user_attr(trial_id, "reason", reason)
        self._storage.set_trial_state_values(trial_id, state, values)

    def counts(self) -> dict[str, int]:
        """Number of trials in each state, by optuna's names (COMPLETE, RUNNING, WAITING, FAIL,
        PRUNED).
        """
        found: dict[str, int] = {}
        for frozen in self._frozen():
            found[frozen.state.name] = found.get(frozen.state.name, 0) + 1
        return found

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


def facts(point: Point) -> dict[str, Any]:
    return {"fingerprint": point.fingerprint, "run_dir": str(point.run_dir), "point": point.name}
