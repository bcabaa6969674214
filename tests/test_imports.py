"""The house keeps its stairs: imports run one way, and each heavy library has one owner."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("simvtp", "ablations", "sweeps", "reports")

# What a room may import. The key is the longest matching prefix of the module's own name.
GROUND = (
    "simvtp.errors",
    "simvtp.config.schema",
    "simvtp.config.validation",
    "simvtp.config.overrides",
    "simvtp.batch",
    "simvtp.runs.journal",
    "simvtp.runs.results",
)
ALLOWED = {
    "simvtp.errors": (),
    "simvtp.config.schema": ("simvtp.errors",),
    "simvtp.config.validation": ("simvtp.config.schema", "simvtp.errors"),
    "simvtp.config.overrides": (
        "simvtp.config.schema",
        "simvtp.config.validation",
        "simvtp.errors",
        "simvtp.data.benchmarks",
    ),
    "simvtp.batch": (),
    "simvtp.runs.results": (),
    "simvtp.runs.journal": ("simvtp.errors",),
    "simvtp.runs.lease": ("simvtp.errors", "simvtp.runs.journal"),
    "simvtp.runs.scores": ("simvtp.errors", "simvtp.runs.journal", "simvtp.runs.results"),
    "simvtp.config.recipes": ("simvtp.config.schema", "simvtp.errors"),
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
        "simvtp.runs.scores",
        "simvtp.tasks",
    ),
    "simvtp.bench": (
        *GROUND,
        "simvtp.models",
        "simvtp.training",
        "simvtp.data",
        "simvtp.runs.provenance",
        "simvtp.config.recipes",
        "simvtp.bench",
    ),
    "simvtp.runs.provenance": GROUND,
    "simvtp.tracking": (
        *GROUND,
        "simvtp.tracking",
        "simvtp.runs.provenance",
        "simvtp.runs.scores",
        "simvtp.runs.lease",
    ),
    "simvtp.runs.rundir": (*GROUND, "simvtp.runs.provenance", "simvtp.runs.lease"),
    "simvtp.experiment.parity": (*GROUND, "simvtp.models", "simvtp.training"),
    "simvtp.experiment": ("simvtp",),
    "simvtp.cli": ("simvtp",),
    "simvtp.__main__": ("simvtp",),
    "simvtp.experiment.finetune_command": ("simvtp",),
    "simvtp.experiment.reevaluation": ("simvtp",),
    "ablations": ("simvtp", "ablations"),
    "sweeps": ("simvtp", "ablations", "sweeps"),
    "reports": (*GROUND, "simvtp.tracking", "simvtp.evaluation.items", "ablations", "reports"),
}
OWNERS = {
    "mlflow": ("simvtp.tracking",),
    "optuna": ("sweeps.study",),
    "submitit": ("sweeps.runner",),
    "decord": ("simvtp.data.video.readers",),
    "av": (
        "simvtp.data.video.pyav_reader",
        "simvtp.data.video.encode",
        "simvtp.data.video.decord_compatible",
        "simvtp.data.video.h264_store",
        "simvtp.data.prepare.transcode",
        "simvtp.bench.data_path.sample_videos",
    ),
    "torchcodec": ("simvtp.data.video.torchcodec_reader",),
    "transformers": (
        "simvtp.data.text.tokenizer",
        "simvtp.models.weights.pretrained",
        "simvtp.bench.step.transformers_baseline",
    ),
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
            assert node.level == 0, (
                f"{path}: write absolute imports, so that the arrows can be read"
            )
            base = node.module or ""
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def inside(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def rule_for(module: str) -> tuple[str, ...]:
    keys = [key for key in ALLOWED if inside(module, (key,))]
    assert keys, f"{module} has no room in the plan: add it to ALLOWED and to docs/architecture.md"
    return ALLOWED[max(keys, key=len)]


@pytest.mark.parametrize(
    ("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_run_one_way(module: str, path: Path) -> None:
    if module == "simvtp":
        return
    ours = {name for name in imported(path) if name.split(".")[0] in PACKAGES}
    allowed = (*rule_for(module), "simvtp.__version__")
    wrong = sorted(name for name in ours if not inside(name, allowed))
    assert not wrong, f"{module} may not import {wrong}"


@pytest.mark.parametrize("library", OWNERS)
def test_each_heavy_library_has_one_owner(library: str) -> None:
    users = [
        module
        for module, path in modules()
        if any(name.split(".")[0] == library for name in imported(path))
    ]
    wrong = [module for module in users if not inside(module, OWNERS[library])]
    assert not wrong, f"{library} is imported by {wrong}; its owner is {OWNERS[library]}"


def test_training_core_imports_without_the_heavy_libraries() -> None:
    """A GPU node may have torch and little else."""
    blocked = (
        "mlflow",
        "optuna",
        "submitit",
        "decord",
        "av",
        "transformers",
        "timm",
        "pandas",
        "psutil",
        "rich",
    )
    core = [
        name
        for name, _ in modules()
        if inside(
            name,
            (
                "simvtp.models",
                "simvtp.data",
                "simvtp.training",
                "simvtp.evaluation",
                "simvtp.tasks",
            ),
        )
    ]
    program = (
        "import sys, importlib\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {core!r}: importlib.import_module(name)\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "imported", done.stderr
