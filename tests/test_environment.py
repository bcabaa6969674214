"""The installed packages fit together."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_torch_torchvision_and_timm_match() -> None:
    # A torchvision built for another torch fails with `operator torchvision::nms does not exist`.
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    assert model.num_features == 192


def test_every_requirement_is_installed() -> None:
    names = [re.split(r"[<>=!;\s]", line)[0] for line in requirements("requirements.txt")]
    assert len(names) > 10
    missing = [name for name in names if name != "decord" and not _installed(name)]
    assert not missing, f"not installed: {missing}; run `make install`"


def test_the_extras_have_the_requirements() -> None:
    """The core and the extras together are requirements.txt, each with the same range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = {name: lines for name, lines in extras.items() if name not in ("all", "dev")}
    ours = {line for lines in (project["dependencies"], *named.values()) for line in lines}
    required = requirements("requirements.txt")
    assert {plain(line) for line in required} == {plain(line) for line in ours} - {
        "numpy",  # comes with the others
        "tokenizers>=0.21",
    }
    assert set(extras["all"]) == {f"simvtp-platform[{','.join(named)}]"}
    assert {plain(line) for line in extras["dev"][1:]} <= {
        plain(line) for line in requirements("requirements-dev.txt")
    }


def requirements(name: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in lines if line]


def plain(line: str) -> str:
    return line.replace("'", '"').replace(" ", "")


def test_every_data_file_of_a_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, patterns in settings["package-data"].items():
        folder = ROOT / package
        packed = {path for pattern in patterns for path in folder.glob(pattern)}
        found = {path for path in folder.rglob("*") if path.is_file() and is_data(path)}
        assert found <= packed, f"add to package-data of {package}: {sorted(found - packed)}"


def is_data(path: Path) -> bool:
    return path.suffix not in (".py", ".pyc") and "out" not in path.parts


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
