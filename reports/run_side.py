"""Reads the directory of one run, for a comparison with another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.study.protocols import identify_test_set
from reports.study.report_plan import PlannedPoint, ReportError
from reports.study.sweep_results import MeasuredRun
from reports.study.training_curves import Curve, read_training_curves
from simvtp.config.tree import flatten_mapping
from simvtp.errors import DamagedFile
from simvtp.runs.atomic_files import read_json
from simvtp.runs.results import Result
from simvtp.runs.rundir import load_results


@dataclass(frozen=True)
class RunSide:
    """One of two runs that are compared.

    Attributes:
        name: short fingerprint.
        config: flat settings {"masks.video_ratio": 0.9}.
        patch: uncommitted changes.
        results: by `Result.key`.
        curves: losses and validation values, by `<stage>/<metric>`.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    patch: str
    status: Mapping[str, Any]
    results: Mapping[str, Result]
    curves: Mapping[str, Curve]

    @property
    def state(self) -> str:
        """State of the run in words."""
        return str(self.status.get("state") or "not started")

    @property
    def measured_run(self) -> MeasuredRun:
        """The run as the functions on test items read it."""
        return MeasuredRun(
            point=PlannedPoint((), int(self.config.get("seed", 0)), self.name, ""),
            run_id=self.name,
            results=self.results,
            commit="",
            dirty=False,
            hardware="",
            cpu_hours=0.0,
            gpu_hours=0.0,
            run_dir=str(self.folder),
            test_set=identify_test_set(self.config),
        )


def read_side(folder: Path) -> RunSide:
    """Reads a run directory; files that the run has not written yet count as empty.

    Raises:
        ReportError: it is no run directory.
        DamagedFile: a file is damaged.
    """
    if not (folder / "experiment.json").exists():
        raise ReportError(f"'{folder}' is not a run directory: it has no experiment.json.")
    try:
        identity = read_json(folder / "experiment.json", dict)
        config = flatten_mapping(identity["experiment"])
        name = identity["fingerprint"][:12]
    except (KeyError, TypeError, AttributeError) as error:
        advice = "run the same experiment again, which writes it."
        reason = f"no record of an experiment: {error!r}"
        raise DamagedFile(folder / "experiment.json", reason, advice) from error
    results = load_results(folder) if (folder / "results.json").exists() else []
    patch = folder / "diff.patch"
    return RunSide(
        folder=folder,
        name=name,
        config=config,
        provenance=_optional(folder / "provenance.json") or {},
        patch=patch.read_text(errors="replace") if patch.exists() else "",
        status=_optional(folder / "status.json") or {},
        results={result.key: result for result in results},
        curves=read_training_curves(folder / "journal.jsonl"),
    )


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None
