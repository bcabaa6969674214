from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from ablations import losses
from ablations.design import Ablation, Axis
from simvtp.config.experiment_config import differences
from simvtp.config.overrides import override
from simvtp.config.recipes import base as base_recipe
from simvtp.config.recipes import tiny, tiny_pair
from simvtp.config.train_config import LossConfig
from simvtp.config.tree import flatten, narrow
from simvtp.errors import ConfigError
from simvtp.methods import build_model


def weights(ablation: Ablation) -> dict[str, dict[str, float]]:
    return {
        point.cell["losses"]: {
            name: getattr(point.experiment.losses, name) for name in ("mvm", "mlm", "vtc", "vtm")
        }
        for point in ablation.points()
    }


def test_a_cell_switches_on_what_it_names_and_nothing_else() -> None:
    every = [
        "+".join(some)
        for size in range(1, 5)
        for some in itertools.combinations(losses.OBJECTIVES, size)
    ]
    found = weights(losses.build(tiny(), every))
    assert len(found) == 15
    for name, values in found.items():
        assert {part.lower() for part in name.split("+")} == {
            key for key, value in values.items() if value > 0
        }
        assert set(values.values()) <= {0.0, 1.0}


def test_the_default_grids() -> None:
    assert [point.cell["losses"] for point in losses.build(tiny()).points()] == list(losses.SMALL)
    for grid in (
        losses.build(tiny(), full=True),
        losses.build(override(base_recipe(), ["data.dataset=shapes"])),
    ):
        names = [point.cell["losses"] for point in grid.points()]
        assert len(names) == len(set(names)) == 14
        assert {"MVM", "MVM+MLM", "VTC+VTM", "MLM+VTC+VTM", losses.ALL} <= set(names)
        assert set(losses.CONTROLS) <= set(names)


def test_the_controls() -> None:
    points = {point.cell["losses"]: point.experiment for point in losses.build(tiny()).points()}
    assert {"MVM", "MLM", "VTC", "VTM", "VTC+VTM", "MVM+MLM", losses.ALL} < set(points)
    assert points["none"].finetune.init == "initial"
    text_only, mlm = points["text only"], points["MLM"]
    assert set(differences(text_only, mlm)) == {"model.mlm_video"}, "a twin of MLM alone"
    shuffled, every = points["shuffled pairs"], points[losses.ALL]
    assert set(differences(shuffled, every)) == {"data.pairing"}, "a twin of all objectives"
    chosen = losses.build(tiny(), ["none", "MLM", "Text only"]).points()
    assert [point.cell["losses"] for point in chosen] == ["none", "MLM", "text only"]


def test_weights_make_cells_of_their_own() -> None:
    ablation = losses.build(tiny(), ["mlm+MVM", losses.ALL], "vtc=0.5,1,2")
    found = weights(ablation)
    assert list(found) == ["MVM+MLM", "MVM+MLM+0.5 VTC+VTM", "MVM+MLM+VTC+VTM", "MVM+MLM+2 VTC+VTM"]
    assert [values["vtc"] for values in found.values()] == [0.0, 0.5, 1.0, 2.0]
    both = losses.build(tiny(), ["VTC+VTM"], ("vtc=0.5", "1", "vtm=2"))
    assert list(weights(both)) == ["0.5 VTC+2 VTM", "VTC+2 VTM"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["MVM+XYZ"],), r"'MVM\+XYZ' is not a set of objectives"),
        ((["MVM"], "xyz=1"), "--weights xyz=1: write an objective"),
        ((["MVM"], "vtc=0"), "weights above 0"),
        ((["MVM"], "vtc=a"), "--weights vtc=a"),
        ((["MVM"], "0.5"), "--weights 0.5"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(arguments: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        losses.build(tiny(), *arguments)  # type: ignore[arg-type]


def test_an_objective_that_is_off_is_not_built() -> None:
    sizes = {}
    for point in losses.build(
        override(tiny(), ["model.vocab_size=100"]), ["MVM", "MLM", "VTC", losses.ALL]
    ).points():
        model = build_model(point.experiment.model, point.experiment.losses.wanted, 0)
        sizes[point.cell["losses"]] = sum(parameter.numel() for parameter in model.parameters())
    assert (
        sizes["VTC"] < sizes["MLM"] < sizes[losses.ALL]
        and sizes["VTC"] < sizes["MVM"] < sizes[losses.ALL]
    )


def test_the_plan_has_the_names_as_values_and_the_optimum_among_them() -> None:
    plan = json.loads(json.dumps(losses.build(tiny()).plan()))
    assert plan["axes"] == [{"key": "losses", "label": "objectives", "values": list(losses.SMALL)}]
    assert plan["published_optimum"] == {"losses": losses.ALL}
    assert [entry["cell"] for entry in plan["points"]] == [
        {"losses": name} for name in losses.SMALL
    ]


# ---- axes of named settings ----------------------------------------------------------------------


def test_a_named_axis_goes_with_a_plain_one() -> None:
    size = Axis(
        "size",
        "size",
        ("small", "wide"),
        settings={"small": {"model.depth": 1}, "wide": {"model.dim": 192, "model.depth": 2}},
    )
    plain = Axis("masks.text_ratio", "text mask ratio", (0.15, 0.75), short="text")
    grid = replace(losses.build(tiny()), axes=(size, plain), published_optimum=None)
    assert [point.name for point in grid.points()] == [
        "size small text 0.15",
        "size small text 0.75",
        "size wide text 0.15",
        "size wide text 0.75",
    ]
    wide = flatten(grid.points()[2].experiment)
    assert (wide["model.dim"], wide["model.depth"], wide["masks.text_ratio"]) == (192, 2, 0.15)
    assert size.keys == ("model.depth", "model.dim") and plain.keys == ("masks.text_ratio",)


def test_names_that_mean_the_same_are_one_point_and_unknown_names_are_refused() -> None:
    twice = Axis(
        "size", "size", ("a", "b"), settings={"a": {"model.depth": 1}, "b": {"model.depth": 1}}
    )
    grid = replace(losses.build(tiny()), axes=(twice,), published_optimum=None)
    assert len(grid.points()) == 1
    with pytest.raises(ConfigError, match="has no settings for its value 'c'"):
        replace(grid, axes=(replace(twice, values=("a", "c")),))
    with pytest.raises(ConfigError, match="has no settings for its value 'c'"):
        replace(grid, extra_points=({"size": "c"},))


def test_weights_are_relative_to_those_of_the_recipe() -> None:
    base = override(tiny_pair(), ["losses.mvm=60", "losses.vtm=0"])
    points = losses.build(base, ["MVM+VTM", "MLM"]).points()
    weights = [narrow(p.experiment.losses, LossConfig).weights for p in points]
    assert weights[0] == {"mvm": 60.0, "mlm": 0.0, "vtc": 0.0, "vtm": 1.0}  # off there: 1
    assert weights[1] == {"mvm": 0.0, "mlm": 12.0, "vtc": 0.0, "vtm": 0.0}
