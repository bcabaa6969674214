"""The one training loop, for every model and every objective.

One step, in reading order: `_Run.step`. Around it: `train` (start or continue, the steps, the end), `_Run.log` (the only place
where the host waits for the device), `_Run.save` and `_Run.restore` (everything that must survive a kill).

Step n is the n-th update, from 1, in journal lines, checkpoints and messages; masks and schedule count from 0 (n - 1).
Accumulation equals one big batch for MVM, MLM and VTM; the negatives of VTC and VTM are those of a micro-batch (of all ranks for
global VTC), because the rest of the batch is not in memory at that time.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import safetensors.torch
import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.errors import CheckpointError, ConfigError, DataError, TrainingDiverged
from simvtp.journal import Journal, read_json, write_atomically
from simvtp.models import set_gradient_checkpointing
from simvtp.training import distributed
from simvtp.training.checkpoint import (
    Checkpoints,
    State,
    check_configuration,
    random_state,
    read_state,
    set_random_state,
    sha256_of,
    write_weights,
)
from simvtp.training.meters import CostMeter, Machine, Speed, Window
from simvtp.training.objectives import Objective
from simvtp.training.optim import build_optimizer, clip_gradients, set_rate, update_average
from simvtp.training.preemption import StopFlag
from simvtp.training.schedule import stage_rate
from simvtp.training.stage import Batches, Draw, Evaluate, Measure, OnLog, Outcome, Stage, step_seed

_LOG = logging.getLogger(__name__)
_BLOCK = re.compile(r"(?:^|\.)blocks\.\d+$")
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    stage: Stage,
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    draw: Draw | None,
    journal: Journal | None,
    *,
    evaluate: Evaluate | None = None,
    on_log: OnLog | None = None,
    measure: Measure | None = None,
    stop: StopFlag | None = None,
) -> Outcome:
    """Train `model` to the end of the stage, continuing from its newest readable checkpoint; the model then holds the final weights.

    Args:
        model: called as model(micro-batch, masks) -> named outputs. It is moved to the device and trained in place.
        batches: batches(n) yields this rank's batches of the steps n + 1, n + 2, ...: batch_size / world samples each.
        draw: masks of a micro-batch; None: the model is called with masks None.
        journal: rank 0 writes one line of metrics each `log_every` steps and one each evaluation; other ranks pass None.
        evaluate: called after the steps `stage.evaluate_at`, with the moving average of the weights if there is one.
        on_log: rank 0 gets {"stage", "step", "total_steps", "metrics", "cpu_hours", "gpu_hours"} at each log line.
        measure: metrics from outside (the loader's counters), added to each log line.
        stop: read between steps; once set (on any rank), the state is saved and the outcome says stopped.

    Raises:
        TrainingDiverged: a loss or gradient became NaN or infinite, at most `log_every` steps ago; the last checkpoint stays.
        CheckpointError: the checkpoint belongs to another configuration, or the best weights cannot be read.
        UserError: the disk is full; the checkpoints from before stay.
    """
    finished = _finished(stage, model)
    if finished is not None:
        return finished
    run = _Run(stage, model, objective, draw, journal, on_log, measure)
    run.restore()
    vote = distributed.Vote()
    source = batches(run.done) if run.done < stage.total_steps else iter(())
    try:
        while run.done < stage.total_steps:
            run.step(_next_batch(source, run.speed, stage, run.done))
            log = run.done % stage.log_every == 0 or run.done == stage.total_steps
            score = evaluate is not None and run.done in stage.evaluate_at
            stopping = vote.agree(bool(stop)) and run.done < stage.total_steps
            if log:
                run.log()
            if score and evaluate is not None:
                run.evaluate(evaluate)
            if stopping or score or run.done % stage.checkpoint_every == 0 or run.done == stage.total_steps:
                run.save()
            if stopping:
                vote.collect()
                return run.stopped(stop.reason if stop else "")
    finally:
        if hasattr(source, "close"):
            source.close()
    vote.collect()
    return run.finish()


def _next_batch(source: Iterator[Batch], speed: Speed, stage: Stage, done: int) -> Batch:
    """This rank's next batch, with the wait counted."""
    speed.resume()
    began = perf_counter()
    try:
        batch = next(source)
    except StopIteration:
        raise DataError(f"stage {stage.name} has {stage.total_steps} steps, but the data ended after {done}.") from None
    speed.waited += perf_counter() - began
    expected = stage.train.batch_size // distributed.world()
    if len(batch) != expected:
        raise DataError(f"stage {stage.name} expects batches of {expected} samples on each rank, but got {len(batch)} after step {done}.")
    return batch


def _finished(stage: Stage, model: nn.Module) -> Outcome | None:
    """The outcome of a stage that ended earlier, with its weights put into `model`; None if it has not ended."""
    if not stage.outcome_path.exists():
        return None
    stored = read_json(stage.outcome_path)
    if stored.pop("fingerprint") != stage.fingerprint or not stage.weights_path.exists():
        return None
    outcome = Outcome(**stored)
    if sha256_of(stage.weights_path) != outcome.sha256:
        _LOG.warning("%s does not have the sha256 it was written with; the end of the stage is done again.", stage.weights_path)
        return None
    model.load_state_dict(safetensors.torch.load_file(stage.weights_path))
    model.to(distributed.choose_device(stage.device))
    return replace(outcome, weights=str(stage.weights_path))


class _Run:
    """The state of a stage under way."""

    def __init__(
        self,
        stage: Stage,
        model: nn.Module,
        objective: Objective,
        draw: Draw | None,
        journal: Journal | None,
        on_log: OnLog | None,
        measure: Measure | None,
    ) -> None:
        config = stage.train
        self.stage, self.config, self.objective, self.draw = stage, config, objective, draw
        self.journal, self.on_log, self.measure = journal, on_log, measure
        self.world, self.rank = distributed.world(), distributed.rank()
        if config.batch_size % (self.world * config.accumulate):
            raise ConfigError(
                f"batch_size={config.batch_size} of stage {stage.name} cannot be shared by {self.world} ranks and "
                f"{config.accumulate} accumulation steps: change one of them."
            )
        self.device = distributed.choose_device(stage.device)
        self.model = model.to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False) if config.ema_decay > 0 else None
        set_gradient_checkpointing(self.model, config.gradient_checkpointing)
        self.optimizer = build_optimizer(self.model, config, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        if config.compile:
            compile_blocks(self.model)
        self.wrapped = distributed.wrap(self.model)
        self.window = Window(self.device, stage.log_every, config.accumulate)
        self.speed, self.machine = Speed(), Machine(self.device)
        self.costs = CostMeter(gpus=int(self.device.type == "cuda"))
        self.checkpoints = Checkpoints(stage.directory / "checkpoints" / stage.name, stage.keep)
        self.done = 0
        self.best_step, self.best_value = 0, float("-inf")
        self.grad_norm: Tensor | None = None

    # ---- one step -------------------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> None:
        """One update. Nothing here waits for the device, and all shapes are those of the step before."""
        step, count = self.done, self.config.accumulate
        torch.manual_seed(step_seed(self.stage.seed, self.stage.name, step, self.rank))
        parts, masks = self._micro_batches(batch, step)
        shares = self.objective.shares(masks)
        for i in range(count):
            with distributed.unsynchronised(self.wrapped, last=i == count - 1):
                with self._autocast():
                    outputs = self.wrapped(parts[i], masks[i])
                losses, report = self.objective(outputs, shares)
                total = torch.stack(list(losses.values())).sum()
                self.scaler.scale(total / count).backward()
            self.window.add_part(i, {"loss/total": total.detach(), **report}, count)
        self._update(step)
        self.window.end_step(tuple(part.sample_ids for part in parts), self._gradient_finite())
        self.done += 1
        self.speed.steps += 1

    def _micro_batches(self, batch: Batch, step: int) -> tuple[list[Batch], list[Masks | None]]:
        """The step's micro-batches on the device, and their masks, which depend on (seed, step, place in the global batch) only."""
        if self.device.type == "cuda" and not batch.clips.is_pinned():
            batch = batch.pin_memory()  # a copy from pageable memory would wait for the device
        batch = batch.to(self.device)
        size = len(batch) // self.config.accumulate
        parts = [batch.part(start, start + size) for start in range(0, len(batch), size)]
        first = self.rank * len(batch)
        masks = [self.draw(part, step, first + i * size) if self.draw else None for i, part in enumerate(parts)]
        return parts, masks

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        half = _HALF.get(self.config.precision)
        return torch.autocast(self.device.type, dtype=half) if half else contextlib.nullcontext()

    def _update(self, step: int) -> None:
        """Clip, set the rate, update the weights and their moving average."""
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = clip_gradients(self.model.parameters(), self.config.clip_norm)
        set_rate(self.optimizer, stage_rate(step, self.stage.total_steps, self.config))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            update_average(self.average, self.model, self.config.ema_decay)

    def _gradient_finite(self) -> Tensor | None:
        """None for fp16: there the scaler skips an update whose gradient overflowed, and lowers its scale."""
        return None if self.scaler.is_enabled() or self.grad_norm is None else torch.isfinite(self.grad_norm)

    # ---- between steps --------------------------------------------------------------------------------------------------

    def log(self) -> None:
        """One journal line; the host waits for the device here. Raises TrainingDiverged."""
        self.check_finite()
        self.speed.pause()
        self.costs.update()
        metrics = self.window.read()
        cpu_s, gpu_s = self.costs.total()
        metrics["lr"] = stage_rate(self.done - 1, self.stage.total_steps, self.config)
        if self.grad_norm is not None:
            metrics["grad_norm"] = float(self.grad_norm)
        if self.scaler.is_enabled():
            metrics["loss_scale"] = float(self.scaler.get_scale())
        metrics |= self.speed.read(self.config.batch_size, self.stage.total_steps - self.done)
        metrics |= self.machine.sample()
        metrics |= self.measure() if self.measure else {}
        metrics |= {"system/cpu_hours": cpu_s / 3600, "system/gpu_hours": gpu_s / 3600}
        self._write(metrics)
        if self.on_log is not None and distributed.is_main():
            hours = {"cpu_hours": cpu_s / 3600, "gpu_hours": gpu_s / 3600}
            self.on_log({"stage": self.stage.name, "step": self.done, "total_steps": self.stage.total_steps, "metrics": metrics, **hours})

    def _write(self, metrics: dict[str, float]) -> None:
        if self.journal is not None and distributed.is_main():
            self.journal.write("metrics", stage=self.stage.name, step=self.done, metrics=metrics)

    def check_finite(self) -> None:
        """Raises TrainingDiverged if a loss or gradient since the last check was NaN or infinite, naming the step and the ids."""
        found = self.window.first_bad_step()
        if found is None:
            return
        ago, ids = found
        step = self.done - ago
        names = [name for part in distributed.from_all(ids) for name in part]
        latest = distributed.from_main(self.checkpoints.latest())
        kept = f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"
        message = (
            f"the loss or its gradient became NaN or infinite at step {step} of stage {self.stage.name}; the samples of that batch are "
            f"{', '.join(names)}; {kept}. Look at these clips, lower the learning rate, set clip_norm, or use another precision."
        )
        if self.journal is not None and distributed.is_main():
            self.journal.write("event", message=message, stage=self.stage.name, step=step, sample_ids=names)
        raise TrainingDiverged(message)

    def evaluate(self, evaluate: Evaluate) -> None:
        """Score the model, write a journal line, and keep its weights if they are the best so far."""
        self.check_finite()
        self.speed.pause()
        scored = self.average if self.average is not None else self.model
        scored.eval()
        with torch.no_grad():
            metrics = distributed.from_main(evaluate(scored, self.done))
        self.model.train()
        self._write(metrics)
        if self.stage.best and metrics[self.stage.best] > self.best_value:
            self.best_step, self.best_value = self.done, metrics[self.stage.best]
            if distributed.is_main():
                about = {"fingerprint": self.stage.fingerprint, "value": self.best_value}
                self.checkpoints.save_best(self.done, {**about, "weights": scored.state_dict()})

    # ---- what survives a kill -------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint, after a look that everything in it is finite."""
        self.check_finite()
        self.speed.pause()
        self.costs.update()
        cpu_s, gpu_s = self.costs.total()
        window = self.window.state()
        if not _all_finite(self.model):
            raise TrainingDiverged(
                f"a weight became NaN or infinite at step {self.done} of stage {self.stage.name}, while loss and gradient were finite; "
                f"the last good checkpoint is {self.checkpoints.latest()}. Lower the learning rate or set clip_norm."
            )
        if distributed.is_main():
            state = {
                "fingerprint": self.stage.fingerprint,
                "config": dict(self.stage.config),
                "weights": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": random_state(),
                "window": window,
                "costs": {"cpu_s": cpu_s, "gpu_s": gpu_s},
                "best": {"step": self.best_step, "value": self.best_value},
                "journal_length": self.journal.length() if self.journal else 0,
            }
            self.checkpoints.save(self.done, state)
        distributed.barrier()

    def restore(self) -> None:
        """Continue from the newest readable checkpoint, and cut the journal back to it; without one, to where the stage began."""
        path, state, warnings, error = self._choose_checkpoint() if distributed.is_main() else (None, None, [], None)
        path, error = distributed.from_main((path, error))
        if error is not None:
            raise error
        self.model.train()
        start = self.checkpoints.directory / "start.json"
        if path is None:
            if distributed.is_main():
                self._begin(start)
        else:
            self._load(state or read_state(path))
        if self.journal is not None and distributed.is_main():
            for message in warnings:
                self.journal.write("event", message=message, stage=self.stage.name, step=self.done)

    def _choose_checkpoint(self) -> tuple[Path | None, State | None, list[str], CheckpointError | None]:
        """On rank 0: (path, state, warnings, error); the error is raised by every rank."""
        self.checkpoints.clean()
        path, state, warnings = self.checkpoints.load_latest()
        if path is not None and state is not None:
            try:
                check_configuration(path, state, self.stage.fingerprint, self.stage.config)
            except CheckpointError as error:
                return path, None, warnings, error
        return path, state, warnings, None

    def _begin(self, start: Path) -> None:
        """Step 0: note the journal's length, or cut the journal back to it if an earlier start left no checkpoint."""
        self.checkpoints.forget_best_after(0)
        if self.journal is None:
            return
        if start.exists():
            self.journal.cut_back(read_json(start)["journal_length"])
        else:
            write_atomically(start, json.dumps({"journal_length": self.journal.length()}))

    def _load(self, state: State) -> None:
        self.model.load_state_dict(state["weights"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.window.restore(state["window"])
        self.costs.restore(**state["costs"])
        self.best_step, self.best_value = state["best"]["step"], state["best"]["value"]
        self.done = state["step"]
        if distributed.is_main():
            set_random_state(state["random"])
            self.checkpoints.forget_best_after(self.done)
            if self.journal is not None:
                self.journal.cut_back(state["journal_length"])

    # ---- the end --------------------------------------------------------------------------------------------------------

    def stopped(self, reason: str) -> Outcome:
        """The outcome of a stage that was asked to stop; its state was just saved."""
        _LOG.info("stage %s stopped at step %d of %d (%s)", self.stage.name, self.done, self.stage.total_steps, reason)
        cpu_s, gpu_s = self.costs.total()
        return Outcome(self.done, stopped=True, cpu_hours=cpu_s / 3600, gpu_hours=gpu_s / 3600)

    def finish(self) -> Outcome:
        """Put the chosen weights into the model, write them and the outcome."""
        selected, best = self.done, None
        if self.best_step:
            selected, best = self.best_step, self.best_value
            self.model.load_state_dict(read_state(self.checkpoints.best_path(selected))["weights"])
        elif self.average is not None:
            self.model.load_state_dict(self.average.state_dict())
        self.costs.update()
        cpu_s, gpu_s = self.costs.total()
        sha256 = ""
        if distributed.is_main():
            about = {"stage": self.stage.name, "step": selected, "fingerprint": self.stage.fingerprint}
            sha256 = write_weights(self.stage.weights_path, self.model.state_dict(), about)
        outcome = Outcome(
            step=self.done,
            stopped=False,
            selected_step=selected,
            best=best,
            weights=str(self.stage.weights_path),
            sha256=distributed.from_main(sha256),
            journal_length=distributed.from_main(self.journal.length() if self.journal else 0),
            cpu_hours=cpu_s / 3600,
            gpu_hours=gpu_s / 3600,
        )
        if distributed.is_main():
            write_atomically(self.stage.outcome_path, json.dumps({**asdict(outcome), "fingerprint": self.stage.fingerprint}))
        distributed.barrier()
        return outcome


def compile_blocks(model: nn.Module) -> None:
    """torch.compile, block by block (they share one graph) and before DDP, which is what survives DDP and gradient checkpointing.

    A model without `blocks.N` modules is compiled as a whole. Names in the state dict stay as they are.
    """
    blocks = [module for name, module in model.named_modules() if _BLOCK.search(name)]
    for module in blocks or [model]:
        module.compile()


def _all_finite(model: nn.Module) -> bool:
    """Whether every parameter is finite (waits for the device)."""
    return bool(torch.stack([torch.isfinite(parameter).all() for parameter in model.parameters()]).all())
