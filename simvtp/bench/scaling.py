"""Time and memory of our training step over one size at a time: `simvtp bench scaling`.

The count of operations is plotted next to the measured time.
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
from simvtp.bench.step.implementations import OURS, build_all
from simvtp.bench.step.sizes import BATCHES, make_inputs, model_size
from simvtp.bench.step.step_speed import HALF
from simvtp.compat.host_memory import keep_host_memory
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.errors import ConfigError, UserError
from simvtp.models.common.forward_options import DEFAULT_OPTIONS
from simvtp.models.flops.simvtp_flops import forward_flops
from simvtp.runs.atomic_files import write_atomically

# Options that save time and change the objective: each is also an ablation.
OPTIONS: dict[str, tuple[float, ...]] = {
    "decoder_keep_ratio": (0.25, 0.5, 1.0),
    "token_merge_ratio": (0.0, 0.25, 0.5),
}
RATIOS = {
    "video_ratio": (0.5, 0.75, 0.9, 0.95),
    "text_ratio": (0.15, 0.5, 0.75, 0.9),
}
AXES: dict[str, dict[str, tuple[float, ...]]] = {
    "tiny": {
        **OPTIONS,
        **RATIOS,
        "batch": (4, 8, 16, 32),
        "frames": (4, 8, 16),
        "image_size": (32, 64, 96),
        "depth": (2, 4, 8),
    },
    "base": {
        **OPTIONS,
        **RATIOS,
        "batch": (2, 8, 32, 64, 128, 256),
        "frames": (4, 8, 16, 32),
        "image_size": (112, 160, 224, 288),
        "depth": (4, 8, 12, 24),
    },
}


@dataclass(frozen=True)
class ScalingPoint:
    """One size on one axis.

    Attributes:
        axis: The size that varies.
        value: Its value.
        seconds: Median time of a step.
        bytes: Memory of a step (see `measure.memory`).
        flops: Operations of the forward pass times three.
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
) -> list[ScalingPoint]:
    """Returns the points of each axis, measured in turns; other sizes are those of `size`.

    Raises:
        ConfigError: A name is unknown.
    """
    config, known = model_size(size), AXES[size]
    if precision not in HALF:
        raise ConfigError(
            f"there is no precision '{precision}' to measure: choose from {', '.join(HALF)}."
        )
    for axis in axes:
        if axis not in known:
            raise ConfigError(
                f"there is no axis '{axis}' to measure: choose from {', '.join(known)}."
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
            points.append(ScalingPoint(axis, value, time.seconds, used, flops))
        del measured
    return points


def _at(
    axis: str, value: float, config: SimVTPConfig, batch: int
) -> tuple[SimVTPConfig, MaskConfig, int]:
    if axis == "batch":
        return config, MaskConfig(), int(value)
    if axis in ("video_ratio", "text_ratio"):
        return config, replace(MaskConfig(), **{axis: value}), batch  # type: ignore[arg-type]
    changed: dict[str, Any] = {axis: value if axis in OPTIONS else int(value)}
    return replace(config, **changed), MaskConfig(), batch


def _prepare(
    config: SimVTPConfig,
    masks: MaskConfig,
    batch: int,
    half: torch.dtype | None,
    device: torch.device,
) -> tuple[Callable[[], None], int]:
    """Returns a step and the bytes that it needs."""
    inputs = make_inputs(config, masks, batch, device)
    ours = next(
        candidate for candidate in build_all(config, "all", device) if candidate.name == OURS
    )
    ours.options = DEFAULT_OPTIONS  # without packing: operations are counted with padding
    optimizer = ours.optimizer(device)

    def step() -> None:
        ours.step(inputs, optimizer, half)

    return step, memory(ours.model, step, lambda: ours.loss(ours.model, inputs), device)


def write_scaling(points: Sequence[ScalingPoint], folder: Path, title: str) -> list[Path]:
    """Writes `scaling.csv` and `scaling.png` to `folder`; returns their paths.

    Raises:
        UserError: matplotlib is not installed; the table is written.
    """
    table, plot = folder / "scaling.csv", folder / "scaling.png"
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ScalingPoint)])
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_atomically(table, text.getvalue())
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"{table} is written; the figure needs matplotlib, which is not installed here."
        ) from error
    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(3.2 * len(axes), 5.6), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False)
    figure.suptitle(title)
    for column, axis in enumerate(axes):
        own = [point for point in points if point.axis == axis]
        _plot_axis(panels[0][column], panels[1][column], axis, own, first=not column)
    panels[0][0].legend(fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(plot, image.getvalue())
    return [table, plot]


def _plot_axis(
    time: Any, memory: Any, axis: str, points: Sequence[ScalingPoint], first: bool
) -> None:
    """Draws the two panels of one axis: seconds with the count of operations, and memory."""
    values = [point.value for point in points]
    scale = points[-1].seconds / points[-1].flops
    operations = [point.flops * scale for point in points]
    time.plot(values, [point.seconds for point in points], "o-", label="measured")
    time.plot(values, operations, "--", label="operations, scaled to the last point")
    memory.plot(values, [point.bytes / 2**20 for point in points], "o-")
    time.set(xlabel=axis, ylim=(0, None), ylabel="seconds a step" if first else "")
    memory.set(xlabel=axis, ylim=(0, None), ylabel="MiB" if first else "")
