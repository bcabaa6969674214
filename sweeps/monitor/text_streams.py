"""Output streams that cannot show every character: they show `?` for it and never raise."""

from __future__ import annotations

import io
import sys
from typing import TextIO


def tolerate_encodings(*streams: TextIO) -> None:
    """Makes streams replace characters that their encoding lacks.

    Progress lines have characters such as `\u00b7`, and names of points may have any. A terminal or
    file that is ASCII or Latin-1 must not end a sweep or a job.

    Args:
        streams: the streams; without any, standard output and error.
    """
    for stream in streams or (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
