"""The campaign of random faults finds a run that differs, and none where nothing differs."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from tests.faults.__main__ import difference, undisturbed_run
from tests.faults.injection import SPOILERS, AttemptEnd, spoil_a_file
from tests.import_graph import ROOT

ENDED = AttemptEnd(0, "")


@pytest.mark.slow
def test_disturbed_runs_end_like_the_undisturbed_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--trials", "3", "--minutes", "10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"3 trials \(.*\): no difference", done.stdout)


@pytest.mark.slow
def test_one_changed_weight_is_a_difference(tmp_path: Path) -> None:
    run, _ = undisturbed_run(tmp_path)
    other = tmp_path / "warm-up" / run.run_dir.name
    assert difference(other, run.run_dir, ENDED) == ""
    path = other / "checkpoints" / "finetune.safetensors"
    weights = safetensors.torch.load_file(path)
    name = min(weights)
    weights[name].view(-1)[0] += 1e-6
    safetensors.torch.save_file(weights, path)
    assert name in difference(other, run.run_dir, ENDED)


@pytest.mark.parametrize("fault", SPOILERS)
def test_a_spoilt_file_has_another_content(fault: str, tmp_path: Path) -> None:
    for seed in range(20):
        path = tmp_path / f"{seed}.bin"
        path.write_bytes(bytes(range(1, 201)))
        named = spoil_a_file(tmp_path, SPOILERS[fault], random.Random(seed))
        assert (tmp_path / named).read_bytes() != bytes(range(1, 201))
        path.unlink()


def test_a_folder_without_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for spoil in SPOILERS.values():
        assert spoil_a_file(tmp_path, spoil, random.Random(0)) == "no file yet"
