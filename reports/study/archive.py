"""Reads finished reports back from disk.

Pages over several reports are made of these records alone, so they can be built again without the
tracker, with the same content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablations.evidence.stopping_rule import StoppingRule
from reports.analysis.seed_statistics import SeedSummary, is_number, summarise
from reports.study.report_plan import SEARCH
from reports.study.study_provenance import NAME
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.metric_names import MetricName

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class ProtocolRecord:
    """The protocol of one result; `text` has it in words, `chance` the values of guessing."""

    task: str
    setting: str
    direction: str
    chance: Mapping[str, float]
    text: str

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ProtocolRecord:
        """Reads a protocol of provenance.json."""
        return ProtocolRecord(
            values["task"],
            values["setting"],
            values["direction"],
            values["chance"],
            values["text"],
        )


@dataclass(frozen=True)
class RunRecord:
    """A run of a report.

    Attributes:
        results: {key of the result: {metric: value}}, None if not finite.
        intervals: {key of the result: {metric: (low, high)}} over the test items, where a run has
            recorded them.
    """

    run_id: str
    cell_fingerprint: str
    commit: str
    cpu_hours: float
    gpu_hours: float
    results: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RunRecord:
        """Reads a run of provenance.json."""
        return RunRecord(
            values["run_id"],
            values["cell_fingerprint"],
            values["commit"],
            values["cpu_hours"],
            values["gpu_hours"],
            {key: result["metrics"] for key, result in values["results"].items()},
            {key: result.get("intervals", {}) for key, result in values["results"].items()},
        )


@dataclass(frozen=True)
class CellRecord:
    """A cell of a report.

    Attributes:
        settings: {key of the axis: value}.
        text: the cell in words.
        mean, n, values: of the plan's metric, over the seeds; `values` is {seed: value}.
    """

    settings: Mapping[str, Any]
    text: str
    mean: float | None
    n: int
    values: Mapping[str, float]
    runs: tuple[RunRecord, ...]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> CellRecord:
        """Reads a cell of provenance.json."""
        return CellRecord(
            values["cell"],
            values["text"],
            values["mean"],
            values["n"],
            values["values"],
            tuple(RunRecord.from_dict(run) for run in values["runs"]),
        )


@dataclass(frozen=True)
class ReportRecord:
    """The provenance file of one report, as far as other pages read it.

    Attributes:
        kind: of the plan; "" for a grid.
        methods: True if the cells are methods, which are all listed with the papers' rows.
        first_seeds: those that all cells got before any was judged, if seeds were added by a rule;
            empty if the number of seeds was fixed.
    """

    sweep_id: str
    ablation: str
    title: str
    question: str
    verdict: tuple[str, ...]
    dataset: str
    recipe: str
    metric: str
    kind: str
    methods: bool
    published_optimum: Mapping[str, Any] | None
    protocols: Mapping[str, ProtocolRecord]
    cells: tuple[CellRecord, ...]
    first_seeds: tuple[int, ...] = ()

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ReportRecord:
        """Reads provenance.json."""
        rule = values.get("until_decided")
        return ReportRecord(
            sweep_id=values["sweep_id"],
            ablation=values["ablation"],
            title=values["title"],
            question=values["question"],
            verdict=tuple(values["verdict"]),
            dataset=values["dataset"],
            recipe=values["recipe"],
            metric=values["metric"],
            kind=values.get("kind", ""),
            methods=bool(values.get("methods", False)),
            published_optimum=values["published_optimum"],
            protocols={
                key: ProtocolRecord.from_dict(protocol)
                for key, protocol in values["protocols"].items()
            },
            cells=tuple(CellRecord.from_dict(cell) for cell in values["cells"]),
            first_seeds=StoppingRule.from_dict(rule).first_seeds if rule else (),
        )

    @property
    def column(self) -> tuple[str, str]:
        """The report's metric as (key of the result, name of the metric)."""
        name = MetricName.parse(self.metric)
        return name.key, name.metric

    def cell(self, settings: Mapping[str, Any]) -> CellRecord | None:
        """Returns the cell with these settings; None if the report has no such cell."""
        wanted = dict(settings)
        return next((cell for cell in self.cells if dict(cell.settings) == wanted), None)


