"""Parts of Optuna that are private there: trial ids, and the storage below a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, Trial, TrialState


def trial_id(trial: Trial | FrozenTrial) -> int:
    """Returns the storage's id of a trial.

    Remove when optuna.Study accepts and returns trials by a public id.
    """
    return int(trial._trial_id)


class TrialStorage:
    """Writes single trials of a study.

    `optuna.Study.ask` and `.tell` cannot start a chosen waiting trial, close one as failed with a
    reason, or write a batch of trials with one append. Remove when they can.
    """

    def __init__(self, backend: BaseJournalBackend) -> None:
        self.storage = JournalStorage(backend)

    def study_id(self, name: str) -> int:
        return self.storage.get_study_id_from_name(name)

    def create(self, study_id: int, template: FrozenTrial) -> FrozenTrial:
        """Adds a trial with the state, parameters and attributes of `template`."""
        return self.get(self.storage.create_new_trial(study_id, template))

    def get(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(number)

    def is_open(self, number: int) -> bool:
        """Returns whether a trial can be written to.

        Another program may have closed it: a dashboard has buttons for that.
        """
        return not self.get(number).state.is_finished()

    def start(self, number: int) -> None:
        self.storage.set_trial_state_values(number, TrialState.RUNNING)

    def finish(
        self, number: int, state: TrialState, values: Sequence[float] | None, reason: str = ""
    ) -> None:
        """Closes a trial, with the reason as an attribute if there is one."""
        if reason:
            self.set_attribute(number, "reason", reason)
        self.storage.set_trial_state_values(number, state, values)

    def set_attribute(self, number: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(number, key, value)

    def set_intermediate(self, number: int, step: int, value: float) -> None:
        self.storage.set_trial_intermediate_value(number, step, value)
