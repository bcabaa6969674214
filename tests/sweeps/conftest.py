from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ablations import mask_ratio
from ablations.design import Ablation
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from simvtp.config.schema import Experiment

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "tests.sweeps.jobs:run"


@pytest.fixture(autouse=True)
def importable_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs are processes of their own and must find the package `tests`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def base(tmp_path: Path) -> Experiment:
    """Half a second a point."""
    settings = [
        f"runtime.root={tmp_path / 'runs'}",
        "runtime.tracking_uri=off",
        "pretrain.max_steps=10",
    ]
    return override(tiny(), settings)


@pytest.fixture
def grid(base: Experiment) -> Ablation:
    """Four points: two video ratios, two text ratios."""
    return mask_ratio.build(base)


def change(ablation: Ablation, *settings: str) -> Ablation:
    """The same grid over another base."""
    return replace(ablation, base=override(ablation.base, settings))
