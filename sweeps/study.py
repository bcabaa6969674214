"""The Optuna study of a sweep: the grid as enqueued trials, asked for and told by one controller.

The study is a cache. What happened to a point is read from its run directory, and a study that is lost or damaged is rebuilt from
there. It is kept because people look at it (optuna-dashboard reads the file) and because a real search plugs in at the same place.

The file is an Optuna journal. Two things are known to go wrong with one and are dealt with when it is opened: a last line that was
torn by a crash makes the whole file unreadable from the second append on, and a lock that a killed writer left behind holds up the
next one. Cells of a paper table are never pruned.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from ablations.design import Point

optuna.logging.set_verbosity(optuna.logging.WARNING)


class GridStudy:
    """The trials of one sweep. Only one process may have it open (the controller's lock sees to that)."""

    def __init__(self, path: Path, sweep_id: str, points: Sequence[Point]) -> None:
        """Open or create the study at `path`; enqueue nothing yet. `repairs` says what had to be mended."""
        self.path = path
        self.repairs: list[str] = []
        self._points = {point.fingerprint: point for point in points}
        self._distributions = _distributions(points)
        self._study = self._open(sweep_id)
        self._trials: dict[str, Trial] = {}  # the running trial of each point
        for frozen in self._frozen(TrialState.RUNNING):
            self._trials[frozen.user_attrs.get("fingerprint", "")] = Trial(self._study, frozen._trial_id)

    def _open(self, sweep_id: str) -> optuna.Study:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".bak"))
            condition = repair_journal(self.path)
            if condition == "mended":
                self.repairs.append(f"the torn last line of {self.path} was dropped; the file as it was is kept as {self.path.name}.bak")
            if condition == "damaged":
                self._set_aside("a line in its middle is damaged")
        try:
            return self._load(sweep_id)
        except Exception as error:  # optuna raises what its replay happens to hit: KeyError, ValueError, RuntimeError, ...
            self._set_aside(f"{type(error).__name__}: {error}")
            return self._load(sweep_id)

    def _set_aside(self, why: str) -> None:
        aside = self.path.with_name(self.path.name + ".unreadable")
        self.path.replace(aside)
        self.repairs.append(
            f"{self.path} cannot be read ({why}): it is kept as {aside.name}, and the study is rebuilt from the run directories"
        )

    def _load(self, sweep_id: str) -> optuna.Study:
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)  # we are the only writer: a lock here is a dead one's
        storage = JournalStorage(JournalFileBackend(str(self.path)))
        study = optuna.create_study(
            study_name=sweep_id,
            storage=storage,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=0),  # never used: every parameter of every trial is fixed
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        study.get_trials(deepcopy=False)
        return study

    def plan(self, wanted: Callable[[Point, TrialState | None], bool]) -> None:
        """Enqueue each point that `wanted(point, state of its last trial or None)` asks for.

        A point with a waiting trial is never enqueued again, so calling this twice gives the exact grid. (Fingerprints are
        compared, which does what optuna's `skip_if_exists` does, exactly and without its comparison of every trial with every other.)
        """
        last = {frozen.user_attrs.get("fingerprint"): frozen for frozen in self._frozen()}
        for fingerprint, point in self._points.items():
            before = last.get(fingerprint)
            if before is not None and before.state == TrialState.WAITING:
                continue
            if not wanted(point, before.state if before else None):
                continue
            if fingerprint in self._trials:  # its controller died and so did its job
                self.tell(fingerprint, None, "its job went away")
            again = {"retry_of": before.number} if before else {}
            attrs = {"fingerprint": fingerprint, "run_dir": str(point.run_dir), "point": point.name, **again}
            self._study.enqueue_trial(_params(point), user_attrs=attrs)

    def running(self) -> set[str]:
        """Fingerprints of the trials that were asked for and not told yet."""
        return set(self._trials)

    def ask(self) -> Point | None:
        """The next waiting point, whose trial is then running; None when nothing waits."""
        while any(True for _ in self._frozen(TrialState.WAITING)):
            trial = self._study.ask(fixed_distributions=self._distributions)
            fingerprint = trial.user_attrs.get("fingerprint", "")
            if fingerprint in self._points:
                self._trials[fingerprint] = trial
                return self._points[fingerprint]
            self._study.tell(trial, state=TrialState.FAIL)  # not of this grid: somebody else's trial in our file
        return None

    def note(self, fingerprint: str, **attributes: Any) -> None:
        """Attach facts such as `job_id` to the running trial of a point."""
        for key, value in attributes.items():
            self._trials[fingerprint].set_user_attr(key, value)

    def tell(self, fingerprint: str, value: float | None, reason: str = "") -> None:
        """Close the running trial of a point: with its figure, or as failed with a reason. Without such a trial: nothing."""
        trial = self._trials.pop(fingerprint, None)
        if trial is None:
            return
        if reason:
            trial.set_user_attr("reason", reason)
        if value is None or value != value:
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.tell(trial, value, skip_if_finished=True)

    def counts(self) -> dict[str, int]:
        """Number of trials in each state, by optuna's names (COMPLETE, RUNNING, WAITING, FAIL)."""
        found: dict[str, int] = {}
        for frozen in self._frozen():
            found[frozen.state.name] = found.get(frozen.state.name, 0) + 1
        return found

    def _frozen(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


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


def _params(point: Point) -> dict[str, Any]:
    return {**point.cell, "seed": point.seed}


def _distributions(points: Sequence[Point]) -> dict[str, BaseDistribution]:
    """One categorical distribution per axis, its choices sorted: the same for the same grid, in whatever order it was written."""
    values: dict[str, set[Any]] = {}
    for point in points:
        for key, value in _params(point).items():
            values.setdefault(key, set()).add(value)
    return {key: CategoricalDistribution(sorted(choices, key=lambda v: (str(type(v)), v))) for key, choices in values.items()}
