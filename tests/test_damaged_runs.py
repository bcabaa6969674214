"""Every reader of a run directory names a damaged file in one sentence, or repairs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simvtp.__main__ import main
from simvtp.config.experiment_config import Experiment
from simvtp.experiment import run
from tests.small import small_experiment

GARBAGE = {
    "empty": b"",
    "no JSON": b'{"state": "fini',
    "NUL bytes": b"\0" * 64,
    "another object": b"{}",
    "a list": b"[1]",
    "binary": bytes(range(128, 256)),
}
FILES = (
    "experiment.json",
    "status.json",
    "results.json",
    "provenance.json",
    "journal.jsonl",
    "mirror.json",
    "checkpoints/pretrain.json",
    "checkpoints/finetune.json",
    "checkpoints/pretrain.safetensors",
    "checkpoints/finetune.safetensors",
    "stages/zero_shot.json",
    "stages/evaluate.json",
    "stages/items_evaluate.jsonl.gz",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Experiment:
    experiment = small_experiment(tmp_path_factory.mktemp("finished"), shapes_cache)
    run(experiment, say=lambda line: None)
    return experiment


@pytest.fixture
def copy(finished: Experiment, tmp_path: Path) -> Path:
    target = tmp_path / finished.run_dir.name
    shutil.copytree(finished.run_dir, target)
    return target


def commands(run_dir: Path) -> list[list[str]]:
    store = f"sqlite:///{run_dir.parent / 'mlflow.db'}"
    return [
        ["evaluate", str(run_dir)],
        ["evaluate", str(run_dir), "evaluate.split=val"],
        ["visualize", str(run_dir)],
        ["finetune", "retrieval", "--init", str(run_dir), "runtime.tracking_uri=off"],
        ["sync", str(run_dir.parent), "--tracking-uri", store],
    ]


def refusal(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the error line of a command that ends without a traceback; empty if it succeeds."""
    status = main(command)
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert status in (0, 1, 2) and len(errors) == (status == 2), (command, captured)
    return errors[0] if errors else ""


@pytest.mark.parametrize("name", ["experiment.json", "status.json"])
@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_damaged_record_is_named_with_what_to_do(
    copy: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / name).write_bytes(content)
    refused = refusal(["evaluate", str(copy)], capsys)
    assert refused.startswith("error: damaged: ") and name in refused and "; " in refused


def test_weights_that_were_damaged_are_used_by_no_command(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = copy / "checkpoints" / "pretrain.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 0xFF
    weights.write_bytes(content)
    for command in (
        ["visualize", str(copy)],
        ["finetune", "retrieval", "--init", str(copy), "runtime.tracking_uri=off"],
        ["evaluate", str(copy), "evaluate.split=val"],
    ):
        assert "pretrain.safetensors does not have the sha256" in refusal(command, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_never_ends_a_command_with_a_traceback(
    copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = list(GARBAGE.values())
    for number, command in enumerate(commands(copy)):
        (copy / name).write_bytes(contents[(number + FILES.index(name)) % len(contents)])
        refused = refusal(command, capsys)
        assert not refused or Path(name).name in refused, (command, refused)
