"""A finished run is scored again in another way, and stays what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simvtp.__main__ import main
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.experiment import run
from simvtp.experiment.reevaluation import reevaluate
from simvtp.runs.results import Result
from tests.small import small_experiment


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path
) -> tuple[Experiment, list[Result]]:
    experiment = small_experiment(
        tmp_path_factory.mktemp("finished"), shapes_cache, "finetune.task.encoder=shared"
    )
    return experiment, run(experiment, say=silent)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the new ones."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.parent.name != "evaluations"
    }


def plain(results: list[Result]) -> list[Result]:
    return [replace(result, seconds={}) for result in results]


def test_other_metrics_of_the_same_weights_leave_the_run_unchanged(
    finished: tuple[Experiment, list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, results = finished
    before = contents(experiment.run_dir)
    assert (
        main(
            ["evaluate", str(experiment.run_dir), "evaluate.rerank=8", "evaluate.dual_softmax=true"]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "test/finetuned-re-ranked-top-8/t2v: R1" in printed and "evaluations/" in printed
    assert contents(experiment.run_dir) == before
    (path,) = (experiment.run_dir / "evaluations").glob("*.json")
    record = json.loads(path.read_text())
    again = {result.key: result for result in map(Result.from_dict, record["results"])}
    assert [again[result.key] for result in results] == results, (
        "the plain figures are those of the run"
    )
    assert len(again) == 12
    assert record["changed"] == {"evaluate.rerank": 8, "evaluate.dual_softmax": True}
    changed = override(experiment, ["evaluate.rerank=8", "evaluate.dual_softmax=true"])
    assert record["run"] == experiment.fingerprint != record["fingerprint"]
    assert record["fingerprint"] == changed.fingerprint
    assert path.stem == record["fingerprint"][:12]
    first, last = results[0].protocol.checkpoint, results[-1].protocol.checkpoint
    assert record["checkpoints"] == {"pretrain": first, "finetune": last}


def test_views_and_split_are_in_the_protocol(finished: tuple[Experiment, list[Result]]) -> None:
    experiment, results = finished
    found, path = reevaluate(
        experiment.run_dir,
        ["evaluate.segments=2", "evaluate.crops=3", "evaluate.split=val"],
        say=silent,
    )
    assert [result.key for result in found] == [
        result.key.replace("test/", "val/") for result in results
    ]
    for result in found:
        assert (result.protocol.split, result.protocol.segments, result.protocol.crops) == (
            "val",
            2,
            3,
        )
    assert (
        reevaluate(
            experiment.run_dir,
            ["evaluate.crops=3", "evaluate.segments=2", "evaluate.split=val"],
            say=silent,
        )[1]
        == path
    )
    assert plain(reevaluate(experiment.run_dir, ["evaluate.batch_size=3"], say=silent)[0]) == plain(
        results
    )


def test_results_are_those_of_a_run_with_these_settings(
    finished: tuple[Experiment, list[Result]], tmp_path: Path, shapes_cache: Path
) -> None:
    """The results are those of a run with these settings from the start."""
    settings = ("evaluate.crops=2", "evaluate.zero_shot=false")
    other = small_experiment(tmp_path, shapes_cache, "finetune.task.encoder=shared", *settings)
    expected = run(other, say=silent)
    found, path = reevaluate(finished[0].run_dir, settings, say=silent)
    assert path.stem == other.run_dir.name
    assert [
        replace(result, protocol=replace(result.protocol, checkpoint="")) for result in found
    ] == [replace(result, protocol=replace(result.protocol, checkpoint="")) for result in expected]


def test_a_task_with_a_baseline_from_given_weights(
    finished: tuple[Experiment, list[Result]], tmp_path: Path, shapes_cache: Path
) -> None:
    settings = (
        "finetune.task=choice",
        "finetune.task.candidates=3",
        "finetune.task.baseline=true",
        "finetune.evaluations=1",
        "evaluate.zero_shot=false",
    )
    init = tmp_path / "start.safetensors"
    init.write_bytes((finished[0].run_dir / "checkpoints" / "pretrain.safetensors").read_bytes())
    experiment = small_experiment(tmp_path, shapes_cache, f"finetune.init={init}", *settings)
    results = run(experiment, say=silent)
    run_dir = next(tmp_path.glob("*/results.json")).parent
    assert reevaluate(run_dir, ["evaluate.batch_size=3"], say=silent)[0] == results
    assert set(results[0].baselines) == {"prior", "video hidden"}
    init.write_bytes(init.read_bytes()[:-4] + b"\0\1\2\3")
    assert main(["evaluate", str(run_dir), "evaluate.crops=2"]) == 2


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_refusals(
    finished: tuple[Experiment, list[Result]],
    tmp_path: Path,
    shapes_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = finished[0].run_dir
    before = contents(run_dir)
    for settings, words in (
        (
            ["evaluate.crops=2", "finetune.drop_path=0.5"],
            "finetune.drop_path=0.5 belongs to the training of a run, which is finished",
        ),
        (["seed=3", "model.frames=8"], "seed=3, model.frames=8 belongs to the training"),
        (["evaluate.crop=2"], "did you mean 'evaluate.crops'"),
        (["evaluate.segments=0"], "evaluate.segments=0: must be at least 1"),
    ):
        assert words in refused(capsys, str(run_dir), *settings)
    assert "is not a run directory" in refused(capsys, str(tmp_path), "evaluate.crops=2")
    other = small_experiment(tmp_path, shapes_cache)
    run(other, say=silent, until="pretrain")
    assert "has not finished, so there are no final weights" in refused(
        capsys, str(other.run_dir), "evaluate.crops=2"
    )
    weights = run_dir / "checkpoints" / "finetune.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "does not have the sha256 that it was written with" in refused(
        capsys, str(run_dir), "evaluate.crops=2"
    )
    weights.unlink()
    assert "no longer exist" in refused(capsys, str(run_dir), "evaluate.crops=2")
    weights.write_bytes(whole)
    assert contents(run_dir) == before
