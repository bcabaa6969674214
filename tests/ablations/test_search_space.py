"""Spaces, rounding and identity of a search; the study that uses them is tested in tests/sweeps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ablations import search
from ablations.search_space import SearchParameter, default_space, read_space
from simvtp.config.overrides import override
from simvtp.config.recipes import RECIPES, tiny
from simvtp.errors import ConfigError

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False)


@settings(derandomize=True, deadline=None)
@given(low=NUMBERS, high=NUMBERS, share=st.floats(0, 1), whole=st.booleans())
def test_rounding_stays_inside_and_changes_nothing_twice(
    low: float, high: float, share: float, whole: bool
) -> None:
    low, high = (float(round(low)), float(round(high))) if whole else (low, high)
    assume(low <= high)
    parameter = SearchParameter("x", "x", "int" if whole else "float", low, high)
    value = min(max(low + share * (high - low), low), high)
    rounded = parameter.rounded(value)
    assert low <= rounded <= high and parameter.contains(rounded)
    assert parameter.rounded(rounded) == rounded
    assert abs(rounded - value) <= (0.5 if whole else 0.005 * abs(value))


@settings(derandomize=True, deadline=None)
@given(
    low=st.floats(1e-6, 1e3),
    high=st.floats(1e-6, 1e3),
    log=st.booleans(),
    choices=st.lists(st.integers(1, 9), min_size=2, unique=True),
)
def test_a_space_is_read_as_it_is_written(
    low: float, high: float, log: bool, choices: list[int]
) -> None:
    assume(low <= high)
    rate = f"pretrain.base_lr={low!r}:{high!r}{':log' * log}"
    text = f"{rate},model.decoder_depth={','.join(map(str, choices))}"
    for written in (text, text.split(","), [text]):
        lr, depth = read_space(written, (), tiny())
        assert (lr.key, lr.kind, lr.low, lr.high, lr.log) == (
            "pretrain.base_lr",
            "float",
            low,
            high,
            log,
        )
        assert (depth.kind, depth.choices) == ("choice", tuple(choices))


def test_a_space_changes_the_default_one_and_keeps_its_labels() -> None:
    before = {parameter.key: parameter for parameter in default_space(tiny())}
    text = "model.decoder_depth=2:6,masks.video_ratio=0.9,masks.video_kind=tube,random"
    after = {p.key: p for p in read_space(text, before.values(), tiny())}
    assert set(after) == {*before, "masks.video_kind"}
    assert (after["model.decoder_depth"].kind, after["model.decoder_depth"].high) == ("int", 6)
    assert after["model.decoder_depth"].label == before["model.decoder_depth"].label
    assert after["masks.video_ratio"].choices == (0.9,) and after["masks.video_kind"].choices == (
        "tube",
        "random",
    )
    assert after["losses.vtc"] == before["losses.vtc"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0.1:0.5", "write key=low:high"),
        ("masks.video_ratio=", "write key=low:high"),
        ("masks.video_ratio=a:b", "with two numbers"),
        ("masks.video_ratio=0.1:0.5:sqrt", "write masks.video_ratio=low:high"),
        ("masks.video_ratio=0.9:0.5", "from a lower to a higher number"),
        ("masks.video_ratio=0:0.5:log", "must begin above 0"),
        ("masks.video_rate=0:0.5", "did you mean 'masks.video_ratio'"),
        ("masks.video_kind=1:2", "with two numbers"),
        ("masks.video_kind=tube,cube", "must be one of tube, random, frame"),
        ("model.decoder_depth=two,three", "must be a whole number"),
        ("runtime.threads=1:4", "cannot be searched"),
        ("seed=0,1", "cannot be searched"),
        ("masks=0,1", "it is a group"),
    ],
)
def test_a_space_that_makes_no_sense_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")) as caught:
        search.build(tiny(), space=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "settings", "sentence"),
    [
        ({"objectives": "quality,speed"}, (), "no objective 'speed'"),
        ({"objectives": "cost"}, (), "needs the objective quality"),
        ({"objectives": "quality,quality"}, (), "two different ones"),
        ({"objectives": "quality,cost", "pruner": "hyperband"}, (), "needs one objective"),
        ({"pruner": "halving"}, ("finetune.evaluations=1",), "make it 2 or more"),
        ({"pruner": "median"}, (), "one of the pruners none, halving, hyperband"),
        ({"sampler": "grid"}, (), "one of the samplers tpe, random"),
        ({"trials": 0}, (), "at least one trial"),
        ({"seeds": (0, 1)}, (), "with one seed"),
        ({}, ("finetune.selection=test",), "so that the test split stays unseen"),
        ({}, ("finetune.enabled=false",), "so that the test split stays unseen"),
    ],
)
def test_a_search_that_makes_no_sense_is_one_sentence(
    values: dict[str, Any], settings: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        search.build(override(tiny(), settings), **values)


def test_the_identity_holds_what_matters_and_not_how_far_it_is() -> None:
    plain = search.build(tiny())
    assert plain.sweep_id.startswith("search-")
    same = [
        search.build(tiny(), trials=99),
        search.build(override(tiny(), ["runtime.root=/elsewhere"])),
        replace(plain, space=plain.space[::-1]),
    ]
    assert {other.sweep_id for other in same} == {plain.sweep_id}
    others = [
        search.build(tiny(), space="masks.text_ratio=0.1:0.5"),
        search.build(tiny(), objectives="quality,cost"),
        search.build(tiny(), pruner="halving"),
        search.build(tiny(), sampler="random"),
        search.build(tiny(), sampler_seed=1),
        search.build(tiny(), seeds=(1,)),
        search.build(override(tiny(), ["model.depth=2"])),
    ]
    assert len({plain.sweep_id, *(other.sweep_id for other in others)}) == len(others) + 1


def test_a_point_is_rounded_named_shortly_and_checked() -> None:
    wanted = search.build(tiny(), space="model.decoder_dim=63:65")
    first = wanted.first()
    assert first is not None
    params = {**first.cell, "masks.video_ratio": 0.83123456, "pretrain.base_lr": 0.00123456}
    point = wanted.point(params)
    assert point.cell["masks.video_ratio"] == 0.831 and point.experiment.masks.video_ratio == 0.831
    assert point.experiment.pretrain.base_lr == 0.00123
    assert point.fingerprint == wanted.point(params | {"masks.video_ratio": 0.8309}).fingerprint
    assert point.name.startswith("video 0.831 text 0.75 mvm 1 ") and len(point.name) < 90
    with pytest.raises(ConfigError, match="not divisible by model.decoder_heads"):
        wanted.point(params | {"model.decoder_dim": 63})
    with pytest.raises(ConfigError, match="has a value for each of"):
        wanted.point({"masks.video_ratio": 0.5})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_possible_default_space(recipe: str) -> None:
    base = RECIPES[recipe]()
    if base.finetune.selection != "val":
        base = override(base, ["finetune.selection=val"])
    base = override(base, ["data.dataset=shapes", "data.manifest="])
    wanted = search.build(base)
    assert wanted.first() is not None, "the base lies in its own space"
    for end in ("low", "high"):
        cell = {
            p.key: p.choices[0 if end == "low" else -1] if p.kind == "choice" else getattr(p, end)
            for p in wanted.space
        }
        wanted.point(cell)


def test_cost_is_of_cpus_where_no_gpu_is_meant() -> None:
    def costs(*settings: str, recipe: str = "base", objectives: str = "cost,quality") -> list[str]:
        base = override(RECIPES[recipe](), ["data.dataset=shapes", *settings])
        return [
            objective.metric for objective in search.build(base, objectives=objectives).objectives
        ]

    assert costs(recipe="tiny") == ["val/t2v/R1", "cost/cpu_hours"], (
        "the quality comes first, whatever the order"
    )
    assert costs() == ["val/t2v/R1", "cost/gpu_hours"]
    assert costs("runtime.device=cpu") == ["val/t2v/R1", "cost/cpu_hours"]
    assert costs(recipe="tiny", objectives="quality,gpu_hours") == ["val/t2v/R1", "cost/gpu_hours"]


def test_the_plan_is_json_and_complete() -> None:
    wanted = search.build(tiny(), trials=5, objectives="quality,cost", seeds=(3,))
    first = wanted.first()
    assert first is not None
    second = wanted.point({**first.cell, "masks.video_ratio": 0.5})
    plan = json.loads(json.dumps(wanted.plan((first, second))))
    assert plan == wanted.plan((first, second))
    assert (plan["kind"], plan["ablation"], plan["trials"], plan["seeds"]) == (
        "search",
        "search",
        5,
        [3],
    )
    assert [objective["direction"] for objective in plan["objectives"]] == ["maximize", "minimize"]
    assert plan["space"][0] == {
        "key": "masks.video_ratio",
        "label": "video mask ratio",
        "kind": "float",
        "low": 0.3,
        "high": 0.95,
        "log": False,
        "choices": [],
    }
    assert plan["axes"][0] == {
        "key": "masks.video_ratio",
        "label": "video mask ratio",
        "values": [0.5, 0.9],
    }
    assert plan["points"][1]["cell"] == dict(second.cell) and plan["points"][1]["seed"] == 3
    assert plan["metric"] == "val/t2v/R1", "the test split is not looked at"
