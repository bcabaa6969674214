"""How time and memory of our training step grow, one size at a time, beside the count of
operations: `python -m simvtp bench scaling`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from simvtp.bench.measure import memory, take_turns
from simvtp.bench.step.implementations import OURS, line_up
from simvtp.bench.step.sizes import BATCHES, make_inputs, model_size
from simvtp.bench.step.step_speed import HALF
from simvtp.config.schema import MaskConfig, ModelConfig
from simvtp.errors import ConfigError, UserError
from simvtp.models.common.encoder import set_packed_text
from simvtp.models.flops.simvtp_flops import forward_flops
from simvtp.runs.journal import write_atomically
from simvtp.training.host_memory import keep_host_memory

# Options that change the objective, and what they save: each is an ablation, too.
OPTIONS: dict[str, tuple[float, ...]] = {
    "decoded_share": (0.25, 0.5, 1.0),
    "merged_share": (0.0, 0.25, 0.5),
}
AXES: dict[str, dict[str, tuple[float, ...]]] = {
    "tiny": {
        **OPTIONS,
        "batch": (4, 8, 16, 32), "frames": (4, 8, 16), "image_size": (32, 64, 96), "video_ratio": (0.5, 0.75, 0.9, 0.95),
        "text_ratio": (0.15, 0.5, 0.75, 0.9), "depth": (2, 4, 8),
    },
    "base": {
        **OPTIONS,
        "batch": (2, 8, 32, 64, 128, 256), "frames": (4, 8, 16, 32), "image_size": (112, 160, 224, 288), "video_ratio": (0.5, 0.75, 0.9, 0.95),
        "text_ratio": (0.15, 0.5, 0.75, 0.9), "depth": (4, 8, 12, 24),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One size: what a step took (median of the rounds), the memory it needed, and the operations
    of its forward pass times three.
    """

    axis: str
    value: float
    seconds: float
    bytes: int
    flops: int


def measure_scaling(
    size: str,
    axes: Sequence[str],
    batch: int,
    precision: str,
    rounds: int,
    device: torch.device,
    say: Callable[[str], None] = print,
) -> list[Point]:
    """Measure the points of each axis in turns; everything but the axis is that of the size. Raises
    ConfigError for an unknown name.
    """
    config, known = model_size(size), AXES[size]
    if precision not in HALF:
        raise ConfigError(
            f"there is no precision '{precision}' to measure: choose one of {', '.join(HALF)}."
        )
    for axis in axes:
        if axis not in known:
            raise ConfigError(
                f"there is no axis '{axis}' to measure: choose among {', '.join(known)}."
            )
    if device.type == "cpu":
        keep_host_memory()
    points = []
    for axis in axes:
        say(f"{axis}: {', '.join(f'{value:g}' for value in known[axis])}")
        settings = [_at(axis, value, config, batch or BATCHES[size]) for value in known[axis]]
        measured = [_prepare(*setting, HALF[precision], device) for setting in settings]
        timed = take_turns([step for step, _ in measured], device, rounds)
        for value, (sizes, masks, count), time, (_, used) in zip(
            known[axis], settings, timed, measured, strict=True
        ):
            flops = 3 * count * sum(forward_flops(sizes, masks, batch=count).values())
            points.append(Point(axis, value, time.seconds, used, flops))
        del measured
    return points


def _at(
    axis: str, value: float, config: ModelConfig, batch: int
) -> tuple[ModelConfig, MaskConfig, int]:
    if axis == "batch":
        return config, MaskConfig(), int(value)
    if axis in ("video_ratio", "text_ratio"):
        return config, replace(MaskConfig(), **{axis: value}), batch  # type: ignore[arg-type]
    changed: dict[str, Any] = {axis: value if axis in OPTIONS else int(value)}
    return replace(config, **changed), MaskConfig(), batch


def _prepare(
    config: ModelConfig,
    masks: MaskConfig,
    batch: int,
    half: torch.dtype | None,
    device: torch.device,
) -> tuple[Callable[[], None], int]:
    """(a step, the memory it needs)."""
    inputs = make_inputs(config, masks, batch, device)
    ours = next(rival for rival in line_up(config, "all", device) if rival.name == OURS)
    set_packed_text(ours.model, False)  # the operations beside it are counted with padding
    optimizer = ours.optimizer(device)

    def step() -> None:
        ours.step(inputs, optimizer, half)

    return step, memory(ours.model, step, lambda: ours.loss(ours.model, inputs), device)


def write_scaling(points: Sequence[Point], folder: Path, title: str) -> list[Path]:
    """`scaling.csv` and `scaling.png` in `folder`; raises UserError, after the table is written,
    where matplotlib is not installed.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Point)])
    table.writeheader()
    table.writerows(asdict(point) for point in points)
    write_atomically(folder / "scaling.csv", text.getvalue())
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"{folder / 'scaling.csv'} is written; the figure needs matplotlib, which is not installed here."
        ) from error
    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(3.2 * len(axes), 5.6), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False)
    figure.suptitle(title)
    for column, axis in enumerate(axes):
        own = [point for point in points if point.axis == axis]
        values = [point.value for point in own]
        scale = own[-1].seconds / own[-1].flops
        panels[0][column].plot(values, [point.seconds for point in own], "o-", label="measured")
        panels[0][column].plot(
            values,
            [point.flops * scale for point in own],
            "--",
            label="operations, scaled to the last point",
        )
        panels[1][column].plot(values, [point.bytes / 2**20 for point in own], "o-")
        panels[0][column].set(
            xlabel=axis, ylim=(0, None), ylabel="" if column else "seconds a step"
        )
        panels[1][column].set(xlabel=axis, ylim=(0, None), ylabel="" if column else "MiB")
    panels[0][0].legend(fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(folder / "scaling.png", image.getvalue())
    return [folder / "scaling.csv", folder / "scaling.png"]
