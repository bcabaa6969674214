"""Communication between the processes of a run, through torch.distributed.

The only other file that calls it is `losses`, for its gather. Every helper does nothing, at no
cost, when there is a single process, so that no caller has to ask.

Steps of the training use the group of the device, where a rank that does not come within
COLLECTIVE_TIMEOUT counts as lost. Ranks that wait for one another's work use a gloo group next to
it, which waits for WAIT_LIMIT: no GPU waits inside a kernel of nccl, and nothing of rank 0's work
is lost because it took long.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simvtp.compat.gloo_threads import set_gloo_timeout, single_threaded_gloo
from simvtp.errors import RankLost, UserError, lost_rank
from simvtp.runs.process_identity import NO_GPU_SEEN

T = TypeVar("T")
# of a collective of a training step, to which all ranks come at about the same time
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
# for one rank's work while the others wait: evaluating, saving, waiting for a run directory. A peer
# whose process ends is noticed at once; this is for a machine that vanishes without a word.
WAIT_LIMIT = timedelta(days=7)
# for all processes to meet at the start: nodes may start minutes apart
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Launch:
    """Settings of this process from the launcher.

    Attributes:
        rank: index among all processes.
        world: number of all processes.
        local_rank: index among the processes of this node.
        local_world: number of processes of this node.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def launch_from_environment() -> Launch:
    """Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, as torchrun and submitit set them.

    Without them there is one process.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Launch()
    return Launch(
        rank=int(os.environ["RANK"]),
        world=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_world=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


def choose_device(name: str, launch: Launch | None = None) -> torch.device:
    """Returns the device of this rank.

    `auto` is this rank's GPU if there is one, else the CPU; a name (`cpu`, `cuda`, `cuda:1`) is
    taken as given. This rank's GPU is the one of its local rank, or the only one that the launcher
    makes visible.

    Raises:
        UserError: there is no such GPU, or a sweep that saw none started this job.
    """
    launch = launch or launch_from_environment()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"runtime.device={name}, but torch sees no GPU here: choose runtime.device=cpu or auto."
        )
    if device.type == "cuda" and device.index is None:
        seen = torch.cuda.device_count()
        if os.environ.get(NO_GPU_SEEN):
            raise UserError(
                f"torch sees {seen} GPU(s), but the sweep that started this job saw none, so that "
                "all of its jobs would use the first one: set CUDA_VISIBLE_DEVICES before the "
                "sweep's command, or runtime.device=cpu."
            )
        if seen > 1 and launch.local_rank >= seen:
            raise UserError(
                f"process {launch.local_rank + 1} of {launch.local_world} on this node has no "
                f"GPU, as only {seen} are visible: start as many processes per node as it has GPUs."
            )
        device = torch.device("cuda", launch.local_rank if seen > 1 else 0)
    return device


def threads_per_rank(wanted: int, launch: Launch) -> int:
    """Returns the number of torch threads for this process; 0 leaves torch's choice.

    Several processes on a node use the same cores, which torch does not know: each would start a
    thread for every core. So each takes its fraction, unless runtime.threads (`wanted`) or
    OMP_NUM_THREADS says otherwise, or the batch system has assigned its cores.
    """
    if wanted or launch.local_world == 1 or "OMP_NUM_THREADS" in os.environ:
        return wanted
    cores = len(os.sched_getaffinity(0))
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cores, int(given)) if given.isdigit() else max(1, cores // launch.local_world)


@contextlib.contextmanager
def distributed(device: torch.device, launch: Launch | None = None) -> Iterator[Launch]:
    """Joins the launcher's process group (nccl on GPUs, gloo on CPUs), leaves it at the end.

    Raises:
        UserError: the processes do not meet within RENDEZVOUS_TIMEOUT.
    """
    launch = launch or launch_from_environment()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launch.world == 1 or dist.is_initialized():
        yield launch
        return
    _join("nccl" if device.type == "cuda" else single_threaded_gloo(), launch)
    try:
        _waiting_group()
        yield launch
    finally:
        _waiting_group_of.cache_clear()
        dist.destroy_process_group()


@contextlib.contextmanager
def raising_rank_lost() -> Iterator[None]:
    """Raises RankLost where work in the block fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:  # what gloo and nccl raise
        found = lost_rank(str(error))
        if world() == 1 or not found:
            raise
        raise RankLost(f"rank {rank()} of {world()}: {found}.") from error


def _join(backend: str, launch: Launch) -> None:
    where = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    host = socket.gethostname()
    who = f"rank {launch.rank} of {launch.world} on {host} cannot meet the others at {where}"
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"{who}: {' and '.join(missing)} are not set; start with torchrun, or let the sweep "
            "engine submit the job."
        )
    try:
        found = dist.rendezvous("env://", launch.rank, launch.world, timeout=RENDEZVOUS_TIMEOUT)
        store, _, _ = next(found)
        dist.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.world,
            timeout=COLLECTIVE_TIMEOUT,
        )
    except (dist.DistNetworkError, dist.DistStoreError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{who} ({reason}): is the port in use (torchrun --master-port takes another), "
            "can that machine be reached, and did all processes start?"
        ) from error


