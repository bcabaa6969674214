"""A problem that `sweeps/doctor.py` found, and its repair."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Diagnosis:
    """One problem.

    Attributes:
        place: problems of one place are repaired together, inside `lock()`.
        problem: what is wrong.
        remedy: what the repair does, or what the user can do where `repair` is None.
        repair: repairs it.
        lock: keeps others out during the repair.
        blocked: why it is left alone now, for example because the sweep is being run.
        minor: costs space only: repaired with --yes alone, and not counted in the exit status.
    """

    place: Path
    problem: str
    remedy: str
    repair: Callable[[], object] | None = None
    lock: Callable[[], AbstractContextManager[object]] = nullcontext
    blocked: str = ""
    minor: bool = False
