"""One controller a sweep, and how it is interrupted."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simvtp.errors import UserError


@contextmanager
def only_controller(folder: Path) -> Iterator[None]:
    """Only one process at a time may run a sweep. The lock is a POSIX record lock: it goes with its
    process, however that ends.
    """
    path = folder / "controller.lock"
    with open(path, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"this sweep is being run by {holder} already: wait for it or stop it (sweeps/status.py shows how far it is, {folder / 'sweep.log'} what it says)."
            ) from None
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"
        )
        file.flush()
        yield


@contextmanager
def count_interrupts(install: bool = True) -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM are appended to, so that no line of the controller is
    interrupted half-way.
    """
    found: list[int] = []
    if not install:
        yield found
        return
    before: dict[int, Any] = {
        number: signal.signal(number, lambda number, frame: found.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
