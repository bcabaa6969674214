"""An experiment end to end: who owns its run directory, and its stages in their order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from simvtp import tracking
from simvtp.config.schema import Experiment
from simvtp.errors import StopReason
from simvtp.experiment.context import Running, Say, open_experiment, until_signal
from simvtp.experiment.measuring import evaluate, zero_shot
from simvtp.experiment.startup_timing import DATA, IMPORTED, mark
from simvtp.experiment.training import finetune, pretrain
from simvtp.resolve import finalise
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.lease import Lease, hold
from simvtp.runs.results import Result
from simvtp.runs.rundir import StatusWriter, is_finished, load_results, write_identity
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.host_memory import keep_host_memory
from simvtp.training.parallel.distributed import (
    Launch,
    choose_device,
    distributed,
    launch_from_environment,
    on_main,
    telling_lost_ranks,
    threads_per_rank,
)

STAGES = ("pretrain", "zero_shot", "finetune", "evaluate")


def run(
    experiment: Experiment, *, say: Say = print, until: str = "evaluate", wait: bool = False
) -> list[Result]:
    """Run what is missing of `experiment` and return its results (under torchrun: rank 0 does, the
    others return none).

    Args:
        experiment: settings; files they name are resolved here (`settings.finalise`).
        say: gets a plain line now and then, on rank 0.
        until: last stage to run, one of STAGES; the experiment counts as finished only after
            `evaluate`.
        wait: what to do while another process works on this experiment: wait for it, or raise
            UserError.

    Raises:
        UserError: see its subclasses; the state is in status.json and nothing that was saved is
            lost.
        Stopped: SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 asked for it; call again to continue. Its
            subclass `lease.Fenced`: another attempt has taken the run directory over, and this one
            has written nothing since.
    """
    experiment = finalise(experiment)
    if is_finished(experiment):
        return _known(experiment, say)
    launch = launch_from_environment()
    threads = threads_per_rank(experiment.runtime.threads, launch)
    if threads:
        torch.set_num_threads(threads)
    device = choose_device(experiment.runtime.device, launch)
    heard: Say = say if launch.rank == 0 else lambda line: None
    if experiment.runtime.keep_memory and device.type == "cpu" and not keep_host_memory():
        heard(
            "runtime.keep_memory: this system's C library gives freed memory back at once, which costs time; training goes on"
        )
    with (
        distributed(device, launch),
        _owned(experiment.run_dir, wait, heard) as lease,
        until_signal() as stop,
    ):
        if on_main(
            lambda: is_finished(experiment)
        ):  # another process finished it while this one waited
            return _known(experiment, heard) if launch.rank == 0 else []
        lease.on_lost(lambda: stop.set("taken over by another job", StopReason.TAKEN_OVER))
        return _run_stages(experiment, device, launch, heard, stop, lease.check, until)


def _known(experiment: Experiment, say: Say) -> list[Result]:
    say(f"{experiment.run_dir} holds the finished results of this experiment: nothing to run.")
    return load_results(experiment.run_dir)


@contextlib.contextmanager
def _owned(directory: Path, wait: bool, say: Say) -> Iterator[Lease]:
    """The run directory, for rank 0; if it cannot be had, all ranks learn of it."""
    with contextlib.ExitStack() as stack:
        taken: list[Lease] = []
        on_main(lambda: taken.append(stack.enter_context(hold(directory, wait=wait, say=say))))
        yield taken[0] if taken else Lease(None)


def _run_stages(
    experiment: Experiment,
    device: torch.device,
    launch: Launch,
    say: Say,
    stop: StopFlag,
    guard: Callable[[], None],
    until: str,
) -> list[Result]:
    """The stages up to `until` in the run directory, which is ours."""
    directory, writes, whole = experiment.run_dir, launch.rank == 0, until == STAGES[-1]
    on_main(lambda: write_identity(experiment, directory))
    mirror = (
        tracking.BackgroundMirror(directory, experiment.runtime)
        if writes
        else contextlib.nullcontext()
    )
    with (
        mirror,
        StatusWriter(directory, writes=writes, complete=whole, check_ownership=guard) as status,
        telling_lost_ranks(),
    ):
        on_main(lambda: mark(status, IMPORTED))
        running = open_experiment(experiment, directory, device, launch, say, stop, status, guard)
        on_main(lambda: mark(status, DATA))
        results = [
            result
            for name in STAGES[: STAGES.index(until) + 1]
            for result in RUN_STAGE[name](running)
        ]
        if whole:
            content = json.dumps([result.to_dict() for result in results])
            on_main(lambda: write_atomically(directory / "results.json", content, guard))
    return results


RUN_STAGE: dict[str, Callable[[Running], list[Result]]] = {
    "pretrain": pretrain,
    "zero_shot": zero_shot,
    "finetune": finetune,
    "evaluate": evaluate,
}
