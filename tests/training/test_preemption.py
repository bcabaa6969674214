"""Signals set a flag and nothing else."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from simvtp.errors import Stopped
from simvtp.training.checkpointing.preemption import STOP_SIGNALS, stop_on_signals
from tests.training.training_runs import in_process, pretrain


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


def train_while_logging(directory: Path) -> None:
    # SIGUSR2 arrives while the process is inside a logging handler, which swallows every exception
    # that is raised there.
    inside = []

    class SlowHandler(logging.StreamHandler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                inside.append(record)
                os.kill(os.getpid(), signal.SIGUSR2)
                time.sleep(0.01)  # the handler of the signal runs here
            except Exception:
                self.handleError(record)

    log = logging.getLogger("simvtp.slow")
    log.addHandler(SlowHandler())
    log.propagate = False

    def on_log(record: dict[str, Any]) -> None:
        log.warning("step %d", record["step"])

    outcome = pretrain(directory, on_log=on_log)
    assert outcome.stopped and outcome.step == 4, outcome  # logged after step 3, read after step 4
    assert len(inside) == 1
    assert list((directory / "checkpoints/pretrain").glob("step_00000004.pt"))


def test_a_signal_inside_a_logging_call_is_noticed(tmp_path: Path) -> None:
    process = in_process(train_while_logging, tmp_path)
    process.join(60)
    assert process.exitcode == 0


def listen_although_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.reason == "SIGUSR2"
        with pytest.raises(Stopped, match=r"stopped \(SIGUSR2\)"):
            stop.check()
    assert set(STOP_SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_signals_that_the_starter_had_blocked_are_noticed() -> None:
    process = in_process(listen_although_blocked)
    process.join(60)
    assert process.exitcode == 0


def fork_inside() -> None:
    """A worker forked while the handlers are set.

    SIGUSR1 leaves it alone, SIGTERM ends it, the parent's flag stays down.
    """
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
