"""The run directory: what others may read of a run, and what its owner writes there.

    experiment.json  provenance.json  journal.jsonl  status.json  results.json  stages/
    checkpoints/  figures/

See docs/architecture.md for the meaning of each file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from simvtp.config.experiment_config import Experiment, from_dict
from simvtp.config.fingerprint import SCHEMA_VERSION
from simvtp.config.tree import to_dict
from simvtp.errors import DamagedFile, RankLost, Stopped, StopReason, UserError
from simvtp.plugins import loaded_plugins
from simvtp.runs import provenance
from simvtp.runs.atomic_files import cannot_write, read_json, write_atomically
from simvtp.runs.lease import Fenced, Lease
from simvtp.runs.process_identity import process_start
from simvtp.runs.results import Result
from simvtp.runs.run_records import STATUS_FILE, RunState, RunStatus, read_status

IDENTITY_FILE = "experiment.json"
RESULTS_FILE = "results.json"
PLUGINS_FOLDER = "plugins"  # copies of the plugins of the experiment


def require_writable(root: Path) -> None:
    """Raises UserError if nothing can be created under `root`, which need not exist yet.

    A folder is created in its nearest existing parent and removed again: permissions alone say
    nothing about read-only file systems, and nothing at all to the superuser.
    """
    root = root.expanduser().absolute()
    try:
        nearest = next(path for path in (root, *root.parents) if path.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=nearest))
    except OSError as error:
        raise cannot_write(root, error) from error


# ---- what others may read ------------------------------------------------------------------------


def is_finished(experiment: Experiment) -> bool:
    """Returns True if the results of this very experiment lie in its run directory."""
    status = read_status(experiment.run_dir)
    if status is None or status.state != RunState.FINISHED:
        return False
    return (experiment.run_dir / RESULTS_FILE).exists()


def load_results(run_dir: Path) -> list[Result]:
    """Returns the results of a finished run. Raises DamagedFile."""
    path = run_dir / RESULTS_FILE
    advice = "delete it and run `python -m simvtp evaluate` on this directory to score it again."
    try:
        return [Result.from_dict(values) for values in read_json(path, list, advice)]
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(path, f"no results of a run: {error!r}", advice) from error


def load_stage_results(path: Path) -> list[Result]:
    """Returns the results in a file of `stages/`. Raises DamagedFile."""
    advice = "delete it and run the same command again: the stage is measured again."
    try:
        return [Result.from_dict(values) for values in read_json(path, dict, advice)["results"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(path, f"no results of a stage: {error!r}", advice) from error


def load_experiment(run_dir: Path) -> Experiment:
    """Returns the experiment of a run directory; `runtime.root` is where the directory lies now.

    Raises:
        UserError: this is no run directory, or another version's.
        DamagedFile: its experiment.json cannot be read.
    """
    path = run_dir / IDENTITY_FILE
    if not path.exists():
        raise UserError(f"'{run_dir}' is not a run directory: it has no {IDENTITY_FILE}.")
    values = read_json(path, dict)
    if "experiment" not in values:
        advice = "start the experiment again."
        raise DamagedFile(path, "no settings of an experiment", advice)
    if values.get("schema") != SCHEMA_VERSION:
        raise UserError(
            f"{run_dir} was written by another version of simvtp (settings schema "
            f"{values.get('schema')}, this version has {SCHEMA_VERSION}): reports read its "
            "results, but only that version can go on with it or score it again."
        )
    experiment = from_dict(values["experiment"], (run_dir / PLUGINS_FOLDER,))
    root = str(run_dir.resolve().parent)
    return replace(experiment, runtime=replace(experiment.runtime, root=root))


# ---- what the owner writes -----------------------------------------------------------------------


def write_identity(experiment: Experiment, directory: Path) -> None:
    """Writes experiment.json, and the provenance unless the submission has captured it already."""
    identity = {
        "schema": SCHEMA_VERSION,
        "fingerprint": experiment.fingerprint,
        "cell_fingerprint": experiment.cell_fingerprint,
        "experiment": to_dict(experiment),
    }
    for plugin in loaded_plugins():
        if plugin.digest in experiment.plugins.digests:
            write_atomically(directory / PLUGINS_FOLDER / plugin.file_name, plugin.content)
    write_atomically(directory / IDENTITY_FILE, json.dumps(identity, indent=1))
    if not (directory / provenance.RECORD).exists():
        provenance.write(directory, provenance.capture())


class StatusWriter:
    """Keeps status.json up to date: what the run is doing and how it ended, whatever ends it.

    A context manager: on leaving without an error the run is finished; only rank 0 writes.

    Args:
        directory: the run directory.
        writes: False on ranks that do not write.
        complete: True if the experiment is to run to its end, so that leaving without an error
            means `finished`.
        lease: the right to write into the directory; checked before each change.
    """

    def __init__(
        self, directory: Path, *, writes: bool, complete: bool = True, lease: Lease | None = None
    ) -> None:
        self.path, self.writes, self.complete = directory / STATUS_FILE, writes, complete
        self._lease = lease or Lease(None)
        self.status = RunStatus(attempt=self._lease.token)
        self.spent: dict[str, tuple[float, float]] = {}  # stage -> CPU-hours, GPU-hours

    def update(self, **values: Any) -> None:
        """Changes fields of `RunStatus` and writes the file."""
        self.status = dataclasses.replace(self.status, **values)
        if not self.writes:
            return
        self.status = dataclasses.replace(
            self.status,
            pid=os.getpid(),
            pid_started=process_start(os.getpid()),
            host=socket.gethostname(),
            updated=time.time(),
            cpu_hours=sum(cpu for cpu, _ in self.spent.values()),
            gpu_hours=sum(gpu for _, gpu in self.spent.values()),
        )
        write_atomically(self.path, json.dumps(self.status.to_dict()), self._lease.check)

    def on_log(self, record: dict[str, Any]) -> None:
        """Takes over the report that the training loop makes at its logging interval."""
        self.spent[record["stage"]] = record["cpu_hours"], record["gpu_hours"]
        self.update(stage=record["stage"], step=record["step"], total_steps=record["total_steps"])

    def __enter__(self) -> StatusWriter:
        self.update()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Fenced | RankLost):
            return  # the file is another attempt's; or this rank ends as if it had been killed too
        if error is None and self.complete:
            self.update(state=RunState.FINISHED, message="", reason=None)
        elif error is None:
            self._stop("stopped after the stage asked for", StopReason.STAGE_DONE)
        elif isinstance(error, Stopped):
            self._stop(str(error), error.reason)
        elif isinstance(error, KeyboardInterrupt):
            self._stop(str(error) or "interrupted", StopReason.INTERRUPTED)
        else:
            is_message = isinstance(error, UserError)
            text = str(error) if is_message else f"{type(error).__name__}: {error}"
            # the disk may be full: then the error itself is what matters
            with contextlib.suppress(UserError):
                self.update(state=RunState.FAILED, message=text)

    def _stop(self, message: str, reason: StopReason | None) -> None:
        self.update(state=RunState.STOPPED, message=message, reason=reason)
