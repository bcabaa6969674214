"""Addresses of trackers, names that MLflow accepts, and what is imported when."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp import tracking
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import UserError
from tests.tracking.run_dirs import (
    ROOT,
)


def test_importing_the_package_does_not_import_mlflow() -> None:
    program = (
        "import sys, simvtp.tracking; "
        "print([m for m in ('mlflow', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_the_store_imports_mlflow() -> None:
    users = {
        path.name
        for path in Path(tracking.__file__).parent.glob("*.py")
        if re.search(r"^\s*(import|from) mlflow\b", path.read_text(), re.MULTILINE)
    }
    assert users == {"store.py"}


def test_addresses_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (
        tracking.resolve_uri(RuntimeConfig(root="runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    )
    assert (
        tracking.resolve_uri(RuntimeConfig(tracking_uri="sqlite:///x/y.db"))
        == f"sqlite:///{tmp_path}/x/y.db"
    )
    assert tracking.resolve_uri(RuntimeConfig(tracking_uri="off")) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking.resolve_uri(RuntimeConfig()) == "http://tracker:5000"
    assert tracking.resolve_uri(RuntimeConfig(tracking_uri="http://other:1")) == "http://other:1"
    for folder in ("mlruns", "file:///tmp/mlruns"):
        with pytest.raises(UserError, match="sqlite:///"):
            tracking.resolve_uri(RuntimeConfig(tracking_uri=folder))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(max_size=300))
def test_every_name_becomes_one_that_mlflow_accepts(name: str) -> None:
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

    made = tracking.mlflow_name(name)
    _validate_metric_name(made)
    _validate_length_limit("Metric name", 250, made)
    assert 0 < len(made) <= 250


def test_names_stay_readable() -> None:
    assert tracking.mlflow_name("acc/R@1") == "acc/R1"
    assert tracking.mlflow_name("test/finetuned/t2v/MdR") == "test/finetuned/t2v/MdR"
    assert tracking.mlflow_name("a" * 300) != tracking.mlflow_name("a" * 301)


def test_the_ui_command_takes_a_free_port(uri: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        command = tracking.ui_command(uri, port)
        chosen = int(command.rpartition("--port ")[2])
        assert chosen != port and uri in command and "--host 127.0.0.1" in command
    assert f"--port {port}" in tracking.ui_command(uri, port)
    assert "http://tracker:5000" in tracking.ui_command("http://me:pass@tracker:5000").replace(
        "***@", ""
    )
    assert "pass" not in tracking.ui_command("http://me:pass@tracker:5000")
