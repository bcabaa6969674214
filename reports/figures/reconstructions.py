"""What the models of a sweep fill in: the stored reconstructions of the same test clips, cell by
cell, as one picture a clip.

The pictures are those that each run drew at its end (`figures/reconstruction_*.png`), so the same
clips stand beside each other. They are read from the run directories; where these are away there is
no grid."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from reports.figures.style import Picture
from reports.study.collect import Run, Study
from reports.study.report_plan import SEARCH, Axis, Values
from simvtp.runs.atomic_files import write_atomically

CLIPS = 2  # examples, each with a grid of its own
ALONG, DOWN = 3, 6  # most values of each of two axes, and most cells of a single axis
SCALE, GAP, HEAD = (
    0.75,
    18,
    34,
)  # of a stored sheet; pixels between sheets; pixels of the line above each


def rebuilt_pictures(study: Study, folder: Path) -> tuple[Picture, ...]:
    """Write `reconstructions_<number>.png` for clips that all shown cells have drawn; nothing for a
    search or a single cell.
    """
    if study.plan.kind == SEARCH:
        return ()
    runs = {
        cell: run for cell in shown_cells(study) if (run := _with_pictures(study, cell)) is not None
    }
    if len(runs) < 2:
        return ()
    names = [{path.name for path in _sheets(run)} for run in runs.values()]
    common = sorted(set.intersection(*names))[:CLIPS]
    made = []
    for number, name in enumerate(common):
        path = folder / f"reconstructions_{number}.png"
        write_atomically(path, _png(_grid(study, runs, name)))
        clip = name.removeprefix("reconstruction_").removesuffix(".png")[3:]
        cells = "; ".join(study.plan.describe(cell) for cell in runs)
        caption = (
            f"What the model of each cell fills in, for the same test clip ({clip}), drawn by the run with the lowest seed. A cell hides its own "
            "share, so a picture that looks better may have had less to fill in; the figures in the tables decide, not these."
        )
        made.append(
            Picture(
                path.stem,
                path,
                path,
                caption,
                f"Reconstructions of clip {clip} in these cells: {cells}.",
            )
        )
    return tuple(made)


def shown_cells(study: Study) -> list[Values]:
    """The measured cells, or where they are many, first, middle and last along each axis."""
    axes = study.plan.axes
    cells = [cell for cell in study.plan.cells if study.by_cell[cell]]
    if len(axes) != 2:
        return _spread(cells, DOWN)
    kept = [
        set(_spread([v for v in axis.values if any(cell[i] == v for cell in cells)], ALONG))
        for i, axis in enumerate(axes)
    ]
    return [cell for cell in cells if cell[0] in kept[0] and cell[1] in kept[1]]


def _spread(values: Sequence[Any], most: int) -> list[Any]:
    if len(values) <= most:
        return list(values)
    return [values[round(number * (len(values) - 1) / (most - 1))] for number in range(most)]


def _with_pictures(study: Study, cell: Values) -> Run | None:
    return next((run for run in study.by_cell[cell] if _sheets(run)), None)


def _sheets(run: Run) -> list[Path]:
    return sorted(Path(run.run_dir, "figures").glob("reconstruction_*.png")) if run.run_dir else []


def _grid(study: Study, runs: dict[Values, Run], name: str) -> Image.Image:
    """Sheets with a line above each; two axes: the first down, the second across, else one column."""
    axes = study.plan.axes
    across: list[Any] = []
    if len(axes) == 2:
        across = _used(axes[1], [cell[1] for cell in runs])
        rows = [
            [cell for cell in runs if cell[0] == value]
            for value in _used(axes[0], [cell[0] for cell in runs])
        ]
    else:
        rows = [[cell] for cell in runs]
    columns = max(1, len(across))
    sheets = {cell: _scaled(Path(run.run_dir, "figures", name)) for cell, run in runs.items()}
    width = max(sheet.width for sheet in sheets.values())
    heights = [HEAD + max(sheets[cell].height for cell in row) for row in rows]
    page = Image.new(
        "RGB",
        (columns * width + (columns + 1) * GAP, sum(heights) + (len(rows) + 1) * GAP),
        "#ffffff",
    )
    draw, y = ImageDraw.Draw(page), GAP
    for row, height in zip(rows, heights, strict=True):
        for cell in row:
            x = GAP + (width + GAP) * (across.index(cell[1]) if len(axes) == 2 else 0)
            draw.text(
                (x, y),
                f"{study.plan.describe(cell)}, seed {runs[cell].point.seed}",
                font=_font(20),
                fill="#1c2430",
            )
            page.paste(sheets[cell], (x, y + HEAD))
        y += height + GAP
    return page


def _used(axis: Axis, values: Sequence[Any]) -> list[Any]:
    return [value for value in axis.values if value in values]


def _scaled(path: Path) -> Image.Image:
    with Image.open(path) as sheet:
        size = round(SCALE * sheet.width), round(SCALE * sheet.height)
        return sheet.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size
    )


def _png(image: Image.Image) -> bytes:
    """Few colours are enough for a page, and a third of the bytes."""
    content = io.BytesIO()
    image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        content, format="PNG", optimize=True
    )
    return content.getvalue()
