"""Code that runs on the device's data reads no value of it, found without running it.

`.item()` and `.tolist()` make the host wait, and a tensor made of a list is copied from memory that
is not pinned, which waits too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("common", "simvtp", "mac", "downstream")
FILES = (
    *(path for name in FOLDERS for path in sorted((ROOT / "simvtp/models" / name).glob("*.py"))),
    *(ROOT / "simvtp/training" / f"{name}.py" for name in ("losses", "chunked_losses")),
    *(ROOT / "simvtp" / name for name in ("training/objectives.py", "tasks/task_objectives.py")),
)
READING = ("item", "tolist", "numpy", "cpu")
MAKING = ("tensor", "as_tensor")
# function -> why it may
ALLOWED = {
    "masks_at_step": "draws on the host, without the device",
    "pixel_normalization": "is called once, when a model is built, on the CPU",
}


def offences(source: str) -> Iterator[tuple[str, int, str]]:
    """Yields (function, line, call) of each call that reads a value or copies a list."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.func.attr
                if name in READING:
                    yield function.name, node.lineno, f".{name}()"
                elif name in MAKING and any(word.arg == "device" for word in node.keywords):
                    yield function.name, node.lineno, f"torch.{name}(..., device=...)"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "simvtp")))
def test_no_value_is_read_and_no_list_is_copied(path: Path) -> None:
    found = [one for one in offences(path.read_text()) if one[0] not in ALLOWED]
    assert not found


def test_the_exceptions_are_needed() -> None:
    used = {function for path in FILES for function, _, _ in offences(path.read_text())}
    assert used == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    ["x.sum().item()", "x.tolist()", "torch.tensor([1, 2], device=x.device)", "x.cpu().numpy()"],
)
def test_a_planted_call_is_found(line: str) -> None:
    assert list(offences(f"def forward(x):\n    return {line}"))
