"""Sheets of frames and captions, drawn with Pillow: a still picture and an animation.

Nothing here knows about models. A `Sheet` holds panels (one clip each, as a row of frames) and
lines of words, some of them highlighted; `draw_sheet` lays it out as one image, `draw_animation` as
the frames of a GIF with the panels side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, LABEL_WIDTH = 28, 8, 216
SMALLEST_WIDTH = 640
COLUMNS = 6  # frames of a clip that the still picture shows
INK, GREY, RULE, PAPER = "#1c2430", "#66707d", "#dfe3e8", "#ffffff"
_STYLES = {  # text and background colour of a word
    "plain": (INK, None),
    "mask": ("#4b5563", "#e2e6ec"),
    "right": ("#14622f", "#d5efdd"),
    "wrong": ("#9c1c1c", "#f8dcdb"),
    "truth": (GREY, None),
}
WordStyle = Literal["plain", "mask", "right", "wrong", "truth"]


@dataclass(frozen=True)
class Panel:
    """One version of a clip: frames uint8 [T, H, W, 3], a short title, and an explaining note."""

    title: str
    note: str
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class Word:
    """A word or piece of a caption; `glued` = no space before it."""

    text: str
    style: WordStyle = "plain"
    glued: bool = False


@dataclass(frozen=True)
class SheetLine:
    """A labelled line of words."""

    label: str
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Sheet:
    """Contents of a picture or an animation."""

    title: str
    subtitle: str
    panels: tuple[Panel, ...]
    lines: tuple[SheetLine, ...]
    footnote: str
    frame_numbers: tuple[str, ...]  # a name for each of the T frames


@cache
def sheet_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns DejaVu Sans, which matplotlib ships; without it the font that Pillow ships.

    Neither is the machine's own, so pictures look alike everywhere.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        found = ImageFont.load_default(size)
        assert isinstance(found, ImageFont.FreeTypeFont)
        return found
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _cell(frame: NDArray[np.uint8], target: int) -> Image.Image:
    """Returns a frame at about `target` pixels wide.

    Small ones grow by a whole factor with sharp pixels, large ones shrink.
    """
    image = Image.fromarray(frame)
    factor = round(target / image.width)
    if factor >= 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize(
        (target, round(target * image.height / image.width)), Image.Resampling.LANCZOS
    )


def chosen_frames(count: int) -> list[int]:
    """Returns up to COLUMNS frame indices, evenly spread from the first to the last."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, COLUMNS)).round()})


# ---- text ----------------------------------------------------------------------------------------


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Returns lines of `text` no wider than `width`; a single word that is too wide is broken."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            fits = max(
                n for n in range(1, len(word)) if n == 1 or font.getlength(word[:n]) <= width
            )
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines


