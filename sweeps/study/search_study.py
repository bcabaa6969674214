"""The study of a search, which proposes its points."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from ablations.design import Point
from ablations.search import Parameter, Search
from simvtp.errors import ConfigError
from sweeps.study.trials import Trials, facts

TPE_TRIES, RANDOM_TRIES = (
    10,
    15,
)  # proposals for one new point: so many by TPE, then so many at random


class SearchStudy(Trials):
    """The study of a search: new points are proposed until `search.trials` are known.

    A proposal depends on the search's seed, the number of the trial and what was told before, and
    on nothing that a restarted controller could have lost. Values are rounded before they are
    stored, so the study shows what was run. A proposal that comes to a point that exists is closed
    at once with that point's figures, an impossible one as failed with the reason; neither counts
    towards `search.trials`."""

    def __init__(
        self, path: Path, search: Search, recorded: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        directions = [objective.direction for objective in search.objectives]
        super().__init__(
            path,
            search.sweep_id,
            directions,
            [objective.label for objective in search.objectives],
            make_pruner(search),
        )
        self._search = search
        self._distributions = {
            parameter.key: _distribution(parameter) for parameter in search.space
        }
        self._evaluations: dict[
            str, dict[int, int]
        ] = {}  # of each point: training step -> number of the evaluation, from 1
        self._exhausted = False
        for entry in recorded:
            point = search.point(entry["cell"])
            if point.fingerprint != entry["fingerprint"]:
                self.repairs.append(
                    f"the recorded point {point.name} would now be another experiment: it is left out of the search"
                )
            else:
                self._points[point.fingerprint] = point
        self._take_up()

    def _known(self, frozen: FrozenTrial) -> str | None:
        """As for a grid; a point that was proposed right before its controller died is made again
        from its parameters.
        """
        fingerprint = frozen.user_attrs.get("fingerprint", "")
        if (
            fingerprint
            and fingerprint not in self._points
            and set(frozen.params) == set(self._distributions)
        ):
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
        for key, value in facts(point).items():
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
            self._finish(
                trial_id, TrialState.COMPLETE, before.values, f"the same as trial {number}"
            )
        elif before is not None and before.state == TrialState.PRUNED:
            for step, value in before.intermediate_values.items():
                self._storage.set_trial_intermediate_value(trial_id, step, value)
            self._finish(trial_id, TrialState.PRUNED, before.values, f"the same as trial {number}")
        else:
            self._finish(
                trial_id, TrialState.FAIL, None, f"the same as trial {number}, which has no figure"
            )

    def report(self, fingerprint: str, step: int, value: float) -> bool:
        """An evaluation of a running point; True if the point should be pruned.

        Give the evaluations of a point in their order, all from the first; one that was given
        before is not stored again. The pruner counts evaluations (1, 2, ...), not training steps,
        so points of different length are comparable. After the last evaluation nothing is left to
        save, so there is no pruning then."""
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
            if resource >= self._search.evaluations or not self._pruner.prune(
                self._study, self._storage.get_trial(trial_id)
            ):
                return False
            self._storage.set_trial_user_attr(
                trial_id, "pruned_at", resource
            )  # decided once: a restarted controller must know it
            return True

    def tell(
        self,
        fingerprint: str,
        values: Sequence[float] | None,
        reason: str = "",
        pruned: bool = False,
    ) -> None:
        if fingerprint in self._running:
            self._exhausted = False
        super().tell(fingerprint, values, reason, pruned)


# ---- what a search uses of optuna ----------------------------------------------------------------


def make_sampler(search: Search, number: int, at_random: bool = False) -> BaseSampler:
    """The sampler for trial `number`, seeded by the search and that number: a restarted controller
    proposes what the first would have.

    TPE is named with all that matters here: multivariate (parameters depend on each other), running
    trials count as bad ones (`constant_liar`), so that parallel jobs do not all try the same place.
    """
    seed = zlib.crc32(f"{search.seed} {number}".encode())
    if at_random or search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        n_startup_trials=search.startup,
        multivariate=True,
        group=False,
        constant_liar=True,
        seed=seed,
    )


def make_pruner(search: Search) -> BasePruner:
    """The pruner, with its largest resource given: the number of evaluations of a run."""
    if search.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=search.evaluations, reduction_factor=2
        )
    return optuna.pruners.NopPruner()


class _Rounding(BaseSampler):
    """Another sampler, whose proposals are rounded: what the study stores is what is run."""

    def __init__(self, inner: BaseSampler, search: Search) -> None:
        self._inner, self._search = inner, search

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {
            key: self._search.rounded(key, value)
            for key, value in self._inner.sample_relative(study, trial, search_space).items()
        }

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._search.rounded(
            param_name, self._inner.sample_independent(study, trial, param_name, param_distribution)
        )


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.choices)
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
