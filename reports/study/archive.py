"""The reports that lie in a folder: their provenance files, read back. Pages over several reports
are made of these alone, so that they can be built again without the tracker and say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.statistics.seed_statistics import Summary, is_number, summarise
from reports.study.study_provenance import NAME
from simvtp.runs.atomic_files import read_json

COMPARISON = "comparison.json"
Record = Mapping[str, Any]  # of one report, as `record.record` wrote it


def read_records(out: Path) -> list[Record]:
    """One for each report under `out`, by the name of its folder. Run directories have a file of
    this name too, and are no reports.
    """
    return [
        record
        for path in sorted(out.glob(f"*/{NAME}"))
        if "ablation" in (record := read_json(path))
    ]


def read_comparisons(out: Path) -> list[Record]:
    """What `reports/compare.py` wrote of each comparison of two runs under `out` (`folder`: its
    name there), by name.
    """
    return [
        {**read_json(path), "folder": path.parent.name}
        for path in sorted(out.glob(f"*/{COMPARISON}"))
    ]


@dataclass(frozen=True)
class Measured:
    """A cell of a report, as a row beside published ones.

    Attributes:
        label: recipe and cell in words.
        protocol: of its figures, in words; rows of different protocols never share a column.
        figures: {metric: mean and spread over the seeds}.
    """

    label: str
    ablation: str
    cell: Mapping[str, Any]
    fingerprint: str
    protocol: str
    figures: Mapping[str, Summary]
    seeds: int
    cpu_hours: float
    gpu_hours: float
    commits: tuple[str, ...]
    runs: tuple[str, ...]


def measured_cell(record: Record, cell: Mapping[str, Any], key: str) -> Measured | None:
    """One cell of a report with the figures of one result; None if no finished run has them."""
    found = next((c for c in record["cells"] if c["cell"] == dict(cell)), None)
    runs = [run for run in found["runs"] if key in run["results"]] if found else []
    if not runs or found is None:
        return None
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run["results"][key]["metrics"].items():
            if value is not None and is_number(value):
                values.setdefault(name, []).append(value)
    return Measured(
        label=f"{record['recipe'] or record['ablation']}: {found['text']}",
        ablation=record["ablation"],
        cell=found["cell"],
        fingerprint=runs[0]["cell_fingerprint"],
        protocol=record["protocols"][key]["text"],
        figures={
            name: summary for name, numbers in values.items() if (summary := summarise(numbers))
        },
        seeds=len(runs),
        cpu_hours=sum(run["cpu_hours"] for run in runs),
        gpu_hours=sum(run["gpu_hours"] for run in runs),
        commits=tuple(dict.fromkeys(run["commit"][:10] for run in runs if run["commit"])),
        runs=tuple(run["run_id"] for run in runs),
    )


def chosen_cells(record: Record) -> list[Mapping[str, Any]]:
    """Which cells of a report stand beside published rows: those it compares as methods, else the
    one of the published setting; none of a search. So no row is picked by its figure."""
    cells = [cell["cell"] for cell in record["cells"] if cell["n"]]
    if record.get("kind") == "search" or not cells:
        return []
    if record.get("methods"):
        return cells
    return [cell for cell in cells if cell == record["published_optimum"]]


def measured_rows(
    records: Sequence[Record], task: str = "retrieval", direction: str = "t2v"
) -> list[Measured]:
    """The chosen cells of all reports on this task, fine-tuned, each experiment once."""
    rows: dict[tuple[str, str], Measured] = {}
    for record in records:
        for key, protocol in record["protocols"].items():
            if (
                protocol["task"] != task
                or protocol["direction"] != direction
                or protocol["setting"].partition(",")[0] != "finetuned"
            ):
                continue
            for cell in chosen_cells(record):
                row = measured_cell(record, cell, key)
                if row is not None:
                    rows.setdefault((row.fingerprint, row.protocol), row)
    return list(rows.values())
