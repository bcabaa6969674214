from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations import data_fraction, losses, mask_ratio, schedule
from ablations.design import Ablation, Axis
from ablations.headline import headline
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.recipes import base as base_recipe
from simvtp.config.recipes import tiny
from simvtp.errors import ConfigError
from tests.sweeps import ratio_grid

NULL = "no pre-training"
RATIOS = st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9]), min_size=1, max_size=4)


def test_the_demo_grid_is_small_and_holds_the_published_optimum_and_berts_ratio() -> None:
    ablation = ratio_grid.build(tiny())
    cells = [dict(point.cell) for point in ablation.points()]
    assert len(cells) <= 5
    assert mask_ratio.PUBLISHED_OPTIMUM in cells
    assert any(cell["masks.text_ratio"] == 0.15 for cell in cells)


def test_the_full_grid_holds_all_published_ratios() -> None:
    ablation = ratio_grid.build(tiny(), full=True)
    assert len(ablation.points()) == 8 * 6
    assert {p.cell["masks.video_ratio"] for p in ablation.points()} == {
        0.50,
        0.60,
        0.70,
        0.75,
        0.80,
        0.85,
        0.90,
        0.95,
    }
    assert {p.cell["masks.text_ratio"] for p in ablation.points()} == {
        0.15,
        0.30,
        0.45,
        0.60,
        0.75,
        0.90,
    }
    assert len(ratio_grid.build(base_recipe()).cells()) == 48


@settings(derandomize=True, deadline=None, max_examples=25)
@given(video=RATIOS, text=RATIOS, seeds=st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_points_are_the_product_without_repeats(
    video: list[float], text: list[float], seeds: list[int]
) -> None:
    ablation = ratio_grid.build(tiny(), video, text, seeds)
    points = ablation.points()
    assert len(points) == len(set(video)) * len(set(text)) * len(set(seeds))
    assert len({point.fingerprint for point in points}) == len(points)
    for point in points:
        assert point.experiment.masks.video_ratio == point.cell["masks.video_ratio"]
        assert point.experiment.masks.text_ratio == point.cell["masks.text_ratio"]
        assert point.experiment.seed == point.seed
    shuffled = ratio_grid.build(tiny(), video[::-1], text[::-1], seeds[::-1])
    assert shuffled.sweep_id == ablation.sweep_id, (
        "the same grid in another order is the same sweep"
    )


def test_points_that_come_to_the_same_experiment_are_listed_once() -> None:
    plain = ratio_grid.build(tiny())
    again = replace(
        plain,
        extra_points=(
            {"masks.video_ratio": 0.9, "masks.text_ratio": 0.75},
            {"masks.video_ratio": 0.7, "masks.text_ratio": 0.75},
        ),
    )
    assert len(again.points()) == len(plain.points()) + 1
    assert again.sweep_id != plain.sweep_id
    by_text = replace(
        plain, axes=(Axis("masks.video_ratio", "video", ("0.9", 0.9)), plain.axes[1])
    )  # read by type, so the same
    assert len(by_text.points()) == 2


def test_where_the_runs_lie_does_not_change_the_sweep() -> None:
    elsewhere = override(tiny(), ["runtime.root=/somewhere/else", "runtime.workers=7"])
    assert ratio_grid.build(elsewhere).sweep_id == ratio_grid.build(tiny()).sweep_id
    assert (
        ratio_grid.build(override(tiny(), ["model.depth=2"])).sweep_id
        != ratio_grid.build(tiny()).sweep_id
    )


def test_seeds_of_a_cell_share_the_cell_fingerprint_and_come_after_each_other() -> None:
    ablation = ratio_grid.build(tiny(), [0.9], [0.15, 0.75], [3, 4])
    points = ablation.points()
    assert [point.seed for point in points] == [3, 3, 4, 4]
    assert (
        points[0].experiment.cell_fingerprint
        == points[2].experiment.cell_fingerprint
        != points[1].experiment.cell_fingerprint
    )
    assert points[0].name == "video 0.90 text 0.15 seed 3"


def test_an_impossible_point_is_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"point 'video 1\.20 text 0\.75'.*masks\.video_ratio=1\.2: must be in \[0, 1\)",
    ):
        ratio_grid.build(tiny(), [0.9, 1.2], [0.75]).points()
    with pytest.raises(ConfigError, match=r"text 0\.00'.*losses\.mlm needs masked words"):
        ratio_grid.build(tiny(), [0.9], [0.75, 0.0]).points()
    with pytest.raises(ConfigError, match=r"did you mean 'masks\.video_ratio'"):
        Ablation(
            "x", "", "", "", tiny(), (Axis("masks.video_rate", "v", (0.5,)),), (0,), "m", "m"
        ).points()


