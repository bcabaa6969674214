"""Clips as small moving pictures for a page that loads nothing: GIFs and stills as data URIs,
within a budget of bytes.

A clip is shown as the model sees it: its middle window, centre crop. Where a sentence speaks of a
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

from simvtp.config.schema import Experiment
from simvtp.data.clips import Clip
from simvtp.data.loading.view_loader import GREY, ViewLoader

Frames = NDArray[np.uint8]  # [T, H, W, 3]

MOST_FRAMES = 8  # of a moving picture
STRIP = 8  # frames of a strip
SIDE = 128  # pixels of a frame on the page
LEVELS = (
    (128, 64),
    (112, 64),
    (96, 32),
    (80, 32),
    (64, 16),
    (48, 8),
)  # side and colours, the best first: the first that fits is taken
FRAME_MS = 200
WHOLE_VIDEO = (
    10**9
)  # a stride that no video is long enough for: the frames are spread evenly from its first to its last one


@dataclass(frozen=True)
class Picture:
    """`moving` and `still` are data URIs (of a picture that does not move, `moving` is empty);
    width and height in pixels of the page.
    """

    moving: str
    still: str
    width: int
    height: int
    # False: the clip does not decode, or is not in the data set any more; what is seen is grey
    there: bool = True


@dataclass(frozen=True)
class Footage:
    """Pictures of the clips of a page, by name."""

    clips: Mapping[str, Picture]
    strips: Mapping[str, Picture]


def make_footage(
    experiment: Experiment,
    clips: Mapping[str, Clip],
    shown: Sequence[str],
    strips: Iterable[str],
    budget: int,
) -> Footage:
    """Decode clips and make their pictures.

    Args:
        clips: by name; of a name that is not among them the picture is grey.
        shown: names of the clips that move, as often as each is placed on the page.
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
    return Footage(
        {name: animation(moving.get(name, missing), each) for name in dict.fromkeys(shown)},
        {name: strip(whole.get(name, missing), each) for name in strips},
    )


def read_clips(
    experiment: Experiment, clips: Sequence[Clip], *, whole: bool = False
) -> dict[str, Frames]:
    """Frames of each clip, at most SIDE wide. One that does not decode is grey: what was scored has
    judged how many there may be.
    """
    if not clips:
        return {}
    model, data = (
        experiment.model,
        replace(experiment.data, max_corrupt_share=1.0, on_corrupt="replace"),
    )
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
        found |= {
            clips[number].id: view.numpy()
            for view, number in zip(views, numbers.tolist(), strict=True)
        }
    return found


def animation(frames: Frames, budget: int) -> Picture:
    """At most MOST_FRAMES of the frames as a GIF, and their middle one as a still, in `budget`
    bytes if any of LEVELS allows it.
    """
    chosen = frames[
        np.unique(
            np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int)
        )
    ]
    moves = bool((chosen != chosen[:1]).any())
    width, height = shown_size(frames)
    for side, colours in LEVELS:
        images = [_shrunk(frame, side).quantize(colours) for frame in chosen]
        still = _uri(_saved(images[len(images) // 2], "PNG", optimize=True), "png")
        moving = (
            _uri(
                _saved(
                    images[0],
                    "GIF",
                    save_all=True,
                    append_images=images[1:],
                    duration=FRAME_MS,
                    loop=0,
                ),
                "gif",
            )
            if moves
            else ""
        )
        if len(moving) + len(still) <= budget:
            break
    return Picture(moving, still, width, height, there=not bool((frames == GREY).all()))


def strip(frames: Frames, budget: int) -> Picture:
    """The frames side by side, as a JPEG."""
    for side, _ in LEVELS:
        row = np.concatenate([np.asarray(_shrunk(frame, side)) for frame in frames], axis=1)
        uri = _uri(_saved(Image.fromarray(row), "JPEG", quality=80), "jpeg")
        if len(uri) <= budget:
            break
    return Picture("", uri, row.shape[1], row.shape[0], there=not bool((frames == GREY).all()))


def shown_size(frames: Frames) -> tuple[int, int]:
    """Width and height on the page: small frames are enlarged by a whole factor, large ones are
    SIDE wide.
    """
    height, width = frames.shape[1:3]
    longer = max(height, width)
    factor = SIDE // longer if longer <= SIDE else SIDE / longer
    return round(width * factor), round(height * factor)


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
