"""The run directory: what others may ask about a run, and what the one process that owns it writes
there.

    experiment.json  provenance.json  journal.jsonl  status.json  results.json  stages/
    checkpoints/  figures/

See docs/architecture.md for the meaning of each file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simvtp.config.schema import SCHEMA_VERSION, Experiment, from_dict, to_dict
from simvtp.errors import RankLost, Stopped, UserError
from simvtp.runs import provenance
from simvtp.runs.journal import read_json, write_atomically
from simvtp.runs.lease import Fenced
from simvtp.runs.results import Result

# ---- what others may ask about a run -------------------------------------------------------------


def read_status(run_dir: Path) -> dict[str, Any] | None:
    """The run's status.json, or None if it was never started."""
    path = run_dir / "status.json"
    return read_json(path) if path.exists() else None


def is_finished(experiment: Experiment) -> bool:
    """Whether the results of this very experiment lie in its run directory."""
    status = read_status(experiment.run_dir)
    return (
        status is not None
        and status["state"] == "finished"
        and (experiment.run_dir / "results.json").exists()
    )


def load_results(run_dir: Path) -> list[Result]:
    """The results of a finished run."""
    return [Result.from_dict(values) for values in read_json(run_dir / "results.json")]


def load_experiment(run_dir: Path) -> Experiment:
    """The experiment of a run directory, with `runtime.root` pointing to where the directory lies
    now.
    """
    path = run_dir / "experiment.json"
    if not path.exists():
        raise UserError(f"'{run_dir}' is not a run directory: it has no experiment.json.")
    experiment: Experiment = from_dict(read_json(path)["experiment"])
    return replace(
        experiment, runtime=replace(experiment.runtime, root=str(run_dir.resolve().parent))
    )


def write_identity(experiment: Experiment, directory: Path) -> None:
    """experiment.json always; provenance only if the submission has not captured it already."""
    identity = {
        "schema": SCHEMA_VERSION,
        "fingerprint": experiment.fingerprint,
        "cell_fingerprint": experiment.cell_fingerprint,
        "experiment": to_dict(experiment),
    }
    write_atomically(directory / "experiment.json", json.dumps(identity, indent=1))
    if not (directory / provenance.RECORD).exists():
        provenance.write(directory, provenance.capture())


class Status:
    """Keeps status.json: what the run is doing, and how it ended, whatever ends it. Only rank 0
    writes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        writes: bool,
        whole: bool = True,
        guard: Callable[[], None] | None = None,
    ) -> None:
        """`whole`: whether the experiment is to run to its end, so that leaving without an error
        means "finished". `guard` raises if this process may not write any more (see
        `simvtp.runs.lease`)."""
        self._guard = guard
        self.path, self.writes, self.whole = directory / "status.json", writes, whole
        self.values: dict[str, Any] = {
            "state": "running",
            "stage": "",
            "step": 0,
            "total_steps": 0,
            "message": "",
        }
        self.spent: dict[str, tuple[float, float]] = {}  # stage -> CPU-hours, GPU-hours

    def update(self, **values: Any) -> None:
        self.values |= values
        if self.writes:
            if self._guard is not None:
                self._guard()
            self.values |= {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "updated": time.time(),
            }
            self.values |= {
                "cpu_hours": sum(c for c, _ in self.spent.values()),
                "gpu_hours": sum(g for _, g in self.spent.values()),
            }
            write_atomically(self.path, json.dumps(self.values))

    def on_log(self, record: dict[str, Any]) -> None:
        """The loop's report at its logging interval."""
        self.spent[record["stage"]] = record["cpu_hours"], record["gpu_hours"]
        self.update(stage=record["stage"], step=record["step"], total_steps=record["total_steps"])

    def __enter__(self) -> Status:
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        if isinstance(error, Fenced | RankLost):
            # the status is the other attempt's; or: it ends as if this process too had been killed
            return
        if error is None:
            self.update(
                state="finished" if self.whole else "stopped",
                message="" if self.whole else "stopped after the stage asked for",
            )
        elif isinstance(error, Stopped | KeyboardInterrupt):
            self.update(state="stopped", message=str(error) or "interrupted")
        else:
            text = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            with contextlib.suppress(
                UserError
            ):  # the disk may be full: then the error itself is what matters
                self.update(state="failed", message=text)
