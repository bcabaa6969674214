"""Saves and restores one stage exactly.

A checkpoint holds everything that decides how the stage continues, and a position in the journal.
On continuing, the journal is truncated to that position; a checkpoint whose position is not found
in the journal was written by an attempt that another one has replaced, and is renamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from simvtp.errors import CheckpointError, TrainingDiverged
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import Journal
from simvtp.training.checkpointing.background_writer import Writer, snapshot
from simvtp.training.checkpointing.checkpoint import (
    Checkpoints,
    State,
    check_configuration,
    random_state,
    read_state,
    set_random_state,
)
from simvtp.training.meters import CostMeter, Window
from simvtp.training.parallel import distributed
from simvtp.training.parallel.parallel_model import ParallelModel, gather_full, load_optimizer
from simvtp.training.stage import Stage


@dataclass
class Progress:
    """Progress of a stage.

    Attributes:
        done: updates made.
        best_step: step of the weights with the best metric so far; 0 if there are none.
        best_value: their metric.
        unscored: the evaluation after step `done` is still to come (it was interrupted, or not
            started).
    """

    done: int = 0
    best_step: int = 0
    best_value: float = float("-inf")
    unscored: bool = False


class StageCheckpointer:
    """Saves and restores one stage. All ranks call its methods; rank 0 writes.

    `restore` fills the parts of the stage that are given: parallel, optimizer, scaler, window,
    costs and progress.

    Args:
        journal: of the run; None on the other ranks.
        check_ownership: raises if this process may not write any more; called right before each
            rename.
    """

    def __init__(
        self,
        stage: Stage,
        parallel: ParallelModel,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        window: Window,
        costs: CostMeter,
        progress: Progress,
        journal: Journal | None,
        check_ownership: Callable[[], None],
    ) -> None:
        self.stage, self.parallel, self.optimizer, self.scaler = stage, parallel, optimizer, scaler
        self.window, self.costs, self.progress = window, costs, progress
        self.journal = journal if distributed.is_main() else None
        self.check_ownership = check_ownership
        self.checkpoints = Checkpoints(
            stage.directory / "checkpoints" / stage.name, stage.keep, check_ownership
        )
        self.writer = Writer()

    # ---- saving ----------------------------------------------------------------------------------

    def save(self) -> None:
        """Starts to write a checkpoint of this moment, after checking that its weights are finite.

        It is complete on the disk when the next one starts, and at the latest after `writer.wait`.
        Raises the error of the previous write.

        Raises:
            TrainingDiverged: a weight is NaN or infinite.
        """
        distributed.on_main(self.writer.wait)
        self.costs.update()
        cpu_s, gpu_s = self.costs.total()
        window = self.window.state()
        if not self.parallel.finite():
            raise TrainingDiverged(
                f"a weight became NaN or infinite at step {self.progress.done} of stage "
                f"{self.stage.name}, while loss and gradient were finite; the last good checkpoint "
                f"is {self.checkpoints.latest()}. Lower the learning rate or set clip_norm."
            )
        state = {
            "fingerprint": self.stage.fingerprint,
            "config": dict(self.stage.config),
            "weights": self.parallel.weights(),
            "average": self.parallel.averaged(),
            "optimizer": gather_full(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "random": random_state(),
            "window": window,
            "costs": {"cpu_s": cpu_s, "gpu_s": gpu_s},
            "best": {"step": self.progress.best_step, "value": self.progress.best_value},
            "unscored": self.progress.unscored,
        }

        def begin() -> None:
            step, copied = self.progress.done, snapshot(state)
            # the position of now: lines that follow belong to later steps
            copied["journal"] = self.journal.position() if self.journal else None
            self.writer.submit(lambda: self.checkpoints.save(step, copied))

        distributed.on_main(begin)

    def save_best(self, weights: State) -> None:
        """Writes the weights with the best metric so far (rank 0)."""
        about = {"fingerprint": self.stage.fingerprint, "value": self.progress.best_value}
        self.checkpoints.save_best(self.progress.done, {**about, "weights": weights})

    # ---- restoring -------------------------------------------------------------------------------

    def restore(self) -> None:
        """Continues from the newest readable checkpoint, and truncates the journal to it.

        Without one, the journal is truncated to where the stage began.
        """
        chosen: list[tuple[State | None, list[str]]] = []  # on rank 0: the state need not be sent

        def choose() -> Path | None:
            path, state, warnings = self._choose()
            chosen.append((state, warnings))
            return path

        path = distributed.on_main(choose)
        state, warnings = chosen[0] if chosen else (None, [])
        self.parallel.model.train()
        if path is not None:
            self._load(state or read_state(path))
        distributed.on_main(lambda: self._continue_journal(state, warnings))

    def _choose(self) -> tuple[Path | None, State | None, list[str]]:
        """Returns (path, state, warnings) of the checkpoint to continue from; None without one.

        Raises:
            CheckpointError: it belongs to another configuration.
        """
        self.checkpoints.clean()
        path, state, warnings = self.checkpoints.load_latest(self._foreign)
        if path is not None and state is not None:
            check_configuration(path, state, self.stage.fingerprint, self.stage.config)
        return path, state, warnings

    def _foreign(self, path: Path, state: State) -> None:
        """Raises CheckpointError if the checkpoint was not written with this journal."""
        if self.journal is None:
            return
        position = state.get("journal")
        # Without a position it was written by an earlier version, or without a journal: at most
        # the length is known, and the journal must have it.
        known = (
            self.journal.matches(position)
            if position
            else state.get("journal_length", 0) <= self.journal.length()
        )
        if not known:
            raise CheckpointError(
                f"the checkpoint {path} does not belong to this journal: it was written by another "
                "attempt, which has been replaced."
            )

    def _load(self, state: State) -> None:
        self.parallel.load(state["weights"], state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.window.restore(state["window"])
        self.costs.restore(**state["costs"])
        self.progress.done = state["step"]
        self.progress.best_step, self.progress.best_value = (
            state["best"]["step"],
            state["best"]["value"],
        )
        self.progress.unscored = state.get("unscored", False)

    def _continue_journal(self, state: State | None, warnings: list[str]) -> None:
        """Restores the journal and the best weights of the step that is continued (rank 0)."""
        self.checkpoints.forget_best_after(self.progress.done)
        if state is not None:
            set_random_state(state["random"])
        if self.journal is None:
            return
        if state is None:
            self._begin(self.journal)
        else:
            position = state.get("journal")
            self.journal.truncate(
                position["length"] if position else state.get("journal_length", 0)
            )
        for message in warnings:
            self.journal.write(
                "event", message=message, stage=self.stage.name, step=self.progress.done
            )

    def _begin(self, journal: Journal) -> None:
        """Records the position of the journal at step 0.

        If an earlier start left no checkpoint, truncates the journal to the recorded position.
        """
        start = self.checkpoints.directory / "start.json"
        noted = read_json(start) if start.exists() else None
        if noted is not None and ("length" not in noted or journal.matches(noted)):
            journal.truncate(noted["length"] if "length" in noted else noted["journal_length"])
        else:
            write_atomically(
                start, json.dumps(journal.position()), check_ownership=self.check_ownership
            )
