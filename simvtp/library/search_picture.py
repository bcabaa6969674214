"""A moving picture of what searches have found: a row of films for each text, as a GIF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from simvtp.data.clips import Clip
from simvtp.evaluation.examples.clip_previews import FRAME_MS, MOST_FRAMES, Frames, read_clips
from simvtp.evaluation.examples.sheets import sheet_font, wrap_text
from simvtp.library.video_index import SearchHit
from simvtp.library.video_text_model import VideoTextModel
from simvtp.runs.atomic_files import write_atomically

TILE, GAP, LINE, LABEL = 128, 12, 24, 20  # pixels: a film, spaces, a line of text, of a label
PAPER, INK, PALE = (255, 255, 255), (32, 36, 44), (110, 116, 128)
COLOURS = 128


def write_search_picture(
    model: VideoTextModel, found: Mapping[str, Sequence[SearchHit]], picture: str | Path
) -> None:
    """Writes a GIF with a row of moving films for each text, the best one first.

    A film that does not decode any more is grey.

    Args:
        model: its experiment says which frames are shown.
        found: the hits of each text.
        picture: file of the GIF.

    Raises:
        UserError: the file cannot be written.

    Examples:
        >>> model = simvtp.load("runs/demo")
        >>> index = model.index("videos", say=str)
        >>> found = {"a red star": model.search("a red star", index, k=2)}
        >>> simvtp.write_search_picture(model, found, "found.gif")
    """
    names = list(dict.fromkeys(hit.path for hits in found.values() for hit in hits))
    films = read_clips(model.experiment, [Clip(name, Path(name), ()) for name in names])
    pictures = [_frame(found, films, moment) for moment in np.linspace(0, 1, MOST_FRAMES)]
    palette = [image.quantize(COLOURS) for image in pictures]
    buffer = io.BytesIO()
    palette[0].save(
        buffer, "GIF", save_all=True, append_images=palette[1:], duration=FRAME_MS, loop=0
    )
    write_atomically(Path(picture), buffer.getvalue())


def _frame(
    found: Mapping[str, Sequence[SearchHit]], films: Mapping[str, Frames], moment: float
) -> Image.Image:
    """Returns the picture at a moment, 0 (first frame of each film) to 1 (last frame)."""
    columns = max(3, *map(len, found.values())) if found else 3
    width = GAP + columns * (TILE + GAP)
    bold, small = sheet_font(14, bold=True), sheet_font(11)
    titles = {text: wrap_text(f"\u201c{text}\u201d", bold, width - 2 * GAP) for text in found}
    heights = {text: LINE * len(lines) + TILE + LABEL + GAP for text, lines in titles.items()}
    image = Image.new("RGB", (width, GAP + sum(heights.values())), PAPER)
    draw, top = ImageDraw.Draw(image), GAP
    for text, hits in found.items():
        draw.multiline_text((GAP, top), "\n".join(titles[text]), INK, bold)
        below = top + LINE * len(titles[text])
        for column, hit in enumerate(hits):
            left, frames = GAP + column * (TILE + GAP), films[hit.path]
            frame = Image.fromarray(frames[round(moment * (len(frames) - 1))])
            image.paste(frame.resize((TILE, TILE), Image.Resampling.NEAREST), (left, below))
            label = f"{hit.rank}  \u00b7  {hit.score:.3f}"
            draw.text((left, below + TILE + 3), label, PALE, small)
        top += heights[text]
    return image
