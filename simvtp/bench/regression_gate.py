"""Compares today's speed-ups over other implementations with committed ones: `make bench`.

Only ratios are compared, never seconds, and on a CPU those of CPU time: other work on the machine
slows both sides of a ratio.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from simvtp.bench.step.implementations import OURS
from simvtp.bench.step.step_speed import StepSpeedOptions, measure_step, reference
from simvtp.errors import UserError
from simvtp.runs.atomic_files import write_atomically

DROP = 0.15  # of a ratio, that is shown in red
RED, PLAIN = "\033[31m", "\033[0m"
COMMITTED = Path("results/bench.json")
MEASUREMENTS = {
    "all four losses against the released structure, tiny, fp32": StepSpeedOptions(
        what="all", batch=8, rounds=3, seconds=0.0, ceiling=False
    ),
    "MVM alone against transformers, tiny, fp32": StepSpeedOptions(
        what="mvm", batch=8, rounds=5, seconds=0.0, ceiling=False
    ),
}


def measure_ratios(
    device: torch.device, measurements: Mapping[str, StepSpeedOptions] = MEASUREMENTS
) -> dict[str, float]:
    """Returns {measurement: median speed-up over the other implementation}."""
    ratios = {}
    for name, options in measurements.items():
        rows = measure_step(options, device, say=lambda line: None)
        ours = next(row for row in rows if row.name == OURS)
        ratios[name] = ours.time.ratio(reference(rows, ours).time, cpu=device.type == "cpu")[0]
    return ratios


def compare(
    ratios: Mapping[str, float], committed: Mapping[str, float], say: Callable[[str], None] = print
) -> bool:
    """Logs each ratio next to the committed one; returns True if none dropped by over `DROP`."""
    held = True
    for name, ratio in ratios.items():
        before = committed.get(name)
        dropped = before is not None and ratio < (1 - DROP) * before
        held &= not dropped
        line = f"{name}: x {ratio:.2f}, committed {'—' if before is None else f'x {before:.2f}'}"
        say(f"{RED}{line}: a drop of {1 - ratio / (before or 1):.0%}{PLAIN}" if dropped else line)
    return held


def read_committed(path: Path) -> dict[str, float]:
    """Returns the ratios of an earlier measurement; empty if there is no file.

    Raises:
        UserError: The file holds something else.
    """
    if not path.exists():
        return {}
    try:
        ratios = json.loads(path.read_text())["ratios"]
        return {name: float(ratio) for name, ratio in ratios.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} does not hold ratios of an earlier measurement: write it again with --write."
        ) from error


def write_committed(path: Path, ratios: Mapping[str, float], conditions: Mapping[str, str]) -> None:
    """Writes these ratios with the conditions of their measurement."""
    content = {"ratios": {name: round(ratio, 3) for name, ratio in ratios.items()}, **conditions}
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
