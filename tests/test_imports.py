"""Imports run one way, no modules import one another, and each heavy library has one owner."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_graph import (
    ROOT,
    Graph,
    circles,
    import_graph,
    imported_names,
    inside,
    modules,
)

# A package may import itself and what stands above it; packages of one line are independent.
ORDER = (
    ("simvtp.console",),
    ("simvtp.errors", "simvtp.compat"),
    ("simvtp.plugins",),
    ("simvtp.config",),
    ("simvtp.batch", "simvtp.runs"),
    ("simvtp.sources",),
    ("simvtp.models", "simvtp.data", "simvtp.tracking"),
    ("simvtp.methods", "simvtp.training", "simvtp.evaluation"),
    ("simvtp.tasks",),
    ("simvtp.bench",),
    ("simvtp.resolve",),
    ("simvtp.experiment",),
    ("simvtp.library",),
    ("simvtp.cli",),
    ("simvtp.__main__",),
    ("ablations",),
    ("sweeps",),
    ("reports",),
)
# These may import less than their line allows: reports, for instance, run without torch.
ONLY = {
    "simvtp.tracking": ("simvtp.console", "simvtp.errors", "simvtp.config", "simvtp.runs"),
    "reports": (
        *("simvtp.console", "simvtp.errors", "simvtp.config", "simvtp.runs", "simvtp.tracking"),
        *("simvtp.evaluation.items", "simvtp.plugins", "ablations"),
    ),
}
OWNERS = {
    "mlflow": ("simvtp.tracking",),
    "optuna": ("sweeps.study", "sweeps.compat"),
    "submitit": ("sweeps.runner", "sweeps.compat"),
    "decord": ("simvtp.data.video.decord_reader",),
    "av": ("simvtp.data.video", "simvtp.data.prepare", "simvtp.bench.data_path"),
    "yaml": ("simvtp.sources.yaml_file",),
    "pyarrow": ("simvtp.data.clips", "simvtp.data.manifest"),
    "huggingface_hub": ("simvtp.models.weights.hub_repository",),
    "torchcodec": ("simvtp.data.video",),
    "transformers": (
        *("simvtp.data.text.tokenizer", "simvtp.models.weights.pretrained"),
        "simvtp.bench.step.transformers_baseline",
    ),
}
TRAINING_CORE = tuple(
    f"simvtp.{name}" for name in ("models", "methods", "data", "training", "evaluation", "tasks")
)


def upward_imports(graph: Graph) -> list[str]:
    """Returns one line for each import that the order of packages forbids."""
    found = []
    for module, imports in graph.items():
        if module == "simvtp":
            continue
        floor = next(i for i, row in enumerate(ORDER) if inside(module, *row))
        own = next(package for package in ORDER[floor] if inside(module, package))
        below = tuple(package for row in ORDER[:floor] for package in row)
        allowed = ("simvtp", own, *ONLY.get(own, below))
        for name in sorted(imports):
            if name != "simvtp" and not inside(name, *allowed[1:]):
                found.append(f"{module} may not import {name}")
    return found


def copy_with(tmp_path: Path, file: str, line: str) -> Graph:
    """Returns the import graph of a copy of the project whose `file` ends with `line`."""
    for package in ("simvtp", "ablations", "sweeps", "reports"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=only_python)
    path = tmp_path / file
    path.write_text(path.read_text() + f"\n\n{line}\n")
    return import_graph(tmp_path)


def only_python(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_file() and not name.endswith(".py")]


def test_every_module_has_a_place_in_the_order() -> None:
    packages = [package for row in ORDER for package in row]
    missing = [name for name in modules() if name != "simvtp" and not inside(name, *packages)]
    assert not missing, f"add {missing} to ORDER and to docs/architecture.md"


def test_imports_run_one_way() -> None:
    assert not upward_imports(import_graph())


def test_no_modules_import_one_another_even_inside_functions() -> None:
    assert not circles(import_graph())


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        (
            "simvtp/errors.py",
            "from simvtp.config import tree",
            "simvtp.errors may not import simvtp.config.tree",
        ),
        (
            "simvtp/models/common/masking.py",
            "def late():\n    from simvtp.data.manifest import read_manifest",
            "simvtp.models.common.masking may not import simvtp.data.manifest",
        ),
        (
            "reports/study/collect.py",
            "import simvtp.evaluation.metrics",
            "reports.study.collect may not import simvtp.evaluation.metrics",
        ),
        (
            "simvtp/tracking/store.py",
            "import simvtp.models.common.layers",
            "simvtp.tracking.store may not import simvtp.models.common.layers",
        ),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path: Path, file: str, line: str, fault: str) -> None:
    assert fault in upward_imports(copy_with(tmp_path, file, line))


@pytest.mark.parametrize(
    "line",
    [
        "from simvtp.data import shards",
        "def late():\n    from simvtp.data.shards import Shards",
        "if True:\n    import simvtp.data.manifest as later\n\nimport simvtp.data.shards",
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, line: str) -> None:
    """The manifest imports the shards; here a module that the shards import imports them back."""
    planted = copy_with(tmp_path, "simvtp/data/video/tar_member.py", line)
    assert any("simvtp.data.shards" in circle for circle in circles(planted))


def test_an_import_for_types_alone_is_no_circle(tmp_path: Path) -> None:
    line = "if TYPE_CHECKING:\n    from simvtp.data.shards import Shards"
    assert not circles(copy_with(tmp_path, "simvtp/data/video/tar_member.py", line))


@pytest.mark.parametrize("library", OWNERS)
def test_each_heavy_library_has_one_owner(library: str) -> None:
    users = [
        module
        for module, path in modules().items()
        if any(inside(name, library) for name in imported_names(path))
    ]
    wrong = [module for module in users if not inside(module, *OWNERS[library])]
    assert users, f"nobody imports {library}: take it out of OWNERS"
    assert not wrong, f"{library} is imported by {wrong}; its owner is {OWNERS[library]}"


def test_training_core_imports_without_the_heavy_libraries() -> None:
    """A GPU node may have torch and little else."""
    blocked = (
        *("mlflow", "optuna", "submitit", "decord", "av", "transformers"),
        *("timm", "pandas", "psutil", "rich"),
    )
    core = [name for name in modules() if inside(name, *TRAINING_CORE)]
    program = (
        "import sys, importlib\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {core!r}: importlib.import_module(name)\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "imported", done.stderr
