"""Runs an experiment end to end: takes its run directory and executes its stages in order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from simvtp import tracking
from simvtp.compat.host_memory import keep_host_memory
from simvtp.config.experiment_config import Experiment
from simvtp.data.progress import LogFn
from simvtp.errors import StopReason
from simvtp.experiment.context import ExperimentContext, open_experiment, until_signal
from simvtp.experiment.measuring import evaluate, use, zero_shot
from simvtp.experiment.startup_timing import DATA, IMPORTED, record_timestamp
from simvtp.experiment.training import finetune, pretrain
from simvtp.resolve import finalise
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.lease import Lease, hold
from simvtp.runs.results import Result
from simvtp.runs.rundir import (
    RESULTS_FILE,
    StatusWriter,
    is_finished,
    load_results,
    write_identity,
)
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.parallel.distributed import (
    Launch,
    choose_device,
    distributed,
    launch_from_environment,
    on_main,
    raising_rank_lost,
    threads_per_rank,
)

STAGES = ("pretrain", "use", "zero_shot", "finetune", "evaluate")


def run(
    experiment: Experiment, *, say: LogFn = print, until: str = "evaluate", wait: bool = False
) -> list[Result]:
    """Runs what is missing of an experiment and returns its results.

    Under torchrun rank 0 returns the results, the others none.

    Args:
        experiment: settings; the files that they name are resolved here (`resolve.finalise`).
        say: gets a line now and then, on rank 0.
        until: last stage to run, one of STAGES; the experiment counts as finished only after
            `evaluate`.
        wait: wait while another process works on this experiment; False: UserError.

    Raises:
        UserError: see its subclasses; the state is in status.json and nothing that was saved is
            lost.
        Stopped: SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 asked for it; call again to continue. Its
            subclass `lease.Fenced`: another attempt has taken the run directory over, and this one
            has written nothing since.
    """
    experiment = finalise(experiment)
    if is_finished(experiment):
        return _finished_results(experiment, say)
    launch = launch_from_environment()
    threads = threads_per_rank(experiment.runtime.threads, launch)
    if threads:
        torch.set_num_threads(threads)
    device = choose_device(experiment.runtime.device, launch)
    rank0_log: LogFn = say if launch.rank == 0 else lambda line: None
    if experiment.runtime.keep_memory and device.type == "cpu" and not keep_host_memory():
        rank0_log(
            "runtime.keep_memory: this system's C library returns freed memory at once, "
            "which costs time; training goes on"
        )
    with (
        distributed(device, launch),
        _hold_on_main(experiment.run_dir, wait, rank0_log) as lease,
        until_signal() as stop,
    ):
        # another process may have finished it while this one waited
        if on_main(lambda: is_finished(experiment)):
            return _finished_results(experiment, rank0_log) if launch.rank == 0 else []
        lease.on_lost(lambda: stop.set("taken over by another job", StopReason.TAKEN_OVER))
        return _run_stages(experiment, device, launch, rank0_log, stop, lease, until)


def _finished_results(experiment: Experiment, say: LogFn) -> list[Result]:
    say(f"{experiment.run_dir} holds the finished results of this experiment: nothing to run.")
    return load_results(experiment.run_dir)


@contextlib.contextmanager
def _hold_on_main(directory: Path, wait: bool, say: LogFn) -> Iterator[Lease]:
    """Holds the run directory on rank 0; if that fails, all ranks raise."""
    with contextlib.ExitStack() as stack:
        taken: list[Lease] = []
        on_main(lambda: taken.append(stack.enter_context(hold(directory, wait=wait, say=say))))
        yield taken[0] if taken else Lease(None)


def _run_stages(
    experiment: Experiment,
    device: torch.device,
    launch: Launch,
    say: LogFn,
    stop: StopFlag,
    lease: Lease,
    until: str,
) -> list[Result]:
    """Runs the stages up to `until` in the run directory, which this process owns."""
    directory, writes, complete = experiment.run_dir, launch.rank == 0, until == STAGES[-1]
    on_main(lambda: write_identity(experiment, directory))
    mirror: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if writes:
        mirror = tracking.BackgroundMirror(directory, experiment.runtime)
    status = StatusWriter(directory, writes=writes, complete=complete, lease=lease)
    with mirror, status, raising_rank_lost():
        on_main(lambda: record_timestamp(status, IMPORTED))
        context = open_experiment(
            experiment, directory, device, launch, say, stop, status, lease.check
        )
        on_main(lambda: record_timestamp(status, DATA))
        results: list[Result] = []
        for name in STAGES[: STAGES.index(until) + 1]:
            results += RUN_STAGE[name](context)
        if complete:
            content = json.dumps([result.to_dict() for result in results])
            on_main(lambda: write_atomically(directory / RESULTS_FILE, content, lease.check))
    return results


RUN_STAGE: dict[str, Callable[[ExperimentContext], list[Result]]] = {
    "pretrain": pretrain,
    "use": use,
    "zero_shot": zero_shot,
    "finetune": finetune,
    "evaluate": evaluate,
}
