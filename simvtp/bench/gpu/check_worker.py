"""The process of `simvtp bench gpu` that measures, and what a section reports through.

torch is imported in this process only, when the first section begins.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from simvtp.bench.gpu.check_records import Begun, Done, Failure, Gate, Message, Row, Value
from simvtp.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CheckSettings:
    """Settings of the measuring process."""

    device: str


@dataclass(frozen=True)
class Section:
    """One section of the check.

    Attributes:
        name: by which it is chosen.
        title: what it does.
        seconds: its share of 440 s.
        run: does it; a function of a module, because it is sent to the measuring process.
    """

    name: str
    title: str
    seconds: float
    run: Callable[[Recorder], None]


class Recorder:
    """Gives a section the device and its time, and takes what it reports.

    Attributes:
        device: that is checked.
        tiny: True on a CPU: sizes are small, turns are short, and speeds are no gates.
    """

    def __init__(self, device: torch.device, seconds: float, connection: Connection) -> None:
        self.device, self.tiny = device, device.type == "cpu"
        self._end = time.monotonic() + seconds
        self._connection = connection

    def left(self) -> float:
        """Returns the seconds that the section still has."""
        return self._end - time.monotonic()

    def row(self, table: str, **values: Value) -> None:
        """Reports a row of a table; underscores in names of columns become spaces."""
        self._send(Row(table, {name.replace("_", " "): value for name, value in values.items()}))

    def gate(self, text: str, held: bool) -> None:
        """Reports something that must hold."""
        self._send(Gate(text, bool(held)))

    @contextlib.contextmanager
    def attempt(self, part: str, needed: float = 0.0, optional: bool = False) -> Iterator[None]:
        """Surrounds a part of the section: its error is reported, and the section goes on.

        Statements after the block run in any case.

        Args:
            part: name of the part.
            needed: seconds without which it is not begun.
            optional: its error is a row of a table and no failure.

        Raises:
            OutOfTime: the section has less time than that; it ends there.
        """
        if self.left() < needed:
            raise OutOfTime(part, self.left(), needed)
        try:
            yield
        except OutOfTime:
            raise
        except Exception as error:  # any error is a result here
            failure = failure_of(part, error)
            if optional:
                self.row("not there", part=part, reason=failure.reason)
            else:
                self._send(failure)
            self._release()

    def time(self, call: Callable[[], object], seconds: float = 0.2) -> float:
        """Returns the seconds of a call: the median of three turns of `seconds` (tiny: a call)."""
        from simvtp.bench.measure import take_turns

        length = 0.0 if self.tiny else seconds
        return take_turns([call], self.device, rounds=3, seconds=length)[0].seconds

    def finish(self, section: Section) -> None:
        """Runs the section and reports its end."""
        began = time.monotonic()
        try:
            section.run(self)
        except OutOfTime as error:
            self._send(Failure(error.part, str(error)))
        except Exception as error:  # any error is a result here
            self._send(failure_of(section.name, error))
        self._release()
        self._send(Done(time.monotonic() - began))

    def _release(self) -> None:
        """Gives the memory of what failed or ended back to the device."""
        gc.collect()
        if self.device.type == "cuda":
            import torch

            with contextlib.suppress(RuntimeError):  # the device may be unusable now
                torch.cuda.empty_cache()

    def _send(self, message: Message) -> None:
        self._connection.send(message)


class OutOfTime(Exception):
    """The section has no time for a part."""

    def __init__(self, part: str, left: float, needed: float) -> None:
        super().__init__(f"left out: {max(0.0, left):.0f} s left, it needs {needed:.0f} s")
        self.part = part


def failure_of(part: str, error: Exception) -> Failure:
    """Returns the record of an error: its kind, its first line and where in the project it was."""
    import torch

    places = [
        f"{os.path.basename(frame.filename)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}simvtp{os.sep}" in frame.filename
    ]
    first = (str(error).strip().splitlines() or [""])[0]
    where = f" ({places[-1]})" if places else ""
    memory = isinstance(error, torch.OutOfMemoryError)
    fatal = not memory and not isinstance(error, UserError | AssertionError)
    return Failure(part, f"{type(error).__name__}: {first[:300]}{where}", fatal)


def serve(connection: Connection, settings: CheckSettings) -> None:
    """Runs the `Section`s that arrive, each with its seconds, until the other side closes."""
    os.setsid()  # so that this process can be ended together with its children
    # for the resumption that must be equal bit by bit; it has to be set before cuBLAS is loaded
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from simvtp.training.parallel.distributed import choose_device

    while True:
        try:
            section, seconds = connection.recv()
        except EOFError:
            return
        device = choose_device(settings.device)
        connection.send(Begun())
        Recorder(device, seconds, connection).finish(section)
