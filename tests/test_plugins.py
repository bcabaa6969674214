"""Extensions from files: each example of docs/extend.md runs as written; files are identity."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simvtp import plugins
from simvtp.__main__ import main
from simvtp.config.experiment_config import from_dict
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.tree import to_dict
from simvtp.errors import ConfigError
from simvtp.plugins import PREFIX, load_plugin, loaded_plugins, take_plugins
from simvtp.resolve import finalise
from simvtp.runs.rundir import load_experiment
from sweeps.runner.code_snapshot import take_snapshot
from tests.small import small_settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extend.md"
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
COMMANDS = re.findall(r"```bash\n(simvtp .*?)\n```", PAGE.read_text())
FILMS = """
from pathlib import Path
from simvtp.data.clips import Clip

def toy(data, runtime):
    rows = Path(data.root, "rows.txt").read_text().splitlines()
    return [Clip(row.split()[0], Path(data.root, row + ".mp4"), (row,)) for row in rows]

DATASETS = {"toy": toy}
"""


@pytest.fixture(autouse=True)
def none_loaded() -> Iterator[None]:
    """Forgets the plugins of a test, as the end of its process would."""
    yield
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the working folder, with the files of the page."""
    monkeypatch.chdir(tmp_path)
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def toy(folder: Path, captions: str = "a b c d e f g h i j k l m n o p q r s t u v w") -> Path:
    """Writes the plugin of a data set whose rows lie in another file."""
    (folder / "rows.txt").write_text("\n".join(captions.split()))
    path = folder / "toy.py"
    path.write_text(FILMS)
    return path


def test_the_examples_are_short() -> None:
    assert len(EXAMPLES) == len(COMMANDS) == 5
    for name, text in EXAMPLES.items():
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) <= 20, f"{name} has {len(lines)} lines"


