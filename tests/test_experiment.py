"""One experiment end to end: results with protocols, nothing run twice, continued exactly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch

from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError, DataError, Stopped, StopReason, UserError
from simvtp.experiment import run, visualize
from simvtp.runs.journal import read_journal
from simvtp.runs.lease import Fenced
from simvtp.runs.run_records import read_status
from simvtp.runs.rundir import is_finished, load_experiment, load_results
from tests.small import small_experiment, small_settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path):
    """(experiment, results, lines said) of one whole run."""
    experiment = small_experiment(tmp_path_factory.mktemp("runs"), shapes_cache)
    lines: list[str] = []
    return experiment, run(experiment, say=lines.append), lines


def test_results_carry_their_protocol(finished) -> None:
    experiment, results, _ = finished
    assert [result.key for result in results] == [
        "test/zero-shot/t2v",
        "test/zero-shot/v2t",
        "test/finetuned/t2v",
        "test/finetuned/v2t",
    ]
    for result in results:
        protocol = result.protocol
        assert (
            protocol.dataset,
            protocol.split,
            protocol.frames,
            protocol.segments,
            protocol.crops,
        ) == ("shapes", "test", 4, 1, 1)
        assert result.queries == result.gallery == 8
        assert set(result.metrics) == {"R1", "R5", "R10", "R50", "MdR", "MnR"}
        assert result.chance["R1"] == pytest.approx(12.5)
        assert len(result.ranks) == 8
    for stage, result in (("pretrain", results[0]), ("finetune", results[2])):
        weights = (experiment.run_dir / "checkpoints" / f"{stage}.safetensors").read_bytes()
        import hashlib

        assert hashlib.sha256(weights).hexdigest() == result.protocol.checkpoint


def test_the_run_directory_tells_the_whole_story(finished) -> None:
    experiment, results, lines = finished
    status = read_status(experiment.run_dir)
    assert status is not None and status.state == "finished" and status.cpu_hours > 0
    assert load_results(experiment.run_dir) == results
    assert load_experiment(experiment.run_dir).fingerprint == experiment.fingerprint
    kinds = [
        (line["stage"], line["step"])
        for _, line in read_journal(experiment.run_dir / "journal.jsonl")
        if line["kind"] == "metrics"
    ]
    assert [step for stage, step in kinds if stage == "pretrain"] == [2, 4, 6]
    assert list((experiment.run_dir / "figures").glob("*.png"))
    assert json.loads((experiment.run_dir / "provenance.json").read_text())["packages"]["torch"]
    assert any("clips/s" in line for line in lines)


def test_a_finished_experiment_is_not_run_again(finished) -> None:
    experiment, results, _ = finished
    assert is_finished(experiment)
    before = (experiment.run_dir / "journal.jsonl").read_bytes()
    lines: list[str] = []
    assert run(experiment, say=lines.append) == results
    assert (experiment.run_dir / "journal.jsonl").read_bytes() == before
    assert "nothing to run" in lines[0]


def test_pictures_can_be_drawn_again_without_changing_the_run(finished) -> None:
    experiment, _, _ = finished
    status = (experiment.run_dir / "status.json").read_bytes()
    paths = visualize(experiment.run_dir, samples=2, say=lambda line: None)
    assert {path.suffix for path in paths} == {".png", ".gif", ".html"} and all(
        path.stat().st_size > 1000 for path in paths
    )
    pages = [path.name for path in paths if path.suffix == ".html"]
    assert pages == ["examples_zero_shot_retrieval.html", "examples_evaluate_retrieval.html"]
    assert (experiment.run_dir / "status.json").read_bytes() == status


def test_kill_at_any_moment_then_the_same_command_gives_the_same_bits(
    finished, tmp_path: Path, shapes_cache: Path
) -> None:
    """SIGKILL at given lines of the journal, in pre-training and fine-tuning, then to the end."""
    whole, _, _ = finished
    settings = small_settings(tmp_path, shapes_cache)
    run_dir = tmp_path / whole.run_dir.name
    journal = run_dir / "journal.jsonl"
    kills = 0
    for lines_before_kill in (2, 6, None):
        with subprocess.Popen(
            [sys.executable, "-m", "simvtp", "run", "tiny", *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            while lines_before_kill and process.poll() is None:
                if journal.exists() and journal.read_bytes().count(b"\n") >= lines_before_kill:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.005)
            output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output.decode()
    assert kills == 2
    for stage in ("pretrain", "finetune"):
        killed = safetensors.torch.load_file(run_dir / "checkpoints" / f"{stage}.safetensors")
        straight = safetensors.torch.load_file(
            whole.run_dir / "checkpoints" / f"{stage}.safetensors"
        )
        assert killed.keys() == straight.keys()
        assert all(torch.equal(killed[name], straight[name]) for name in killed)

    assert story(small_experiment(tmp_path, shapes_cache)) == story(whole)


def test_sigterm_saves_and_the_next_call_continues(tmp_path: Path, shapes_cache: Path) -> None:
    settings = small_settings(
        tmp_path, shapes_cache, "pretrain.max_steps=2000", "runtime.checkpoint_every=1000"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "simvtp", "run", "tiny", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        while (
            not any(tmp_path.glob("*/journal.jsonl"))
            or not next(tmp_path.glob("*/journal.jsonl")).stat().st_size
        ):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output.decode()
    assert b"the same command continues there" in output
    run_dir = next(path.parent for path in tmp_path.glob("*/journal.jsonl"))
    status = read_status(run_dir)
    assert status is not None and status.state == "stopped"
    assert list((run_dir / "checkpoints" / "pretrain").glob("step_*.pt"))


HOLDER = """
import sys, time
from pathlib import Path
from simvtp.runs.lease import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def story(experiment: Experiment) -> list[tuple]:
    """The journal without what depends on the clock."""
    lines = [line for _, line in read_journal(experiment.run_dir / "journal.jsonl")]
    return [
        (
            line["kind"],
            line.get("stage"),
            line.get("step"),
            line.get("metrics", {}).get("loss/total"),
            line.get("result"),
        )
        for line in lines
    ]


