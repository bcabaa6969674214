"""Files of a stage: whole or absent, even on a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from simvtp.errors import CheckpointError, UserError
from simvtp.training.checkpointing.checkpoint import (
    Checkpoints,
    random_state,
    read_state,
    set_random_state,
    sha256_of,
    write_weights,
)
from tests.training.training_runs import in_process, pretrain


def state(value: float = 1.0, size: int = 10) -> dict:
    return {"weights": {"w": torch.full((size,), value)}, "fingerprint": "f", "config": {}}


def test_keeps_the_newest_and_the_best_files_that_they_need(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5):
        if step in (1, 2, 5):
            checkpoints.save_best(step, state())
        checkpoints.save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_00000002.pt",
        "best_00000005.pt",
        "step_00000004.pt",
        "step_00000005.pt",
    ]
    path, found, warnings = checkpoints.load_latest()
    assert (
        path == checkpoints.path(5) and found is not None and found["step"] == 5 and warnings == []
    )
    assert torch.equal(found["weights"]["w"], torch.full((10,), 5.0))


def test_no_code_runs_when_a_checkpoint_is_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "was here"),))

    torch.save({"format": 1, "step": 1, "evil": Evil()}, tmp_path / "step_00000001.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(tmp_path / "step_00000001.pt")
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("content", [{"format": 99, "step": 1}, {"weights": 1}, [1, 2]])
def test_what_is_not_our_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "x.pt")


def test_random_states_come_back(tmp_path: Path) -> None:
    def numbers() -> tuple:
        return (
            float(torch.rand(())),
            float(np.random.rand()),
            random.random(),
            float(np.random.randn()),
        )

    np.random.randn()  # leaves a second Gaussian number in store
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {**state(), "random": random_state()})
    expected = numbers()
    set_random_state(read_state(checkpoints.path(1))["random"])
    assert numbers() == expected


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    weights = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.ones(2, dtype=torch.bfloat16)}
    about = {"stage": "pretrain", "step": 3, "fingerprint": "f"}
    first = write_weights(tmp_path / "1.safetensors", weights, about)
    second = write_weights(
        tmp_path / "2.safetensors", dict(reversed(weights.items())), dict(reversed(about.items()))
    )
    assert (
        first
        == second
        == sha256_of(tmp_path / "1.safetensors")
        == hashlib.sha256((tmp_path / "2.safetensors").read_bytes()).hexdigest()
    )
    with safetensors.safe_open(tmp_path / "1.safetensors", "pt") as file:
        assert json.loads(file.metadata()["simvtp"]) == about
        assert torch.equal(file.get_tensor("b"), weights["b"])


# ---- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def assert_old_one_stays(checkpoints: Checkpoints, large: dict) -> None:
    checkpoints.save(1, state())
    with pytest.raises(
        UserError,
        match=r"cannot save the checkpoint .*step_00000002.pt: .+; the checkpoints saved before it "
        r"are intact. Free",
    ):
        checkpoints.save(2, large)
    assert [path.name for path in checkpoints.directory.iterdir()] == ["step_00000001.pt"]
    assert checkpoints.load_latest()[0] == checkpoints.path(1)


def test_a_full_disk_keeps_the_old_checkpoint(small_disk: Path) -> None:
    assert_old_one_stays(Checkpoints(small_disk, keep=1), state(size=2_000_000))


def limited(directory: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    assert_old_one_stays(Checkpoints(directory, keep=1), state(size=1_000_000))


def test_a_file_that_may_not_grow_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    # The same without the right to mount: the operating system refuses to let the file grow.
    (tmp_path / "c").mkdir()
    process = in_process(limited, tmp_path / "c")
    process.join(60)
    assert process.exitcode == 0


def test_training_on_a_full_disk_ends_with_the_sentence_and_continues_later(
    small_disk: Path, tmp_path: Path
) -> None:
    ballast = small_disk / "ballast"

    def fill(record: dict) -> None:
        if record["step"] == 9:
            with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(65536))

    with pytest.raises(UserError, match="No space left on device"):
        pretrain(small_disk, on_log=fill)
    checkpoints = Checkpoints(small_disk / "checkpoints/pretrain", keep=2)
    assert checkpoints.load_latest()[0] == checkpoints.path(8)
    ballast.unlink()
    assert pretrain(small_disk).sha256 == pretrain(tmp_path / "elsewhere").sha256


def test_no_leftovers_of_a_killed_save(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/pretrain"
    folder.mkdir(parents=True)
    (folder / ".step_00000004.pt.123.tmp").write_bytes(b"half")
    pretrain(tmp_path, total_steps=3)
    assert not list(folder.glob(".*"))


def test_best_weights_of_steps_that_are_done_again_are_forgotten(tmp_path: Path) -> None:
    # A run killed after it wrote best weights of step 9, but before its checkpoint, continues from
    # step 8.
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (4, 8, 9):
        checkpoints.save_best(step, state())
    checkpoints.save(8, state())
    checkpoints.forget_best_after(8)
    assert sorted(path.name for path in tmp_path.glob("best_*")) == ["best_00000008.pt"]
