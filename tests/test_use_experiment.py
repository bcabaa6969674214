"""The use of the modalities and the order of frames, measured by whole runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.validation import check
from simvtp.errors import ConfigError, Stopped
from simvtp.evaluation.items import run_items
from simvtp.experiment import run
from simvtp.runs.journal import read_journal
from simvtp.runs.results import Result
from simvtp.runs.scores import read_curve
from tests.small import small_experiment, small_mac_settings


def silent(line: str) -> None:
    pass


USE = ("evaluate.modality_use=true", "evaluate.use_points=2", "evaluate.frame_orders=true")
SPLIT = ("evaluate.motion_split=true", "data.shapes.level=motion")


def test_use_of_the_modalities_is_measured_on_the_way_and_changes_no_training(
    tmp_path: Path, shapes_cache: Path
) -> None:
    experiment = small_experiment(tmp_path, shapes_cache, *USE)

    def ask(line: str) -> None:
        if line.startswith("test/zero-shot/t2v"):  # after the use was measured
            os.kill(os.getpid(), signal.SIGUSR2)

    with pytest.raises(Stopped):
        run(experiment, say=ask)
    results = run(experiment, say=silent)
    before = run(small_experiment(tmp_path, shapes_cache), say=silent)
    plain = {result.key: result.metrics for result in before}
    found = {result.key: result for result in results}
    assert {key: found[key].metrics for key in plain} == plain
    masks = [f"text{text}_video{video}" for text in (0.15, 0.75) for video in (0.5, 0.9)]
    keys = [f"test/pre-trained/use/{variant}" for variant in (*masks, "pairs")]
    orders = ("frames-shuffled", "frames-reversed", "middle-frame-repeated")
    keys += [
        f"test/{stage}-{order}/t2v" for stage in ("zero-shot", "finetuned") for order in orders
    ]
    assert set(found) - set(plain) == set(keys)
    metric = "use/text0.75_video0.5/mlm_gain_other"
    curve = read_curve(experiment.run_dir, metric)
    assert [step for step, _ in curve] == [3, 6]
    lines = [line for _, line in read_journal(experiment.run_dir / "journal.jsonl")]
    measured = [line["result"] for line in lines if line["kind"] == "result"]
    assert [Result.from_dict(one).key for one in measured] == list(found)  # each of them once
    for items in run_items(experiment.run_dir):
        result = next(one for one in results if one.protocol == items.protocol)
        for name in result.intervals:
            assert items.figure(name) == pytest.approx(result.metrics[name])


def test_captions_that_need_motion_are_scored_apart(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path, tmp_path / "cache", *SPLIT, "pretrain.max_steps=2")
    found = {result.key: result for result in run(experiment, say=silent)}
    for stage in ("zero-shot", "finetuned"):
        part = found[f"test/{stage}-queries-that-need-motion/t2v"]
        assert part.ranks == found[f"test/{stage}/t2v"].ranks, "all of this level need it"
        assert f"test/{stage}-other-queries/t2v" not in found
    assert len(run_items(experiment.run_dir)) == len(found)


def test_a_run_that_does_not_pretrain_measures_no_use(tmp_path: Path, shapes_cache: Path) -> None:
    experiment = small_experiment(tmp_path, shapes_cache, *USE[:1], "finetune.init=initial")
    assert not any("/use/" in one.key for one in run(experiment, say=silent))
    drawn = list((experiment.run_dir / "figures").glob("reconstruction_*"))
    assert not drawn, "a random decoder reconstructs nothing"


@pytest.mark.parametrize("target", ["hog", "difference"])
def test_targets_that_are_no_pixels_have_a_trivial_level_and_no_picture(
    tmp_path: Path, shapes_cache: Path, target: str
) -> None:
    settings = (f"losses.mvm_target={target}", "finetune.enabled=false")
    experiment = small_experiment(tmp_path, shapes_cache, *USE[:1], *settings)
    results = {one.key: one.metrics for one in run(experiment, say=silent)}
    found = results["test/pre-trained/use/text0.75_video0.5"]
    assert found["mvm_loss_own"] > found["mvm_loss_constant"] > 0, "six steps teach nothing"
    assert found["mvm_gain_trivial"] < 0
    assert not any(name.startswith("psnr") for name in found)
    first, *_ = sorted((experiment.run_dir / "figures").glob("reconstruction_*.png"))
    with Image.open(first) as sheet:  # two rows of frames in place of four
        assert sheet.height < 700


def test_mac_has_the_figures_of_pairs_alone(tmp_path: Path) -> None:
    settings = small_mac_settings(tmp_path, tmp_path / "cache", *USE[:1], "finetune.enabled=false")
    results = run(override(get_recipe("tiny_mac"), settings), say=silent)
    used = {result.key: set(result.metrics) for result in results if "/use/" in result.key}
    assert used == {"test/pre-trained/use/pairs": {"vtc_acc_other", "vtc_acc_motion"}}


def test_settings_that_measure_nothing_are_refused(tmp_path: Path, shapes_cache: Path) -> None:
    for setting, why in (("use_points=2", "must be 0 without"), ("use_clips=1", "at least 2")):
        with pytest.raises(ConfigError, match=why):
            run(small_experiment(tmp_path, shapes_cache, f"evaluate.{setting}"), say=silent)
    with pytest.raises(ConfigError, match=r"asks the generator.*data.dataset=msrvtt"):
        check(override(get_recipe("base"), ["evaluate.motion_split=true", "data.dataset=msrvtt"]))