@pytest.mark.parametrize(
    ("when", "stage"),
    [
        ("pretrain 6/6", "zero_shot"),
        ("finetune 4/4", "finetune"),
        ("embedded data set: making", ""),
    ],
)
def test_a_request_to_stop_takes_effect_between_training_steps(
    finished, tmp_path: Path, shapes_cache: Path, when: str, stage: str
) -> None:
    """While either split is scored, and while the data set is made: nothing is lost."""
    cache = shapes_cache if stage else tmp_path / "cache"
    experiment = small_experiment(tmp_path / "runs", cache)

    def ask(line: str) -> None:
        if line.startswith(when):
            os.kill(os.getpid(), signal.SIGUSR2)

    with pytest.raises(Stopped, match="SIGUSR2.*the same command continues there"):
        run(experiment, say=ask)
    status = read_status(experiment.run_dir)
    assert status is not None and (status.state, status.stage, status.reason) == (
        "stopped",
        stage,
        StopReason.REQUEUE,
    )
    results = run(experiment, say=lambda line: None)
    assert [result.metrics for result in results] == [result.metrics for result in finished[1]]
    assert story(experiment) == story(finished[0])


def test_each_stage_logs_how_its_batch_is_split(finished) -> None:
    _, _, lines = finished
    split = (
        "global batch 8 = 1 rank x 1 accumulation step x 8 samples; "
        "contrastive negatives from 8 samples (a micro-batch)"
    )
    logged = [line for line in lines if "global batch" in line]
    assert logged == [f"pretrain: {split}", f"finetune: {split}"]


def test_matching_needs_two_samples_at_a_time(tmp_path: Path, shapes_cache: Path) -> None:
    settings = ["runtime.accumulate=0", "runtime.micro_batch=1"]
    with pytest.raises(
        ConfigError,
        match="losses.vtm needs another clip as negative, but a rank takes one sample at a time",
    ):
        run(
            small_experiment(tmp_path, shapes_cache, *settings),
            say=lambda line: None,
            until="pretrain",
        )


def test_a_second_process_is_kept_out_or_waits(
    finished, tmp_path: Path, shapes_cache: Path
) -> None:
    experiment = small_experiment(tmp_path, shapes_cache)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(experiment.run_dir), "8"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="works on this experiment"):
            run(experiment, say=lambda line: None)
        assert not (experiment.run_dir / "journal.jsonl").exists()
        said: list[str] = []
        results = run(experiment, say=said.append, wait=True)
        assert holder.wait(30) == 0
    assert any("waiting for it" in line for line in said)
    assert [result.metrics for result in results] == [result.metrics for result in finished[1]]


