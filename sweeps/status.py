"""Shows the state of sweeps, from their run directories: `python sweeps/status.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from simvtp.errors import UserError
from simvtp.runs.run_records import RunState
from sweeps.cli.script_parser import ScriptParser, columns
from sweeps.monitor.displays import sweep_table
from sweeps.monitor.overview import Overview, StatusRow, SweepFolder, find_sweeps, survey
from sweeps.monitor.point_state import failure_log
from sweeps.monitor.point_view import WAITING, number_columns
from sweeps.monitor.text_streams import tolerate_encodings
from sweeps.runner.slurm_queue import SlurmQueue

if TYPE_CHECKING:
    from sweeps.monitor.comparison_state import RecordedComparisons

EXAMPLES = """\
examples:
  python sweeps/status.py                      every sweep that is not finished (else the newest)
  python sweeps/status.py mask_ratio           all sweeps of this ablation
  python sweeps/status.py mask_ratio-0123abcd  one sweep, by its id or the beginning of it
  python sweeps/status.py --watch              drawn again every 5 seconds; Ctrl-C leaves
  python sweeps/status.py --json | jq '.sweeps[].points[] | select(.state == "failed") | .log'

Of a sweep that adds seeds until its comparisons are decided, it shows which ones are.
The column `best` shows the value of the sweep's table for a finished point, and the best validation
value so far (val) for a running one.
Exit status: 0 (whatever the state of the sweeps), 2 bad input."""
SHOWN_FAILURES = 10  # with their logs; --all shows every one
LEAST_WATCH_S = 1.0
ALWAYS_SHOWN = ("point", "state", "best", "log")
RIGHT_ALIGNED = ("step", "loss", "clips/s", "ETA", "best")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = ScriptParser(
        "status",
        "State of each point of the sweeps: node, progress, value, hours, job, log.",
        EXAMPLES,
    )
    parser.add_root()
    parser.add_argument(
        "sweeps",
        nargs="*",
        metavar="SWEEP",
        help="id, the beginning of an id, or the name of an ablation",
    )
    parser.add_argument(
        "--all", action="store_true", help="also finished sweeps, and the log of every failed point"
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="draw again every few seconds (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON document")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    tolerate_encodings()
    args = make_parser().parse_args(arguments)
    queue = SlurmQueue()
    try:
        if args.watch is not None and not args.json:
            _watch(args, queue)
        elif args.json:
            sweeps = [_as_json(overview) for overview in _overviews(args, queue)]
            print(json.dumps({"sweeps": sweeps}, indent=1))
        else:
            print(_page(args, queue) or f"No sweep was started under {args.root} yet.")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output (`| head`) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    return 0


def _overviews(args: argparse.Namespace, queue: SlurmQueue) -> list[Overview]:
    """Returns the named sweeps; without names those that are not finished, else the newest."""
    found = [survey(sweep, queue) for sweep in find_sweeps(args.root, args.sweeps)]
    if args.sweeps or args.all:
        return found
    unfinished = [some for some in found if not _is_finished(some) or some.controller]
    return unfinished or found[-1:]


def _is_finished(overview: Overview) -> bool:
    """Returns whether nothing is left to run and nothing to decide."""
    comparisons = _comparisons(overview.sweep) if overview.finished else None
    return overview.finished and not (comparisons and comparisons.is_open)


def _page(args: argparse.Namespace, queue: SlurmQueue) -> str:
    return "\n\n".join(_text(overview, args.all) for overview in _overviews(args, queue))


def _watch(args: argparse.Namespace, queue: SlurmQueue) -> None:
    """Redraws a table in place on a terminal; elsewhere prints the plain text again and again."""
    console, pause_s = Console(highlight=False), max(LEAST_WATCH_S, args.watch)
    if not console.is_terminal:
        while True:
            print(_page(args, queue) + "\n", flush=True)
            time.sleep(pause_s)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            seen = _overviews(args, queue)
            rows = max(4, (console.size.height - 2) // max(1, len(seen)) - 6)
            drawn: list[Any] = []
            for overview in seen:
                drawn += [sweep_table(overview.view(), rows), Text(overview.summary() + "\n")]
            live.update(Group(*drawn), refresh=True)
            time.sleep(pause_s)


def _text(overview: Overview, every_failure: bool) -> str:
    """Returns table, failures with the end of their logs, and the summary as plain text."""
    kind = "GPU-h" if overview.gpu_hours else "CPU-h"
    rows = [_cells(row, kind) for row in overview.rows]
    heads = list(rows[0]) if rows else [*ALWAYS_SHOWN, kind]
    used = [
        head for head in heads if head in (*ALWAYS_SHOWN, kind) or any(row[head] for row in rows)
    ]
    right = [n for n, head in enumerate(used) if head in (*RIGHT_ALIGNED, kind)]
    table = columns([used, *([row[head] for head in used] for row in rows)], right)
    failed = [row for row in overview.rows if row.state.state in (RunState.FAILED, RunState.KILLED)]
    shown = failed if every_failure else failed[:SHOWN_FAILURES]
    parts = [overview.view().title, table, *(_failure(row) for row in shown)]
    if len(shown) < len(failed):
        parts.append(
            f"... and {len(failed) - len(shown)} more failed points: --all shows the end of each "
            "log."
        )
    comparisons = _comparisons(overview.sweep)
    return "\n".join([*parts, *(comparisons.lines if comparisons else ()), overview.summary()])


def _comparisons(sweep: SweepFolder) -> RecordedComparisons | None:
    """Returns the comparisons of a sweep that adds seeds until they are decided; else None."""
    if not sweep.plan.values.get("until_decided"):
        return None
    # imported late: a sweep without the rule needs no scipy
    from sweeps.monitor.comparison_state import recorded_comparisons

    return recorded_comparisons(sweep)


def _cells(row: StatusRow, kind: str) -> dict[str, str]:
    """Returns the cells of a row by heading."""
    view = row.view
    step, loss, speed, eta = number_columns(view)
    best = "" if view.best is None else f"val {view.best:.2f}"
    if row.value is not None:
        best = f"{row.value:.2f}"
    hours = row.gpu_hours if kind == "GPU-h" else row.cpu_hours
    return {
        "point": view.name,
        "state": str(view.state),
        "node": view.node,
        "stage": view.stage,
        "step": step,
        "loss": loss,
        "clips/s": speed,
        "ETA": eta,
        "best": best,
        kind: f"{hours:.2f}" if hours or view.state != WAITING else "",
        "job": view.job,
        "log": row.log,
        "note": view.note,
    }


def _failure(row: StatusRow) -> str:
    log, lines = failure_log(row.state, row.point.run_dir)
    head = f"{row.state.state} {row.point.name}: {row.view.note}"
    return "\n".join([head, *(f"    | {line}" for line in lines), f"    log: {log}"])


def _as_json(overview: Overview) -> dict[str, Any]:
    sweep = overview.sweep
    comparisons = _comparisons(sweep)
    facts = {
        "sweep_id": sweep.sweep_id,
        "ablation": sweep.ablation,
        "folder": str(sweep.folder),
        "metric": sweep.plan.metric,
        "controller": overview.controller,
        "slurm_answered": overview.answered,
        "gpu_hours": overview.gpu_hours,
        "cpu_hours": overview.cpu_hours,
        "points": [_point_as_json(row) for row in overview.rows],
    }
    return facts | ({"until_decided": comparisons.to_dict()} if comparisons else {})


def _point_as_json(row: StatusRow) -> dict[str, Any]:
    view, point = row.view, row.point
    facts: dict[str, Any] = {
        "name": point.name,
        "state": row.state.state,
        "fingerprint": point.fingerprint,
        "seed": point.seed,
        "cell": dict(point.cell),
        "run_dir": str(point.run_dir),
        "node": view.node,
        "job": view.job,
        "log": row.log,
        "note": view.note,
    }
    if row.state.alive:
        facts |= {
            "stage": view.stage,
            "step": view.step,
            "total_steps": view.total,
            "loss": view.loss,
            "eta_s": view.stage_eta_s,
        }
    return facts | {
        "value": row.value,
        "best_validation": view.best,
        "gpu_hours": row.gpu_hours,
        "cpu_hours": row.cpu_hours,
    }


if __name__ == "__main__":
    sys.exit(main())
