"""The one training loop, for every model and every objective.

`train` starts or continues a stage, runs its steps and ends it; one step is `StageRun.step`. How
the model lies on the ranks: `parallel_model`; how a stage is saved: `stage_checkpointer`.

Step n is the n-th update, from 1, in journal lines, checkpoints and messages; masks and schedule
count from 0 (n - 1). Accumulation equals one big batch for MVM, MLM and VTM; the negatives of VTC
and VTM are those of a micro-batch (of all ranks for global VTC), because the rest of the batch is
not in memory at that time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter

import safetensors.torch
import torch
from torch import nn

from simvtp.batch import Batch
from simvtp.errors import DataError, DeviceMemoryExhausted
from simvtp.runs.atomic_files import read_json
from simvtp.runs.journal import Journal
from simvtp.training.checkpointing.checkpoint import always_owned, sha256_of
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.meters import Speed
from simvtp.training.objectives import Objective
from simvtp.training.parallel import distributed
from simvtp.training.parallel.device_memory import memory_exhausted
from simvtp.training.stage import Batches, Draw, Evaluate, Measure, OnLog, Stage, StageOutcome
from simvtp.training.stage_run import StageRun

_LOG = logging.getLogger(__name__)


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
    check_ownership: Callable[[], None] = always_owned,
    on_first_batch: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = _LOG.info,
) -> StageOutcome:
    """Trains `model` to its final weights, from the newest readable checkpoint on.

    Args:
        model: called as model(micro-batch, masks, options) -> named outputs. It is moved to the
            device and trained in place (with `stage.shard`, a copy of it is trained).
        batches: batches(n) yields this rank's batches of the steps n + 1, n + 2, ...: batch_size /
            world samples each.
        draw: draws the masks of a micro-batch; None: the model is called with masks None.
        journal: rank 0 writes a line each `log_every` steps and each evaluation; others pass None.
        evaluate: all ranks call it after the steps `stage.evaluate_at`, with averaged weights if
            any. If it raises Stopped, on all of them, the next call begins with it.
        on_log: rank 0 calls it with {"stage", "step", "total_steps", "metrics", "cpu_hours",
            "gpu_hours"} at each log line.
        measure: the loader's counters, added to each log line.
        stop: read between steps; once set (on any rank), the state is saved and training stops.
        check_ownership: called on rank 0 before a file takes its name; raises if it lost the run.
        on_first_batch, say: called on each rank when its first batch has arrived; logs a line.

    Raises:
        TrainingDiverged: a loss or gradient became NaN or infinite, at most `log_every` steps ago;
            the last checkpoint stays.
        CheckpointError: the checkpoint belongs to another configuration, or cannot be read.
        ConfigError: the batch cannot be split over that many ranks.
        DeviceMemoryExhausted: a step does not fit into the GPU, as counted or in fact.
        UserError: the disk is full. An error of rank 0 is raised on all ranks.
    """
    finished = distributed.on_main(lambda: _finished(stage))
    if finished is not None:
        model.load_state_dict(safetensors.torch.load_file(stage.weights_path))
        model.to(distributed.choose_device(stage.device))
        return finished
    run = StageRun(stage, model, objective, draw, journal, on_log, measure, check_ownership)
    run.checkpointer.restore()
    done = run.progress.done
    source = batches(done) if done < stage.total_steps else iter(())
    try:
        completed = _run_steps(run, source, evaluate, stop, on_first_batch, say)
    except BaseException:
        run.checkpointer.writer.drain()
        raise
    finally:
        if hasattr(source, "close"):
            source.close()
    return run.finish() if completed else run.stopped(stop.reason if stop else "")


def _run_steps(
    run: StageRun,
    source: Iterator[Batch],
    evaluate: Evaluate | None,
    stop: StopFlag | None,
    on_first_batch: Callable[[], None],
    say: Callable[[str], None],
) -> bool:
    """Runs steps, evaluations and saves; returns False if it was asked to stop before the end."""
    stage, progress, vote = run.stage, run.progress, distributed.Vote()
    started = False
    for cadence in (run.logging, run.saving):
        cadence.start(progress.done)
    progress.unscored &= evaluate is not None
    while run.unfinished:
        if evaluate is not None and progress.unscored:
            stopping, due = not run.evaluate(evaluate), True
        else:
            batch = _next_batch(source, run.speed, stage, progress.done)
            if not started:
                started = True
                on_first_batch()
                run.speed.pause()
                run.fit(batch, say)
                run.speed.resume()
            _step(run, batch, say)
            progress.unscored = evaluate is not None and progress.done in stage.evaluate_at
            # A failed write counts as a wish to stop: all ranks then come to `save`, which raises
            # its error.
            wish = bool(stop) or run.checkpointer.writer.failed
            stopping = vote.agree(wish) and run.unfinished
            at_interval = run.saving.due(progress.done)  # a log line plans the next time
            if run.logging.due(progress.done) or progress.done == stage.total_steps:
                run.log(say)
            due = not progress.unscored and (at_interval or not run.unfinished)
        if stopping or due:
            run.save()
        if stopping:
            vote.collect()
            return False
    vote.collect()
    return True


def _step(run: StageRun, batch: Batch, say: Callable[[str], None]) -> None:
    """Makes one step, with smaller micro-batches after a first one that ran out of memory."""
    failure: DeviceMemoryExhausted | None = None
    try:
        run.step(batch)
    except torch.OutOfMemoryError:
        failure = memory_exhausted(
            run.stage.name,
            run.progress.done + 1,
            run.split,
            run.device,
            run.stage.gradient_checkpointing,
        )
    if failure is None:
        return
    # here the error is gone, and with it the tensors of the step that its traceback holds
    if not run.halve(say):
        raise failure
    _step(run, batch, say)


def _next_batch(source: Iterator[Batch], speed: Speed, stage: Stage, done: int) -> Batch:
    """Returns this rank's next batch, and adds the wait to `speed`."""
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
            f"stage {stage.name} expects batches of {expected} samples on each rank, "
            f"but got {len(batch)} after step {done}."
        )
    return batch


def _finished(stage: Stage) -> StageOutcome | None:
    """Returns the outcome of a stage that ended earlier with intact weights; None otherwise."""
    if not stage.outcome_path.exists():
        return None
    stored = read_json(stage.outcome_path)
    if stored.pop("fingerprint") != stage.fingerprint or not stage.weights_path.exists():
        return None
    outcome = StageOutcome(**stored)
    if sha256_of(stage.weights_path) != outcome.sha256:
        _LOG.warning(
            "%s does not have the sha256 it was written with; the end of the stage is repeated.",
            stage.weights_path,
        )
        return None
    return replace(outcome, weights=str(stage.weights_path))
