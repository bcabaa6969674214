"""The lock that allows one controller per sweep: taken by the controller, read by all others."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simvtp.errors import UserError

LOCK = "controller.lock"
FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: type, whence, start, length, process


@contextmanager
def only_controller(folder: Path) -> Iterator[None]:
    """Holds the lock of the sweep in `folder`.

    It is a POSIX record lock: released when the process exits, however that happens.

    Raises:
        UserError: another process holds it.
    """
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"this sweep is being run by {holder} already: wait for it or stop it "
                f"(sweeps/status.py shows its progress, {folder / 'sweep.log'} is its log)."
            ) from None
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} (since {since})")
        file.flush()
        yield


def controller(folder: Path) -> str:
    """Returns the process that runs the sweep (`process 12 on n1 (since ...)`); "" if none does.

    Only asks for the lock's state; does not take it.
    """
    try:
        with open(folder / LOCK, "rb") as file:
            request = struct.pack(FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
            state = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, request))[0]
            if state == fcntl.F_UNLCK:
                return ""
            return file.read().decode(errors="replace").strip() or "another process"
    except OSError:
        return ""