def _waiting_group() -> Any:
    """Returns the gloo group on which ranks wait for one another's work.

    The first call forms it, so all ranks make that one together. It must form within
    COLLECTIVE_TIMEOUT, and waits for WAIT_LIMIT afterwards.
    """
    return _waiting_group_of(dist.group.WORLD)


@functools.lru_cache(maxsize=1)
def _waiting_group_of(world_group: Any) -> Any:
    group = dist.new_group(backend=single_threaded_gloo(), timeout=COLLECTIVE_TIMEOUT)
    set_gloo_timeout(group, WAIT_LIMIT)
    return group


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Makes the helpers act as in a single process, for steps that are counted and not run."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _on() -> bool:
    return dist.is_available() and dist.is_initialized() and not _ALONE.get()


def rank() -> int:
    """Returns the index of this process."""
    return dist.get_rank() if _on() else 0


def world() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if _on() else 1


def is_main() -> bool:
    """Returns True on rank 0."""
    return rank() == 0


def barrier() -> None:
    """Waits until all processes are here."""
    if world() > 1:
        dist.barrier(group=_waiting_group())


def sum_over_ranks(value: Tensor) -> Tensor:
    """Returns the sum over ranks, as a new tensor without gradient (no host sync)."""
    if world() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def min_over_ranks(value: Tensor) -> Tensor:
    """Returns the smallest value over ranks, element by element, as a new tensor."""
    if world() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total, op=dist.ReduceOp.MIN)
    return total


def from_main(value: T) -> T:
    """Returns rank 0's value (any picklable object) on every rank."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, group=_waiting_group())
    return box[0]


def from_all(value: T) -> list[T]:
    """Returns every rank's value (any picklable object), in the order of the ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=_waiting_group())
    return values


def wrap(model: nn.Module) -> nn.Module:
    """Wraps the model in DistributedDataParallel; returns it unchanged for a single process.

    Every parameter must get a gradient in each step (objectives that are off have no modules), so
    unused ones are not searched for. Inputs are already on the device: `device_ids` is left out,
    which keeps DDP from copying them.
    """
    if world() == 1:
        return model
    # the buffers are constants (position tables), equal on all ranks; the option not to send them
    # at each step has another name in newer versions of torch
    known = inspect.signature(DistributedDataParallel).parameters
    unsent: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    return DistributedDataParallel(
        model, find_unused_parameters=False, gradient_as_bucket_view=True, **unsent
    )


def unsynchronised(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Exchanges gradients only after the last micro-batch.

    A context around forward and backward of one micro-batch.
    """
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


def on_main(work: Callable[[], T]) -> T:
    """Runs `work` on rank 0 while the others wait.

    All ranks return what it returned (any picklable object), or raise what it raised. So no rank
    waits for one that has ended: a full disk, a stop request or a lost run directory ends them all.
    """
    if world() == 1:
        return work()
    answer: tuple[T | None, Exception | None] = None, None
    try:
        if is_main():
            answer = work(), None
    except UserError as error:
        answer = None, error
    except Exception as error:
        from_main((None, RuntimeError(f"rank 0 failed: {type(error).__name__}: {error}")))
        raise
    result, failure = from_main(answer)
    if failure is not None:
        raise failure
    return cast(T, result)


def together(work: Callable[[], T]) -> T:
    """Runs `work` on every rank and returns each rank's result.

    If one of them raises a UserError, all raise the first one.
    """
    if world() == 1:
        return work()
    result: T | None = None
    failure: UserError | None = None
    try:
        result = work()
    except UserError as error:
        failure = error
    failures = [found for found in from_all(failure) if found is not None]
    if failures:
        raise failures[0]
    return cast(T, result)


class Vote:
    """Agreement of all ranks to stop, one step late and without waiting for the device.

    The vote travels over gloo while the step runs; its result is read at the end of the next step,
    so every rank stops after the same step.
    """

    def __init__(self) -> None:
        self._group: Any = _waiting_group() if world() > 1 else None
        self._pending: tuple[Any, Tensor] | None = None

    def agree(self, wish: bool) -> bool:
        """Sends this rank's wish; returns True if any rank wished it at the previous call.

        A single process gets its wish itself.
        """
        if self._group is None:
            return wish
        agreed = self.collect()
        ballot = torch.tensor([int(wish)])
        self._pending = (
            dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True),
            ballot,
        )
        return agreed

    def collect(self) -> bool:
        """Waits for the vote in progress; returns False if there is none."""
        if self._pending is None:
            return False
        work, ballot = self._pending
        work.wait()
        self._pending = None
        return bool(ballot.item())
