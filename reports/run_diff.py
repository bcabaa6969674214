"""Finds what differs between two runs: settings, code, data and environment."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.output.layout import MISSING
from reports.run_side import RunSide
from reports.study.protocols import comparable_fields

SHOWN_FILES = 12
ENVIRONMENT = ("python", "torch", "platform", "cpu", "cores", "gpus", "argv")


@dataclass(frozen=True)
class DiffSection:
    """The differences in one respect: rows (name, first, second), and a remark."""

    title: str
    rows: tuple[tuple[str, str, str], ...]
    remark: str = ""


def sections(a: RunSide, b: RunSide, repository: Path) -> tuple[DiffSection, ...]:
    """Returns the differences in settings, code, data and environment.

    Args:
        a, b: the runs.
        repository: a git repository that may know their commits.
    """
    differing = [
        key
        for key in dict.fromkeys((*a.config, *b.config))
        if a.config.get(key) != b.config.get(key)
    ]
    carrying = [key for key in differing if key.startswith("runtime.") or key == "name"]
    data = [key for key in differing if key.startswith("data.")]
    rest = [key for key in differing if key not in carrying and key not in data]
    remark = ""
    if carrying:
        remark = f"Names and paths, which change no result, differ in {', '.join(carrying)}."
    return (
        DiffSection("Settings", _rows(rest, a.config, b.config), remark),
        _code(a, b, repository),
        DiffSection("Data", (*_rows(data, a.config, b.config), *_protocols(a, b))),
        _environment(a, b),
    )


def _rows(
    keys: Iterable[str], a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[tuple[str, str, str], ...]:
    return tuple((key, _text(a.get(key)), _text(b.get(key))) for key in keys)


def _text(value: Any) -> str:
    if value is None or value == "":
        return MISSING
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _code(a: RunSide, b: RunSide, repository: Path) -> DiffSection:
    first, second = (_code_fields(side) for side in (a, b))
    rows = tuple(row for row in _rows(first, first, second) if row[1] != row[2])
    remarks = []
    commits = [side.provenance.get("commit", "") for side in (a, b)]
    if commits[0] != commits[1]:
        remarks.append(_changed_files(repository, commits))
    if a.patch != b.patch:
        remarks.append("The uncommitted changes differ; each run keeps its own as diff.patch.")
    return DiffSection("Code", rows, " ".join(remarks))


def _code_fields(side: RunSide) -> dict[str, Any]:
    changed = "none" if side.provenance else ""
    if side.patch:
        lines = sum(
            line.startswith(("+", "-")) and not line.startswith(("+++", "---"))
            for line in side.patch.splitlines()
        )
        changed = f"{lines} lines"
    return {
        "commit": side.provenance.get("commit", "")[:10],
        "branch": side.provenance.get("branch"),
        "uncommitted changes": changed,
    }


def _changed_files(repository: Path, commits: Sequence[str]) -> str:
    """Returns the files that differ between two commits, by git; or why they are unknown."""
    if not all(commits):
        return "One run has no commit on record."
    git = ["git", "--no-optional-locks", "-C", str(repository)]
    command = [*git, "diff", "--name-only", *commits, "--"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "git is not available to compare the commits."
    if done.returncode:
        return "The commits are not in this repository, so their difference is unknown."
    files = done.stdout.split()
    names = ", ".join(files[:SHOWN_FILES])
    if len(files) > SHOWN_FILES:
        names += f" and {len(files) - SHOWN_FILES} more"
    return f"Between the commits {len(files)} files differ{f': {names}' if files else ''}."


def _protocols(a: RunSide, b: RunSide) -> tuple[tuple[str, str, str], ...]:
    """Returns the differing fields of results that both have but measured in different ways."""
    rows = []
    for key in (key for key in a.results if key in b.results):
        first, second = (comparable_fields(side.results[key]) for side in (a, b))
        for name in first:
            if name != "gallery" and first[name] != second[name]:
                rows.append((f"{key}: {name}", _text(first[name]), _text(second[name])))
    return tuple(rows)


def _environment(a: RunSide, b: RunSide) -> DiffSection:
    first, second = (_environment_fields(side) for side in (a, b))
    keys = [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]
    missing = ", ".join(side.name for side in (a, b) if not side.provenance)
    remark = f"No provenance on record: {missing}." if missing else ""
    return DiffSection("Environment", _rows(keys, first, second), remark)


def _environment_fields(side: RunSide) -> dict[str, Any]:
    packages = side.provenance.get("packages", {})
    fields = {name: side.provenance.get(name) for name in ENVIRONMENT}
    return fields | {f"package {name}": version for name, version in packages.items()}
