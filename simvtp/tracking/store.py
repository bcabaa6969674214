"""Store of runs at one address; the only module that imports mlflow (3.17).

It has the few calls that the mirror and the reports need. mlflow is imported inside functions
because that takes seconds. Each call translates mlflow's exceptions to TrackerError. Metrics go
through `log_batch` alone: mlflow's asynchronous logging loses points under load.
"""

from __future__ import annotations

import fcntl
import glob
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.errors import UserError
from simvtp.tracking.address import (
    REPLAY,
    SETTINGS,
    TrackerError,
    database_path,
    display_uri,
    hide_in,
    require_answer,
    sqlite_uri,
)
from simvtp.tracking.moved_store import follow_move

_BATCH = 500  # metrics in one call; mlflow allows 1000
_FEW = 90  # params or tags in one call; mlflow allows 100
_PAGE = 1000  # runs in one answer of a search
_VALUE_LENGTH = 5000  # of tags; mlflow allows 8000 bytes
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default of 7 blocks for four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
# The page that the MLflow UI opens on: its front end reads this tag and otherwise shows the view
# for language-model applications.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric.

    Attributes:
        key: name of the metric.
        value: its value.
        step: step of a series; 0 for a single value.
        time: milliseconds since 1970.
        single: True for a value of the whole run, False for a point of a series.
    """

    key: str
    value: float
    step: int
    time: int
    single: bool = False


@dataclass(frozen=True)
class StoredRun:
    """A run as the store has it.

    Attributes:
        run_id: MLflow's id.
        status: MLflow's status, such as FINISHED.
        start_time: milliseconds since 1970.
        params: parameters.
        tags: tags.
        metrics: last point of each metric.
        experiment_id: MLflow experiment that it belongs to.
    """

    run_id: str
    status: str
    start_time: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, MetricPoint]
    experiment_id: str = ""


def is_news(point: MetricPoint, known: MetricPoint | None) -> bool:
    """Returns True if `point` is to be logged after `known`, the last one of its metric.

    A series only continues; a single value only changes if it is younger.
    """
    if known is None:
        return True
    if not point.single:
        return point.step > known.step
    same = point.value == known.value or (math.isnan(point.value) and math.isnan(known.value))
    return not same and point.time > known.time


def finite(value: Any) -> float:
    """Returns the number, NaN for infinity.

    MLflow would store 1.8e308, which spoils every chart and mean; the journal keeps the value.
    """
    number = float(value)
    return math.nan if math.isinf(number) else number


def prepare_store(uri: str) -> None:
    """Creates the schema of a missing sqlite store; any number of processes may call this at once.

    The schema is made in a temporary file which is then renamed, under a file lock: a process that
    is killed meanwhile leaves no half-made store (mlflow could not repair one). Artifacts go to
    `mlflow-artifacts` in the same folder.

    Raises TrackerError if the file cannot be written.
    """
    path = database_path(uri)
    if path is None or (path.exists() and path.stat().st_size):
        return
    with _translated(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f"{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_size:
                return
            _load()
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            # of processes that were killed here; we hold the lock
            for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
                stale.unlink()
            created = SqlAlchemyStore(sqlite_uri(fresh), str(_artifact_root(path)))
            created.engine.dispose()
            os.replace(fresh, path)


def _artifact_root(database: Path) -> Path:
    return database.parent / "mlflow-artifacts"


def _load() -> Any:
    """Imports mlflow quietly: no telemetry, no progress bars, no URLs on the terminal.

    Environment variables that the user set are kept.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # SQLAlchemy 2.1 on mlflow's own queries
    warnings.filterwarnings("ignore", message=".*noload.*")
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module=r"(mlflow|alembic|starlette)\b.*"
    )
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # it reports each retry; we report the failure, once
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        import mlflow.tracking
    except ModuleNotFoundError as error:
        raise TrackerError(
            f"MLflow does not import ({error}): install it with `pip install "
            "'simvtp-platform[track]'`, or set runtime.tracking_uri=off; nothing is lost, "
            f"{REPLAY}."
        ) from error
    return mlflow


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Raises exceptions of mlflow, its database and the network as TrackerError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # by name of the package: importing mlflow only to catch its exceptions would cost seconds
        origin = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and origin not in (
            "mlflow",
            "sqlalchemy",
            "requests",
            "urllib3",
            "alembic",
            "sqlite3",
        ):
            raise
        reason = hide_in(" ".join(str(error).split()), uri)[:300]
        advice = (
            "bring the store up to date with `mlflow db upgrade ADDRESS`"
            if "out-of-date database schema" in reason
            else REPLAY
        )
        raise TrackerError(
            f"the tracker at {display_uri(uri)} failed ({type(error).__name__}: {reason}); "
            f"nothing is lost, {advice}."
        ) from error


