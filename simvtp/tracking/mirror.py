"""Replay one run directory into the tracker. Doing it again adds nothing; doing it later gives the
same as doing it in time.

What makes that true: the tracker itself is asked, whenever a run is opened, for the last step of
each metric, and a journal line is mirrored only for metrics that it would take further. So it does
not matter whether the cursor file was lost, whether a process was killed between writing to the
tracker and writing the cursor, or whether the journal was cut back to a checkpoint and written
again (the values are bit-identical then). The cursor only saves reading.

Names in the tracker: `<stage>/<metric>` for the series of a stage, because pre-training and
fine-tuning both count from step 0; `system/<metric>` for the machine, with seconds since the run's
start as step; `<Result.key>/<metric>` for results, and beside each `<Result.key>/chance_<metric>`
and `<Result.key>/<metric>_<baseline>`, such as `accuracy_prior`.
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
from simvtp.errors import DamagedFile, UserError
from simvtp.runs import provenance
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import read_journal
from simvtp.runs.metric_names import slug
from simvtp.runs.results import Result
from simvtp.runs.scores import read_metric
from simvtp.tracking.address import metric_name, resolve_uri, shown
from simvtp.tracking.store import Point, Store, StoredRun, finite, is_news
from simvtp.tracking.tracked_state import STATUS, read_optional, run_status

CURSOR = "mirror.json"
SELECTED = (  # figures of the step that fine-tuning selected, those that the run has
    "val/t2v/R1", "val/t2v/MdR", "val/mean_recall", "val/accuracy", "val/MSE", "val/MSE-raw", "val/top1", "val/top5", "val/mIoU",
)  # fmt: skip
EARLY_ARTIFACTS = ("experiment.json", provenance.RECORD, provenance.PATCH, "sweep.json")
LATE_ARTIFACTS = ("results.json", "log.txt", "figures/*", "stages/items_*")
_TAIL = 65536  # bytes before the cursor that must be as they were
_CHUNK = 2000  # points collected before they are handed to the store


@dataclass(frozen=True)
class SyncReport:
    """What one synchronisation did: journal lines read, points added, and what went wrong."""

    run_dir: Path
    lines: int = 0
    points: int = 0
    warnings: tuple[str, ...] = ()
    run_id: str = ""

    def __str__(self) -> str:
        done = f"{self.run_dir}: {self.points} points added from {self.lines} new journal lines"
        return "\n".join([done, *(f"  warning: {text}" for text in self.warnings)])


@dataclass
class _Opened:
    """What is known of the run in the tracker, kept up to date by this process."""

    store: Store
    run: StoredRun
    last: dict[str, Point]
    tags: dict[str, str]
    status: str
    offset: int
    tail: str
    uploads: dict[str, list[int]]
    warnings: list[str] = field(default_factory=list)


class Mirror:
    """Mirrors one run directory. Errors of the tracker are raised as TrackerError; a later `sync`
    goes on from what was stored.

    `beat` is called after each piece of work (a caller that waits can tell a slow tracker from a
    dead one). `abandoned`: treat a run that says it is running, but whose process on this machine
    is gone, as stopped.
    """

    def __init__(
        self,
        run_dir: Path,
        runtime: RuntimeConfig,
        *,
        beat: Callable[[], None] = lambda: None,
        abandoned: bool = False,
    ) -> None:
        self.run_dir = Path(run_dir)
        self._uri = resolve_uri(runtime)
        self._experiment_name = runtime.tracking_experiment
        self._beat = beat
        self._abandoned = abandoned
        self._opened: _Opened | None = None

    def sync(self, final: bool = False) -> SyncReport:
        """Bring the tracker up to date; `final` also uploads results, log and figures of a run that
        has not ended.
        """
        if self._uri is None:
            return SyncReport(self.run_dir)
        with _one_at_a_time(self.run_dir / ".mirror.lock", wait_s=10.0 if final else 0.0) as free:
            if not free:
                return SyncReport(
                    self.run_dir, warnings=("another process is mirroring this run: left to it",)
                )
            opened, self._opened = (
                self._opened or self._open(self._uri),
                None,
            )  # dropped if anything below fails
            opened.warnings = []
            status = run_status(self.run_dir, self._abandoned)
            lines, points = self._replay(opened)
            points += self._log(
                opened, [*self._results(opened), *_selected(self.run_dir, status), *_costs(status)]
            )
            ended = status.get("state") in STATUS
            self._upload(opened, EARLY_ARTIFACTS + (LATE_ARTIFACTS if final or ended else ()))
            self._label(opened, status)
            self._save(opened)
            self._opened = opened
        return SyncReport(self.run_dir, lines, points, tuple(opened.warnings), opened.run.run_id)

    # ---- opening ---------------------------------------------------------------------------------

    def _open(self, uri: str) -> _Opened:
        record = _record(self.run_dir)
        store = Store(uri)
        self._beat()
        experiment_id = store.experiment(self._experiment_name)
        found = store.find({"run_key": record["fingerprint"]}, experiment_id)
        if found:
            run = found[0]
        else:
            tags = {"run_key": record["fingerprint"], "role": "experiment"}
            run = store.create(
                experiment_id, run_name(self.run_dir, record), _start_time(self.run_dir), tags
            )
        params = {
            key: provenance.without_url_users(str(value))
            for key, value in _flat(record["experiment"]).items()
        }
        store.log_params(
            run.run_id, {key: value for key, value in params.items() if key not in run.params}
        )
        cursor = self._read_cursor(uri, run.run_id)
        self._beat()
        return _Opened(
            store, run, dict(run.metrics), dict(run.tags), run.status, cursor["offset"], cursor["tail"], cursor["uploads"]
        )  # fmt: skip

    def _read_cursor(self, uri: str, run_id: str) -> dict[str, Any]:
        """The stored cursor if it belongs to this run of this tracker, else one at the start."""
        start: dict[str, Any] = {"offset": 0, "tail": "", "uploads": {}}
        path = self.run_dir / CURSOR
        if not path.exists():
            return start
        try:
            stored = read_json(path)
            fits = stored["uri"] == shown(uri) and stored["run_id"] == run_id
            return {key: stored[key] for key in start} if fits else start
        except (DamagedFile, KeyError, TypeError):
            return start  # only costs reading the journal again

    def _save(self, opened: _Opened) -> None:
        cursor = {
            "uri": shown(opened.store.uri),
            "run_id": opened.run.run_id,
            "offset": opened.offset,
            "tail": opened.tail,
            "uploads": opened.uploads,
        }
        write_atomically(self.run_dir / CURSOR, json.dumps(cursor))

    # ---- journal ---------------------------------------------------------------------------------

    def _replay(self, opened: _Opened) -> tuple[int, int]:
        """(journal lines read, points added)."""
        path = self.run_dir / "journal.jsonl"
        if opened.offset and _tail(path, opened.offset) != opened.tail:
            opened.offset = (
                0  # the journal was cut back since: what is known already is passed over below
            )
        lines = added = 0
        pending: list[Point] = []
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
                f"{path} cannot be read beyond byte {opened.offset} ({error}): the rest is not mirrored"
            )
        added += self._log(opened, pending)
        opened.tail = _tail(path, opened.offset)
        return lines, added

    def _points(self, opened: _Opened, line: Mapping[str, Any], where: str) -> list[Point]:
        try:
            return _line_points(line, opened.run.start_time)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            opened.warnings.append(
                f"{where}: not understood ({type(error).__name__}: {error}), not mirrored"
            )
            return []

    def _log(self, opened: _Opened, points: list[Point]) -> int:
        """Log those points which are news; returns their number."""
        last = dict(opened.last)
        news = []
        for point in points:
            if is_news(point, last.get(point.key)):
                news.append(point)
                last[point.key] = point
        for _ in opened.store.log_points(opened.run.run_id, news):
            self._beat()
        opened.last = last
        return len(news)

    # ---- the rest of the directory ---------------------------------------------------------------

    def _results(self, opened: _Opened) -> list[Point]:
        path = self.run_dir / "results.json"
        if not path.exists():
            return []
        moment = int(path.stat().st_mtime * 1000)
        try:
            results = [Result.from_dict(values) for values in read_json(path)]
        except (DamagedFile, KeyError, TypeError) as error:
            opened.warnings.append(
                f"{path} cannot be read ({type(error).__name__}: {error}): its results are not mirrored"
            )
            return []
        return [point for result in results for point in _result_points(result, moment)]

    def _upload(self, opened: _Opened, patterns: tuple[str, ...]) -> None:
        for pattern in patterns:
            for file in sorted(self.run_dir.glob(pattern)):
                name = str(file.relative_to(self.run_dir))
                state = [file.stat().st_size, file.stat().st_mtime_ns]
                if not file.is_file() or opened.uploads.get(name) == state:
                    continue
                if name == "experiment.json":  # may hold the tracker's address with a password
                    opened.store.upload_text(
                        opened.run.run_id, provenance.without_url_users(file.read_text()), name
                    )
                else:
                    folder = file.relative_to(self.run_dir).parent
                    opened.store.upload(
                        opened.run.run_id, file, "" if folder == Path() else str(folder)
                    )
                opened.uploads[name] = state
                self._beat()

    def _label(self, opened: _Opened, status: Mapping[str, Any]) -> None:
        """Tags and status: after everything else, so that a run that is called finished is
        complete.
        """
        tags = {
            **_tags(self.run_dir, status, opened),
            "results": "results.json" if "results.json" in opened.uploads else "",
        }
        changed = {key: value for key, value in tags.items() if value != opened.tags.get(key, "")}
        opened.store.set_tags(opened.run.run_id, changed)
        opened.tags.update(changed)
        wanted = STATUS.get(str(status.get("state")), "RUNNING")
        if wanted != opened.status:
            opened.store.set_status(
                opened.run.run_id, wanted, int(status.get("updated", time.time()) * 1000)
            )
            opened.status = wanted
        self._beat()


def _line_points(line: Mapping[str, Any], run_start: int) -> list[Point]:
    """The points of one journal line; events have none."""
    moment = int(line["time"] * 1000)
    if line["kind"] == "result":
        return _result_points(Result.from_dict(line["result"]), moment)
    points = []
    for name, value in line["metrics"].items() if line["kind"] == "metrics" else ():
        system = name.startswith("system/")
        key = metric_name(name if system else f"{line['stage']}/{name}")
        step = round((moment - run_start) / 1000) if system else int(line["step"])
        if value is not None:
            points.append(Point(key, finite(value), step, moment))
    return points


def run_name(run_dir: Path, record: Mapping[str, Any]) -> str:
    """`0.9 0.75 s0 (video_ratio text_ratio seed, tiny 1a2b3c4d)`: what differs comes first, for the
    UI shows some fifteen letters.
    """
    cell = read_optional(run_dir / "sweep.json").get("cell", {})
    recipe, seed, short = (
        record["experiment"]["name"],
        record["experiment"]["seed"],
        record["fingerprint"][:8],
    )
    if not cell:
        return f"{recipe} seed {seed} ({short})"
    names = " ".join(key.rpartition(".")[2] for key in cell)
    return f"{' '.join(str(value) for value in cell.values())} s{seed} ({names} seed, {recipe} {short})"


def _record(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "experiment.json"
    try:
        record: dict[str, Any] = read_json(path)
        if isinstance(record["fingerprint"], str) and isinstance(record["experiment"], dict):
            return record
    except (OSError, DamagedFile, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}): {run_dir} is no run directory, or it was damaged."
        ) from error
    raise UserError(f"{path} is not the record of an experiment.")


def _tags(run_dir: Path, status: Mapping[str, Any], opened: _Opened) -> dict[str, str]:
    record, sweep, code = (
        _record(run_dir),
        read_optional(run_dir / "sweep.json"),
        read_optional(run_dir / provenance.RECORD),
    )
    tags = {
        "fingerprint": record["fingerprint"],
        "cell_fingerprint": record.get("cell_fingerprint", ""),
        "seed": str(record["experiment"]["seed"]),
        "recipe": record["experiment"]["name"],
        "state": str(status.get("state", "")),
        "message": str(status.get("message", "") or ""),
        "host": str(status.get("host", "")),
        "run_dir": str(run_dir.resolve()),
    }
    if sweep:
        linked = (
            "mlflow.parentRunId" in opened.tags and opened.tags.get("sweep_id") == sweep["sweep_id"]
        )
        parents = (
            [] if linked else opened.store.find({"sweep_id": sweep["sweep_id"], "role": "sweep"})
        )
        tags |= {"sweep_id": sweep["sweep_id"], "ablation": sweep.get("ablation", "")}
        tags |= {
            f"cell.{name.rpartition('.')[2]}": str(value)
            for name, value in sweep.get("cell", {}).items()
        }  # to group by
        tags |= {"mlflow.parentRunId": parents[0].run_id} if parents else {}
    if code:
        tags |= {
            "git_commit": code["commit"],
            "mlflow.source.git.commit": code["commit"],
            "git_branch": code["branch"],
            "git_dirty": str(code["dirty"]).lower(),
            "git_note": code["note"],
            "hardware": ", ".join(code["gpus"]) or f"{code['cpu']} ({code['cores']} cores)",
            "mlflow.source.name": code["argv"][0] if code["argv"] else "",
        }
    return tags


def _start_time(run_dir: Path) -> int:
    """Time (ms) of the first journal line, so that a late replay gives the same run as one in time."""
    for _, line in read_journal(run_dir / "journal.jsonl"):
        return int(line["time"] * 1000)
    return int((run_dir / "experiment.json").stat().st_mtime * 1000)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """As `config.flatten`, of the stored tree: records of older versions are mirrored too."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return flat


