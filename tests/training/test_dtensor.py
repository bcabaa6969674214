"""Starting does not pay for what only sharded runs need."""

import importlib
import subprocess
import sys
from pathlib import Path

import torch

from simvtp.training.parallel.dtensor import is_dtensor

ROOT = Path(__file__).resolve().parents[2]
UNUSED = (
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "mlflow",
    "optuna",
    "av",
    "decord",
)


def test_an_experiment_is_imported_without_tensors_that_are_cut() -> None:
    program = (
        "import sys, simvtp.experiment, simvtp.training.parallel.parallel_model\n"
        f"print([name for name in {UNUSED!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_plain_things_are_not_cut() -> None:
    assert not is_dtensor(torch.zeros(2)) and not is_dtensor({"a": 1}) and not is_dtensor(None)
    importlib.import_module("torch.distributed.tensor")
    assert not is_dtensor(torch.zeros(2))
