"""Files of settings: the same experiment comes back, and what is wrong is named with its line."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.__main__ import main
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.errors import ConfigError
from simvtp.runs.rundir import write_identity
from simvtp.sources.experiment_source import experiment_of
from simvtp.sources.settings_file import to_yaml


def written(folder: Path, text: str, name: str = "experiment.yaml") -> str:
    """Writes a file and returns its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str) -> str:
    """Returns the sentence that refuses a file."""
    with pytest.raises(ConfigError) as error:
        experiment_of(written(folder, text))
    return str(error.value)


@pytest.mark.parametrize("name", RECIPES)
def test_a_printed_recipe_is_the_same_experiment(name: str, tmp_path: Path) -> None:
    recipe = get_recipe(name)
    again = experiment_of(written(tmp_path, to_yaml(recipe, ("a heading",))))
    assert again == recipe and again.fingerprint == recipe.fingerprint


@pytest.mark.parametrize("name", ["tiny", "tiny_mac", "tiny_qa", "tiny_pair"])
def test_the_command_prints_a_file_of_the_same_fingerprint(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["masks.video_ratio=0.5", "seed=7", "pretrain.base_lr=1e-5", "runtime.workers=0"]
    assert main(["settings", name, "--yaml", *changes]) == 0
    text = capsys.readouterr().out
    assert main(["settings", written(tmp_path, text), "--yaml"]) == 0
    assert capsys.readouterr().out == text, "with the fingerprint in its first line"
    read = yaml.safe_load(text)  # other programs read the same values
    assert read["masks"]["video_ratio"] == 0.5 and read["pretrain"]["base_lr"] == 1e-5
    assert read["seed"] == 7 and read["finetune"]["enabled"] is True


@settings(deadline=None, max_examples=20)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12))
def test_any_text_survives(text: str) -> None:
    recipe = override(get_recipe("tiny"), [])
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, manifest=text))
    with tempfile.TemporaryDirectory() as folder:
        assert experiment_of(written(Path(folder), to_yaml(recipe))) == recipe


def test_a_base_is_changed_by_groups_and_by_dotted_names(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "base: tiny\nmasks:\n  video_ratio: 0.50   # as text 0.50\nlosses.vtm: 0\n"
        "model:\n  depth: 3\nruntime.pack_text: on\n",
    )
    wanted = ["masks.video_ratio=0.5", "losses.vtm=0", "model.depth=3", "runtime.pack_text=on"]
    assert experiment_of(file) == override(get_recipe("tiny"), wanted)


def test_the_method_may_be_chosen_below_its_settings(tmp_path: Path) -> None:
    text = "base: tiny\nmodel: mac\nlosses.vtc: 0.5\n"
    expected = override(get_recipe("tiny"), ["losses.vtc=0.5", "model=mac"])
    assert experiment_of(written(tmp_path, text)) == expected


def test_a_file_may_start_from_another_file_or_from_a_run(tmp_path: Path) -> None:
    run = override(get_recipe("tiny"), ["seed=3", f"runtime.root={tmp_path / 'runs'}"])
    run.run_dir.mkdir(parents=True)
    write_identity(run, run.run_dir)
    written(tmp_path, f"base: runs/{run.run_dir.name}\nmodel.depth: 1\n", "first.yaml")
    second = written(tmp_path, "base: first.yaml\nmodel.heads: 2\n")
    assert experiment_of(str(run.run_dir)).fingerprint == run.fingerprint
    assert experiment_of(second) == override(run, ["model.depth=1", "model.heads=2"])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("base: tiny\nmasks:\n  vido_ratio: 1\n", 3, "did you mean 'masks.video_ratio'"),
        ("base: tiny\nmasks.video_ratio: half\n", 2, "must be a number"),
        ("base: tiny\nseed: 1\nseed: 2\n", 3, "seed is given twice, first in line 2"),
        ("base: tiny\nmodel:\n  depth: 1\nmodel.depth: 2\n", 4, "model.depth is given twice"),
        ("base: tiny\nmodel: mac\nmodel.method: simvtp\n", 3, "model.method is given twice"),
        ("base: tiny\nseed: [1, 2]\n", 2, "seed is one value"),
        ("base: tiny\n- seed\n", 2, "is not YAML"),
        ("base: tiny\nname: &a x\ndata.root: *a\n", 3, "aliases (*a) are not read"),
        ("base: tiny\n[1, 2]: 3\n", 2, "single word"),
        ("base: tiny\nlosses.masked: 1\n", 2, "there is no setting"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    text: str, line: int, words: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, text)
    assert words in message and f"experiment.yaml, line {line}" in message
    assert message.count("experiment.yaml") == 1


def test_files_that_are_no_experiment(tmp_path: Path) -> None:
    assert "has no `base`" in refused(tmp_path, "seed: 1\n")
    assert "has no `base`" in refused(tmp_path, "")
    assert "is a group" in refused(tmp_path, "just a text\n")
    assert "is not YAML" in refused(tmp_path, "[" * 30)
    assert "is its own base" in refused(tmp_path, "base: experiment.yaml\n")
    for name in ("nowhere.yaml", "nowhere/0123"):
        with pytest.raises(ConfigError, match=r"there is no (such file|recipe)"):
            experiment_of(str(tmp_path / name))
    with pytest.raises(ConfigError, match="is not a run directory"):
        experiment_of(str(tmp_path))


def test_a_complete_file_says_what_it_lacks(tmp_path: Path) -> None:
    lines = to_yaml(get_recipe("tiny")).splitlines(keepends=True)
    without = [line for line in lines if not line.lstrip().startswith("depth:")]
    assert "1 are missing: model.depth" in refused(tmp_path, "".join(without))
    young = [line for line in lines if "pairing:" not in line and "workers:" not in line]
    recipe: Experiment = get_recipe("tiny")
    assert experiment_of(written(tmp_path, "".join(young))) == recipe
