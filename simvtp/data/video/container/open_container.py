"""Opens videos with PyAV: the one place for its options and for which stream of a file is read."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simvtp.compat.side_data_types import accept_unknown_kinds
from simvtp.data.video.tar_member import member_bytes
from simvtp.errors import UserError

OLDEST_PYAV = 17, 0, 1
# PyAV 17.0 and 17.1 crash on mp4 files when they are given options for streams.
STREAM_OPTIONS_FROM = 18, 0
# FFmpeg decodes no picture while it looks at a stream. Given for the first two streams.
UNDECODED = {"skip_frame": "all"}
# Old tags (AVI, ID3) are in whatever encoding their author had; titles are not read here.
METADATA = {"metadata_errors": "replace"}
PICTURE_FORMATS = {"image2", "jpeg_pipe", "image2pipe"}
END_OF_JPEG = b"\xff\xd9"
TAIL = 4096  # bytes in which a whole JPEG ends; cameras append a little


def pyav(reader: str) -> Any:
    """Returns the module `av` for the reader of that name.

    Raises:
        UserError: PyAV is not installed, or too old to be kept from starting threads.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"data.reader={reader}, but PyAV does not import ({error}): "
            "install av or set data.reader=decord."
        ) from error
    if _version(av) < OLDEST_PYAV:
        oldest = ".".join(str(part) for part in OLDEST_PYAV)
        raise UserError(
            f"data.reader={reader} needs PyAV {oldest} or newer, not {av.__version__}: "
            "install a newer av or set data.reader=decord."
        )
    _accept_new_side_data()
    return av


@functools.cache
def _accept_new_side_data() -> None:
    from av.sidedata.sidedata import Type

    accept_unknown_kinds(Type)


def _version(av: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", av.__version__)[:3])


def open_container(path: Path, content: Any = None, reader: str = "fast") -> Any:
    """Returns PyAV's container of a video, its video streams set to one decoder thread.

    Args:
        path: a video file, or a member of a tar shard.
        content: the bytes of the member as a file object, if they were read already.
        reader: name of the reader, for messages.

    Raises:
        UserError: PyAV cannot be used.
        ValueError: the file has no video stream. PyAV's own errors pass through.
    """
    av = pyav(reader)
    source = content or member_bytes(path) or str(path)
    _rewind(source)
    container = _quickly_opened(av, source)
    if container is None:
        _rewind(source)
        container = av.open(source, **METADATA)
    streams = container.streams.video
    if not streams:
        container.close()
        raise ValueError("no video stream")
    for stream in streams:
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
    if container.format.name in PICTURE_FORMATS and streams[0].codec_context.name == "mjpeg":
        _refuse_to_complete(container, source)
    return container


def _refuse_to_complete(container: Any, source: Any) -> None:
    """Lets the decoder refuse a JPEG that is cut off, which it would fill up with grey."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            file.seek(-min(TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
            tail = file.read()
    else:
        tail = source.getvalue()[-TAIL:]
    if END_OF_JPEG not in tail:
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}


def _rewind(source: Any) -> None:
    if not isinstance(source, str):
        source.seek(0)


def _quickly_opened(av: Any, source: Any) -> Any:
    """Returns the container, opened without decoding a picture; None where that is impossible.

    Containers without a header refuse options for their streams (.mpg, .flv), some codecs tell
    their pixel format only by a picture, and a later PyAV will not have the argument.
    """
    if _version(av) < STREAM_OPTIONS_FROM:
        return None
    try:
        container = av.open(source, stream_options=[dict(UNDECODED), dict(UNDECODED)], **METADATA)
    except (TypeError, ValueError) as error:
        if isinstance(error, av.error.FFmpegError):
            raise
        return None
    if any(stream.codec_context.pix_fmt is None for stream in container.streams.video):
        container.close()
        return None
    return container


def film_streams(container: Any) -> list[Any]:
    """Returns the video streams that may be the film: all but attached pictures (covers).

    Raises:
        ValueError: there is none.
    """
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise ValueError("no video stream but a cover picture")
    return streams


def film_stream(streams: list[Any], packets: Mapping[int, int]) -> Any:
    """Returns the stream that is read: FFmpeg's choice among those that have several pictures.

    That is the default stream before others, then the largest picture, then the first. Still
    pictures (thumbnail tracks) are left aside if another stream moves.

    Args:
        streams: of `film_streams`.
        packets: how many pictures each has, by the index of the stream.
    """
    from av.stream import Disposition

    moving = [stream for stream in streams if packets.get(stream.index, 0) > 1] or streams

    def rank(stream: Any) -> tuple[bool, int, int]:
        context = stream.codec_context
        default = bool(stream.disposition & Disposition.default)
        return default, context.height * context.width, -stream.index

    return max(moving, key=rank)
