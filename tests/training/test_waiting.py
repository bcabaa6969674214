"""Ranks wait for one another, and end together."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from simvtp.errors import RankLost, UserError, lost_rank, silent_rank
from simvtp.training.parallel import distributed
from tests.training.training_runs import on_ranks


def fail_on(rank: int, kind: type[Exception]) -> None:
    # Whoever fails, and however, every rank leaves with an error, and with the same sentence if it
    # is one for the user.

    def work() -> int:
        if distributed.rank() == rank:
            raise kind("the disk is full")
        return distributed.rank()

    gather = distributed.on_main if rank == 0 else distributed.together
    with pytest.raises(
        kind if kind is UserError or distributed.rank() == rank else RuntimeError,
        match="the disk is full",
    ):
        gather(work)
    assert distributed.on_main(lambda: distributed.rank()) == 0
    assert distributed.together(lambda: distributed.rank()) == distributed.rank()


@pytest.mark.parametrize(
    "text",
    [
        "[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation",
        "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, ...) ran for "
        "600010 milliseconds before timing out.",
        "wait timeout after 300000ms, keys: /default_pg/0//1",
        "Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA ...",
    ],
)
def test_a_time_out_is_a_lost_rank(text: str) -> None:
    assert "did not answer in time" in lost_rank(text) and "the same command" in lost_rank(text)
    assert silent_rank(text) == lost_rank(text)
    ended = lost_rank("Connection closed by peer [10.0.0.7]:4411")
    assert "has gone away" in ended and not silent_rank("Connection closed by peer")
    assert not lost_rank("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(("rank", "kind"), [(0, UserError), (0, ValueError), (1, UserError)])
def test_what_one_rank_meets_ends_all(rank: int, kind: type[Exception]) -> None:
    on_ranks(2, fail_on, rank, kind)


def work_for_long(directory: Path) -> None:
    """Rank 0 works for longer than a collective may take: what it made arrives, and all go on."""
    shortened = distributed.COLLECTIVE_TIMEOUT.total_seconds()

    def work() -> int:
        time.sleep(1.4 * shortened)
        (directory / "made").write_text("whole")
        return 7

    assert distributed.on_main(work) == 7 and (directory / "made").read_text() == "whole"
    assert distributed.together(distributed.rank) == distributed.rank()
    if distributed.rank() == 1:
        time.sleep(1.4 * shortened)
    assert distributed.from_all(distributed.rank()) == [0, 1]
    vote = distributed.Vote()
    assert not vote.agree(distributed.is_main()) and vote.collect()
    assert float(distributed.sum_over_ranks(torch.ones(()))) == 2


def leave_the_others_waiting() -> None:
    """A rank that does not come to a step is lost to the others, after the limit of a step."""
    if distributed.rank() == 1:
        time.sleep(2 * distributed.COLLECTIVE_TIMEOUT.total_seconds())
        return
    sentence = (
        r"rank 0 of 2: another .* did not answer in time \(Timed out waiting \d+ms\).*the same"
    )
    with pytest.raises(RankLost, match=sentence), distributed.raising_rank_lost():
        distributed.sum_over_ranks(torch.ones(()))


def test_work_of_rank_0_may_take_longer_than_a_step(tmp_path: Path) -> None:
    on_ranks(2, work_for_long, tmp_path, step_s=1.5)


def test_a_silent_rank_is_lost() -> None:
    on_ranks(2, leave_the_others_waiting, step_s=1.5)


def count_worker_threads() -> None:
    def workers() -> int:
        tasks = Path("/proc/self/task").glob("*/comm")
        return sum("gloo_runloop" in task.read_text() for task in tasks)

    distributed.barrier()  # a thread has its name once it has run
    groups = 2  # that of the steps, and that of ranks that wait for one another
    assert workers() == groups
    vote = distributed.Vote()
    assert not vote.agree(False) and not vote.collect()
    assert workers() == groups


def test_a_gloo_group_has_one_thread() -> None:
    """With two, torch frees memory twice now and then (see simvtp/compat/gloo_threads.py)."""
    on_ranks(2, count_worker_threads)