class Store:
    """Runs at one address.

    Args:
        uri: an absolute address (`address.resolve_uri`).
        create: create a missing sqlite store; False: TrackerError.

    Raises TrackerError at once if nothing answers there.

    Attributes:
        uri: the address.
        heartbeat: called after each answer of the tracker.
    """

    def __init__(self, uri: str, *, create: bool = True) -> None:
        path = database_path(uri)
        if path is not None and not create and not path.exists():
            raise TrackerError(
                f"there is no tracker store {path}: run something first, or name the right store "
                f"with --tracking-uri, {SETTINGS}; {REPLAY}."
            )
        require_answer(uri)
        prepare_store(uri)
        if path is not None:
            with _translated(uri):
                follow_move(path, _artifact_root(path))
        self.uri = uri
        self.heartbeat: Callable[[], None] = lambda: None
        with _translated(uri):
            self._client = _load().tracking.MlflowClient(tracking_uri=uri, registry_uri=uri)

    @contextmanager
    def _call(self) -> Iterator[None]:
        with _translated(self.uri):
            yield
        self.heartbeat()

    def experiment(self, name: str) -> str:
        """Returns the id of the MLflow experiment of this name, which is created if needed."""
        with self._call():
            found = self._client.get_experiment_by_name(name)
            if found is None:
                found = self._create_experiment(name)
            if found.lifecycle_stage != "active":
                raise TrackerError(
                    f"the experiment '{name}' was deleted in the tracker at "
                    f"{display_uri(self.uri)}: restore it there (mlflow experiments restore "
                    f"--experiment-id {found.experiment_id}) or set "
                    "runtime.tracking_experiment to another name."
                )
            for key, value in _EXPERIMENT_TAGS.items():
                if key not in found.tags:
                    self._client.set_experiment_tag(found.experiment_id, key, value)
            return str(found.experiment_id)

    def _create_experiment(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        path = database_path(self.uri)
        folder = "".join(c if c.isalnum() else "_" for c in name)
        location = (_artifact_root(path) / folder).as_uri() if path else None
        try:
            self._client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another process was first
                raise
        return self._client.get_experiment_by_name(name)

    def find(self, tags: Mapping[str, str], experiment_id: str | None = None) -> list[StoredRun]:
        """Returns the runs that have all these tags, oldest first; in one experiment or in all."""
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: list[StoredRun] = []
        with self._call():
            experiments = [experiment_id] if experiment_id else self._experiment_ids()
            token = None
            while experiments:
                page = self._client.search_runs(
                    experiments,
                    condition,
                    max_results=_PAGE,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
                found += [_stored(run) for run in page]
                self.heartbeat()
                token = page.token
                if not token:
                    break
        return found

    def _experiment_ids(self) -> list[str]:
        ids, token = [], None
        while True:
            page = self._client.search_experiments(max_results=_PAGE, page_token=token)
            ids += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                return ids

    def create(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]
    ) -> StoredRun:
        """Creates a run; `start_time` in milliseconds since 1970."""
        with self._call():
            run = self._client.create_run(experiment_id, start_time, _short(tags), name)
            return _stored(run)

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> Iterator[int]:
        """Logs in batches; yields the size of each, so that the caller sees progress."""
        with self._call():
            from mlflow.entities import Metric

            for start in range(0, len(points), _BATCH):
                batch = points[start : start + _BATCH]
                metrics = [Metric(p.key, p.value, p.time, p.step) for p in batch]
                self._client.log_batch(run_id, metrics)
                yield len(batch)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Logs params; those that the run has already cannot be changed."""
        with self._call():
            from mlflow.entities import Param

            for some in _portions(params):
                texts = [Param(key, str(value)) for key, value in some]
                self._client.log_batch(run_id, params=texts)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags; long values are truncated."""
        with self._call():
            from mlflow.entities import RunTag

            for some in _portions(_short(tags)):
                self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in some])

    def log_dataset(self, run_id: str, name: str, digest: str, source: str) -> None:
        """Names the data that a run was trained on; `digest` has 36 letters at most."""
        with self._call():
            from mlflow.entities import Dataset, DatasetInput, InputTag

            used = [InputTag("mlflow.data.context", "training")]
            data = DatasetInput(Dataset(name, digest, "code", source), used)
            self._client.log_inputs(run_id, [data])

    def set_status(self, run_id: str, status: str, time: int) -> None:
        """Sets RUNNING, FINISHED, FAILED or KILLED; `time` (ms) is the end of an ended run."""
        with self._call():
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=time)

    def upload(self, run_id: str, file: Path, folder: str = "") -> None:
        """Stores a file as an artifact."""
        with self._call():
            self._client.log_artifact(run_id, str(file), artifact_path=folder or None)

    def upload_text(self, run_id: str, text: str, name: str) -> None:
        """Stores a text as an artifact."""
        with self._call():
            self._client.log_text(run_id, text, name)

    def artifact_json(self, run_id: str, name: str) -> Any:
        """Returns the content of a JSON artifact."""
        with self._call(), tempfile.TemporaryDirectory() as folder:
            file = self._client.download_artifacts(run_id, name, folder)
            return json.loads(Path(file).read_text())


def _portions(values: Mapping[str, Any]) -> Iterable[list[tuple[str, Any]]]:
    items = list(values.items())
    return (items[start : start + _FEW] for start in range(0, len(items), _FEW))


def _short(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:_VALUE_LENGTH] for key, value in tags.items()}


def _stored(run: Any) -> StoredRun:
    data = run.data
    points = (MetricPoint(m.key, m.value, m.step, m.timestamp) for m in data.to_proto().metrics)
    return StoredRun(
        run_id=run.info.run_id,
        status=run.info.status,
        start_time=run.info.start_time,
        params=dict(data.params),
        tags=dict(data.tags),
        metrics={point.key: point for point in points},
        experiment_id=str(run.info.experiment_id),
    )
