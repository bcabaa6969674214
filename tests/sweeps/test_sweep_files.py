"""Sweeps from files: the same plan as from the command line, and errors with their line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ablations.design import Ablation, Axis
from ablations.headline import headline
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.errors import ConfigError
from sweeps.cli.command import main
from sweeps.cli.options import make_comparison, make_options
from sweeps.cli.sweep_parser import read_arguments
from sweeps.run import start, sweep_for
from sweeps.study import Definition, comparison_of
from tests.sweeps.conftest import ENTRY


def written(folder: Path, text: str, name: str = "mine.yaml") -> str:
    """Writes a file and returns its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def made(name: str, *words: str) -> Definition:
    """Returns the comparison of a command line of `sweeps/run.py`."""
    script = sweep_for(name)
    return make_comparison(script, read_arguments(script, words))


def refused(folder: Path, text: str, *words: str) -> str:
    """Returns the sentence that refuses a file."""
    with pytest.raises(ConfigError) as error:
        made(written(folder, text), *words)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ablation: mask_ratio\n", ["mask_ratio"]),
        (
            "ablation: mask_ratio\nbase: tiny\nseeds: [1, 2]\nsettings: {model.depth: 2}\n"
            "options:\n  video-ratios: [0.5, 0.9]\n  full-grid: true\n",
            [
                *("mask_ratio", "--recipe", "tiny", "--seeds", "1,2", "model.depth=2"),
                *("--video-ratios", "0.5,0.9", "--full-grid"),
            ],
        ),
        (
            "ablation: target\nsettings:\n  pretrain:\n    epochs: 2\n",
            ["target", "pretrain.epochs=2"],
        ),
        ("ablation: losses\nbase: tiny\n", ["losses", "--recipe", "tiny"]),
        (
            "ablation: mask_ratio\noptions: {until-decided: 2, max-seeds: 6}\n",
            ["mask_ratio", "--until-decided", "2", "--max-seeds", "6"],
        ),
        (
            "ablation: search\nseeds: 3\noptions: {trials: 4, space: 'model.depth=2,3,4'}\n",
            ["search", "--seed", "3", "--trials", "4", "--space", "model.depth=2,3,4"],
        ),
    ],
)
def test_a_call_of_an_ablation_is_the_same_sweep(
    text: str, words: list[str], tmp_path: Path
) -> None:
    there, here = made(written(tmp_path, text)), made(*words)
    assert comparison_of(there).recorded_plan() == comparison_of(here).recorded_plan()
    assert there.sweep_id == here.sweep_id


def test_axes_of_ones_own_are_the_grid_that_code_would_build(tmp_path: Path) -> None:
    definition = made(
        written(
            tmp_path,
            "name: ours\ntitle: Two things\nquestion: Which?\nbase: tiny\n"
            "settings: {model.depth: 1}\naxes:\n"
            "  masks.video_ratio: {label: video mask ratio, short: video, values: [0.50, 0.9]}\n"
            "  objectives:\n    all: {}\n    MVM: {losses.vtc: 0, losses: {vtm: 0, mlm: 0}}\n"
            "baseline: {objectives: MVM}\nno_pretraining: true\nseeds: [0, 4]\n",
        )
    )
    base = override(get_recipe("tiny"), ["model.depth=1"])
    alone = {"losses.vtc": "0", "losses.vtm": "0", "losses.mlm": "0"}
    assert isinstance(definition, Ablation)
    expected = Ablation(
        name="ours",
        title="Two things",
        question="Which?",
        paper_says="",
        base=definition.base,
        axes=(
            Axis("masks.video_ratio", "video mask ratio", (0.5, 0.9), short="video"),
            Axis("objectives", "objectives", ("all", "MVM"), settings={"all": {}, "MVM": alone}),
        ),
        seeds=(0, 4),
        metric=headline(base).metric,
        metric_label=headline(base).label,
        baseline={"masks.video_ratio": 0.5, "objectives": "MVM"},
        controls={"no pre-training": {"finetune.init": "initial"}},
    )
    assert definition.plan() == expected.plan()
    assert len(definition.points()) == 10
    assert dataclasses.replace(definition.base, runtime=base.runtime) == base


