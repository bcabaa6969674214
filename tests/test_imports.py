"""The house keeps its stairs: imports run one way, and each heavy library has one owner."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("simvtp", "ablations", "sweeps", "reports")

# What a room may import. The key is the longest matching prefix of the module's own name.
GROUND = ("simvtp.errors", "simvtp.config", "simvtp.checks", "simvtp.settings", "simvtp.batch", "simvtp.journal", "simvtp.results")
ALLOWED = {
    "simvtp.errors": (),
    "simvtp.config": ("simvtp.errors",),
    "simvtp.checks": ("simvtp.config", "simvtp.errors"),
    "simvtp.settings": ("simvtp.config", "simvtp.checks", "simvtp.errors", "simvtp.data.benchmarks"),
    "simvtp.batch": (),
    "simvtp.results": (),
    "simvtp.journal": ("simvtp.errors",),
    "simvtp.lease": ("simvtp.errors", "simvtp.journal"),
    "simvtp.scores": ("simvtp.errors", "simvtp.journal", "simvtp.results"),
    "simvtp.recipes": ("simvtp.config", "simvtp.errors"),
    "simvtp.models": (*GROUND, "simvtp.models"),
    "simvtp.data": (*GROUND, "simvtp.data"),
    "simvtp.training": (*GROUND, "simvtp.models", "simvtp.data", "simvtp.training"),
    "simvtp.evaluation": (*GROUND, "simvtp.models", "simvtp.data", "simvtp.evaluation"),
    "simvtp.tasks": (
        *GROUND,
        "simvtp.models",
        "simvtp.data",
        "simvtp.training",
        "simvtp.evaluation",
        "simvtp.scores",
        "simvtp.tasks",
    ),
    "simvtp.bench": (*GROUND, "simvtp.models", "simvtp.training", "simvtp.data", "simvtp.provenance", "simvtp.recipes", "simvtp.bench"),
    "simvtp.provenance": GROUND,
    "simvtp.tracking": (*GROUND, "simvtp.tracking", "simvtp.provenance", "simvtp.scores", "simvtp.lease"),
    "simvtp.rundir": (*GROUND, "simvtp.provenance", "simvtp.lease"),
    "simvtp.parity": (*GROUND, "simvtp.models", "simvtp.training"),
    "simvtp.experiment": ("simvtp",),
    "simvtp.cli": ("simvtp",),
    "simvtp.__main__": ("simvtp",),
    "simvtp.commands": ("simvtp",),
    "simvtp.reevaluation": ("simvtp",),
    "ablations": ("simvtp", "ablations"),
    "sweeps": ("simvtp", "ablations", "sweeps"),
    "reports": (*GROUND, "simvtp.tracking", "simvtp.evaluation.items", "ablations", "reports"),
}
OWNERS = {
    "mlflow": ("simvtp.tracking",),
    "optuna": ("sweeps.study",),
    "submitit": ("sweeps.runner",),
    "decord": ("simvtp.data.video",),
    "av": (
        "simvtp.data.pyav_reader",
        "simvtp.data.encode",
        "simvtp.data.fast",
        "simvtp.data.stored",
        "simvtp.data.transcode",
        "simvtp.bench.films",
    ),
    "torchcodec": ("simvtp.data.torchcodec_reader",),
    "transformers": ("simvtp.data.text", "simvtp.models.pretrained", "simvtp.bench.peer"),
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append((name.removesuffix(".__init__"), path))
    return found


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports, so that the arrows can be read"
            base = node.module or ""
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def inside(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def rule_for(module: str) -> tuple[str, ...]:
    keys = [key for key in ALLOWED if inside(module, (key,))]
    assert keys, f"{module} has no room in the plan: add it to ALLOWED and to docs/architecture.md"
    return ALLOWED[max(keys, key=len)]


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_run_one_way(module: str, path: Path) -> None:
    if module == "simvtp":
        return
    ours = {name for name in imported(path) if name.split(".")[0] in PACKAGES}
    allowed = (*rule_for(module), "simvtp.__version__")
    wrong = sorted(name for name in ours if not inside(name, allowed))
    assert not wrong, f"{module} may not import {wrong}"


@pytest.mark.parametrize("library", OWNERS)
def test_each_heavy_library_has_one_owner(library: str) -> None:
    users = [module for module, path in modules() if any(name.split(".")[0] == library for name in imported(path))]
    wrong = [module for module in users if not inside(module, OWNERS[library])]
    assert not wrong, f"{library} is imported by {wrong}; its owner is {OWNERS[library]}"


def test_training_core_imports_without_the_heavy_libraries() -> None:
    """A GPU node may have torch and little else."""
    blocked = ("mlflow", "optuna", "submitit", "decord", "av", "transformers", "timm", "pandas", "psutil", "rich")
    core = [
        name
        for name, _ in modules()
        if inside(name, ("simvtp.models", "simvtp.data", "simvtp.training", "simvtp.evaluation", "simvtp.tasks"))
    ]
    program = (
        "import sys, importlib\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {core!r}: importlib.import_module(name)\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "imported", done.stderr
