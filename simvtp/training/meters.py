"""Measurements while training: sums on the device, speed, cost, and the machine.

Nothing here makes the host wait for the device, except `Window.read` and `Window.first_bad_step`,
which are called at the logging interval.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simvtp.runs.process_identity import cores_of_rank
from simvtp.training.parallel.distributed import min_over_ranks, sum_over_ranks, world

_LOG = logging.getLogger(__name__)
WAITING = 0.1  # of the time, for data, from which advice is given
MOST_STEPS = 1_000  # between two log lines
FAR = 2**62  # a step that no stage has


class Window:
    """Sums of the report and a finite flag for each step since the last log line, on the device.

    Args:
        device: where the model runs.
        length: most steps between two log lines.
        parts: micro-batches of a step.
    """

    def __init__(self, device: torch.device, length: int, parts: int) -> None:
        self.names: tuple[str, ...] = ()
        self.steps = 0
        self.sums: Tensor | None = None  # float32 [names]
        # last column: the gradient
        self.finite = torch.ones(length, parts + 1, dtype=torch.bool, device=device)
        # [steps][parts], the samples that the flags refer to
        self.sample_ids: list[tuple[tuple[str, ...], ...]] = []
        self._unread = 0  # steps whose flags were not read yet

    def divide(self, parts: int) -> None:
        """Takes another number of micro-batches from now on. The flags must have been read."""
        self.finite = self.finite.new_ones(self.finite.shape[0], parts + 1)

    def add_part(self, part: int, report: dict[str, Tensor], parts: int) -> None:
        """Adds the report of one micro-batch of the current step; the flag is of `loss/total`."""
        names = tuple(report)
        if not self.names:
            self.names = names
        elif names != self.names:
            raise RuntimeError(
                f"the report changed its names between steps: {self.names} became {names}"
            )
        values = torch.stack([value.to(torch.float32) for value in report.values()]) / parts
        self.sums = values if self.sums is None else self.sums + values
        self.finite[self._unread, part] = torch.isfinite(report["loss/total"])

    def end_step(
        self, sample_ids: tuple[tuple[str, ...], ...], gradient_finite: Tensor | None
    ) -> None:
        """Closes the step.

        `gradient_finite` is None where an infinite gradient is no error (fp16 skips such a step).
        """
        if gradient_finite is not None:
            self.finite[self._unread, -1] = gradient_finite
        self.sample_ids.append(sample_ids)
        self.steps += 1
        self._unread += 1

    def first_bad_step(self) -> tuple[int, list[str]] | None:
        """Reads the flags (all ranks take part).

        Returns:
            (how many steps ago, 0 for the last one; this rank's sample ids of the bad
            micro-batches), or None.
        """
        flags = self.finite[: self._unread]
        anywhere = min_over_ranks(flags.to(torch.uint8)).cpu().bool()
        bad = [row for row in range(self._unread) if not bool(anywhere[row].all())]
        if bad:
            row, local = bad[0], flags[bad[0]].cpu()
            by_loss = not bool(anywhere[row, :-1].all())
            parts = self.sample_ids[row]
            ids = [
                name
                for part, names in enumerate(parts)
                if not by_loss or not bool(local[part])
                for name in names
            ]
            return self._unread - 1 - row, ids
        self.finite.fill_(True)
        self.sample_ids.clear()
        self._unread = 0
        return None

    def read(self) -> dict[str, float]:
        """Returns means over steps and ranks since the last call (all ranks take part)."""
        if self.sums is None:
            return {}
        means = (sum_over_ranks(self.sums) / (self.steps * world())).tolist()
        self.sums, self.steps = None, 0
        return dict(zip(self.names, means, strict=True))

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint within an interval: sums averaged over ranks.

        All ranks take part. The flags must have been read.
        """
        sums = None if self.sums is None else (sum_over_ranks(self.sums) / world()).cpu()
        return {"names": list(self.names), "steps": self.steps, "sums": sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.names, self.steps = tuple(state["names"]), state["steps"]
        self.sums = None if state["sums"] is None else state["sums"].to(self.finite.device)


@dataclass
class Speed:
    """Wall-clock of the steps since the last log line, without evaluation and saving."""

    steps: int = 0
    waited: float = 0.0  # seconds the loop waited for data
    elapsed: float = 0.0
    _since: float | None = None

    def resume(self) -> None:
        """Starts the clock, if it does not run."""
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops the clock, if it runs."""
        if self._since is not None:
            self.elapsed += time.perf_counter() - self._since
        self._since = None

    def read(self, batch_size: int, steps_left: int) -> dict[str, float]:
        """Returns the metrics of the interval, which must be paused, and starts the next one."""
        step_s = self.elapsed / max(1, self.steps)
        metrics = {
            "speed/clips_per_s": batch_size / step_s if step_s > 0 else 0.0,
            "speed/data_wait_share": self.waited / self.elapsed if self.elapsed > 0 else 0.0,
            "speed/step_s": step_s,
            "speed/eta_s": step_s * steps_left,
        }
        self.steps, self.waited, self.elapsed = 0, 0.0, 0.0
        return metrics


class Cadence:
    """Steps at which something is due: every so many steps, or after so many seconds.

    Clocks differ between ranks, so seconds become a number of steps: rank 0 derives it at log
    lines, and all ranks take it over (`plan`).

    Args:
        steps: between two times; with `seconds`, until the first.
        seconds: above 0: between two times.
    """

    def __init__(self, steps: int, seconds: float) -> None:
        self._steps, self._seconds = steps, seconds
        self._next = steps if seconds else 0  # of the last step at which something was due
        self._since = time.perf_counter()

    def due(self, done: int) -> bool:
        """Returns True after that step; with seconds, at the steps that were planned."""
        return done >= self._next if self._seconds else done % self._steps == 0

    def start(self, done: int) -> None:
        """Begins at step `done`, from which the first steps are counted."""
        self._next = done + self._steps

    def happened(self) -> None:
        """Starts the seconds again, and waits for the next plan."""
        self._since = time.perf_counter()
        self._next = FAR

    def remaining(self, step_s: float) -> int:
        """Returns after how many steps of `step_s` seconds it is due, at least 1."""
        left = self._seconds - (time.perf_counter() - self._since)
        return max(1, min(MOST_STEPS, round(left / step_s) if step_s > 0 else 1))

    def plan(self, done: int, remaining: int) -> None:
        """Takes over what rank 0 has derived after step `done`."""
        self._next = done + remaining


class WaitingForData:
    """Says once a stage what to change if its steps wait for data.

    Args:
        stage: its name.
        workers: processes that decode clips.
    """

    def __init__(self, stage: str, workers: int) -> None:
        self._stage, self._workers = stage, workers
        self._lines, self._advised = 0, False

    def judge(self, share: float, say: Callable[[str], None]) -> None:
        """Reads the share of the time since the last log line in which steps waited.

        The first line is passed over: then the first clips are being decoded.
        """
        self._lines += 1
        if share > WAITING and self._lines > 1 and not self._advised:
            self._advised = True
            say(waiting_advice(self._stage, share, self._workers, cores_of_rank()))


def waiting_advice(stage: str, share: float, workers: int, cores: int) -> str:
    """Returns what to change where steps wait for data for `share` of the time.

    Args:
        stage: its name.
        share: in [0, 1].
        workers: processes that decode clips.
        cores: that this rank may use.
    """
    if workers < cores - 1:
        what = f"raise runtime.workers from {workers} to {cores - 1}, as this process has {cores}"
        what += " cores"
    else:
        what = (
            f"all {cores} cores of this process decode (runtime.workers={workers}): give it more, "
            "store the clips smaller (python -m simvtp data shard), or set data.repeat=2"
        )
    return f"stage {stage} waits for data for {100 * share:.0f} % of its time: {what}."


def _process_cpu_seconds() -> float:
    """Returns the CPU time of this process, its threads and its children.

    Children that still run are included if psutil is installed.
    """
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    try:
        import psutil
    except ModuleNotFoundError:
        return total
    for child in psutil.Process().children(recursive=True):
        try:
            spent = child.cpu_times()
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended between the two calls
            continue
        total += spent.user + spent.system
    return total


@dataclass
class CostMeter:
    """CPU-seconds and GPU-seconds of this rank's stage.

    Time lost to a kill, after the last checkpoint, is not included.
    """

    gpus: int
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    _cpu_since: float = field(default_factory=_process_cpu_seconds)
    _wall_since: float = field(default_factory=time.perf_counter)

    def update(self) -> None:
        """Adds the time since the last call."""
        cpu, wall = _process_cpu_seconds(), time.perf_counter()
        self.cpu_s += max(0.0, cpu - self._cpu_since)
        self.gpu_s += (wall - self._wall_since) * self.gpus
        self._cpu_since, self._wall_since = cpu, wall

    def total(self) -> tuple[float, float]:
        """Returns (CPU-seconds, GPU-seconds) over all ranks, which all take part."""
        both = sum_over_ranks(
            torch.tensor([self.cpu_s, self.gpu_s], dtype=torch.float64, device=collective_device())
        )
        return float(both[0]), float(both[1])

    def restore(self, cpu_s: float, gpu_s: float) -> None:
        """Continues from totals of all ranks: each rank takes its part."""
        self.cpu_s, self.gpu_s = cpu_s / world(), gpu_s / world()


def collective_device() -> torch.device:
    """Returns the device of tensors in a collective of the default group."""
    nccl = world() > 1 and torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


class Machine:
    """Samples the load of this rank's machine; values that are not available are left out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        try:
            import psutil

            self._process: Any = psutil.Process()
            psutil.cpu_percent(None)  # the first call has nothing to compare with
        except ModuleNotFoundError:
            self._process = None
        self._utilisation = device.type == "cuda"

    def sample(self) -> dict[str, float]:
        """Returns `system/cpu_percent` (of all cores) and `system/rss_gb`.

        On a GPU also its peak memory and utilisation.
        """
        metrics: dict[str, float] = {}
        if self._process is not None:
            import psutil

            metrics["system/cpu_percent"] = psutil.cpu_percent(None)
            metrics["system/rss_gb"] = self._process.memory_info().rss / 1e9
        if self.device.type == "cuda":
            metrics["system/gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            metrics |= self._gpu_utilisation()
        return metrics

    def _gpu_utilisation(self) -> dict[str, float]:
        if not self._utilisation:
            return {}
        try:
            return {"system/gpu_utilisation": float(torch.cuda.utilization(self.device))}
        except Exception as error:
            # no pynvml, a driver without it, or one of NVML's own errors, which have no common
            # base: of a MIG slice, for example, it gives no utilisation
            _LOG.info("the GPU's utilisation is not logged: %s: %s", type(error).__name__, error)
            self._utilisation = False
            return {}
