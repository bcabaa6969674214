"""Points, tags and parameters that the tracker gets of one run directory.

Names in the tracker: `<stage>/<metric>` for the series of a stage, because pre-training and
fine-tuning both count from step 0; `system/<metric>` for the machine, with seconds since the run's
start as step; `<Result.key>/<metric>` for results, and with each `<Result.key>/chance_<metric>`
and `<Result.key>/<metric>_<baseline>`, such as `accuracy_prior`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.config.tree import flatten_mapping
from simvtp.errors import DamagedFile
from simvtp.runs import provenance
from simvtp.runs.atomic_files import read_json, read_json_or_none
from simvtp.runs.journal import read_journal
from simvtp.runs.metric_names import slug
from simvtp.runs.results import Result
from simvtp.runs.run_records import RunState, RunStatus
from simvtp.runs.rundir import IDENTITY_FILE
from simvtp.runs.scores import read_metric
from simvtp.tracking.address import mlflow_name
from simvtp.tracking.store import MetricPoint, finite
from simvtp.tracking.tracked_state import MLFLOW_STATUS

# metrics of the step that fine-tuning selected, those that the run has
SELECTED = (
    "val/t2v/R1",
    "val/t2v/MdR",
    "val/mean_recall",
    "val/accuracy",
    "val/MSE",
    "val/MSE-raw",
    "val/top1",
    "val/top5",
    "val/mIoU",
)
COSTS = ("cpu_hours", "gpu_hours", "parameters", "forward_flops")


@dataclass(frozen=True)
class RunIdentity:
    """Content of experiment.json, of any version.

    Attributes:
        fingerprint: of the experiment.
        cell_fingerprint: fingerprint without the seed.
        experiment: the settings as a tree.
    """

    fingerprint: str
    cell_fingerprint: str
    experiment: Mapping[str, Any]

    @property
    def params(self) -> dict[str, str]:
        """Returns the settings by their full names, without credentials in addresses."""
        flat = flatten_mapping(self.experiment)
        return {key: provenance.without_credentials(str(value)) for key, value in flat.items()}


@dataclass(frozen=True)
class RunDataset:
    """The data of a run, as the tracker's column of data sets shows them.

    Attributes:
        name: shapes, the name of the manifest's file, or of a benchmark.
        digest: of their content, 36 letters at most.
        source: settings by which they were read, as JSON.
    """

    name: str
    digest: str
    source: str


def run_dataset(identity: RunIdentity) -> RunDataset:
    """Returns the data of a run.

    Their digest is that of the manifest, annotations or clips; of the embedded data set, which is
    made from its settings, that of the settings.
    """
    data = dict(identity.experiment.get("data", {}))
    name = str(data.get("dataset", ""))
    used = ("dataset", "protocol", "shapes" if name == "shapes" else "manifest_digest")
    source = {key: data[key] for key in used if data.get(key)}
    text = json.dumps(source, sort_keys=True)
    digest = str(data.get("manifest_digest") or hashlib.sha256(text.encode()).hexdigest())
    named = Path(str(data.get("manifest") or name))
    return RunDataset(named.stem or name, digest[:36], text)


def read_identity(run_dir: Path) -> RunIdentity:
    """Returns the identity of a run directory; raises DamagedFile or FileNotFoundError."""
    path = run_dir / IDENTITY_FILE
    values = read_json(path, dict)
    fingerprint, experiment = values.get("fingerprint"), values.get("experiment")
    if not isinstance(fingerprint, str) or not isinstance(experiment, dict):
        advice = "run the same experiment again, which writes it, or remove the folder."
        raise DamagedFile(path, "no record of an experiment", advice)
    return RunIdentity(fingerprint, str(values.get("cell_fingerprint", "")), experiment)


def masked_identity(path: Path) -> str:
    """Returns experiment.json as text, without credentials in addresses."""
    return json.dumps(_masked(read_json(path)), indent=1)


def run_name(run_dir: Path, identity: RunIdentity) -> str:
    """Returns `0.9 0.75 s0 (video_ratio text_ratio seed, tiny 1a2b3c4d)`.

    What differs between runs comes first, because the UI shows some fifteen letters.
    """
    cell = (read_json_or_none(run_dir / "sweep.json", dict) or {}).get("cell", {})
    recipe, seed = identity.experiment["name"], identity.experiment["seed"]
    short = identity.fingerprint[:8]
    if not cell:
        return f"{recipe} seed {seed} ({short})"
    names = " ".join(key.rpartition(".")[2] for key in cell)
    values = " ".join(str(value) for value in cell.values())
    return f"{values} s{seed} ({names} seed, {recipe} {short})"


def sweep_tags(sweep_id: str, ablation: str, cell: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags that say of which sweep a run is, and of which cell, to group by."""
    axes = {f"cell.{name.rpartition('.')[2]}": str(value) for name, value in cell.items()}
    return {"sweep_id": sweep_id, "ablation": ablation} | axes


