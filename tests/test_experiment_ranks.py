"""One experiment on two ranks, end to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simvtp.experiment import run
from simvtp.runs.journal import read_journal
from tests.small import small_experiment, small_settings
from tests.training.training_runs import free_port


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["none", "full"])
def test_two_ranks_run_a_whole_experiment(tmp_path: Path, shapes_cache: Path, shard: str) -> None:
    """torchrun, end to end: one journal, one set of results, and no process left waiting."""
    settings = small_settings(
        tmp_path, shapes_cache, "losses.vtm=0", f"runtime.shard={shard}"
    )  # VTM's negatives are those of a rank
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "simvtp",
        "run",
        "tiny",
    ]
    done = subprocess.run(
        [*command, *settings],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count(
            "2 ranks x 1 accumulation step x 4 samples; contrastive negatives from 8 samples"
        )
        == 2
    )
    alone = small_experiment(tmp_path / "alone", shapes_cache, "losses.vtm=0")
    run(alone, say=lambda line: None)

    def losses(root: Path) -> list[float]:
        lines = (line for _, line in read_journal(next(root.glob("*/journal.jsonl"))))
        return [
            line["metrics"]["loss/total"]
            for line in lines
            if line["kind"] == "metrics" and "loss/total" in line["metrics"]
        ]

    assert losses(tmp_path) == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)


@pytest.mark.slow
def test_two_ranks_stop_together_while_they_score(tmp_path: Path, shapes_cache: Path) -> None:
    """A batch system signals every process of the job, at about the same time."""
    settings = small_settings(
        tmp_path, shapes_cache, "losses.vtm=0", "evaluate.batch_size=1", "finetune.enabled=false"
    )
    port = free_port()
    shared = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "simvtp", "run", "tiny", *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/checkpoints/pretrain.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in ranks:
        process.send_signal(signal.SIGUSR2)
    asked = time.monotonic()
    said = [process.communicate(timeout=60)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [3, 3], said
    assert all("the same command continues there" in text for text in said)
    assert time.monotonic() - asked < 30
