"""Joins the reconstructions that the runs of a sweep stored: one image for each test clip.

Each run draws reconstructions of the same clips (`figures/reconstruction_*.png`). They are read
from the run directories; if these are gone there is no image. Runs without pre-training have
nothing to show: their decoder is random, and runs of older versions that drew it are left out.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from reports.figures.style import ReportFigure
from reports.study.report_plan import SEARCH, CellValues, PlannedAxis
from reports.study.sweep_results import MeasuredRun, SweepResults
from simvtp.config.finetune_config import INITIAL
from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from simvtp.runs.rundir import IDENTITY_FILE

CLIPS = 2  # clips, each with an image
ALONG, DOWN = 3, 6  # most values of each of two axes, and most cells of a single axis
SCALE = 0.75  # of a stored sheet
GAP, HEAD = 18, 34  # pixels between sheets, and of the line above each
PREFIX, SUFFIX = "reconstruction_", ".png"
NOT_TRAINED = "no pre-training, so the decoder has random weights and rebuilds nothing"


def reconstruction_figures(sweep: SweepResults, folder: Path) -> tuple[ReportFigure, ...]:
    """Writes `reconstructions_<number>.png` for clips that all shown cells have drawn.

    There is nothing to compare for a search or a single cell.
    """
    if sweep.plan.kind == SEARCH:
        return ()
    runs = {
        cell: run for cell in shown_cells(sweep) if (run := _with_sheets(sweep, cell)) is not None
    }
    if len(runs) < 2:
        return ()
    names = [{path.name for path in _sheets(run)} for run in runs.values()]
    common = sorted(set.intersection(*names))[:CLIPS]
    return tuple(_joined(sweep, runs, number, name, folder) for number, name in enumerate(common))


def _joined(
    sweep: SweepResults,
    runs: dict[CellValues, MeasuredRun],
    number: int,
    name: str,
    folder: Path,
) -> ReportFigure:
    path = folder / f"reconstructions_{number}.png"
    write_atomically(path, _png(_grid(sweep, runs, name)))
    clip = name.removeprefix(PREFIX).removesuffix(SUFFIX)[3:]
    cells = "; ".join(sweep.plan.describe(cell) for cell in runs)
    absent = [sweep.plan.describe(cell) for cell in sweep.plan.cells if _untrained(sweep, cell)]
    left_out = f" Not drawn: {'; '.join(absent)}: {NOT_TRAINED}." if absent else ""
    caption = (
        f"Reconstructions of the same test clip ({clip}) by the model of each cell, drawn by the "
        "run with the lowest seed. Cells hide different fractions, so an image that looks better "
        f"may have had less to fill in: judge by the tables, not by these.{left_out}"
    )
    alt = f"Reconstructions of clip {clip} in these cells: {cells}."
    return ReportFigure(path.stem, path, path, caption, alt)


def shown_cells(sweep: SweepResults) -> list[CellValues]:
    """Returns the pre-trained cells; of many, the first, middle and last along each axis."""
    axes = sweep.plan.axes
    measured = [cell for cell in sweep.plan.cells if sweep.by_cell[cell]]
    cells = [cell for cell in measured if not _untrained(sweep, cell)]
    if len(axes) != 2:
        return _spread(cells, DOWN)
    shown = []
    for number, axis in enumerate(axes):
        used = {cell[number] for cell in cells}
        shown.append(_spread([value for value in axis.values if value in used], ALONG))
    return [cell for cell in cells if cell[0] in shown[0] and cell[1] in shown[1]]


def _spread(values: Sequence[Any], most: int) -> list[Any]:
    """Returns at most so many values, evenly spread, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(number * (len(values) - 1) / (most - 1))] for number in range(most)]


def _with_sheets(sweep: SweepResults, cell: CellValues) -> MeasuredRun | None:
    return next((run for run in sweep.by_cell[cell] if _sheets(run)), None)


def _untrained(sweep: SweepResults, cell: CellValues) -> bool:
    """Returns True if a run of the cell is known to be fine-tuned from initial weights."""
    return any(_begins_with(run) == INITIAL for run in sweep.by_cell[cell])


def _begins_with(run: MeasuredRun) -> str:
    """Returns `finetune.init` of a run; "" if its directory is gone."""
    if not run.run_dir:
        return ""
    stored = read_json_or_none(Path(run.run_dir) / IDENTITY_FILE, dict) or {}
    settings = stored.get("experiment", {}).get("finetune", {})
    return str(settings.get("init", ""))


def _sheets(run: MeasuredRun) -> list[Path]:
    if not run.run_dir:
        return []
    return sorted(Path(run.run_dir, "figures").glob(f"{PREFIX}*{SUFFIX}"))


def _grid(sweep: SweepResults, runs: dict[CellValues, MeasuredRun], name: str) -> Image.Image:
    """Arranges the sheets with a line above each.

    Of two axes the first runs down and the second across; otherwise there is one column.
    """
    axes = sweep.plan.axes
    across: list[Any] = []
    rows = [[cell] for cell in runs]
    if len(axes) == 2:
        across = _used(axes[1], [cell[1] for cell in runs])
        down = _used(axes[0], [cell[0] for cell in runs])
        rows = [[cell for cell in runs if cell[0] == value] for value in down]
    columns = max(1, len(across))
    sheets = {cell: _scaled(Path(run.run_dir, "figures", name)) for cell, run in runs.items()}
    width = max(sheet.width for sheet in sheets.values())
    heights = [HEAD + max(sheets[cell].height for cell in row) for row in rows]
    size = columns * width + (columns + 1) * GAP, sum(heights) + (len(rows) + 1) * GAP
    page = Image.new("RGB", size, "#ffffff")
    draw, y = ImageDraw.Draw(page), GAP
    for row, height in zip(rows, heights, strict=True):
        for cell in row:
            x = GAP + (width + GAP) * (across.index(cell[1]) if across else 0)
            title = f"{sweep.plan.describe(cell)}, seed {runs[cell].point.seed}"
            draw.text((x, y), title, font=_font(20), fill="#1c2430")
            page.paste(sheets[cell], (x, y + HEAD))
        y += height + GAP
    return page


def _used(axis: PlannedAxis, values: Sequence[Any]) -> list[Any]:
    return [value for value in axis.values if value in values]


def _scaled(path: Path) -> Image.Image:
    with Image.open(path) as sheet:
        size = round(SCALE * sheet.width), round(SCALE * sheet.height)
        return sheet.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), size)


def _png(image: Image.Image) -> bytes:
    """Returns the image with 256 colours, which has a third of the bytes."""
    content = io.BytesIO()
    reduced = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(content, format="PNG", optimize=True)
    return content.getvalue()
