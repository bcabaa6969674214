"""Study of a search, which proposes its points."""

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
from ablations.search import Search
from ablations.search_space import SearchParameter
from simvtp.errors import ConfigError
from sweeps.compat.optuna_private import trial_id
from sweeps.study.trials import Trials, trial_attributes

# proposals for one new point: first by TPE, then at random
TPE_TRIES, RANDOM_TRIES = 10, 15


class SearchStudy(Trials[Point]):
    """Study of a search: new points are proposed until `search.trials` are known.

    A proposal depends on the search's seed, the number of the trial and the results so far, and on
    nothing that a restarted controller could have lost. Values are rounded before they are stored,
    so the study shows what was run. A proposal that equals an existing point is closed at once with
    that point's values, an impossible one as failed with the reason; neither counts towards
    `search.trials`.
    """

    def __init__(
        self, path: Path, search: Search, recorded: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Opens or creates the study.

        Args:
            path: its journal.
            search: the search.
            recorded: the points of plan.json, in case the journal was lost.
        """
        directions = [objective.direction for objective in search.objectives]
        labels = [objective.label for objective in search.objectives]
        super().__init__(path, search.sweep_id, directions, labels, make_pruner(search))
        self._search = search
        self._distributions = {
            parameter.key: _distribution(parameter) for parameter in search.space
        }
        # of each point: training step -> number of the evaluation, from 1
        self._evaluations: dict[str, dict[int, int]] = {}
        self._exhausted = False
        for entry in recorded:
            point = search.point(entry["cell"])
            if point.fingerprint != entry["fingerprint"]:
                self.repairs.append(
                    f"the recorded point {point.name} would now be another experiment: "
                    "it is left out of the search"
                )
            else:
                self._points[point.fingerprint] = point
        self._load_trials()

    def _known(self, frozen: FrozenTrial) -> str | None:
        """Returns the fingerprint of a trial's point; None if it is not of this sweep.

        A point that was proposed right before its controller died is rebuilt from its parameters.
        """
        fingerprint = frozen.user_attrs.get("fingerprint", "")
        complete = set(frozen.params) == set(self._distributions)
        if fingerprint and fingerprint not in self._points and complete:
            point = self._search.point(frozen.params)
            if point.fingerprint == fingerprint:
                self._points[fingerprint] = point
        return super()._known(frozen)

    def ask(self) -> Point | None:
        """Returns a waiting point, else a new proposal while points are missing, else None."""
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
        self._exhausted = True  # until a new result arrives
        self.notes.append(
            f"{TPE_TRIES + RANDOM_TRIES} proposals in a row were known already or impossible: "
            f"the search starts nothing new with {len(self._points)} of {self._search.trials} "
            "points (--space makes the space wider)"
        )
        return None

    def _propose(self, at_random: bool) -> Point | None:
        """Starts a trial and returns its point; None if it was closed at once."""
        number = len(self._frozen())
        sampler = make_sampler(self._search, number, at_random)
        self._study.sampler = _RoundingSampler(sampler, self._search)
        trial = self._study.ask(self._distributions)
        proposed = trial_id(trial)
        try:
            point = self._search.point(trial.params)
        except ConfigError as error:
            self._storage.finish(proposed, TrialState.FAIL, None, f"impossible: {error}")
            return None
        for key, value in trial_attributes(point).items():
            self._storage.set_attribute(proposed, key, value)
        before = self._last.get(point.fingerprint)
        if before is not None or point.fingerprint in self._points:
            self._close_duplicate(proposed, before)
            return None
        self._points[point.fingerprint] = point
        return self._take(proposed, point.fingerprint)

    def _close_duplicate(self, proposed: int, before: FrozenTrial | None) -> None:
        number = -1 if before is None else before.number
        self._storage.set_attribute(proposed, "duplicate_of", number)
        reason = f"equals trial {number}"
        if before is not None and before.state == TrialState.COMPLETE:
            self._storage.finish(proposed, TrialState.COMPLETE, before.values, reason)
        elif before is not None and before.state == TrialState.PRUNED:
            for step, value in before.intermediate_values.items():
                self._storage.set_intermediate(proposed, step, value)
            self._storage.finish(proposed, TrialState.PRUNED, before.values, reason)
        else:
            reason += ", which has no value"
            self._storage.finish(proposed, TrialState.FAIL, None, reason)

    def report(self, fingerprint: str, step: int, value: float) -> bool:
        """Reports an evaluation of a running point; True if the point should be pruned.

        Report the evaluations of a point in their order, all from the first; one that is known
        already is not stored again. The pruner counts evaluations (1, 2, ...), not training steps,
        so points of different length are comparable. Nothing is pruned after the last evaluation,
        when nothing is left to save.
        """
        number = self._running.get(fingerprint)
        if number is None or self._search.pruner == "none":
            return False
        seen = self._evaluations.setdefault(fingerprint, {})
        resource = seen.setdefault(step, len(seen) + 1)
        with self._file.batch():
            trial = self._storage.get(number)
            if trial.state.is_finished() or "pruned_at" in trial.user_attrs:
                return "pruned_at" in trial.user_attrs
            if resource in trial.intermediate_values:
                return False
            self._storage.set_intermediate(number, resource, float(value))
            if resource >= self._search.evaluations:
                return False
            if not self._pruner.prune(self._study, self._storage.get(number)):
                return False
            # decided once: a restarted controller must know it
            self._storage.set_attribute(number, "pruned_at", resource)
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


# ---- sampler, pruner and distributions of optuna ------------------------------------------------


def make_sampler(search: Search, number: int, at_random: bool = False) -> BaseSampler:
    """Returns the sampler for trial `number`, seeded by the search and that number.

    So a restarted controller proposes what the first would have. TPE is multivariate (parameters
    depend on each other), and running trials count as bad ones (`constant_liar`), so that parallel
    jobs do not all try the same region.
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
    """Returns the pruner; its largest resource is the number of evaluations of a run."""
    if search.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=search.evaluations, reduction_factor=2
        )
    return optuna.pruners.NopPruner()


class _RoundingSampler(BaseSampler):
    """Rounds the proposals of another sampler: what the study stores is what is run."""

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


def _distribution(parameter: SearchParameter) -> BaseDistribution:
    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.choices)
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
