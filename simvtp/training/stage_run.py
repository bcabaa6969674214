"""A training stage in progress: one step, its log lines, evaluations, saves and its end."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.errors import Stopped, TrainingDiverged
from simvtp.models.common.encoder import packs_text
from simvtp.models.common.forward_options import BatchSlice, ForwardOptions
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.journal import Journal
from simvtp.training.checkpointing.checkpoint import read_state, write_weights
from simvtp.training.checkpointing.stage_checkpointer import Progress, StageCheckpointer
from simvtp.training.lr_schedule import stage_rate
from simvtp.training.meters import (
    MOST_STEPS,
    Cadence,
    CostMeter,
    Machine,
    Speed,
    WaitingForData,
    Window,
)
from simvtp.training.objectives import Objective
from simvtp.training.optim import build_optimizer, clip_gradients, set_rate
from simvtp.training.parallel import distributed
from simvtp.training.parallel.micro_batch import BatchDivision
from simvtp.training.parallel.parallel_model import ParallelModel, compile_blocks
from simvtp.training.stage import Draw, Evaluate, Measure, OnLog, Stage, StageOutcome, step_seed
from simvtp.training.step_flops import count_step, shapes_of, speed_of, weightless

_LOG = logging.getLogger(__name__)
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class StageRun:
    """A stage in progress on this rank.

    Attributes:
        progress: how far it has come.
        speed: wall-clock since the last log line.
        checkpointer: saves and restores it.
    """

    def __init__(
        self,
        stage: Stage,
        model: nn.Module,
        objective: Objective,
        draw: Draw | None,
        journal: Journal | None,
        on_log: OnLog | None,
        measure: Measure | None,
        check_ownership: Callable[[], None],
    ) -> None:
        config = stage.train
        self.stage, self.config, self.objective, self.draw = stage, config, objective, draw
        self.journal, self.on_log, self.measure = journal, on_log, measure
        self.check_ownership = check_ownership
        self.rank = distributed.rank()
        self.device = distributed.choose_device(stage.device)
        self.division = BatchDivision(stage, self.device)  # before the model is on the device
        self.split = self.division.split
        self.parallel = ParallelModel(model, config, self.device, stage.shard)
        self.options = ForwardOptions(
            merge_passes=stage.merge_passes,
            pack_text=stage.pack_text,
            gradient_checkpointing=stage.gradient_checkpointing,
        )
        # a copy without values, and the shapes of a micro-batch, until operations are counted
        self._to_count: nn.Module | None = weightless(model)
        self._example: tuple[Batch, Masks | None] | None = None
        self._flops: int | None = None  # of a step, over all ranks; None if not known
        self.optimizer = build_optimizer(self.parallel.model, config, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        if stage.compile:
            compile_blocks(self.parallel.model, stage.compile_mode)
        self.parallel.wrap()
        self.logging = Cadence(stage.log_every, stage.log_every_s)
        self.saving = Cadence(stage.checkpoint_every, stage.checkpoint_every_s)
        self.waiting = WaitingForData(stage.name, stage.workers)
        rows = max(stage.log_every, MOST_STEPS) if stage.log_every_s else stage.log_every
        self.window = Window(self.device, rows, self.split.accumulate)
        self.speed, self.machine = Speed(), Machine(self.device)
        self.costs = CostMeter(gpus=int(self.device.type == "cuda"))
        self.progress = Progress()
        self.checkpointer = StageCheckpointer(
            stage,
            self.parallel,
            self.optimizer,
            self.scaler,
            self.window,
            self.costs,
            self.progress,
            journal,
            check_ownership,
        )
        self._grad_norm: Tensor | None = None
        self._repeatable = False  # the last step failed before it had changed anything

    @property
    def unfinished(self) -> bool:
        """True while steps or an evaluation are still to come."""
        return self.progress.done < self.stage.total_steps or self.progress.unscored

    def fit(self, batch: Batch, say: Callable[[str], None]) -> None:
        """Divides the batch by the counted memory of a step, see `BatchDivision.fit`."""
        if self._to_count is not None:
            counting = self._to_count, self.objective, self.draw, batch, self.options
            self._divide(self.division.fit(*counting, self.parallel.sharded, say))

    def halve(self, say: Callable[[str], None]) -> bool:
        """Divides the batch further, see `BatchDivision.halve`, if the last step can be repeated.

        Returns:
            False if it cannot be done.
        """
        finer = self._repeatable and self.division.halve(self.device, self.progress.done + 1, say)
        if finer:
            self.check_finite()
            self._divide(True)
        return finer

    def _divide(self, changed: bool) -> None:
        if changed:
            self.split = self.division.split
            self.window.divide(self.split.accumulate)
            self._example = None

    # ---- one step --------------------------------------------------------------------------------

    def step(self, batch: Batch) -> None:
        """Makes one update.

        Nothing here waits for the device, and all shapes are those of the step before.

        Raises:
            torch.OutOfMemoryError: the step did not fit; until its update, nothing has changed.
        """
        step, sums = self.progress.done, self.window.sums
        try:
            parts = self._passes(batch, step)
        except torch.OutOfMemoryError:
            self.window.sums = sums
            self.optimizer.zero_grad(set_to_none=True)
            self._repeatable = True
            raise
        self._repeatable = False
        self._update(step)
        self.window.end_step(tuple(part.sample_ids for part in parts), self._gradient_finite())
        self.progress.done += 1
        self.speed.steps += 1

    def _passes(self, batch: Batch, step: int) -> list[Batch]:
        """Runs forward and backward passes of all micro-batches, and returns these."""
        count = self.split.accumulate
        parts, masks = self._micro_batches(batch, step)
        if self._example is None:
            packed = packs_text(self.parallel.model, self.options)
            self._example = shapes_of(parts[0], masks[0], packed=packed)
        normalizers = self.objective.loss_normalizers(masks)
        seed = step_seed(self.stage.seed, self.stage.name, step)
        for i in range(count):
            first = self._first_sample(i)
            own = BatchSlice(first, self.split.samples, self.split.batch_size)
            options = replace(self.options, batch_slice=own)
            # the same on all ranks: a sample's index in the batch decides what it draws
            torch.manual_seed(seed)
            with self.parallel.unsynchronised(last=i == count - 1):
                with self._autocast():
                    outputs = self.parallel.wrapped(parts[i], masks[i], options)
                losses, report = self.objective(outputs, normalizers)
                total = torch.stack(list(losses.values())).sum()
                self.scaler.scale(total / count).backward()
            self.window.add_part(i, {"loss/total": total.detach(), **report}, count)
        return parts

    def _first_sample(self, part: int) -> int:
        """Returns the index in the global batch of the first sample of micro-batch `part`."""
        return (self.rank * self.split.accumulate + part) * self.split.samples

    def _micro_batches(self, batch: Batch, step: int) -> tuple[list[Batch], list[Masks | None]]:
        """Returns the step's micro-batches on the device, and their masks.

        Masks depend on the seed, the step and the index in the global batch only.
        """
        if self.device.type == "cuda" and not batch.clips.is_pinned():
            batch = batch.pin_memory()  # a copy from pageable memory would wait for the device
        batch = batch.to(self.device)
        size = self.split.samples
        parts = [batch.part(start, start + size) for start in range(0, len(batch), size)]
        masks = [
            self.draw(part, step, self._first_sample(i)) if self.draw else None
            for i, part in enumerate(parts)
        ]
        return parts, masks

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        half = _HALF.get(self.config.precision)
        return torch.autocast(self.device.type, dtype=half) if half else contextlib.nullcontext()

    def _update(self, step: int) -> None:
        """Clips gradients, sets the rate, updates the weights and their moving average."""
        self.scaler.unscale_(self.optimizer)
        self._grad_norm = clip_gradients(self.parallel.model.parameters(), self.config.clip_norm)
        set_rate(self.optimizer, stage_rate(step, self.stage.total_steps, self.config))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.parallel.update_ema()

    def _gradient_finite(self) -> Tensor | None:
        """Returns whether the gradient is finite; None for fp16.

        There the scaler skips an update whose gradient overflowed, and lowers its scale.
        """
        if self.scaler.is_enabled() or self._grad_norm is None:
            return None
        return torch.isfinite(self._grad_norm)

    # ---- between steps ---------------------------------------------------------------------------

    def log(self, say: Callable[[str], None] = _LOG.info) -> None:
        """Writes one journal line; the host waits for the device here.

        Where steps wait for data, `say` gets a line that names the number to change, once a stage.

        Raises:
            TrainingDiverged: see `check_finite`.
        """
        self.check_finite()
        self.speed.pause()
        self.costs.update()
        metrics = self.window.read()
        cpu_s, gpu_s = self.costs.total()
        done, total = self.progress.done, self.stage.total_steps
        metrics["lr"] = stage_rate(done - 1, total, self.config)
        if self._grad_norm is not None:
            metrics["grad_norm"] = float(self._grad_norm)
        if self.scaler.is_enabled():
            metrics["loss_scale"] = float(self.scaler.get_scale())
        metrics |= self.speed.read(self.config.batch_size, total - done)
        self.waiting.judge(metrics["speed/data_wait_share"], say)
        self._count_flops()
        metrics |= speed_of(self._flops, metrics["speed/step_s"], self.split.ranks, self.device)
        metrics |= self.machine.sample()
        metrics |= self.measure() if self.measure else {}
        hours = {"cpu_hours": cpu_s / 3600, "gpu_hours": gpu_s / 3600}
        metrics |= {f"system/{name}": value for name, value in hours.items()}
        line = {"stage": self.stage.name, "step": done, "total_steps": total, "metrics": metrics}

        def log_line() -> tuple[int, int]:
            self._write(metrics)
            if self.on_log is not None:
                self.on_log({**line, **hours})
            step_s = metrics["speed/step_s"]
            return self.logging.remaining(step_s), self.saving.remaining(step_s)

        self.logging.happened()
        to_log, to_save = distributed.on_main(log_line)
        self.logging.plan(done, to_log)
        self.saving.plan(done, to_save)

    def _count_flops(self) -> None:
        """Counts the operations of a step, at the first log line.

        No step waits for it, and the speed is measured without it.
        """
        if self._to_count is not None and self._example is not None:
            flops = count_step(self._to_count, *self._example)
            parts = self.split.accumulate * self.split.ranks
            self._flops = None if flops is None else flops * parts
            self._to_count = None

    def _write(self, metrics: dict[str, float]) -> None:
        if self.journal is not None:
            self.journal.write(
                "metrics", stage=self.stage.name, step=self.progress.done, metrics=metrics
            )

    def check_finite(self) -> None:
        """Checks losses and gradients since the last check.

        Raises:
            TrainingDiverged: one was NaN or infinite; the message names the step and the samples.
        """
        found = self.window.first_bad_step()
        if found is None:
            return
        ago, ids = found
        step = self.progress.done - ago
        names = [name for part in distributed.from_all(ids) for name in part]
        distributed.on_main(self.checkpointer.writer.wait)
        latest = distributed.from_main(self.checkpointer.checkpoints.latest())
        last = f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"
        message = (
            f"the loss or its gradient became NaN or infinite at step {step} of stage "
            f"{self.stage.name}; the samples of that batch are {', '.join(names)}; {last}. "
            "Look at these clips, lower the learning rate, set clip_norm, or use another precision."
        )
        if self.journal is not None and distributed.is_main():
            self.journal.write(
                "event", message=message, stage=self.stage.name, step=step, sample_ids=names
            )
        raise TrainingDiverged(message)

    def evaluate(self, evaluate: Evaluate) -> bool:
        """Evaluates the model, writes a journal line, and keeps its weights if they are the best.

        Returns:
            False if it was asked to stop meanwhile.
        """
        self.check_finite()
        self.speed.pause()
        progress = self.progress

        def keep(model: nn.Module, metrics: dict[str, float]) -> tuple[int, float]:
            self._write(metrics)
            if self.stage.best and metrics[self.stage.best] > progress.best_value:
                progress.best_step, progress.best_value = progress.done, metrics[self.stage.best]
                self.checkpointer.save_best(model.state_dict())
            return progress.best_step, progress.best_value

        try:
            with self.parallel.eval_model() as model, torch.no_grad():
                metrics = evaluate(model, progress.done)
                progress.best_step, progress.best_value = distributed.on_main(
                    lambda: keep(model, metrics)
                )
        except Stopped:
            return False
        progress.unscored = False
        return True

    def save(self) -> None:
        """Writes a checkpoint, after checking that everything in it is finite."""
        self.check_finite()
        self.speed.pause()
        self.checkpointer.save()
        self.saving.happened()

    # ---- the end ---------------------------------------------------------------------------------

    def stopped(self, reason: str) -> StageOutcome:
        """Returns the outcome of a stage that was asked to stop, once its state is on the disk."""
        distributed.on_main(self.checkpointer.writer.wait)
        done, total = self.progress.done, self.stage.total_steps
        _LOG.info("stage %s stopped at step %d of %d (%s)", self.stage.name, done, total, reason)
        cpu_s, gpu_s = self.costs.total()
        return StageOutcome(done, stopped=True, cpu_hours=cpu_s / 3600, gpu_hours=gpu_s / 3600)

    def finish(self) -> StageOutcome:
        """Writes the chosen weights and the outcome, and loads the weights into the given model."""
        progress = self.progress
        distributed.on_main(self.checkpointer.writer.wait)
        if progress.best_step:
            path = self.checkpointer.checkpoints.best_path(progress.best_step)
            weights = read_state(path)["weights"]
        else:
            weights = self.parallel.averaged() or self.parallel.weights()
        self.costs.update()
        cpu_s, gpu_s = self.costs.total()
        outcome = StageOutcome(
            step=progress.done,
            stopped=False,
            selected_step=progress.best_step or progress.done,
            best=progress.best_value if progress.best_step else None,
            weights=str(self.stage.weights_path),
            cpu_hours=cpu_s / 3600,
            gpu_hours=gpu_s / 3600,
        )

        def write() -> StageOutcome:
            about = {
                "stage": self.stage.name,
                "step": outcome.selected_step,
                "fingerprint": self.stage.fingerprint,
            }
            path, check = self.stage.weights_path, self.check_ownership
            sha256 = write_weights(path, weights, about, check)
            length = self.journal.length() if self.journal else 0
            complete = replace(outcome, sha256=sha256, journal_length=length)
            content = json.dumps({**asdict(complete), "fingerprint": self.stage.fingerprint})
            write_atomically(self.stage.outcome_path, content, check)
            return complete

        outcome = distributed.on_main(write)
        self.parallel.load_final(weights, self.stage.weights_path)
        return outcome
