"""Signals set a flag and nothing else."""

from __future__ import annotations

import os
import signal
import time

import pytest

from simvtp.training.preemption import STOP_SIGNALS, stop_on_signals
from tests.training.helpers import in_process


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_sets_the_flag_and_the_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop and stop.reason == ""
        os.kill(os.getpid(), number)
        assert stop and stop.reason == number.name
        if number != signal.SIGINT:
            os.kill(os.getpid(), number)  # a second one changes nothing
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_is_not_ignored() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def fork_inside() -> None:
    """A worker forked while the handlers are set: SIGUSR1 leaves it alone, SIGTERM ends it, the parent's flag stays down."""
    with stop_on_signals() as stop:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(1)
        time.sleep(0.2)
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
        assert not stop


def test_workers_do_not_inherit_the_patience() -> None:
    process = in_process(fork_inside)
    process.join(60)
    assert process.exitcode == 0