def _result_points(result: Result, moment: int) -> list[Point]:
    values = {
        **result.metrics,
        **result.seconds,
        **{f"chance_{name}": value for name, value in result.chance.items()},
    }
    for baseline, metrics in result.baselines.items():
        values |= {f"{name}_{slug(baseline)}": value for name, value in metrics.items()}
    return [
        Point(metric_name(f"{result.key}/{name}"), finite(value), 0, moment, single=True)
        for name, value in values.items()
    ]


def _selected(run_dir: Path, status: Mapping[str, Any]) -> list[Point]:
    """What a search selects on, of a run that has finished: one figure each, under the name that
    its plan uses.
    """
    if status.get("state") != "finished":
        return []
    moment = int(status.get("updated", 0) * 1000)
    found = {name: read_metric(run_dir, name) for name in SELECTED}
    return [
        Point(name, finite(value[0]), 0, moment, single=True)
        for name, value in found.items()
        if value is not None
    ]


def _costs(status: Mapping[str, Any]) -> list[Point]:
    """CPU and GPU hours of a run that has ended (while it runs they change all the time), and the
    size of its model.
    """
    if status.get("state") not in STATUS:
        return []
    moment = int(status.get("updated", 0) * 1000)
    names = [
        name
        for name in ("cpu_hours", "gpu_hours", "parameters", "forward_flops")
        if status.get(name) is not None
    ]
    return [Point(f"cost/{name}", float(status[name]), 0, moment, single=True) for name in names]


def _tail(path: Path, offset: int) -> str:
    """Digest of the bytes before `offset`; empty if the file is shorter. Lines carry their time, so
    a rewritten line differs.
    """
    if not path.exists() or path.stat().st_size < offset:
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, offset - _TAIL))
        return hashlib.sha256(file.read(min(offset, _TAIL))).hexdigest()


@contextmanager
def _one_at_a_time(path: Path, wait_s: float) -> Iterator[bool]:
    """True if no other process holds the lock; it is released when the process ends, however it
    ends.
    """
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
