"""The wheel, built and installed as a user would, works from any folder; the core needs little."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import simvtp
from tests.import_graph import ROOT
from tests.small import small_settings

PACKAGES = ("simvtp", "ablations", "sweeps", "reports")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt")
SHORT = ("pretrain.max_steps=2", "finetune.train.max_steps=2", "finetune.evaluations=1")
EXTRAS = (
    *("mlflow", "optuna", "submitit", "decord", "pandas", "seaborn", "matplotlib", "scipy"),
    *("statsmodels", "tabulate", "rich", "psutil", "transformers", "timm", "torchvision"),
    *("huggingface_hub", "torchcodec"),
)
SEARCH = """
import sys, simvtp
model = simvtp.load(sys.argv[1])
index = model.index(sys.argv[2], save="films.idx")
print([hit.rank for hit in model.search("a red star rises", index, k=3)], simvtp.__file__)
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and the packages of this one."""

    python: Path

    def run(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `simvtp` or `python`; the folder is the current one."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GIT_"))}
        return subprocess.run(
            [str(self.python.with_name(words[0])), *words[1:]],
            cwd=folder,
            env={**kept, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            source / package,
            ignore=shutil.ignore_patterns("__pycache__", "out"),
        )
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", str(source), *offline, "--no-build-isolation", "-w", str(folder)]
    subprocess.run(build, check=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    [site] = (folder / "env").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    install = [*pip, "--python", str(python), "install", *offline, str(wheel)]
    subprocess.run(install, check=True)
    return Installed(python)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The user's folder: empty, or a project of the user's whose modules have our names."""
    folder = tmp_path / "project"
    folder.mkdir()
    if request.param == "own modules":
        for name in ("reports.py", "ablations.py", "sweeps/__init__.py", "tests/__init__.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("raise RuntimeError('this is the user\\'s own')\n")
        git = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *words], check=True)
        (folder / "reports.py").write_text("raise RuntimeError('changed')\n")
    return folder


@pytest.mark.parametrize("folder", ["empty", "own modules"], indirect=True)
def test_the_wheel_trains_and_searches_from_any_folder(
    installed: Installed, folder: Path, shapes_cache: Path
) -> None:
    version = installed.run(folder, "simvtp", "--version")
    assert version.stdout == f"simvtp {simvtp.__version__}\n", version.stderr
    listed = installed.run(folder, "simvtp", "ablations", "list")
    assert listed.returncode == 0 and "mask_ratio" in listed.stdout, listed.stderr
    settings = [*small_settings(Path("runs"), shapes_cache), *SHORT, "runtime.workers=1"]
    for program in (["simvtp"], ["python", "-m", "simvtp"]):  # the second finds it finished
        done = installed.run(folder, *program, "run", "tiny", *settings)
        assert done.returncode == 0, done.stderr
        assert "test/finetuned/t2v: R1" in done.stdout
    [run_dir] = [path.parent for path in folder.glob("runs/*/results.json")]
    record = json.loads((run_dir / "provenance.json").read_text())
    assert (record["repository"], record["commit"], record["diff"]) == ("", "", "")
    assert "installed package" in record["note"] or "no git repository" in record["note"]
    assert record["packages"]["simvtp-platform"] == simvtp.__version__
    assert not (run_dir / "diff.patch").exists()
    films = next(shapes_cache.rglob("clips/test"))
    found = installed.run(folder, "python", "-c", SEARCH, run_dir.name, str(films))
    assert found.returncode == 0, found.stderr
    ranks, path = found.stdout.splitlines()[-1].rsplit(" ", 1)
    assert ranks == "[1, 2, 3]" and str(installed.python.parents[1]) in path


@pytest.mark.parametrize("folder", ["empty"], indirect=True)
def test_the_core_needs_no_extra(installed: Installed, folder: Path, shapes_cache: Path) -> None:
    """Training, test, pictures, index, search and export with the packages of all extras hidden."""
    (folder / "hidden.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Hiding(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {EXTRAS!r}:\n"
        "            return None\n"
        "        return super().find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding\n"
        "from simvtp.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    settings = [*small_settings(Path("runs"), shapes_cache), *SHORT, "runtime.tracking_uri="]
    done = installed.run(folder, "python", "hidden.py", "run", "tiny", *settings)
    assert done.returncode == 0, done.stderr
    assert "MLflow does not import" in done.stderr and done.stderr.count("[track]") == 1
    [run_dir] = [path.parent for path in folder.glob("runs/*/results.json")]
    assert list((run_dir / "figures").glob("*.png")) and list((run_dir / "figures").glob("*.html"))
    films, run = str(next(shapes_cache.rglob("clips/test"))), str(run_dir)
    for words in (
        ["index", films, "--model", run, "--out", "films.idx"],
        ["search", "a red star rises", "--index", "films.idx", "--html", "found.html"],
        ["export", run, "model"],
        ["index", films, "--model", "model", "--out", "again.idx"],
    ):
        done = installed.run(folder, "python", "hidden.py", *words)
        assert done.returncode == 0, (words, done.stderr)
    done = installed.run(folder, "python", "hidden.py", "export", run, "m", "--push", "user/name")
    assert done.returncode == 2 and "huggingface_hub is not installed" in done.stderr