def test_a_process_that_waited_for_the_results_does_not_run_again(
    finished, tmp_path: Path, shapes_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes the experiment before this one owns the directory."""
    experiment, results, _ = finished
    looks = iter([False, True])
    monkeypatch.setattr("simvtp.experiment.stages.is_finished", lambda experiment: next(looks))
    lines = (experiment.run_dir / "journal.jsonl").read_bytes()
    assert run(experiment, say=lambda line: None, wait=True) == results
    assert (experiment.run_dir / "journal.jsonl").read_bytes() == lines


def test_an_attempt_that_was_replaced_writes_nothing_more(
    finished, tmp_path: Path, shapes_cache: Path
) -> None:
    """Another attempt takes the directory over while this one trains."""
    experiment = small_experiment(
        tmp_path, shapes_cache, "pretrain.max_steps=60", "runtime.checkpoint_every=10"
    )
    files: dict[Path, bytes] = {}

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in experiment.run_dir.rglob("*") if path.is_file()}

    def take_over(line: str) -> None:
        if line.startswith("pretrain 20/"):
            newest = max((experiment.run_dir / "lease").glob("[0-9]*.json"))
            newest.rename(newest.with_name(newest.stem + ".ended.json"))
            files.update(content())

    with pytest.raises(Fenced, match="was taken over"):
        run(experiment, say=take_over)
    assert files and content() == files
    results = run(
        experiment, say=lambda line: None
    )  # the next attempt continues from what the first one had saved
    lines = [
        line
        for _, line in read_journal(experiment.run_dir / "journal.jsonl")
        if line["kind"] == "metrics" and "lr" in line["metrics"]
    ]
    assert [line["step"] for line in lines if line["stage"] == "pretrain"] == list(range(2, 61, 2))
    assert len(results) == 4


def test_another_seed_is_another_run(finished, tmp_path: Path, shapes_cache: Path) -> None:
    experiment, results, _ = finished
    other = small_experiment(tmp_path, shapes_cache, "seed=1", "finetune.enabled=false")
    assert other.fingerprint != experiment.fingerprint
    again = run(other, say=lambda line: None)
    assert [result.key for result in again] == ["test/zero-shot/t2v", "test/zero-shot/v2t"]
    assert again[0].protocol.checkpoint != results[0].protocol.checkpoint


def test_any_manifest_runs_with_several_captions_and_a_broken_clip(
    finished, tmp_path: Path, shapes_cache: Path
) -> None:
    """Split by id, several captions a video, one corrupt clip that is replaced and counted."""
    rows = pd.read_csv(next(shapes_cache.glob("shapes-*")) / "manifest.csv")
    folder = next(shapes_cache.glob("shapes-*"))
    rows["path"] = [str(folder / path) for path in rows["path"]]
    rows = pd.concat([rows, rows.assign(caption="again " + rows["caption"])]).drop(columns="split")
    broken = tmp_path / "broken.mp4"
    manifest = tmp_path / "clips.csv"
    rows.to_csv(manifest, index=False)
    base = [
        "data.dataset=manifest",
        f"data.manifest={manifest}",
        "data.splits=0.5/0.25/0.25",
        "data.max_corrupt_ratio=0.5",
    ]
    results = run(small_experiment(tmp_path / "runs", shapes_cache, *base), say=lambda line: None)
    assert results[0].queries > results[0].gallery  # several captions for each video
    assert results[0].protocol.dataset != "shapes"

    # break a training clip
    experiment = small_experiment(tmp_path / "runs", shapes_cache, *base)
    from simvtp.data.datasets import open_dataset

    splits = open_dataset(run_settings(experiment).data, experiment.runtime).splits
    victim = splits["train"][0]
    broken.write_bytes(b"this is no video")
    rows.loc[rows["videoid"] == victim.id, "path"] = str(broken)
    rows.to_csv(manifest, index=False)
    experiment = small_experiment(tmp_path / "runs", shapes_cache, *base)
    run(experiment, say=lambda line: None)
    with pytest.raises(DataError, match=r"broken\.mp4"):
        run(
            small_experiment(
                tmp_path / "runs", shapes_cache, *base, "data.on_corrupt=raise", "seed=5"
            ),
            say=lambda line: None,
        )


def run_settings(experiment):
    from simvtp.resolve import finalise

    return finalise(experiment)


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(
    tmp_path: Path, shapes_cache: Path
) -> None:
    with pytest.raises(ConfigError, match="smaller than the"):
        run(small_experiment(tmp_path, shapes_cache, "model.vocab_size=10"), say=lambda line: None)
    status = [read_status(path.parent) for path in tmp_path.glob("*/status.json")]
    assert [entry.state for entry in status if entry] == ["failed"]
