"""Runs the sections of `simvtp bench gpu` and writes its report after each.

The sections run one after the other in a process of their own, which sends rows, gates and failures
as they come. So a section that hangs is ended, one that crashes or leaves the device unusable costs
itself alone, and what was measured is on the disk: `gpu.json` and `gpu.md` are written again after
every section.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from simvtp.bench.gpu.check_records import (
    Begun,
    Done,
    Failure,
    SectionRecord,
    SectionState,
    Value,
    page,
    report,
)
from simvtp.bench.gpu.check_worker import CheckSettings, Section, serve
from simvtp.bench.gpu.sections import SECTIONS
from simvtp.errors import ConfigError
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.provenance import capture, without_credentials

START_S = 120.0  # that the process may take to import torch
GRACE_S = 15.0  # that a section may outlast its budget before it is ended
DYING_S = 1.0
LEAST_S = 2.0  # with less time left no section begins


@dataclass(frozen=True)
class GpuCheckOptions:
    """Options of a check.

    Attributes:
        out: folder of gpu.json and gpu.md.
        budget_s: seconds for all sections; each has its share.
        device: auto, cpu, cuda or cuda:N; on a CPU everything is tiny and speeds are no gates.
        sections: that run, in their order.
    """

    out: Path
    budget_s: float = 440.0
    device: str = "auto"
    sections: tuple[Section, ...] = SECTIONS


def sections_named(names: Sequence[str]) -> tuple[Section, ...]:
    """Returns the sections of these names, in their usual order; all without names.

    Raises:
        ConfigError: there is no such section.
    """
    unknown = sorted(set(names) - {section.name for section in SECTIONS})
    if unknown:
        raise ConfigError(
            f"bench gpu has no section {', '.join(unknown)}: choose from "
            f"{', '.join(section.name for section in SECTIONS)}."
        )
    return tuple(one for one in SECTIONS if not names or one.name in names)


class _Worker:
    """The process that measures."""

    def __init__(self, settings: CheckSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # no daemon: the loader's workers are its children
        self._process = context.Process(target=serve, args=(theirs, settings))
        self._process.start()
        theirs.close()

    def end(self) -> str:
        """Ends the process with all that it started; returns how it ended."""
        pid = self._process.pid
        assert pid is not None
        self.connection.close()
        # one that has crashed is given the time to die of it; its number stays taken until `join`
        connection.wait([self._process.sentinel], DYING_S)
        with contextlib.suppress(ProcessLookupError):  # it leads a group of its own
            os.killpg(pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with status {code}"


def check_gpu(options: GpuCheckOptions, say: Callable[[str], None] = print) -> bool:
    """Runs the sections; returns True if all ended and all their gates hold.

    Raises:
        ConfigError: the budget is not above 0.
    """
    began, chosen = time.monotonic(), options.sections
    if options.budget_s <= 0:
        raise ConfigError(
            f"--budget {options.budget_s:g}: give the seconds that the check may take."
        )
    scale = options.budget_s / sum(section.seconds for section in chosen)
    records = [
        SectionRecord(section.name, section.title, section.seconds * scale) for section in chosen
    ]
    about = _about(options)
    worker: _Worker | None = None
    planned = began
    try:
        for section, record in zip(chosen, records, strict=True):
            planned += record.budget_s
            now = time.monotonic()
            left = began + options.budget_s - now
            if left < LEAST_S:
                record.failures.append(Failure(record.name, "the time was over before it began"))
            else:
                worker = worker or _Worker(CheckSettings(options.device))
                # what earlier sections left of their time is there for this one
                record.budget_s = min(left, max(record.budget_s, planned - now))
                worker = _run_section(worker, section, record, began + options.budget_s)
            about["seconds"] = round(time.monotonic() - began, 1)
            _write(options.out, records, about)
            say(record.line())
    finally:
        if worker is not None:
            worker.end()
    return all(record.passed for record in records)


def _run_section(
    worker: _Worker, section: Section, record: SectionRecord, end: float
) -> _Worker | None:
    """Runs one section in the worker; returns the worker for the next, or None to start another.

    `end` is when the time of the whole check is over.
    """
    began, allowed = time.monotonic(), START_S
    try:
        worker.connection.send((section, record.budget_s))
        while True:
            limit = min(began + allowed, end)
            if not worker.connection.poll(max(0.0, limit - time.monotonic())):
                reason = f"ended after {time.monotonic() - began:.0f} s"
                break
            message = worker.connection.recv()
            record.add(message)
            if isinstance(message, Begun):  # the time to start the process does not count
                began, allowed = time.monotonic(), record.budget_s + GRACE_S
            if isinstance(message, Done):
                if not any(failure.fatal for failure in record.failures):
                    return worker
                worker.end()
                return None
    except (EOFError, BrokenPipeError, ConnectionResetError):
        reason = ""
    how = worker.end()
    record.failures.append(Failure(record.name, reason or how))
    record.state, record.seconds = SectionState.KILLED, time.monotonic() - began
    return None


def _about(options: GpuCheckOptions) -> dict[str, Value]:
    known = capture()
    commit = (known.commit or known.note) + (" with uncommitted changes" if known.dirty else "")
    return {
        "command": f"python -m simvtp {without_credentials(' '.join(sys.argv[1:]))}",
        "commit": commit,
        "device": options.device,
        "gpus": ", ".join(known.gpus) or None,
        "processor": f"{len(os.sched_getaffinity(0))} cores of {known.cpu or 'an unknown one'}",
        "software": f"Python {known.python}, torch {known.torch}, "
        f"transformers {known.packages.get('transformers', '—')}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "budget_s": options.budget_s,
    }


def _write(out: Path, records: Sequence[SectionRecord], about: dict[str, Value]) -> None:
    content: dict[str, Any] = report(list(records), about)
    write_atomically(out / "gpu.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / "gpu.md", page(list(records), about))