def test_an_ablation_without_seed_value_or_whole_extra_point_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no seed"):
        ratio_grid.build(tiny(), seeds=())
    with pytest.raises(ConfigError, match=r"masks\.video_ratio .* has no value"):
        replace(ratio_grid.build(tiny()), axes=(Axis("masks.video_ratio", "v", ()),))
    with pytest.raises(ConfigError, match="must give a value for each of"):
        replace(ratio_grid.build(tiny()), extra_points=({"masks.video_ratio": 0.9},))


def test_the_plan_is_json_and_complete() -> None:
    ablation = ratio_grid.build(tiny(), seeds=(0, 1))
    plan = json.loads(json.dumps(ablation.plan()))
    assert plan == ablation.plan()
    assert (
        plan["sweep_id"].startswith("mask_ratio-")
        and len(plan["sweep_id"]) == len("mask_ratio-") + 8
    )
    assert [axis["key"] for axis in plan["axes"]] == ["masks.video_ratio", "masks.text_ratio"]
    assert plan["seeds"] == [0, 1] and len(plan["points"]) == 8
    assert plan["published_optimum"] == {"masks.video_ratio": 0.9, "masks.text_ratio": 0.75}
    for entry, point in zip(plan["points"], ablation.points(), strict=True):
        assert entry == {
            "name": point.name,
            "cell": dict(point.cell),
            "seed": point.seed,
            "fingerprint": point.experiment.fingerprint,
            "cell_fingerprint": point.experiment.cell_fingerprint,
        }


def test_no_pre_training_is_a_row_outside_the_grid() -> None:
    ablation = mask_ratio.build(tiny(), seeds=(0, 1))
    (first, second) = (point for point in ablation.points() if NULL in point.cell.values())
    assert dict(first.cell) == {"masks.video_ratio": NULL, "masks.text_ratio": None}
    assert first.experiment.finetune.init == "initial"
    assert first.experiment.cell_fingerprint == second.experiment.cell_fingerprint
    assert (first.name, second.name) == (f"{NULL} seed 0", f"{NULL} seed 1")
    assert ablation.plan()["controls"] == [NULL]
    assert "finetune.init" in ablation.varied_keys
    for build in (data_fraction.build, losses.build, schedule.STUDY.build):
        others = {point.fingerprint for point in build(tiny()).points()}
        assert first.fingerprint in others, "one run serves the null arm of every ablation"
    no_tuning = override(tiny(), ["finetune.enabled=false"])
    assert not mask_ratio.build(no_tuning).controls, "untrained features, and nothing to tune"
    assert not mask_ratio.build(override(tiny(), ["evaluate.rerank=8"])).controls


def test_the_data_set_is_named_without_the_path_of_this_machine(tmp_path: Path) -> None:
    manifest = tmp_path / "clips" / "captions.csv"
    manifest.parent.mkdir()
    manifest.write_text("videoid,path,caption\na,a.mp4,a dog\n")
    base = override(tiny(), ["data.dataset=manifest", f"data.manifest={manifest}"])
    first = ratio_grid.build(base)
    assert first.plan()["dataset"] == "captions"
    manifest.write_text("videoid,path,caption\na,a.mp4,a cat\n")
    assert ratio_grid.build(base).sweep_id != first.sweep_id, "other captions, other sweep"


@pytest.mark.parametrize(
    ("settings", "metric"),
    [
        ((), "test/finetuned/t2v/R1"),
        (("finetune.enabled=false",), "test/zero-shot/t2v/R1"),
        (("finetune.selection=test",), "test/finetuned-selected-on-test/t2v/R1"),
        (("evaluate.split=val",), "val/finetuned/t2v/R1"),
    ],
)
def test_the_metric_follows_the_protocol(settings: tuple[str, ...], metric: str) -> None:
    base: Experiment = override(tiny(), settings)
    assert headline(base).metric == metric
    assert ratio_grid.build(base).metric == metric