@dataclass(frozen=True)
class ComparisonRecord:
    """A comparison of two runs (`reports/compare.py`).

    Attributes:
        first, second: short names of the runs.
        differing: the first settings that differ.
        folder: name of the folder of the comparison; "" in the file itself.
    """

    first: str
    second: str
    differing: tuple[str, ...]
    verdict: str
    folder: str = ""


def read_records(out: Path) -> list[ReportRecord]:
    """Returns the record of each report under `out`, by name of folder.

    Run directories have a file of this name too; they are no reports and are skipped.
    """
    found = [read_json(path) for path in sorted(out.glob(f"*/{NAME}"))]
    return [ReportRecord.from_dict(values) for values in found if "ablation" in values]


def write_comparison_record(record: ComparisonRecord, folder: Path) -> None:
    """Writes the record of a comparison into its folder."""
    values = {name: value for name, value in asdict(record).items() if name != "folder"}
    write_atomically(folder / COMPARISON, json.dumps(values, indent=1, ensure_ascii=False))


def read_comparisons(out: Path) -> list[ComparisonRecord]:
    """Returns the record of each comparison of two runs under `out`, by name of folder."""
    found = []
    for path in sorted(out.glob(f"*/{COMPARISON}")):
        values = read_json(path) | {"folder": path.parent.name}
        found.append(ComparisonRecord(**values | {"differing": tuple(values["differing"])}))
    return found


# ---- rows for the papers' tables -----------------------------------------------------------------


@dataclass(frozen=True)
class MeasuredRow:
    """A cell of a report as a row of the papers' tables.

    Attributes:
        label: recipe and cell in words.
        protocol: of its values, in words; rows of different protocols never share a column.
        values: {metric: mean and spread over the seeds}.
    """

    label: str
    ablation: str
    cell: Mapping[str, Any]
    fingerprint: str
    protocol: str
    values: Mapping[str, SeedSummary]
    seeds: int
    cpu_hours: float
    gpu_hours: float
    commits: tuple[str, ...]
    runs: tuple[str, ...]


def measured_cell(record: ReportRecord, cell: CellRecord, key: str) -> MeasuredRow | None:
    """Returns one cell with the values of one result; None if no finished run has them."""
    runs = [run for run in cell.runs if key in run.results]
    if not runs:
        return None
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.results[key].items():
            if value is not None and is_number(value):
                values.setdefault(name, []).append(value)
    return MeasuredRow(
        label=f"{record.recipe or record.ablation}: {cell.text}",
        ablation=record.ablation,
        cell=cell.settings,
        fingerprint=runs[0].cell_fingerprint,
        protocol=record.protocols[key].text,
        values={
            name: summary for name, numbers in values.items() if (summary := summarise(numbers))
        },
        seeds=len(runs),
        cpu_hours=sum(run.cpu_hours for run in runs),
        gpu_hours=sum(run.gpu_hours for run in runs),
        commits=tuple(dict.fromkeys(run.commit[:10] for run in runs if run.commit)),
        runs=tuple(run.run_id for run in runs),
    )


def chosen_cells(record: ReportRecord) -> list[CellRecord]:
    """Returns the cells of a report that are listed with published rows.

    Those are all cells if the report compares methods, else the cell of the published setting; of a
    search none. So no row is selected by its value.
    """
    measured = [cell for cell in record.cells if cell.n]
    if record.kind == SEARCH:
        return []
    if record.methods:
        return measured
    return [cell for cell in measured if cell.settings == record.published_optimum]


def measured_rows(
    records: Sequence[ReportRecord], task: str = "retrieval", direction: str = "t2v"
) -> list[MeasuredRow]:
    """Returns the chosen cells of all reports on this task, fine-tuned, each experiment once."""
    rows: dict[tuple[str, str], MeasuredRow] = {}
    for record in records:
        for key, protocol in record.protocols.items():
            setting = protocol.setting.partition(",")[0]
            if (protocol.task, protocol.direction, setting) != (task, direction, "finetuned"):
                continue
            for cell in chosen_cells(record):
                row = measured_cell(record, cell, key)
                if row is not None:
                    rows.setdefault((row.fingerprint, row.protocol), row)
    return list(rows.values())
