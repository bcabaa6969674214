"""Replays one run directory into the tracker.

Doing it again adds nothing; doing it later gives the same as doing it in time. The tracker is
asked, whenever a run is opened, for the last step of each metric, and a journal line is mirrored
only for metrics that it would continue. So it does not matter whether the cursor file was lost,
whether a process was killed between writing to the tracker and writing the cursor, or whether the
journal was truncated to a checkpoint and written again (the values are bit-identical then). The
cursor only saves reading. Names in the tracker: see `simvtp.tracking.run_contents`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import DamagedFile
from simvtp.runs import provenance
from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from simvtp.runs.journal import read_journal
from simvtp.runs.run_records import RunStatus
from simvtp.runs.rundir import IDENTITY_FILE, RESULTS_FILE, load_results
from simvtp.tracking.address import display_uri, resolve_uri
from simvtp.tracking.run_contents import (
    RunIdentity,
    cost_points,
    line_points,
    masked_identity,
    read_identity,
    result_points,
    run_dataset,
    run_name,
    run_tags,
    selected_points,
    start_time,
)
from simvtp.tracking.store import MetricPoint, Store, StoredRun, is_news
from simvtp.tracking.tracked_state import MLFLOW_STATUS, run_status

CURSOR = "mirror.json"
NOTE = "mlflow.note.content"  # the tag that the tracker's page shows as description
DATASET_TAG = "dataset_digest"  # set once the data set is named
EARLY_ARTIFACTS = (IDENTITY_FILE, provenance.RECORD, provenance.PATCH, "sweep.json")
LATE_ARTIFACTS = (RESULTS_FILE, "log.txt", "figures/*", "stages/items_*")
_TAIL = 65536  # bytes before the cursor that must be unchanged
_CHUNK = 2000  # points collected before they are handed to the store
_START: dict[str, Any] = {"offset": 0, "tail": "", "uploads": {}}


@dataclass(frozen=True)
class SyncReport:
    """Record of one synchronisation.

    Attributes:
        run_dir: the run directory.
        lines: journal lines that were read.
        points: points that were added to the tracker.
        warnings: what could not be mirrored.
        run_id: MLflow's id of the run; empty if nothing was stored.
        is_busy: another process was mirroring the run, which was left to it.
    """

    run_dir: Path
    lines: int = 0
    points: int = 0
    warnings: tuple[str, ...] = ()
    run_id: str = ""
    is_busy: bool = False

    def __str__(self) -> str:
        done = f"{self.run_dir}: {self.points} points added from {self.lines} new journal lines"
        return "\n".join([done, *(f"  warning: {text}" for text in self.warnings)])


@dataclass
class _OpenRun:
    """The run in the tracker, kept up to date by this process.

    Attributes:
        store: where it is.
        identity: of the run directory.
        run: as it was when it was opened.
        last: last point of each metric.
        tags: its tags.
        status: MLflow's status.
        offset: bytes of the journal that were read.
        tail: digest of the bytes before the offset.
        uploads: size and modification time of each stored artifact.
        warnings: of the present synchronisation.
    """

    store: Store
    identity: RunIdentity
    run: StoredRun
    last: dict[str, MetricPoint]
    tags: dict[str, str]
    status: str
    offset: int
    tail: str
    uploads: dict[str, list[int]]
    warnings: list[str] = field(default_factory=list)


class Mirror:
    """Mirrors one run directory; a later `sync` continues from what was stored.

    A tracked run has one parent, but several sweeps may have its experiment. For the others the
    directory is mirrored again, without its files, into a run that refers to the first one
    (`shared_by`); its tag is `shared_key` and not `run_key`, so reports count the run once.

    Args:
        run_dir: the run directory.
        runtime: address of the tracker and name of the MLflow experiment.
        heartbeat: called after each piece of work, so that a caller that waits can tell a slow
            tracker from a dead one.
        abandoned: a run that says it is running, but whose process on this machine is gone, counts
            as stopped.
        shared_by: tags of the cell of another sweep, whose child the mirrored run is.
        parent: MLflow's id of the parent run of that sweep.
    """

    def __init__(
        self,
        run_dir: Path,
        runtime: RuntimeConfig,
        *,
        heartbeat: Callable[[], None] = lambda: None,
        abandoned: bool = False,
        shared_by: Mapping[str, str] | None = None,
        parent: str = "",
    ) -> None:
        self._shared_by, self._parent = dict(shared_by or {}), parent
        self.run_dir = Path(run_dir)
        self._uri = resolve_uri(runtime)
        self._experiment_name = runtime.tracking_experiment
        self._heartbeat = heartbeat
        self._abandoned = abandoned
        self._opened: _OpenRun | None = None

    def sync(self, final: bool = False) -> SyncReport:
        """Brings the tracker up to date.

        Args:
            final: also store results, log and figures of a run that has not ended.

        Raises:
            TrackerError: the tracker cannot be reached or refuses.
            DamagedFile: the identity or the status of the run cannot be read.
        """
        if self._uri is None:
            return SyncReport(self.run_dir)
        with _one_at_a_time(self.run_dir / ".mirror.lock", wait_s=10.0 if final else 0.0) as free:
            if not free:
                warning = "another process is mirroring this run; it was left alone"
                return SyncReport(self.run_dir, warnings=(warning,), is_busy=True)
            # dropped if anything below fails
            opened, self._opened = self._opened or self._open(self._uri), None
            opened.warnings = []
            status = run_status(self.run_dir, self._abandoned)
            lines, added = self._replay(opened)
            points = [*self._results(opened), *selected_points(self.run_dir, status)]
            added += self._log(opened, [*points, *cost_points(status)])
            late = final or status.state in MLFLOW_STATUS
            if not self._shared_by:
                self._upload(opened, EARLY_ARTIFACTS + (LATE_ARTIFACTS if late else ()))
            self._log_dataset(opened)
            self._label(opened, status)
            self._save(opened)
            self._opened = opened
        return SyncReport(self.run_dir, lines, added, tuple(opened.warnings), opened.run.run_id)

    # ---- opening ---------------------------------------------------------------------------------

    def _open(self, uri: str) -> _OpenRun:
        identity = read_identity(self.run_dir)
        store = Store(uri)
        self._heartbeat()
        experiment_id = store.experiment(self._experiment_name)
        tags = {"run_key": identity.fingerprint}
        if self._shared_by:
            tags = {"shared_key": identity.fingerprint, "sweep_id": self._shared_by["sweep_id"]}
        found = store.find(tags, experiment_id)
        if found:
            run = found[0]
        else:
            tags["role"] = "shared" if self._shared_by else "experiment"
            name = run_name(self.run_dir, identity)
            run = store.create(experiment_id, name, start_time(self.run_dir), tags)
        params = identity.params.items()
        store.log_params(run.run_id, {key: value for key, value in params if key not in run.params})
        self._heartbeat()
        cursor = self._read_cursor(uri, run.run_id)
        return _OpenRun(
            store=store,
            identity=identity,
            run=run,
            last=dict(run.metrics),
            tags=dict(run.tags),
            status=run.status,
            offset=cursor["offset"],
            tail=cursor["tail"],
            uploads=cursor["uploads"],
        )

    def _read_cursor(self, uri: str, run_id: str) -> dict[str, Any]:
        """Returns the stored cursor if it belongs to this run of this tracker, else the start.

        A lost or damaged cursor only costs reading the journal again.
        """
        stored = read_json_or_none(self._cursor_file, dict) or {}
        fits = stored.get("uri") == display_uri(uri) and stored.get("run_id") == run_id
        typed = all(type(stored.get(key)) is type(value) for key, value in _START.items())
        return {key: stored[key] for key in _START} if fits and typed else dict(_START, uploads={})

    def _save(self, opened: _OpenRun) -> None:
        cursor = {
            "uri": display_uri(opened.store.uri),
            "run_id": opened.run.run_id,
            "offset": opened.offset,
            "tail": opened.tail,
            "uploads": opened.uploads,
        }
        write_atomically(self._cursor_file, json.dumps(cursor))

    @property
    def _cursor_file(self) -> Path:
        name = f"mirror-{self._shared_by['sweep_id']}.json" if self._shared_by else CURSOR
        return self.run_dir / name

    # ---- journal ---------------------------------------------------------------------------------

    def _replay(self, opened: _OpenRun) -> tuple[int, int]:
        """Returns (journal lines read, points added)."""
        path = self.run_dir / "journal.jsonl"
        if opened.offset and _tail(path, opened.offset) != opened.tail:
            opened.offset = 0  # truncated since: what the tracker has is left out below
        lines = added = 0
        pending: list[MetricPoint] = []
        try:
            for after, line in read_journal(path, opened.offset):
                lines += 1
                pending += self._points(opened, line, f"{path}, line ending at byte {after}")
                opened.offset = after
                if len(pending) >= _CHUNK:
                    added += self._log(opened, pending)
                    pending = []
        except ValueError as error:
            opened.warnings.append(
                f"damaged: {path} (not JSON after byte {opened.offset}: {error}); the rest is not "
                "mirrored, run `python sweeps/doctor.py` to repair it."
            )
        added += self._log(opened, pending)
        opened.tail = _tail(path, opened.offset)
        return lines, added

    def _points(self, opened: _OpenRun, line: Mapping[str, Any], where: str) -> list[MetricPoint]:
        try:
            return line_points(line, opened.run.start_time)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            opened.warnings.append(f"{where}: not understood ({reason}), not mirrored")
            return []

    def _log(self, opened: _OpenRun, points: list[MetricPoint]) -> int:
        """Logs those points which are news; returns their number."""
        last = dict(opened.last)
        news = []
        for point in points:
            if is_news(point, last.get(point.key)):
                news.append(point)
                last[point.key] = point
        for _ in opened.store.log_points(opened.run.run_id, news):
            self._heartbeat()
        opened.last = last
        return len(news)

    # ---- the rest of the directory ---------------------------------------------------------------

    def _results(self, opened: _OpenRun) -> list[MetricPoint]:
        path = self.run_dir / RESULTS_FILE
        if not path.exists():
            return []
        moment = int(path.stat().st_mtime * 1000)
        try:
            results = load_results(self.run_dir)
        except DamagedFile as error:
            opened.warnings.append(str(error))
            return []
        return [point for result in results for point in result_points(result, moment)]

    def _upload(self, opened: _OpenRun, patterns: tuple[str, ...]) -> None:
        for pattern in patterns:
            for file in sorted(self.run_dir.glob(pattern)):
                name = str(file.relative_to(self.run_dir))
                state = [file.stat().st_size, file.stat().st_mtime_ns]
                if not file.is_file() or opened.uploads.get(name) == state:
                    continue
                if name == IDENTITY_FILE:  # may hold the tracker's address with a password
                    opened.store.upload_text(opened.run.run_id, masked_identity(file), name)
                else:
                    folder = file.relative_to(self.run_dir).parent
                    opened.store.upload(
                        opened.run.run_id, file, "" if folder == Path() else str(folder)
                    )
                opened.uploads[name] = state
                self._heartbeat()

    def _label(self, opened: _OpenRun, status: RunStatus) -> None:
        """Sets tags and status, last of all: a run that is called finished is complete."""
        tags = run_tags(self.run_dir, opened.identity, status, self._shared_by)
        if self._shared_by:
            tags |= self._reference_tags(opened)
        else:
            tags |= self._parent_tag(opened)
            tags["results"] = RESULTS_FILE if RESULTS_FILE in opened.uploads else ""
        changed = {key: value for key, value in tags.items() if value != opened.tags.get(key, "")}
        opened.store.set_tags(opened.run.run_id, changed)
        opened.tags.update(changed)
        wanted = MLFLOW_STATUS.get(status.state, "RUNNING")
        if wanted != opened.status:
            ended = int((status.updated or time.time()) * 1000)
            opened.store.set_status(opened.run.run_id, wanted, ended)
            opened.status = wanted
        self._heartbeat()

    def _reference_tags(self, opened: _OpenRun) -> dict[str, str]:
        """Returns the tags by which a run of another sweep refers to the first one."""
        tags = {"mlflow.parentRunId": self._parent}
        for first in opened.store.find({"run_key": opened.identity.fingerprint}):
            place = f"#/experiments/{first.experiment_id}/runs/{first.run_id}"
            tags[NOTE] = f"The same run belongs to two sweeps; its files are [here]({place})."
            tags["shared_run_id"] = first.run_id
        return tags

    def _log_dataset(self, opened: _OpenRun) -> None:
        """Names the data of the run once, for the tracker's column of data sets."""
        dataset = run_dataset(opened.identity)
        if opened.tags.get(DATASET_TAG) != dataset.digest:
            place = (dataset.name, dataset.digest, dataset.source)
            opened.store.log_dataset(opened.run.run_id, *place)
            opened.store.set_tags(opened.run.run_id, {DATASET_TAG: dataset.digest})
            opened.tags[DATASET_TAG] = dataset.digest

    def _parent_tag(self, opened: _OpenRun) -> dict[str, str]:
        """Returns the link to the parent run of the sweep, unless it is set already."""
        sweep_id = (read_json_or_none(self.run_dir / "sweep.json", dict) or {}).get("sweep_id")
        linked = opened.tags.get("sweep_id") == sweep_id and "mlflow.parentRunId" in opened.tags
        if not sweep_id or linked:
            return {}
        parents = opened.store.find({"sweep_id": sweep_id, "role": "sweep"})
        return {"mlflow.parentRunId": parents[0].run_id} if parents else {}


def _tail(path: Path, offset: int) -> str:
    """Returns the digest of the bytes before `offset`; empty if the file is shorter.

    Lines carry their time, so a rewritten line differs.
    """
    if not path.exists() or path.stat().st_size < offset:
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, offset - _TAIL))
        return hashlib.sha256(file.read(min(offset, _TAIL))).hexdigest()


@contextmanager
def _one_at_a_time(path: Path, wait_s: float) -> Iterator[bool]:
    """Yields True if no other process holds the lock; it ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + wait_s
    with open(path, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.2)
        yield True
