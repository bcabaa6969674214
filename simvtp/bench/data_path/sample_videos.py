"""Videos for `bench loader`: textures that pan and zoom under noise, in common H.264 encodings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.readers import get_reader, probe
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import UserError

FRAMES, RATE = 250, 25  # 10 seconds
SIZES = ((240, 320), (360, 640))  # height, width
GOPS = (12, 250)


def make_videos(folder: Path) -> dict[str, tuple[Path, VideoInfo]]:
    """Returns one video of each size and GOP length, by its name; existing files are reused.

    Raises:
        UserError: PyAV is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ground = texture()
    videos: dict[str, tuple[Path, VideoInfo]] = {}
    for height, width in SIZES:
        frames: list[np.ndarray] = []
        for gop in GOPS:
            name = f"{width}x{height} GOP {gop}"
            path = folder / f"{width}x{height}-gop{gop}.mp4"
            if not path.is_file():
                frames = frames or [
                    draw_frame(ground, number, height, width) for number in range(FRAMES)
                ]
                encode(frames, path, gop)
            videos[name] = path, probe(path, get_reader("pyav"))
    return videos


def encode(frames: list[np.ndarray], path: Path, gop: int) -> None:
    """Writes H.264 with three B-frames in a row, one a reference, and keyframes `gop` apart.

    Raises:
        UserError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            "without sources, bench loader makes videos, which needs PyAV; PyAV does not import "
            f"({error})."
        ) from error
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        options = {
            "preset": "medium",
            "crf": "23",
            "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=3",
        }
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    part.rename(path)


def draw_frame(ground: np.ndarray, number: int, height: int, width: int) -> np.ndarray:
    """Returns frame `number`, uint8 [height, width, 3], RGB."""
    zoom = 1 + 0.3 * np.sin(number / 60)
    top, left = 200 + 150 * np.sin(number / 45), 200 + 150 * np.cos(number / 38)
    rows = (top + np.arange(height) * zoom * 360 / height).astype(int) % ground.shape[0]
    columns = (left + np.arange(width) * zoom * 640 / width).astype(int) % ground.shape[1]
    frame = ground[rows][:, columns].astype(np.int16)
    y, x = (
        int(height * (0.4 + 0.3 * np.sin(number / 11))),
        int(width * (0.4 + 0.3 * np.cos(number / 17))),
    )
    frame[y : y + height // 5, x : x + width // 6] = (220, 90, 40)
    frame += np.random.default_rng(number % 16).integers(-3, 4, frame.shape, dtype=np.int16)
    return np.clip(frame, 0, 255).astype(np.uint8)


def texture() -> np.ndarray:
    """Returns noise of several scales, uint8 [1024, 1024, 3]."""
    rng, total = np.random.default_rng(1), np.zeros((1024, 1024, 3))
    for cells, strength in ((8, 80.0), (32, 50.0), (128, 25.0)):
        coarse = rng.normal(0, strength, (cells, cells, 3))
        grown = np.kron(coarse, np.ones((1024 // cells, 1024 // cells, 1)))
        blur = 1024 // cells
        for axis in (0, 1):
            sums = np.cumsum(np.concatenate([grown, np.take(grown, range(blur), axis)], axis), axis)
            grown = (
                np.take(sums, range(blur, 1024 + blur), axis) - np.take(sums, range(1024), axis)
            ) / blur
        total += grown
    return np.clip(total + 120, 0, 255).astype(np.uint8)


def write_manifest(paths: list[Path], file: Path, copies: int = 1) -> Path:
    """Writes a manifest with `copies` rows a video, so that there are enough clips for a batch."""
    rows: list[list[Any]] = [["videoid", "path", "caption", "split"]]
    rows += [
        [f"{path.stem}-{n}", path.resolve(), f"a video called {path.stem}", "train"]
        for n in range(copies)
        for path in paths
    ]
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows(rows)
    return file