def _lines(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Returns the lines of `_wrap`, keeping the line breaks of `text`."""
    return [line for part in text.split("\n") for line in wrap_text(part, font, width)]


def _flow_words(
    words: tuple[Word, ...], font: ImageFont.FreeTypeFont, width: float
) -> Iterator[tuple[float, int, Word]]:
    """Yields (x, line number, word) of words that flow over lines of `width`.

    Highlighted words get room for their background; pieces of a word, and a true word after a wrong
    one, stay on one line.
    """
    space = font.getlength(" ") + 3
    groups: list[list[tuple[float, Word]]] = []  # (x within the group, word)
    ends: list[float] = []
    for word in words:
        length = font.getlength(word.text) + (8 if _STYLES[word.style][1] else 0)
        if groups and (word.glued or word.style == "truth"):
            start = ends[-1] + (0 if word.glued else space)
            groups[-1].append((start, word))
            ends[-1] = start + length
        else:
            groups.append([(0.0, word)])
            ends.append(length)
    x, line = 0.0, 0
    for group, end in zip(groups, ends, strict=True):
        if x > 0 and x + end > width:
            x, line = 0.0, line + 1
        for start, word in group:
            yield x + start, line, word
        x += end + space


class _Canvas:
    """A white canvas that is filled from top to bottom.

    Below `height` nothing is drawn, but `y` still counts it.
    """

    def __init__(self, width: int, height: int = 1) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.width, self.y = width, MARGIN

    def text(
        self,
        text: str,
        size: int,
        *,
        colour: str = INK,
        bold: bool = False,
        after: int = 0,
        left: int = MARGIN,
    ) -> None:
        """Draws a paragraph from `left` to the right margin."""
        font = sheet_font(size, bold)
        for line in wrap_text(text, font, self.width - MARGIN - left):
            self.draw.text((left, self.y), line, fill=colour, font=font)
            self.y += round(size * 1.45)
        self.y += after

    def rule(self) -> None:
        """Draws a horizontal rule."""
        self.draw.line((MARGIN, self.y, self.width - MARGIN, self.y), fill=RULE, width=1)
        self.y += 14

    def line(self, line: SheetLine, left: int) -> None:
        """Draws a labelled line of words, the words from `left` on."""
        font, step, top = sheet_font(15), 27, self.y
        self.draw.text((MARGIN, top), line.label, fill=INK, font=sheet_font(14, bold=True))
        rows = 0
        for x, row, word in _flow_words(line.words, font, self.width - MARGIN - left):
            colour, background = _STYLES[word.style]
            at, rows = (left + x + (4 if background else 0), top + row * step), row
            if background:
                length = font.getlength(word.text)
                self.draw.rounded_rectangle(
                    (at[0] - 4, at[1] - 3, at[0] + length + 4, at[1] + 20),
                    radius=4,
                    fill=background,
                )
            self.draw.text(at, word.text, fill=colour, font=font)
        self.y = top + (rows + 1) * step + 4


# ---- layouts -------------------------------------------------------------------------------------


def _fitted(layout: Callable[[_Canvas], None], width: int) -> Image.Image:
    """Lays out twice: once to learn the height, once on a canvas of that height."""
    trial = _Canvas(width)
    layout(trial)
    page = _Canvas(width, trial.y + MARGIN - 10)
    layout(page)
    return page.image


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Draws the still picture.

    It has a row of frames for each panel with its label on the left, then the captions, then the
    footnote.
    """
    columns = chosen_frames(len(sheet.frame_numbers))
    cells = [[_cell(panel.frames[i], 144) for i in columns] for panel in sheet.panels]
    cell_width, cell_height = cells[0][0].size
    left = MARGIN + LABEL_WIDTH

    def layout(page: _Canvas) -> None:
        page.text(sheet.title, 19, bold=True, after=2)
        page.text(sheet.subtitle, 13, colour=GREY, after=12)
        for number, i in enumerate(columns):
            centre = left + number * (cell_width + GAP) + cell_width / 2
            page.draw.text(
                (centre, page.y),
                sheet.frame_numbers[i],
                fill=GREY,
                font=sheet_font(12),
                anchor="ma",
            )
        page.y += 22
        for panel, row in zip(sheet.panels, cells, strict=True):
            for number, cell in enumerate(row):
                page.image.paste(cell, (left + number * (cell_width + GAP), page.y))
            page.y += _label(page, panel, max_height=cell_height) + GAP
        page.y += 10
        page.rule()
        for line in sheet.lines:
            page.line(line, left)
        page.text(sheet.footnote, 11, colour=GREY)

    return _fitted(
        layout, max(left + len(columns) * (cell_width + GAP) - GAP + MARGIN, SMALLEST_WIDTH)
    )


def _label(page: _Canvas, panel: Panel, max_height: int) -> int:
    """Draws title and note of a panel, centred on its row of frames.

    Returns:
        The height of the row.
    """
    title, note = sheet_font(14, bold=True), sheet_font(12)
    width = LABEL_WIDTH - 18
    titles, notes = wrap_text(panel.title, title, width), _lines(panel.note, note, width)
    height = 20 * len(titles) + 17 * len(notes)
    y = page.y + max(0, (max_height - height) // 2)
    _paragraph(page, (MARGIN, y), titles, title, INK, 20)
    _paragraph(page, (MARGIN, y + 20 * len(titles)), notes, note, GREY, 17)
    return max(height, max_height)


def _paragraph(
    page: _Canvas,
    at: tuple[int, int],
    lines: list[str],
    font: ImageFont.FreeTypeFont,
    colour: str,
    step: int,
) -> None:
    for row, text in enumerate(lines):
        page.draw.text((at[0], at[1] + row * step), text, fill=colour, font=font)


def draw_animation(sheet: Sheet) -> list[Image.Image]:
    """Draws the frames of an animation: the panels side by side, with the captions below."""
    first = [_cell(panel.frames[0], 192) for panel in sheet.panels]
    width, height = first[0].size
    gap = 2 * GAP
    left = [MARGIN + number * (width + gap) for number in range(len(first))]
    title, note = sheet_font(13, bold=True), sheet_font(11)
    titles = [wrap_text(panel.title, title, width) for panel in sheet.panels]
    notes = [_lines(panel.note, note, width) for panel in sheet.panels]
    top = 0

    def layout(page: _Canvas) -> None:
        nonlocal top
        page.text(sheet.title, 17, bold=True, after=8)
        for x, lines in zip(left, titles, strict=True):
            _paragraph(page, (x, page.y), lines, title, INK, 18)
        page.y += 18 * max(map(len, titles)) + 6
        top = page.y
        for x, lines in zip(left, notes, strict=True):
            _paragraph(page, (x, top + height + 8), lines, note, GREY, 15)
        page.y += height + 20 + 15 * max(map(len, notes))
        for line in sheet.lines:
            page.line(line, MARGIN + 96)
        page.text(sheet.footnote, 11, colour=GREY)

    base = _fitted(layout, max(left[-1] + width + MARGIN, SMALLEST_WIDTH))
    images = []
    for i in range(len(sheet.frame_numbers)):
        image = base.copy()
        for x, panel in zip(left, sheet.panels, strict=True):
            image.paste(_cell(panel.frames[i], 192), (x, top))
        images.append(image)
    return images


def save_animation(images: list[Image.Image], path: Path, milliseconds: int = 250) -> None:
    """Writes an endless GIF."""
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": images[1:],
        "duration": milliseconds,
        "loop": 0,
        "optimize": False,
    }
    images[0].save(path, **options)