@pytest.mark.slow
def test_the_examples_run_as_written(
    folder: Path, shapes_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sweep runs its points as jobs, which have only the copy of the code."""
    small = [
        word
        for word in small_settings(Path("runs"), shapes_cache)
        if not word.startswith(("runtime.tracking_uri", "runtime.root"))
    ]
    assert main(["run", "tiny", *small, "pretrain.max_steps=1", "finetune.enabled=false"]) == 0
    (folder / "films").mkdir()
    for number, film in enumerate(sorted(shapes_cache.rglob("*.mp4"))[:40]):
        (folder / "films" / f"film-number-{number}.mp4").write_bytes(film.read_bytes())
    for command in COMMANDS:
        words = command.split()[1:]
        more = [] if words[0] == "report" else [*small, "data.splits=0.5/0.25/0.25"]
        if words[0] == "sweep":
            more = [word for word in more if not word.startswith("model.dim=")]
            words += ["--no-report", "--executor", "local", "--parallel", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "simvtp", *words, *more],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    page = (folder / "reports" / "out" / "widths" / "index.html").read_text()
    assert "All widths together took" in page and "narrow" in page
    assert (folder / "runs" / "sweeps" / "code").is_dir()
    stored = [
        json.loads(path.read_text())["experiment"] for path in folder.glob("runs/*/experiment.json")
    ]
    methods = {one["model"]["method"] for one in stored}
    tasks = {one["finetune"]["task"]["name"] for one in stored}
    assert methods == {"simvtp", "growing"} and tasks == {"retrieval", "both_ways"}


def test_the_file_and_the_captions_are_identity(tmp_path: Path) -> None:
    path = toy(tmp_path)
    words = ["data.dataset=toy", f"data.root={tmp_path}"]
    take_plugins(["--plugin", str(path)])
    base = override(get_recipe("tiny"), words)
    first = finalise(base)
    assert first.plugins.files == str(path) and len(first.plugins.digests) == 64
    assert finalise(base).fingerprint == first.fingerprint
    toy(tmp_path, "a b c d e f g h i j k l m n o p q r s t u v x")
    assert finalise(base).fingerprint != first.fingerprint, "another caption"
    toy(tmp_path)
    assert finalise(base).fingerprint == first.fingerprint
    path.write_text(FILMS + "\n# another text\n")
    load_plugin(path)
    assert finalise(base).fingerprint != first.fingerprint, "another file"
    assert len(loaded_plugins()) == 1, "the changed file replaces its earlier version"


def test_a_plugin_that_an_experiment_does_not_use_is_no_part_of_it(tmp_path: Path) -> None:
    before = finalise(get_recipe("tiny"))
    load_plugin(toy(tmp_path))
    after = finalise(get_recipe("tiny"))
    assert after == before and after.plugins.files == ""


def test_a_stored_experiment_brings_its_plugin(tmp_path: Path) -> None:
    """It is read from the copy in the run directory, also after the file has changed."""
    from simvtp.runs.rundir import write_identity

    path = toy(tmp_path)
    load_plugin(path)
    words = ["data.dataset=toy", f"data.root={tmp_path}", f"runtime.root={tmp_path / 'runs'}"]
    experiment = finalise(override(get_recipe("tiny"), words))
    experiment.run_dir.mkdir(parents=True)
    write_identity(experiment, experiment.run_dir)
    del sys.modules[loaded_plugins()[0].module.__name__]
    path.write_text("raise RuntimeError('changed')")
    again = load_experiment(experiment.run_dir)
    assert again == experiment and finalise(again).fingerprint == experiment.fingerprint
    del sys.modules[loaded_plugins()[0].module.__name__]
    with pytest.raises(ConfigError, match=r"is gone or has changed"):
        from_dict(to_dict(experiment))


def test_the_copy_of_the_code_for_jobs_holds_the_plugin(tmp_path: Path) -> None:
    load_plugin(toy(tmp_path))
    words = ["data.dataset=toy", f"data.root={tmp_path}", "data.splits=0.4/0.3/0.3"]
    experiment = finalise(override(get_recipe("tiny"), words))
    snapshot = take_snapshot(tmp_path / "runs", "simvtp.experiment:run")
    (tmp_path / "toy.py").unlink()
    stored = tmp_path / "experiment.json"
    stored.write_text(json.dumps(to_dict(experiment)))
    program = (
        "import json, sys\n"
        "from simvtp.config.experiment_config import from_dict\n"
        "from simvtp.data.datasets import open_dataset\n"
        f"one = from_dict(json.load(open({str(stored)!r})))\n"
        "print(len(open_dataset(one.data, one.runtime).splits['train']), one.fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **snapshot.environment()},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[1:] == [experiment.fingerprint], done.stderr


def test_started_processes_can_be_sent_what_a_plugin_defines(folder: Path) -> None:
    program = (
        "import multiprocessing\n"
        "from simvtp.config.overrides import override\n"
        "from simvtp.config.recipes import get_recipe\n"
        "from simvtp.plugins import take_plugins\n"
        "if __name__ == '__main__':\n"
        "    take_plugins(['--plugin=growing.py'])\n"
        "    model = override(get_recipe('tiny'), ['model=growing']).model\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(repr, (model,)) == repr(model))\n"
    )
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "True", done.stderr


def test_settings_of_ones_own_are_settings(folder: Path) -> None:
    load_plugin(folder / "growing.py")
    mine = override(get_recipe("tiny"), ["model.growing_steps=7", "model=growing"])
    assert "growing_steps=7" in repr(finalise(mine).model)
    with pytest.raises(ConfigError, match="must be a whole number"):
        override(mine, ["model.growing_steps=soon"])
    by_setting = override(get_recipe("tiny"), ["model=growing", "plugins.files=growing.py"])
    assert finalise(by_setting).plugins.digests == finalise(mine).plugins.digests


def test_a_file_of_settings_brings_its_plugin(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["settings", "tiny", "--yaml", "--plugin", "growing.py", "model=growing"]
    assert main(words) == 0
    text = capsys.readouterr().out
    for plugin in loaded_plugins():
        del sys.modules[plugin.module.__name__]
    (folder / "mine.yaml").write_text(text)
    assert main(["settings", "mine.yaml", "--yaml"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_like_this\n", "fails in line 1: ModuleNotFoundError"),
        ("x = 1\ny = 1 / 0\n", "fails in line 2: ZeroDivisionError"),
        ("def f(:\n", "fails in line 1: SyntaxError"),
        ("x = 1\n", "declares none of DATASETS, METHODS"),
        ("DATASETS = {'shapes': print}\n", "DATASETS['shapes'], which the project has itself"),
        ("DATASETS = {'msrvtt': print}\n", "which the project has itself"),
        ("METHODS = {'mac': 1}\n", "which the project has itself"),
        ("TASKS = {'qa': 1}\n", "which the project has itself"),
        ("ABLATIONS = {'target': 1}\n", "which the project has itself"),
        ("REPORT_TYPES = {'losses': 1}\n", "which the project has itself"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert main(["settings", "tiny", f"--plugin={path}"]) == 2
    error = capsys.readouterr().err
    assert words in error and str(path) in error and not loaded_plugins()


def test_other_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "tiny", "--plugin"]) == 2
    assert "needs a file" in capsys.readouterr().err
    assert main(["settings", "tiny", "--plugin", str(tmp_path / "nowhere.py")]) == 2
    assert "No such file" in capsys.readouterr().err
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(f"DATASETS = {{'mine': print}}  # {name}\n")
        load_plugin(tmp_path / name)
    with pytest.raises(ConfigError, match=r"'mine' twice, from .*one.py and .*two.py"):
        plugins.extensions("DATASETS")


def test_code_that_others_could_have_written_is_not_run(tmp_path: Path) -> None:
    path = toy(tmp_path)
    load_plugin(path)
    words = ["data.dataset=toy", f"data.root={tmp_path}"]
    values = to_dict(finalise(override(get_recipe("tiny"), words)))
    del sys.modules[loaded_plugins()[0].module.__name__]
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by everybody"):
        from_dict(values)
    path.chmod(0o644)
    assert from_dict(values).data.dataset == "toy"


def test_installed_packages_extend_the_project(tmp_path: Path) -> None:
    """An entry point names the module; nothing else is needed."""
    (tmp_path / "my_extension.py").write_text(FILMS)
    facts = tmp_path / "my_extension-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-extension\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[simvtp.plugins]\nmine = my_extension\n")
    program = (
        "from simvtp.plugins import extensions\n"
        "from simvtp.data.datasets import open_dataset\n"
        "from simvtp.config.recipes import get_recipe\n"
        "print(list(extensions('DATASETS')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "['toy']", done.stderr
