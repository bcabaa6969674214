"""What survives a kill: a stage is saved with everything that decides how it goes on, and continued
exactly from there.

A checkpoint carries a mark of the journal that it was written beside. On continuing, the journal is
cut back to it; a checkpoint whose mark is not found in the journal was written by an attempt that
another one has replaced, and is put aside.
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
from simvtp.training.parallel.parallel_model import Replica, load_optimizer, whole
from simvtp.training.stage import Stage


@dataclass
class Progress:
    """How far a stage has come.

    Attributes:
        done: updates.
        best_step, best_value: of the weights that scored best so far; step 0: none did.
        unscored: the evaluation after step `done` is still to come (it was interrupted, or never
            begun).
    """

    done: int = 0
    best_step: int = 0
    best_value: float = float("-inf")
    unscored: bool = False


class Keeper:
    """Saves and restores one stage. All ranks call its methods; rank 0 writes.

    Args:
        replica, optimizer, scaler, window, costs, progress: the parts of the stage, which `restore`
            fills.
        journal: of the run; None on the other ranks.
        guard: raises if this process may not write any more; called right before each rename.
    """

    def __init__(
        self,
        stage: Stage,
        replica: Replica,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        window: Window,
        costs: CostMeter,
        progress: Progress,
        journal: Journal | None,
        guard: Callable[[], None],
    ) -> None:
        self.stage, self.replica, self.optimizer, self.scaler = stage, replica, optimizer, scaler
        self.window, self.costs, self.progress = window, costs, progress
        self.journal = journal if distributed.is_main() else None
        self.guard = guard
        self.checkpoints = Checkpoints(
            stage.directory / "checkpoints" / stage.name, stage.keep, guard
        )
        self.writer = Writer()

    # ---- saving ----------------------------------------------------------------------------------

    def save(self) -> None:
        """Begin to write a checkpoint of this moment, after a look that every weight in it is
        finite.

        It is whole on the disk when the next one begins, and at the latest after `writer.wait`.
        Raises what the write before raised.
        """
        distributed.on_main(self.writer.wait)
        self.costs.update()
        cpu_s, gpu_s = self.costs.total()
        window = self.window.state()
        if not self.replica.finite():
            raise TrainingDiverged(
                f"a weight became NaN or infinite at step {self.progress.done} of stage {self.stage.name}, while loss and gradient were "
                f"finite; the last good checkpoint is {self.checkpoints.latest()}. Lower the learning rate or set clip_norm."
            )
        state = {
            "fingerprint": self.stage.fingerprint,
            "config": dict(self.stage.config),
            "weights": self.replica.weights(),
            "average": self.replica.averaged(),
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "random": random_state(),
            "window": window,
            "costs": {"cpu_s": cpu_s, "gpu_s": gpu_s},
            "best": {"step": self.progress.best_step, "value": self.progress.best_value},
            "unscored": self.progress.unscored,
        }

        def begin() -> None:
            step, copied = self.progress.done, snapshot(state)
            copied["journal"] = (
                self.journal.position() if self.journal else None
            )  # of now: lines that follow belong to later steps
            self.writer.submit(lambda: self.checkpoints.save(step, copied))

        distributed.on_main(begin)

    def save_best(self, weights: State) -> None:
        """Write the weights that scored best so far (rank 0)."""
        about = {"fingerprint": self.stage.fingerprint, "value": self.progress.best_value}
        self.checkpoints.save_best(self.progress.done, {**about, "weights": weights})

    # ---- restoring -------------------------------------------------------------------------------

    def restore(self) -> None:
        """Continue from the newest readable checkpoint, and cut the journal back to it; without
        one, to where the stage began.
        """
        chosen: list[tuple[State | None, list[str]]] = []  # on rank 0: the state need not travel

        def choose() -> Path | None:
            path, state, warnings = self._choose()
            chosen.append((state, warnings))
            return path

        path = distributed.on_main(choose)
        state, warnings = chosen[0] if chosen else (None, [])
        self.replica.model.train()
        if path is not None:
            self._load(state or read_state(path))
        distributed.on_main(lambda: self._continue_journal(state, warnings))

    def _choose(self) -> tuple[Path | None, State | None, list[str]]:
        """(path, state, warnings) of the checkpoint to continue from; None if there is none. Raises
        CheckpointError.
        """
        self.checkpoints.clean()
        path, state, warnings = self.checkpoints.load_latest(self._foreign)
        if path is not None and state is not None:
            check_configuration(path, state, self.stage.fingerprint, self.stage.config)
        return path, state, warnings

    def _foreign(self, path: Path, state: State) -> None:
        """Raises CheckpointError if the checkpoint was not written beside this journal."""
        if self.journal is None:
            return
        mark = state.get("journal")
        # Without a mark it was written by an earlier version, or without a journal: at most the
        # length is known, and must be there.
        known = (
            self.journal.matches(mark)
            if mark
            else state.get("journal_length", 0) <= self.journal.length()
        )
        if not known:
            raise CheckpointError(
                f"the checkpoint {path} does not belong to this journal: it was written by another attempt, which has been replaced."
            )

    def _load(self, state: State) -> None:
        self.replica.load(state["weights"], state["average"])
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
        """On rank 0: the journal and the best weights as they were at the step that is continued."""
        self.checkpoints.forget_best_after(self.progress.done)
        if state is not None:
            set_random_state(state["random"])
        if self.journal is None:
            return
        if state is None:
            self._begin(self.journal)
        else:
            mark = state.get("journal")
            self.journal.truncate(mark["length"] if mark else state.get("journal_length", 0))
        for message in warnings:
            self.journal.write(
                "event", message=message, stage=self.stage.name, step=self.progress.done
            )

    def _begin(self, journal: Journal) -> None:
        """Step 0: note where the journal is, or cut it back to there if an earlier start left no
        checkpoint.
        """
        start = self.checkpoints.directory / "start.json"
        noted = read_json(start) if start.exists() else None
        if noted is not None and ("length" not in noted or journal.matches(noted)):
            journal.truncate(noted["length"] if "length" in noted else noted["journal_length"])
        else:
            write_atomically(start, json.dumps(journal.position()), check_ownership=self.guard)
