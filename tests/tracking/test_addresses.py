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
from simvtp.__main__ import main
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import UserError
from simvtp.tracking import address
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


@pytest.mark.parametrize("name", ["it's", 'say "x"', "a b", "a#b", "ü", "a;b&c=d"])
def test_any_folder_may_hold_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking.resolve_uri(RuntimeConfig(root=str(tmp_path / name)))
    assert uri is not None
    assert address.database_path(uri) == tmp_path / name / "mlflow.db"
    assert address.absolute_uri(uri) == uri
    tracking.prepare_store(uri)
    assert [path.name for path in tmp_path.iterdir()] == [name], "no stray database"
    assert (tmp_path / name / "mlflow.db").stat().st_size > 0


@pytest.mark.parametrize("name", ["a?b", "a%41b", "100%"])
def test_a_folder_that_mlflow_would_misread_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="choose another runtime.root"):
        tracking.resolve_uri(RuntimeConfig(root=str(tmp_path / name)))
    off = RuntimeConfig(root=str(tmp_path / name), tracking_uri="off")
    assert tracking.resolve_uri(off) is None and not list(tmp_path.iterdir())


def test_the_options_of_a_sqlite_address_are_kept(tmp_path: Path) -> None:
    uri = address.absolute_uri(f"sqlite:///{tmp_path}/a%20b.db?timeout=30")
    assert uri == f"sqlite:///{tmp_path}/a b.db?timeout=30"
    assert address.database_path(uri) == tmp_path / "a b.db"


SECRET = "s3cret"


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}/x@127.0.0.1:9",
        f"http://me:{SECRET} x@127.0.0.1:9",
        f"http://me:{SECRET}@x@127.0.0.1:70000",
        f"http://me/{SECRET}@127.0.0.1:9",
        f"https://me:{SECRET}@[::1",
        f"http://me:{SECRET}@host:port",
        f"http://me:{SECRET}@host:0",
        f"postgresql://me:{SECRET}@host:abc/db",
        f"postgresql://me:{SECRET}@host:99999/db",
    ],
)
def test_an_address_that_is_no_url_is_one_sentence_without_its_password(uri: str) -> None:
    with pytest.raises(UserError, match="is not a valid URL") as refused:
        tracking.resolve_uri(RuntimeConfig(tracking_uri=uri))
    assert SECRET not in str(refused.value) and SECRET not in repr(refused.value.__cause__)


def test_valid_addresses_with_credentials_are_shown_without_them() -> None:
    for uri in (
        f"http://me:{SECRET}@[::1]:5000/base",
        f"https://me:{SECRET}%2Fx@tracker.example.org",
        f"postgresql+psycopg2://me:{SECRET}%20x@[fe80::1]:5432/mlflow",
        f"mysql://me:{SECRET}/x@host/db",
    ):
        assert tracking.resolve_uri(RuntimeConfig(tracking_uri=uri)) == uri
        shown = address.display_uri(uri)
        assert SECRET not in shown and "://***@" in shown
        password = uri.partition("me:")[2].rpartition("@")[0]
        hidden = address.hide_in(f"cannot connect to {uri} with password {password}", uri)
        assert SECRET not in hidden


def test_an_unreachable_ipv6_address_is_one_sentence() -> None:
    with pytest.raises(tracking.TrackerError, match="does not answer"):
        address.require_answer("http://[::1]:9/path")


def test_sync_of_a_folder_without_runs_exits_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweeps").mkdir()
    assert main(["sync", str(tmp_path)]) == 2
    assert "holds no run directories" in capsys.readouterr().err
