"""Reads losses and validation values that a run wrote to its journal while it was trained."""

from __future__ import annotations

import warnings
from pathlib import Path

from reports.analysis.seed_statistics import is_number
from simvtp.errors import DamagedFile
from simvtp.runs.journal import read_journal

Curve = list[tuple[int, float]]  # (step, value) by step
PREFIXES = ("loss/", "val/")
ADVICE = "run `python sweeps/doctor.py` to repair it."


def read_training_curves(path: Path) -> dict[str, Curve]:
    """Returns {`<stage>/<metric>`: curve}; of a step that was repeated, the last value counts.

    Args:
        path: the journal; if it is missing there are no curves.

    Raises:
        DamagedFile: it is no journal.
    """
    found: dict[str, dict[int, float]] = {}
    if not path.exists():
        return {}
    try:
        for _, line in read_journal(path, 0):
            if line["kind"] != "metrics":
                continue
            for name, value in line["metrics"].items():
                if name.startswith(PREFIXES) and value is not None and is_number(value):
                    steps = found.setdefault(f"{line['stage']}/{name}", {})
                    steps[int(line["step"])] = float(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(path, f"not a journal: {error!r}", ADVICE) from error
    return {name: sorted(points.items()) for name, points in found.items()}


def curves_of_run(run_dir: str) -> dict[str, Curve]:
    """Returns the curves of a run directory; of a damaged journal none, with a warning."""
    if not run_dir:
        return {}
    try:
        return read_training_curves(Path(run_dir) / "journal.jsonl")
    except DamagedFile as error:
        warnings.warn(f"{error} Until then its curves are left out.", stacklevel=2)
        return {}
