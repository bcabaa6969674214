"""All ablations: their points, the list, the estimated cost and the generic sweep."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from ablations import ABLATIONS, fidelity, initialisation, schedule, target
from ablations.__main__ import main as list_main
from ablations.cost import STAGES, cpu_minutes, fraction_done, stage_work
from ablations.design import Ablation
from ablations.search import Search
from ablations.sweep_progress import read_progress
from simvtp.config.experiment_config import Experiment, differences
from simvtp.config.overrides import override
from simvtp.config.recipes import base as base_recipe
from simvtp.config.recipes import tiny
from simvtp.config.train_config import LossConfig
from simvtp.config.tree import flatten
from simvtp.errors import ConfigError
from simvtp.methods import build_model
from simvtp.resolve import finalise
from simvtp.runs.atomic_files import write_atomically
from sweeps.cli.command import main
from sweeps.cli.options import make_comparison
from sweeps.cli.sweep_parser import make_parser
from sweeps.run import start, sweep_for
from tests.small import small_settings
from tests.sweeps.jobs import result, status

ROOT = Path(__file__).resolve().parents[2]
GRIDS = [name for name in ABLATIONS if name != "search"]
PARTS = ("Question:", "The paper:", "Expected:", "Command:", "Cost:")
# settings that no cell may change: what is compared must be scored alike
SCORING = (
    "evaluate.",
    "data.shapes.",
    "data.dataset",
    "finetune.selection",
    "finetune.task.name",
)


def large() -> Experiment:
    return override(base_recipe(), ["data.dataset=shapes"])


def grid(name: str, base: Experiment, **arguments: Any) -> Ablation:
    built = ABLATIONS[name](base, **arguments)
    assert isinstance(built, Ablation)
    return built


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("base", [tiny(), large()], ids=lambda base: base.name)
@pytest.mark.parametrize("name", GRIDS)
def test_the_points_are_possible_and_differ_only_in_what_is_compared(
    name: str, base: Experiment, full: bool
) -> None:
    ablation = grid(name, base, full=full, seeds=(0, 1))
    points = ablation.points()
    cells = {json.dumps(dict(point.cell)) for point in points}
    assert (
        len(points)
        == len({point.fingerprint for point in points})
        == 2 * len(ablation.cells())
        == 2 * len(cells)
    ), "no cell is another one"
    varied = ablation.varied_keys
    start = finalise(base)
    for point in points:
        assert finalise(point.experiment) == point.experiment
        changed = set(differences(start, point.experiment)) - {"seed"}
        assert changed <= varied
    assert not [key for key in varied if key.startswith(SCORING) or key == "seed"]
    assert len(cells) >= 2 or name == "initialisation", "one cell is no comparison"
    plan = json.loads(json.dumps(ablation.plan()))
    assert plan["metric"].startswith("test/finetuned") and [a["key"] for a in plan["axes"]] == [
        axis.key for axis in ablation.axes
    ]


@pytest.mark.parametrize("name", GRIDS)
def test_every_cell_is_a_model_that_can_be_built(name: str) -> None:
    for point in grid(name, override(tiny(), ["model.vocab_size=60"]), full=True).points():
        model = build_model(point.experiment.model, point.experiment.losses.wanted, 0)
        assert sum(weights.numel() for weights in model.parameters() if weights.requires_grad), (
            point.name
        )


@pytest.mark.parametrize("name", GRIDS)
def test_a_file_says_what_is_asked_expected_and_paid(name: str) -> None:
    text = importlib.import_module(f"ablations.{name}").__doc__ or ""
    lacking = [part for part in PARTS if part.lower() not in " ".join(text.lower().split())]
    assert not lacking, f"ablations/{name}.py does not say: {lacking}"
    row = [
        line
        for line in (ROOT / "docs" / "ablations.md").read_text().splitlines()
        if line.startswith(f"| `{name}`")
    ]
    assert len(row) == 1, f"docs/ablations.md has {len(row)} rows on {name}"


# what each table is compared with, whatever its first cell is: the published or released setting,
# or else the base experiment's own
BASELINES = {
    "mask_ratio": {"masks.video_ratio": 0.9, "masks.text_ratio": 0.75},
    "losses": {"losses": "MVM+MLM+VTC+VTM"},
    "data_fraction": {"data.fraction": 1.0},
    "video_decoder": {"video_decoder": "depth 2 width 64"},
    "frames_and_stride": {"frames_and_stride": "8x2"},
    "contrastive_view": {"contrastive_view": "masked text+masked video"},
    "fidelity": {"fidelity": "released"},
    "schedule": {"schedule": "none"},
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", BASELINES)
def test_the_report_compares_with_a_cell_that_means_something(name: str, full: bool) -> None:
    plan = grid(name, tiny(), full=full).plan()
    assert BASELINES[name] == (plan["baseline"] or plan["published_optimum"])
    assert BASELINES[name] in [point["cell"] for point in plan["points"]]


def test_the_baseline_does_not_depend_on_the_order_in_which_cells_are_named() -> None:
    assert grid("pooling", tiny(), cells=["cls", "with_pads"]).plan()["baseline"] == {
        "pooling": "with_pads"
    }
    assert grid("pooling", tiny(), cells=["cls", "content"]).plan()["baseline"] is None, (
        "it is not in the grid"
    )
    assert grid("data_fraction", tiny(), fractions=[0.5, 0.1]).plan()["baseline"] == {
        "data.fraction": 0.5
    }, "the most there is"


# ---- cells of some of them -----------------------------------------------------------------------


def test_cells_are_chosen_by_name() -> None:
    assert [
        point.cell["target"] for point in grid("target", tiny(), cells=["raw pixels"]).points()
    ] == ["raw pixels"]
    with pytest.raises(
        ConfigError,
        match="--cells grey: the ablation 'target' has no such cell; "
        "choose from: normalised pixels, raw pixels",
    ):
        grid("target", tiny(), cells=["grey"])


def test_the_ladder_goes_from_the_released_behaviour_to_the_base_one_repair_at_a_time() -> None:
    base = large()
    points = fidelity.build(base).points()
    released = flatten(points[0].experiment)
    assert all(
        released[key] == value
        for repair in fidelity.REPAIRS.values()
        for key, value in repair.items()
    )
    assert points[-1].fingerprint == finalise(base).fingerprint
    for below, above in itertools.pairwise(points):
        name = above.cell["fidelity"].removeprefix("+ ")
        assert set(differences(below.experiment, above.experiment)) <= set(fidelity.REPAIRS[name])
    assert "+ clean text for VTC and VTM" not in fidelity.cells(base), (
        "base has masked text as well: no repair, no rung"
    )
    assert "+ clean text for VTC and VTM" in fidelity.cells(tiny())
    with pytest.raises(ConfigError, match="repairs no defect"):
        fidelity.build(
            override(
                base,
                [
                    f"{key}={value}"
                    for repair in fidelity.REPAIRS.values()
                    for key, value in repair.items()
                ],
            )
        )


def test_the_schedule_has_multiples_and_none() -> None:
    lengths = {
        point.cell["schedule"]: point.experiment for point in grid("schedule", tiny()).points()
    }
    assert list(lengths) == ["none", "1.5 epochs", "3 epochs", "6 epochs"]
    assert lengths["none"].finetune.init == "initial" and lengths["3 epochs"].finetune.init == ""
    steps = schedule.cells(override(tiny(), ["pretrain.max_steps=100"]))
    assert steps["50 steps"] == {"pretrain.max_steps": 50}


@pytest.mark.parametrize("settings", [[], ["losses.mvm=60", "losses.mvm_target=raw"]])
def test_the_trivial_answers_of_all_targets_cost_the_same(settings: list[str]) -> None:
    base = override(tiny(), settings)
    costs = {}
    for point in grid("target", base).points():
        losses = point.experiment.losses
        assert isinstance(losses, LossConfig)
        costs[losses.mvm_target] = losses.mvm * target.LEVELS[losses.mvm_target]
        if losses.mvm_target == base.losses.mvm_target:  # type: ignore[attr-defined]
            assert point.fingerprint == finalise(base).fingerprint, "the run of the base recipe"
    assert len(costs) == 4 and max(costs.values()) == pytest.approx(min(costs.values()), rel=0.01)


def test_initial_weights_are_named_by_the_user_or_by_the_recipe(tmp_path: Path) -> None:
    assert [p.cell["initialisation"] for p in initialisation.build(tiny()).points()] == ["scratch"]
    named = initialisation.build(tiny(), weights=["video=a.safetensors", "text=b.safetensors"])
    assert [p.cell["initialisation"] for p in named.points()] == [
        "scratch",
        "video",
        "text",
        "video+text",
    ]
    assert named.points()[3].experiment.model.init_video == "a.safetensors"
    assert "image+text" in [
        p.cell["initialisation"] for p in initialisation.build(large()).points()
    ]
    with pytest.raises(ConfigError, match="--weights sound=x: write video=SOURCE"):
        initialisation.build(tiny(), weights=["sound=x"])


# ---- cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["retrieval", "qa", "choice", "grounding", "action"])
def test_the_share_of_the_work_grows_through_every_task(task: str) -> None:
    experiment = override(tiny(), [f"finetune.task={task}"])
    shares = [fraction_done(experiment, stage, share) for stage in STAGES for share in (0.0, 0.5)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] <= 0.99


def test_what_costs_more_is_estimated_to_cost_more() -> None:
    plain = stage_work(tiny())

    def work(stage: str, *settings: str) -> float:
        return stage_work(override(tiny(), settings))[stage] / plain[stage]

    assert work("pretrain", "pretrain.epochs=6") == pytest.approx(2)
    assert work("pretrain", "masks.video_ratio=0.5") > 1.5
    assert work("pretrain", "model.contrastive_video=clean") > 2
    assert (
        work("pretrain", "losses.mvm=0") < 0.7
        and work("pretrain", "model.decoder_keep_ratio=0.5") < 0.9
    )
    assert 0.5 < work("pretrain", "model.token_merge_ratio=0.5") < 0.95
    assert work("finetune", "finetune.task=choice", "finetune.task.candidates=5") > 4
    assert work("finetune", "finetune.task=action", "finetune.task.probe=linear") < 0.4
    assert stage_work(override(tiny(), ["finetune.init=initial"]))["pretrain"] == 0
    assert stage_work(override(tiny(), ["finetune.enabled=false"]))["finetune"] == 0
    assert 1 < cpu_minutes(tiny()) < 15


# ---- the list ------------------------------------------------------------------------------------


def test_the_list_shows_every_ablation_with_its_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablation = grid("target", override(tiny(), [f"runtime.root={tmp_path}"]), seeds=(0, 1))
    write_atomically(
        tmp_path / "sweeps" / ablation.sweep_id / "plan.json", json.dumps(ablation.plan())
    )
    write_atomically(tmp_path / "sweeps" / "torn" / "plan.json", '{"ablation": ')
    for point in ablation.points()[:3]:
        point.run_dir.mkdir(parents=True)
        status(point.run_dir, "finished", 1, 1)
        write_atomically(
            point.run_dir / "results.json", json.dumps([result(point.experiment).to_dict()])
        )
    progress = read_progress(tmp_path)["target"]
    assert [(s.points, s.finished) for s in progress] == [(8, 3)] and list(
        read_progress(tmp_path)
    ) == ["target"]
    assert list_main(["list", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in ABLATIONS:
        assert (
            f"{name}: {ABLATIONS[name](tiny()).title}" in out
            and f"python sweeps/run.py {name}" in out
        )
    assert f"{ablation.sweep_id} (tiny on shapes): 3 of 8 points finished, best target " in out
    assert out.count("not run yet") == len(ABLATIONS) - 1
    assert (
        list_main(["list", "nothing"]) == 2
        and "there is no ablation 'nothing'" in capsys.readouterr().err
    )


def test_the_list_needs_no_torch() -> None:
    heavy = ("torch", "optuna", "mlflow", "submitit")
    program = f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
    program += "from ablations.__main__ import main\nsys.exit(main(['list', 'target']))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "target:" in done.stdout, done.stderr


# ---- the sweep -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_has_a_sweep(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_for(name)
    parsed = make_parser(sweep).parse_intermixed_args([])
    comparison = make_comparison(sweep, parsed)
    assert comparison.name == name and isinstance(comparison, Search) == (name == "search")
    assert sweep.program == f"python sweeps/run.py {name}"
    with pytest.raises(SystemExit) as leave:
        main(sweep, ["--help"])
    assert (
        leave.value.code == 0
        and f"python sweeps/run.py {name} --dry-run" in capsys.readouterr().out
    )


def test_an_unknown_ablation_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(["colour"]) == 2
    assert "there is no ablation 'colour': choose from batch_ratio" in capsys.readouterr().err
    assert start([]) == 0 and "unified_encoder" in capsys.readouterr().out


def test_a_dry_run_says_the_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        start(["pooling", "--dry-run", "--root", str(tmp_path / "runs"), "--cells", "content,cls"])
        == 0
    )
    out = capsys.readouterr().out
    assert "pooling cls" in out and "with_pads" not in out and "CPU minutes" in out
    assert start(["pooling", "--root", str(tmp_path / "runs"), "model.pooling=cls"]) == 2
    assert (
        "model.pooling is varied by this sweep: give its values by --cells"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "runs").exists()


SMOKE = {
    "unified_encoder": ["two", "late fusion"],
    "mask_strategy": ["tube+rare", "frame+word"],
    "decoder_masking": ["all masked tubes", "half in running cells"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", SMOKE)
def test_two_points_run_and_give_figures(
    name: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small_settings(
        tmp_path / "runs",
        cache,
        "pretrain.max_steps=2",
        "finetune.train.max_steps=2",
        "finetune.evaluations=1",
    )
    settings = [text for text in settings if not text.startswith("runtime.root")]
    words = [
        "--executor",
        "debug",
        "--root",
        str(tmp_path / "runs"),
        "--tracking-uri",
        "off",
        "--no-report",
    ]
    assert start([name, *words, "--cells", ",".join(SMOKE[name]), "model.depth=2", *settings]) == 0
    out = capsys.readouterr().out
    assert out.count("finished") >= 2
    (progress,) = read_progress(tmp_path / "runs")[name]
    assert (progress.points, progress.finished) == (2, 2)
    for weights in (tmp_path / "runs").glob("*/checkpoints/pretrain.safetensors"):
        names = list(safetensors.torch.load_file(weights))
        assert (name == "unified_encoder") == any(key.startswith("encoder.text.") for key in names)