def run_tags(
    run_dir: Path, identity: RunIdentity, status: RunStatus, of_sweep: Mapping[str, str]
) -> dict[str, str]:
    """Returns the tags of a run, except the link to its sweep's parent run.

    `of_sweep` are the tags of another sweep's cell, in place of those of the run's own sweep.
    """
    tags = {
        "fingerprint": identity.fingerprint,
        "cell_fingerprint": identity.cell_fingerprint,
        "seed": str(identity.experiment["seed"]),
        "recipe": identity.experiment["name"],
        "state": str(status.state),
        "message": status.message,
        "host": status.host,
        "run_dir": str(run_dir.resolve()),
    }
    own = read_json_or_none(run_dir / "sweep.json", dict)
    if own and not of_sweep:
        of_sweep = sweep_tags(own["sweep_id"], own.get("ablation", ""), own.get("cell", {}))
    return tags | dict(of_sweep) | _code_tags(run_dir)


def _code_tags(run_dir: Path) -> dict[str, str]:
    values = read_json_or_none(run_dir / provenance.RECORD, dict)
    try:
        code = provenance.Provenance.from_dict(values or {})
    except (KeyError, TypeError):
        return {}
    return {
        "git_commit": code.commit,
        "mlflow.source.git.commit": code.commit,
        "git_branch": code.branch,
        "git_dirty": str(code.dirty).lower(),
        "git_note": code.note,
        "hardware": ", ".join(code.gpus) or f"{code.cpu} ({code.cores} cores)",
        "mlflow.source.name": code.argv[0] if code.argv else "",
    }


def start_time(run_dir: Path) -> int:
    """Returns the time (ms) of the first journal line, so that a late replay gives the same run."""
    try:
        for _, line in read_journal(run_dir / "journal.jsonl"):
            return int(line["time"] * 1000)
    except (ValueError, KeyError, TypeError):
        pass  # the replay reports the damaged line
    return int((run_dir / IDENTITY_FILE).stat().st_mtime * 1000)


def line_points(line: Mapping[str, Any], run_start: int) -> list[MetricPoint]:
    """Returns the points of one journal line; events have none.

    Raises KeyError, TypeError, ValueError or AttributeError for a line that is none.
    """
    moment = int(line["time"] * 1000)
    if line["kind"] == "result":
        return result_points(Result.from_dict(line["result"]), moment)
    points = []
    for name, value in line["metrics"].items() if line["kind"] == "metrics" else ():
        is_system = name.startswith("system/")
        key = mlflow_name(name if is_system else f"{line['stage']}/{name}")
        step = round((moment - run_start) / 1000) if is_system else int(line["step"])
        if value is not None:
            points.append(MetricPoint(key, finite(value), step, moment))
    return points


def result_points(result: Result, moment: int) -> list[MetricPoint]:
    """Returns the metrics of a result, with its chance levels and baselines."""
    values = {
        **result.metrics,
        **result.seconds,
        **{f"chance_{name}": value for name, value in result.chance.items()},
    }
    for baseline, metrics in result.baselines.items():
        values |= {f"{name}_{slug(baseline)}": value for name, value in metrics.items()}
    return [
        _single(mlflow_name(str(result.name(name))), value, moment)
        for name, value in values.items()
    ]


def selected_points(run_dir: Path, status: RunStatus) -> list[MetricPoint]:
    """Returns the metrics that a search selects on, of a finished run, by the names of its plan."""
    if status.state != RunState.FINISHED:
        return []
    found = {name: read_metric(run_dir, name) for name in SELECTED}
    moment = int(status.updated * 1000)
    return [_single(name, value[0], moment) for name, value in found.items() if value is not None]


def cost_points(status: RunStatus) -> list[MetricPoint]:
    """Returns costs and model size of a run that has ended; before, costs change all the time."""
    if status.state not in MLFLOW_STATUS:
        return []
    known = [(name, getattr(status, name)) for name in COSTS]
    moment = int(status.updated * 1000)
    return [_single(f"cost/{name}", value, moment) for name, value in known if value is not None]


def _single(name: str, value: float, moment: int) -> MetricPoint:
    return MetricPoint(name, finite(value), 0, moment, single=True)


def _masked(tree: Any) -> Any:
    if isinstance(tree, str):
        return provenance.without_credentials(tree)
    if isinstance(tree, Mapping):
        return {key: _masked(value) for key, value in tree.items()}
    if isinstance(tree, Sequence):
        return [_masked(value) for value in tree]
    return tree
