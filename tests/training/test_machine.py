"""Samples of the machine: an error of the GPU's own library never ends a run."""

from __future__ import annotations

import logging

import pytest
import torch

from simvtp.training.meters import Machine


class NVMLError(Exception):
    """An error as pynvml's are: of no class that Python or torch knows."""


@pytest.mark.parametrize(
    "error",
    [
        NVMLError("Not Supported"),
        type("NVMLError_NotSupported", (NVMLError,), {})("Not Supported"),
        ModuleNotFoundError("pynvml"),
        RuntimeError("driver/library version mismatch"),
        OSError("libnvidia-ml.so.1"),
        AttributeError("nvmlInit_v2"),
        ValueError("a MIG slice"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_nvml_is_logged_once_and_ends_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def utilisation(device: torch.device) -> int:
        asked.append(device)
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", utilisation)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2_000_000_000)
    machine = Machine(torch.device("cuda:0"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            metrics = machine.sample()
            assert metrics["system/gpu_memory_gb"] == 2.0
            assert "system/gpu_utilisation" not in metrics
    assert len(asked) == 1 and len(caplog.messages) == 1
    assert type(error).__name__ in caplog.messages[0]
