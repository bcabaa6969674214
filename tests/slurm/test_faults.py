"""Every fault that a cluster offers, and a run that ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ablations.design import Point
from tests.slurm.user import User, assert_same_run


def test_without_a_fault(user: User, undisturbed: Callable[[Point], Path]) -> None:
    [point] = user.points
    user.pace(pause_s=0.0)
    command = user.sweep()
    user.wait_for_end(point)
    assert command.wait(30) == 0, command.output
    assert_same_run(point.run_dir, undisturbed(point))
