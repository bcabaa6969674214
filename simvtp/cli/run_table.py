"""Command `results`: one row a run, as a table for spreadsheets and data frames."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simvtp.cli import add
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.tree import flatten_mapping
from simvtp.console import printable, without_formula
from simvtp.errors import DamagedFile, UserError
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.provenance import without_credentials
from simvtp.runs.run_records import RunStatus, read_status
from simvtp.runs.rundir import IDENTITY_FILE, RESULTS_FILE, load_results
from simvtp.runs.sweep_plan import PLAN_FILE, read_plan

if TYPE_CHECKING:
    from simvtp.cli import Commands

SHOWN = ("run", "name", "seed", "state", "sweeps")
STDOUT = "-"
Row = dict[str, Any]


def register(commands: Commands) -> None:
    """Adds the command."""
    command = add(
        commands,
        "results",
        "all runs with state, cost, settings and figures, one row a run, as CSV, Parquet or JSON",
    )
    command.add_argument("root", type=Path, nargs="?", default=Path(RuntimeConfig.root))
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--csv", nargs="?", const=STDOUT, metavar="FILE", help="write CSV (default: print it)"
    )
    form.add_argument("--parquet", type=Path, metavar="FILE", help="write Parquet")
    form.add_argument("--json", action="store_true", help="print a JSON list")
    command.set_defaults(handle=_results)


def _results(options: argparse.Namespace) -> int:
    """Prints or writes the table; the exit status is 1 if a run could not be read."""
    if not options.root.is_dir():
        raise UserError(f"there is no folder '{options.root}': give the one of runtime.root.")
    damaged: list[str] = []
    rows = list(run_rows(options.root, damaged))
    if options.json:
        print(json.dumps(rows, indent=1))
    elif options.parquet:
        write_atomically(options.parquet, _parquet(rows))
        print(f"{len(rows)} runs written to {options.parquet}")
    elif options.csv and options.csv != STDOUT:
        write_atomically(Path(options.csv), _csv(rows))
        print(f"{len(rows)} runs written to {options.csv}")
    elif options.csv:
        print(_csv(rows), end="")
    else:
        for row in rows:
            print(printable("  ".join(str(row[name]) for name in SHOWN).rstrip()))
    for message in damaged:
        print(message, file=sys.stderr)
    return 1 if damaged else 0


def run_rows(root: Path, damaged: list[str]) -> Iterator[Row]:
    """Yields a row for each run directory under `root`, by the name of the directory.

    Columns: the run, its state and cost; settings by their dotted names, without credentials in
    addresses; figures as `<result>/<metric>`, each with its chance level as `.../chance_<metric>`.

    Args:
        root: folder of the run directories.
        damaged: gets a sentence for each file that cannot be read, whose values are then missing.
    """
    sweeps = _sweeps_by_run(root, damaged)
    for path in sorted(root.glob(f"*/{IDENTITY_FILE}")):
        try:
            identity = read_json(path, dict)
            settings: Mapping[str, Any] = identity["experiment"]
            status = read_status(path.parent) or RunStatus()
        except (DamagedFile, KeyError) as error:
            damaged.append(f"{path.parent} is left out: {error}")
            continue
        yield {
            "run": path.parent.name,
            "name": str(settings.get("name", "")),
            "seed": settings.get("seed"),
            "state": str(status.state),
            "sweeps": " ".join(sweeps.get(path.parent.name, ())),
            "fingerprint": identity.get("fingerprint", ""),
            "cell_fingerprint": identity.get("cell_fingerprint", ""),
            "cpu_hours": status.cpu_hours,
            "gpu_hours": status.gpu_hours,
            **{key: _plain(value) for key, value in flatten_mapping(settings).items()},
            **_figures(path.parent, damaged),
        }


def _figures(run_dir: Path, damaged: list[str]) -> Row:
    if not (run_dir / RESULTS_FILE).exists():
        return {}
    try:
        results = load_results(run_dir)
    except DamagedFile as error:
        damaged.append(str(error))
        return {}
    figures: Row = {}
    for result in results:
        figures |= {str(result.name(name)): value for name, value in result.metrics.items()}
        figures |= {
            str(result.name(f"chance_{name}")): value for name, value in result.chance.items()
        }
    return figures


def _sweeps_by_run(root: Path, damaged: list[str]) -> dict[str, list[str]]:
    """Returns the sweeps that a run directory belongs to, by its name."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.glob(f"sweeps/*/{PLAN_FILE}")):
        try:
            plan = read_plan(path)
        except DamagedFile as error:
            damaged.append(str(error))
            continue
        for point in plan.points:
            found.setdefault(point.run_name, []).append(plan.sweep_id)
    return found


def _plain(value: Any) -> Any:
    return without_credentials(value) if isinstance(value, str) else value


def _cell(value: Any) -> Any:
    """Returns a value for CSV; text that comes from a user is never run or obeyed."""
    return without_formula(printable(value)) if isinstance(value, str) else value


def _columns(rows: list[Row]) -> list[str]:
    """Returns the names of all columns, in the order in which the rows have them."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _parquet(rows: list[Row]) -> bytes:
    # Late for start-up time: only this form needs it.
    import pandas as pd

    frame = pd.DataFrame(rows, columns=_columns(rows))
    for name in filter(lambda name: pd.api.types.is_object_dtype(frame[name]), frame.columns):
        # one type a column
        frame[name] = frame[name].map(lambda value: None if value is None else str(value))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
