"""How sweeps stand, from their run directories: `python sweeps/status.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from simvtp.errors import UserError
from sweeps.monitor.live_progress import WAITING, numbers, table
from sweeps.monitor.overview import Overview, Parser, Row, columns, find_sweeps, survey
from sweeps.monitor.run_state import ALIVE, FAILED, KILLED, failure_log

EXAMPLES = """\
examples:
  python sweeps/status.py                          every sweep that is not finished (else the newest one)
  python sweeps/status.py mask_ratio               all sweeps of this ablation
  python sweeps/status.py mask_ratio-0123abcd      one sweep, by its id or the beginning of it
  python sweeps/status.py --watch                  drawn again every 5 seconds; Ctrl-C leaves, the sweep goes on
  python sweeps/status.py --json | jq '.sweeps[].points[] | select(.state == "failed") | .log'

The column `best` holds the figure of the sweep's table for a finished point, and the best validation figure so far (val) for a
running one. Exit status: 0 (whatever the state of the sweeps), 2 bad input."""
SHOWN_FAILURES = 10  # with their logs; --all shows every one
LEAST_WATCH_S = 1.0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        "status",
        "Where each point of the sweeps stands: state, node, progress, figure, hours, job, log.",
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
    """Run the command; returns the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        if args.watch is not None and not args.json:
            _watch(args)
        elif args.json:
            print(
                json.dumps({"sweeps": [_as_json(overview) for overview in _look(args)]}, indent=1)
            )
        else:
            print(
                "\n\n".join(_text(overview, args.all) for overview in _look(args))
                or f"No sweep was started under {args.root} yet."
            )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    return 0


def _look(args: argparse.Namespace) -> list[Overview]:
    """The sweeps that were asked for; without names those that are not finished, or at least the
    newest.
    """
    found = [survey(sweep) for sweep in find_sweeps(args.root, args.sweeps)]
    if args.sweeps or args.all:
        return found
    return [
        overview for overview in found if not overview.finished or overview.controller
    ] or found[-1:]


def _watch(args: argparse.Namespace) -> None:
    """A table in place on a terminal; elsewhere the plain text again and again."""
    console, pause = Console(highlight=False), max(LEAST_WATCH_S, args.watch)
    if not console.is_terminal:
        while True:
            print(
                "\n\n".join(_text(overview, args.all) for overview in _look(args)) + "\n",
                flush=True,
            )
            time.sleep(pause)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            seen = _look(args)
            rows = max(4, (console.size.height - 2) // max(1, len(seen)) - 6)
            drawn = [
                part for o in seen for part in (table(o.view(), rows), Text(o.summary() + "\n"))
            ]
            live.update(Group(*drawn), refresh=True)
            time.sleep(pause)


def _text(overview: Overview, every_failure: bool) -> str:
    """Table, failures with the end of their logs, and the summary, as plain text of any width."""
    kind = "GPU-h" if overview.gpu_hours else "CPU-h"
    heads = (
        "point",
        "state",
        "node",
        "stage",
        "step",
        "loss",
        "clips/s",
        "ETA",
        "best",
        kind,
        "job",
        "log",
        "note",
    )
    rows = [heads, *(_cells(row, kind) for row in overview.rows)]
    used = [
        n
        for n, head in enumerate(heads)
        if head in ("point", "state", "best", kind, "log") or any(row[n] for row in rows[1:])
    ]
    right = [
        place
        for place, n in enumerate(used)
        if heads[n] in ("step", "loss", "clips/s", "ETA", "best", kind)
    ]
    parts = [overview.view().title, columns([[row[n] for n in used] for row in rows], right)]
    failed = [row for row in overview.rows if row.state.state in (FAILED, KILLED)]
    parts += [_failure(row) for row in (failed if every_failure else failed[:SHOWN_FAILURES])]
    if len(failed) > SHOWN_FAILURES and not every_failure:
        parts.append(
            f"... and {len(failed) - SHOWN_FAILURES} more failed points: --all shows the end of each log."
        )
    return "\n".join([*parts, overview.summary()])


def _cells(row: Row, kind: str) -> tuple[str, ...]:
    view = row.view
    step, loss, speed, eta = numbers(view)
    best = (
        f"{row.value:.2f}"
        if row.value is not None
        else f"val {view.best:.2f}"
        if view.best is not None
        else ""
    )
    hours = row.gpu_hours if kind == "GPU-h" else row.cpu_hours
    spent = f"{hours:.2f}" if hours or view.state != WAITING else ""
    return (
        view.name,
        view.state,
        view.node,
        view.stage,
        step,
        loss,
        speed,
        eta,
        best,
        spent,
        view.job,
        row.log,
        view.note,
    )


def _failure(row: Row) -> str:
    log, lines = failure_log(row.state, row.point.run_dir)
    return "\n".join(
        [
            f"{row.state.state} {row.point.name}: {row.view.note}",
            *(f"    | {line}" for line in lines),
            f"    log: {log}",
        ]
    )


def _as_json(overview: Overview) -> dict[str, Any]:
    sweep = overview.sweep
    return {
        "sweep_id": sweep.sweep_id,
        "ablation": sweep.ablation,
        "folder": str(sweep.folder),
        "metric": sweep.plan.get("metric", ""),
        "controller": overview.controller,
        "slurm_answered": overview.answered,
        "gpu_hours": overview.gpu_hours,
        "cpu_hours": overview.cpu_hours,
        "points": [_point(row) for row in overview.rows],
    }


def _point(row: Row) -> dict[str, Any]:
    view, point = row.view, row.point
    facts = {
        "name": point.name,
        "state": row.state.state,
        "fingerprint": point.fingerprint,
        "seed": point.seed,
        "cell": dict(point.cell),
    }
    facts |= {
        "run_dir": str(point.run_dir),
        "node": view.node,
        "job": view.job,
        "log": row.log,
        "note": view.note,
    }
    if row.state.state in ALIVE:
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