def test_options_of_the_file_are_defaults_of_the_command_line(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "axes: {model.depth: [1, 2]}\nseeds: [0, 1]\nsettings: {model.heads: 2}\n"
        "options: {executor: debug, parallel: 3, setup: [module load a, module b], time: 90}\n",
    )
    script = sweep_for(file)
    args = read_arguments(script, ["--parallel", "5", "--seeds", "3", "model.heads=1"])
    options = make_options(args)
    assert (options.executor, options.parallel, options.minutes) == ("debug", 5, 90)
    assert options.setup == ("module load a", "module b")
    definition = make_comparison(script, args)
    assert definition.name == "mine" and definition.base.model.heads == 1
    assert [point.seed for point in comparison_of(definition).known_points()] == [3, 3]


def test_a_base_of_a_file_lies_where_the_file_is(tmp_path: Path) -> None:
    written(tmp_path, "base: tiny\nmodel.depth: 1\n", "base.yaml")
    file = written(tmp_path, "base: base.yaml\naxes: {model.heads: [1, 2]}\n")
    assert made(file).base.model.depth == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("axis: {model.depth: [1]}\n", 1, "did you mean axes?"),
        ("axes:\n  model.dept: [1]\n", 2, "did you mean 'model.depth'"),
        ("axes:\n  model.depth:\n    - 1\n    - two\n", 4, "model.depth=two: must be a whole"),
        ("axes:\n  kinds:\n    one: {losses.vtx: 0}\n", 3, "there is no setting 'losses.vtx'"),
        ("axes: {model.depth: [1]}\nsettings: {model.hat: 1}\n", 2, "there is no setting"),
        ("axes: {model.depth: [1]}\noptions: {paralel: 2}\n", 2, "did you mean parallel?"),
        ("axes: {model.depth: [1]}\noptions:\n  parallel: no\n", 3, "not a whole number"),
        ("axes: {model.depth: [1]}\noptions: {executor: cloud}\n", 2, "executor is one of local"),
        ("axes: {model.depth: [1]}\noptions: {recipe: tiny}\n", 2, "write `base` above"),
        ("axes: {model.depth: [1]}\noptions: {retry: maybe}\n", 2, "retry is true or false"),
        ("axes: {model.depth: [1]}\nseeds: [a]\n", 2, "not a list of whole numbers"),
        ("axes: {model.depth: [1]}\nbase: tinny\n", 2, "there is no recipe 'tinny'"),
        ("axes: {model.depth: [1]}\nbaseline: {model.depth: 4}\n", 2, "is no cell"),
        ("axes: {model.depth: [1]}\nbaseline: {model.heads: 4}\n", 2, "is no axis"),
        ("name: mask_ratio\naxes: {model.depth: [1]}\n", 1, "is an ablation of the project"),
        ("name: a/b\naxes: {model.depth: [1]}\n", 1, "must be letters"),
        ("ablation: mask_ration\n", 1, "there is no ablation 'mask_ration'"),
        ("ablation: target\naxes: {model.depth: [1]}\n", 2, "does not go with"),
        ("axes: {model.depth: [1]}\naxes: {}\n", 2, "axes is given twice"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    text: str, line: int, words: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, text)
    assert words in message and f"mine.yaml, line {line}" in message, message


def test_a_file_that_compares_nothing_or_repeats_an_axis(tmp_path: Path) -> None:
    assert "compares nothing" in refused(tmp_path, "base: tiny\n")
    text = "axes: {model.depth: [1, 2]}\n"
    assert "by the axes of its file" in refused(tmp_path, text, "model.depth=3")


def test_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(
        tmp_path,
        f"base: tiny\nsettings: {{pretrain.max_steps: 4}}\naxes: {{model.depth: [1, 2]}}\n"
        f"options:\n  root: {tmp_path / 'runs'}\n  executor: debug\n  tracking-uri: 'off'\n",
    )
    assert main(sweep_for(file), ["--no-report"], ENTRY) == 0
    out = capsys.readouterr().out
    assert "depth 1" in out and "depth 2" in out and out.count("finished") >= 2
    plan = json.loads(next((tmp_path / "runs" / "sweeps").glob("mine-*/plan.json")).read_text())
    assert [point["cell"] for point in plan["points"]] == [{"model.depth": 1}, {"model.depth": 2}]
    assert start([str(tmp_path / "nowhere.yaml")]) == 2
    assert "there is no such file" in capsys.readouterr().err
