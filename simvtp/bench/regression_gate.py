"""Are we still as much faster as we were? Ratios to the peers, measured anew and compared with
committed ones: `make bench`.

Only ratios are compared, never seconds, and on a CPU those of CPU time: other work on the machine
falls on both sides of a ratio.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from simvtp.bench.step.implementations import OURS
from simvtp.bench.step.step_speed import Plan, measure_step, reference
from simvtp.errors import UserError
from simvtp.runs.journal import write_atomically

DROP = 0.15  # of a ratio, that is shown in red
RED, PLAIN = "\033[31m", "\033[0m"
COMMITTED = Path("results/bench.json")
PLANS = {
    "all four losses against the released structure, tiny, fp32": Plan(
        what="all", batch=8, rounds=3, seconds=0.0, ceiling=False
    ),
    "MVM alone against transformers, tiny, fp32": Plan(
        what="mvm", batch=8, rounds=5, seconds=0.0, ceiling=False
    ),
}


def measure_ratios(device: torch.device, plans: Mapping[str, Plan] = PLANS) -> dict[str, float]:
    """{what: how many times as fast as the peer}, medians."""
    ratios = {}
    for name, plan in plans.items():
        rows = measure_step(plan, device, say=lambda line: None)
        ours = next(row for row in rows if row.name == OURS)
        ratios[name] = ours.time.ratio(reference(rows, ours).time, cpu=device.type == "cpu")[0]
    return ratios


def compare(
    ratios: Mapping[str, float], committed: Mapping[str, float], say: Callable[[str], None] = print
) -> bool:
    """Say each ratio beside the committed one; True if none has dropped by more than `DROP`."""
    held = True
    for name, ratio in ratios.items():
        before = committed.get(name)
        dropped = before is not None and ratio < (1 - DROP) * before
        held &= not dropped
        told = f"{name}: x {ratio:.2f}, committed {'—' if before is None else f'x {before:.2f}'}"
        say(f"{RED}{told}: a drop of {1 - ratio / (before or 1):.0%}{PLAIN}" if dropped else told)
    return held


def read_committed(path: Path) -> dict[str, float]:
    """The ratios of an earlier measurement; none where there is no file. Raises UserError for a
    file that holds something else.
    """
    if not path.exists():
        return {}
    try:
        return {
            name: float(ratio) for name, ratio in json.loads(path.read_text())["ratios"].items()
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} does not hold ratios of an earlier measurement: write it anew with --write."
        ) from error


def write_committed(path: Path, ratios: Mapping[str, float], conditions: Mapping[str, str]) -> None:
    """Keep these ratios, with the circumstances of their measurement."""
    content = {"ratios": {name: round(ratio, 3) for name, ratio in ratios.items()}, **conditions}
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
