from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.design import Ablation
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from tests.sweeps import ratio_grid
from tests.sweeps.jobs import HOLD

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "tests.sweeps.jobs:run"


@pytest.fixture(autouse=True)
def importable_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the package `tests` importable for jobs, which are processes of their own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def base(tmp_path: Path) -> Experiment:
    """Returns an experiment of ten quick steps."""
    settings = [
        f"runtime.root={tmp_path / 'runs'}",
        "runtime.tracking_uri=off",
        "pretrain.max_steps=10",
    ]
    return override(tiny(), settings)


@pytest.fixture
def grid(base: Experiment) -> Ablation:
    """Returns four points: two video ratios, two text ratios."""
    return ratio_grid.build(base)


def change(ablation: Ablation, *settings: str) -> Ablation:
    """Returns the grid with other settings of its base."""
    return replace(ablation, base=override(ablation.base, settings))


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Waits until `condition()` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@contextlib.contextmanager
def held_jobs(base: Experiment) -> Iterator[Path]:
    """Makes jobs in the root of `base` pause after their next step; yields the file to delete."""
    hold = Path(base.runtime.root) / HOLD
    hold.parent.mkdir(parents=True, exist_ok=True)
    hold.touch()
    try:
        yield hold
    finally:
        hold.unlink(missing_ok=True)


def release_when(hold: Path, condition: Callable[[], bool]) -> threading.Thread:
    """Deletes `hold` in a thread once `condition()` is true."""

    def release() -> None:
        try:
            wait_for(condition)
        finally:
            hold.unlink(missing_ok=True)

    thread = threading.Thread(target=release)
    thread.start()
    return thread
