"""The one training loop, for every model and every objective.

One step, in reading order: `_Run.step`. Around it: `train` (start or continue, the steps, the end)
and `_Run.log` (the only place where the host waits for the device). How the model lies on the
ranks: `replica`; what survives a kill: `resume`.

Step n is the n-th update, from 1, in journal lines, checkpoints and messages; masks and schedule
count from 0 (n - 1). Accumulation equals one big batch for MVM, MLM and VTM; the negatives of VTC
and VTM are those of a micro-batch (of all ranks for global VTC), because the rest of the batch is
not in memory at that time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from time import perf_counter

import safetensors.torch
import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.errors import DataError, Stopped, TrainingDiverged
from simvtp.models.common.encoder import packs_text
from simvtp.models.common.forward_options import BatchSlice, ForwardOptions
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import Journal
from simvtp.training.checkpointing.checkpoint import read_state, sha256_of, unguarded, write_weights
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.checkpointing.stage_checkpointer import Keeper, Progress
from simvtp.training.lr_schedule import stage_rate
from simvtp.training.meters import CostMeter, Machine, Speed, Window
from simvtp.training.objectives import Objective
from simvtp.training.optim import build_optimizer, clip_gradients, set_rate
from simvtp.training.parallel import distributed
from simvtp.training.parallel.batch_split import share_batch
from simvtp.training.parallel.parallel_model import Replica
from simvtp.training.stage import Batches, Draw, Evaluate, Measure, OnLog, Outcome, Stage, step_seed
from simvtp.training.step_flops import count_step, shapes_of, speed_of, weightless

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
    guard: Callable[[], None] = unguarded,
) -> Outcome:
    """Train `model` to the end of the stage, continuing from its newest readable checkpoint; the
    model then holds the final weights.

    Args:
        model: called as model(micro-batch, masks, options) -> named outputs. It is moved to the device and
            trained in place (with `stage.shard`, a copy of it is trained).
        batches: batches(n) yields this rank's batches of the steps n + 1, n + 2, ...: batch_size /
            world samples each.
        draw: masks of a micro-batch; None: the model is called with masks None.
        journal: rank 0 writes one line of metrics each `log_every` steps and one each evaluation;
            other ranks pass None.
        evaluate: rank 0 calls it after the steps `stage.evaluate_at`, with the moving average of
            the weights if there is one. If it raises Stopped, the state is saved, and the next call
            begins with this evaluation.
        on_log: rank 0 gets {"stage", "step", "total_steps", "metrics", "cpu_hours", "gpu_hours"} at
            each log line.
        measure: metrics from outside (the loader's counters), added to each log line.
        stop: read between steps; once set (on any rank), the state is saved and the outcome says
            stopped.
        guard: called on rank 0 right before each file takes its name; raises if another attempt has
            taken the run over.

    Raises:
        TrainingDiverged: a loss or gradient became NaN or infinite, at most `log_every` steps ago;
            the last checkpoint stays.
        CheckpointError: the checkpoint belongs to another configuration, or the best weights cannot
            be read.
        ConfigError: the batch cannot be shared by so many ranks.
        UserError: the disk is full; the checkpoints from before stay. What rank 0 raises, the other
            ranks raise too.
    """
    finished = distributed.on_main(lambda: _finished(stage))
    if finished is not None:
        model.load_state_dict(safetensors.torch.load_file(stage.weights_path))
        model.to(distributed.choose_device(stage.device))
        return finished
    run = _Run(stage, model, objective, draw, journal, on_log, measure, guard)
    run.keeper.restore()
    progress, vote = run.progress, distributed.Vote()
    progress.unscored &= evaluate is not None
    source = batches(progress.done) if progress.done < stage.total_steps else iter(())
    try:
        while run.unfinished:
            if evaluate is not None and progress.unscored:
                stopping, due = not run.evaluate(evaluate), True
            else:
                run.step(_next_batch(source, run.speed, stage, progress.done))
                progress.unscored = evaluate is not None and progress.done in stage.evaluate_at
                # A write that failed counts as a wish to stop: all ranks then come to `save`, which
                # raises its error.
                stopping = vote.agree(bool(stop) or run.keeper.writer.failed) and run.unfinished
                if progress.done % stage.log_every == 0 or progress.done == stage.total_steps:
                    run.log()
                due = not progress.unscored and (
                    progress.done % stage.checkpoint_every == 0 or not run.unfinished
                )
            if stopping or due:
                run.save()
            if stopping:
                vote.collect()
                return run.stopped(stop.reason if stop else "")
    except BaseException:
        run.keeper.writer.settle()
        raise
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
        raise DataError(
            f"stage {stage.name} has {stage.total_steps} steps, but the data ended after {done}."
        ) from None
    speed.waited += perf_counter() - began
    expected = stage.train.batch_size // distributed.world()
    if len(batch) != expected:
        raise DataError(
            f"stage {stage.name} expects batches of {expected} samples on each rank, but got {len(batch)} after step {done}."
        )
    return batch


def _finished(stage: Stage) -> Outcome | None:
    """The outcome of a stage that ended earlier, with its weights whole; None if it has not ended."""
    if not stage.outcome_path.exists():
        return None
    stored = read_json(stage.outcome_path)
    if stored.pop("fingerprint") != stage.fingerprint or not stage.weights_path.exists():
        return None
    outcome = Outcome(**stored)
    if sha256_of(stage.weights_path) != outcome.sha256:
        _LOG.warning(
            "%s does not have the sha256 it was written with; the end of the stage is done again.",
            stage.weights_path,
        )
        return None
    return replace(outcome, weights=str(stage.weights_path))


class _Run:
    """A stage under way."""

    def __init__(
        self,
        stage: Stage,
        model: nn.Module,
        objective: Objective,
        draw: Draw | None,
        journal: Journal | None,
        on_log: OnLog | None,
        measure: Measure | None,
        guard: Callable[[], None],
    ) -> None:
        config = stage.train
        self.stage, self.config, self.objective, self.draw = stage, config, objective, draw
        self.journal, self.on_log, self.measure, self.guard = journal, on_log, measure, guard
        self.rank = distributed.rank()
        self.share = share_batch(
            stage.name, config.batch_size, distributed.world(), stage.accumulate, stage.micro_batch
        )
        self.device = distributed.choose_device(stage.device)
        self.replica = Replica(model, config, self.device, stage.shard)
        self.options = ForwardOptions(
            merge_passes=stage.merge_passes,
            pack_text=stage.pack_text,
            gradient_checkpointing=stage.gradient_checkpointing,
        )
        self.counted: nn.Module | None = weightless(model)  # until its operations are counted
        self.example: tuple[Batch, Masks | None] | None = (
            None  # shapes of a micro-batch, to count them with
        )
        self.flops: int | None = None  # of a step, over all ranks; None: not known
        self.optimizer = build_optimizer(self.replica.model, config, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        if stage.compile:
            compile_blocks(self.replica.model)
        self.replica.wrap()
        self.window = Window(self.device, stage.log_every, self.share.accumulate)
        self.speed, self.machine = Speed(), Machine(self.device)
        self.costs = CostMeter(gpus=int(self.device.type == "cuda"))
        self.progress = Progress()
        self.keeper = Keeper(
            stage,
            self.replica,
            self.optimizer,
            self.scaler,
            self.window,
            self.costs,
            self.progress,
            journal,
            guard,
        )
        self.grad_norm: Tensor | None = None

    @property
    def unfinished(self) -> bool:
        """Whether steps or an evaluation are still to come."""
        return self.progress.done < self.stage.total_steps or self.progress.unscored

    # ---- one step --------------------------------------------------------------------------------

    def step(self, batch: Batch) -> None:
        """One update. Nothing here waits for the device, and all shapes are those of the step
        before.
        """
        step, count = self.progress.done, self.share.accumulate
        parts, masks = self._micro_batches(batch, step)
        if self.example is None:
            self.example = shapes_of(
                parts[0], masks[0], packed=packs_text(self.replica.model, self.options)
            )
        shares = self.objective.shares(masks)
        seed = step_seed(self.stage.seed, self.stage.name, step)
        for i in range(count):
            own = BatchSlice(self._first_sample(i), self.share.samples, self.share.batch_size)
            options = replace(self.options, batch_slice=own)
            torch.manual_seed(
                seed
            )  # the same everywhere: a sample's place in the batch decides what it draws
            with self.replica.unsynchronised(last=i == count - 1):
                with self._autocast():
                    outputs = self.replica.wrapped(parts[i], masks[i], options)
                losses, report = self.objective(outputs, shares)
                total = torch.stack(list(losses.values())).sum()
                self.scaler.scale(total / count).backward()
            self.window.add_part(i, {"loss/total": total.detach(), **report}, count)
        self._update(step)
        self.window.end_step(tuple(part.sample_ids for part in parts), self._gradient_finite())
        self.progress.done += 1
        self.speed.steps += 1

    def _count(self) -> None:
        """Count the operations of a step, at the first log line: no step waits for it, and the
        speed is measured without it.
        """
        if self.counted is not None and self.example is not None:
            flops = count_step(self.counted, *self.example)
            self.flops = None if flops is None else flops * self.share.accumulate * self.share.ranks
            self.counted = None

    def _first_sample(self, part: int) -> int:
        """Place in the global batch of the first sample of this rank's micro-batch `part`."""
        return (self.rank * self.share.accumulate + part) * self.share.samples

    def _micro_batches(self, batch: Batch, step: int) -> tuple[list[Batch], list[Masks | None]]:
        """The step's micro-batches on the device, and their masks, which depend on (seed, step,
        place in the global batch) only.
        """
        if self.device.type == "cuda" and not batch.clips.is_pinned():
            batch = batch.pin_memory()  # a copy from pageable memory would wait for the device
        batch = batch.to(self.device)
        size = self.share.samples
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
        """Clip, set the rate, update the weights and their moving average."""
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = clip_gradients(self.replica.model.parameters(), self.config.clip_norm)
        set_rate(self.optimizer, stage_rate(step, self.stage.total_steps, self.config))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.replica.follow()

    def _gradient_finite(self) -> Tensor | None:
        """None for fp16: there the scaler skips an update whose gradient overflowed, and lowers its
        scale.
        """
        return (
            None
            if self.scaler.is_enabled() or self.grad_norm is None
            else torch.isfinite(self.grad_norm)
        )

    # ---- between steps ---------------------------------------------------------------------------

    def log(self) -> None:
        """One journal line; the host waits for the device here. Raises TrainingDiverged."""
        self.check_finite()
        self.speed.pause()
        self.costs.update()
        metrics = self.window.read()
        cpu_s, gpu_s = self.costs.total()
        done, total = self.progress.done, self.stage.total_steps
        metrics["lr"] = stage_rate(done - 1, total, self.config)
        if self.grad_norm is not None:
            metrics["grad_norm"] = float(self.grad_norm)
        if self.scaler.is_enabled():
            metrics["loss_scale"] = float(self.scaler.get_scale())
        metrics |= self.speed.read(self.config.batch_size, total - done)
        self._count()
        metrics |= speed_of(self.flops, metrics["speed/step_s"], self.share.ranks, self.device)
        metrics |= self.machine.sample()
        metrics |= self.measure() if self.measure else {}
        hours = {"cpu_hours": cpu_s / 3600, "gpu_hours": gpu_s / 3600}
        metrics |= {f"system/{name}": value for name, value in hours.items()}

        def tell() -> None:
            self._write(metrics)
            if self.on_log is not None:
                self.on_log(
                    {
                        "stage": self.stage.name,
                        "step": done,
                        "total_steps": total,
                        "metrics": metrics,
                        **hours,
                    }
                )

        distributed.on_main(tell)

    def _write(self, metrics: dict[str, float]) -> None:
        if self.journal is not None:
            self.journal.write(
                "metrics", stage=self.stage.name, step=self.progress.done, metrics=metrics
            )

    def check_finite(self) -> None:
        """Raises TrainingDiverged if a loss or gradient since the last check was NaN or infinite,
        naming the step and the ids.
        """
        found = self.window.first_bad_step()
        if found is None:
            return
        ago, ids = found
        step = self.progress.done - ago
        names = [name for part in distributed.from_all(ids) for name in part]
        distributed.on_main(self.keeper.writer.wait)
        latest = distributed.from_main(self.keeper.checkpoints.latest())
        kept = f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"
        message = (
            f"the loss or its gradient became NaN or infinite at step {step} of stage {self.stage.name}; the samples of that batch are "
            f"{', '.join(names)}; {kept}. Look at these clips, lower the learning rate, set clip_norm, or use another precision."
        )
        if self.journal is not None and distributed.is_main():
            self.journal.write(
                "event", message=message, stage=self.stage.name, step=step, sample_ids=names
            )
        raise TrainingDiverged(message)

    def evaluate(self, evaluate: Evaluate) -> bool:
        """Score the model, write a journal line, and keep its weights if they are the best so far;
        False if asked to stop meanwhile.
        """
        self.check_finite()
        self.speed.pause()
        progress = self.progress

        def score(model: nn.Module) -> tuple[int, float]:
            metrics = evaluate(model, progress.done)
            self._write(metrics)
            if self.stage.best and metrics[self.stage.best] > progress.best_value:
                progress.best_step, progress.best_value = progress.done, metrics[self.stage.best]
                self.keeper.save_best(model.state_dict())
            return progress.best_step, progress.best_value

        try:
            with self.replica.scored() as model, torch.no_grad():
                progress.best_step, progress.best_value = distributed.on_main(lambda: score(model))
        except Stopped:
            return False
        progress.unscored = False
        return True

    def save(self) -> None:
        """Write a checkpoint, after a look that everything in it is finite."""
        self.check_finite()
        self.speed.pause()
        self.keeper.save()

    # ---- the end ---------------------------------------------------------------------------------

    def stopped(self, reason: str) -> Outcome:
        """The outcome of a stage that was asked to stop, once its state is on the disk."""
        distributed.on_main(self.keeper.writer.wait)
        done = self.progress.done
        _LOG.info(
            "stage %s stopped at step %d of %d (%s)",
            self.stage.name,
            done,
            self.stage.total_steps,
            reason,
        )
        cpu_s, gpu_s = self.costs.total()
        return Outcome(done, stopped=True, cpu_hours=cpu_s / 3600, gpu_hours=gpu_s / 3600)

    def finish(self) -> Outcome:
        """Write the chosen weights and the outcome, and put the weights into the model that the
        caller gave.
        """
        progress = self.progress
        distributed.on_main(self.keeper.writer.wait)
        if progress.best_step:
            weights = read_state(self.keeper.checkpoints.best_path(progress.best_step))["weights"]
        else:
            weights = self.replica.averaged() or self.replica.weights()
        self.costs.update()
        cpu_s, gpu_s = self.costs.total()
        outcome = Outcome(
            step=progress.done,
            stopped=False,
            selected_step=progress.best_step or progress.done,
            best=progress.best_value if progress.best_step else None,
            weights=str(self.stage.weights_path),
            cpu_hours=cpu_s / 3600,
            gpu_hours=gpu_s / 3600,
        )

        def write() -> Outcome:
            about = {
                "stage": self.stage.name,
                "step": outcome.selected_step,
                "fingerprint": self.stage.fingerprint,
            }
            sha256 = write_weights(self.stage.weights_path, weights, about, self.guard)
            whole = replace(
                outcome, sha256=sha256, journal_length=self.journal.length() if self.journal else 0
            )
            content = json.dumps({**asdict(whole), "fingerprint": self.stage.fingerprint})
            write_atomically(self.stage.outcome_path, content, self.guard)
            return whole

        outcome = distributed.on_main(write)
        self.replica.settle(weights, self.stage.weights_path)
        return outcome


def compile_blocks(model: nn.Module) -> None:
    """torch.compile, block by block (they share one graph) and before DDP, which is what survives
    DDP and gradient checkpointing.

    A model without `blocks.N` modules is compiled as a whole. Names in the state dict stay as they
    are.
    """
    blocks = [module for name, module in model.named_modules() if _BLOCK.search(name)]
    for module in blocks or [model]:
        module.compile()
