"""Clips as small moving pictures: GIFs and stills as data URIs, within a budget of bytes.

A clip is shown as the model sees it: its middle window, centre crop. Where a sentence is about a
part of a video, it is shown as a strip of frames from its whole length.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simvtp.config.experiment_config import Experiment
from simvtp.data.clips import Clip
from simvtp.data.loading.view_loader import GREY, ViewLoader

Frames = NDArray[np.uint8]  # [T, H, W, 3]

MOST_FRAMES = 8  # of a moving picture
STRIP = 8  # frames of a strip
SIDE = 128  # pixels of a frame on the page
# Side and number of colours, the best first: the first that fits is taken.
LEVELS = ((128, 64), (112, 64), (96, 32), (80, 32), (64, 16), (48, 8))
FRAME_MS = 200
# A stride that no video is long enough for: the frames are spread evenly from its first to its
# last one.
WHOLE_VIDEO = 10**9


@dataclass(frozen=True)
class PreviewImage:
    """Pictures of one clip.

    Attributes:
        moving: data URI; "" for a picture that does not move.
        still: data URI.
        width: in pixels of the page.
        height: in pixels of the page.
        decoded: False: the clip does not decode, or is not in the data set any more; it is grey.
    """

    moving: str
    still: str
    width: int
    height: int
    decoded: bool = True


@dataclass(frozen=True)
class Previews:
    """Pictures of the clips of a page, by name."""

    clips: Mapping[str, PreviewImage]
    strips: Mapping[str, PreviewImage]


def make_previews(
    experiment: Experiment,
    clips: Mapping[str, Clip],
    shown: Sequence[str],
    strips: Iterable[str],
    budget: int,
) -> Previews:
    """Decodes clips and makes their pictures.

    Args:
        clips: by name; the picture of a name that is missing is grey.
        shown: names of the clips that move, as often as each occurs on the page.
        strips: names of the videos that are shown as a strip.
        budget: bytes of all data URIs together; met unless there are more pictures than it has room
            for at the lowest quality.
    """
    strips = list(dict.fromkeys(strips))
    each = budget // max(1, len(shown) + len(strips))
    moving = read_clips(experiment, [clips[name] for name in dict.fromkeys(shown) if name in clips])
    whole = read_clips(experiment, [clips[name] for name in strips if name in clips], whole=True)
    side = min(experiment.model.image_size, SIDE)
    missing = np.full((STRIP, side, side, 3), GREY, dtype=np.uint8)
    return Previews(
        {name: animation(moving.get(name, missing), each) for name in dict.fromkeys(shown)},
        {name: strip(whole.get(name, missing), each) for name in strips},
    )


def read_clips(
    experiment: Experiment, clips: Sequence[Clip], *, whole: bool = False
) -> dict[str, Frames]:
    """Returns frames of each clip, at most SIDE wide.

    One that does not decode is grey: the evaluation has judged how many there may be.
    """
    if not clips:
        return {}
    data = replace(experiment.data, max_corrupt_ratio=1.0, on_corrupt="replace")
    model = experiment.model
    model = replace(model, image_size=min(model.image_size, SIDE))
    if whole:
        model, data = replace(model, frames=STRIP), replace(data, stride=WHOLE_VIDEO)
    # A cache of decoded frames would be one of these few clips alone.
    runtime = replace(experiment.runtime, decoded_cache=False)
    loader = ViewLoader(
        clips, data=data, model=model, runtime=runtime, segments=1, crops=1, batch_size=len(clips)
    )
    found: dict[str, Frames] = {}
    for views, numbers in loader.batches():
        for view, number in zip(views, numbers.tolist(), strict=True):
            found[clips[number].id] = view.numpy()
    return found


def animation(frames: Frames, budget: int) -> PreviewImage:
    """Returns at most MOST_FRAMES of the frames as a GIF, and the middle one as a still.

    They take `budget` bytes if any of LEVELS allows it.
    """
    spread = np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES))
    chosen = frames[np.unique(spread.round().astype(int))]
    moves = bool((chosen != chosen[:1]).any())
    width, height = display_size(frames)
    for side, colours in LEVELS:
        images = [_shrunk(frame, side).quantize(colours) for frame in chosen]
        still = _uri(_saved(images[len(images) // 2], "PNG", optimize=True), "png")
        moving = _gif(images) if moves else ""
        if len(moving) + len(still) <= budget:
            break
    return PreviewImage(moving, still, width, height, decoded=not bool((frames == GREY).all()))


def strip(frames: Frames, budget: int) -> PreviewImage:
    """Returns the frames side by side, as a JPEG."""
    for side, _ in LEVELS:
        row = np.concatenate([np.asarray(_shrunk(frame, side)) for frame in frames], axis=1)
        uri = _uri(_saved(Image.fromarray(row), "JPEG", quality=80), "jpeg")
        if len(uri) <= budget:
            break
    return PreviewImage(
        "", uri, row.shape[1], row.shape[0], decoded=not bool((frames == GREY).all())
    )


def display_size(frames: Frames) -> tuple[int, int]:
    """Returns width and height on the page.

    Small frames are enlarged by a whole factor, large ones are SIDE wide.
    """
    height, width = frames.shape[1:3]
    longer = max(height, width)
    factor = SIDE // longer if longer <= SIDE else SIDE / longer
    return round(width * factor), round(height * factor)


def _gif(images: Sequence[Image.Image]) -> str:
    options = {"append_images": images[1:], "duration": FRAME_MS, "loop": 0}
    return _uri(_saved(images[0], "GIF", save_all=True, **options), "gif")


def _shrunk(frame: Frames, side: int) -> Image.Image:
    image = Image.fromarray(frame)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
