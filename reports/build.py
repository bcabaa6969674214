"""Command `python reports/build.py`: tables, figures and a page from tracked runs.

The same runs give the same bytes: no dates, no paths, no order that depends on the tracker. All
checks are made before anything is written.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.figures.venue import ARTICLE, VENUES, Venue
from reports.kinds.registry import report_type_of
from reports.kinds.report_writer import write_report
from reports.output import render
from reports.output.escaping import visible
from reports.output.html_page import without_links
from reports.output.report_index import write_report_index
from reports.papers.claim_page import counts, read_sweeps, write_claims
from reports.papers.paper_tables import write_papers
from reports.report_parser import ReportParser
from reports.study.collect import gather
from reports.study.report_plan import ReportError
from reports.study.stored_study import read_record, stored_study
from reports.study.sweep_results import SweepResults
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.console import log_to_terminal
from simvtp.errors import UserError
from simvtp.plugins import OPTION, take_plugins
from simvtp.tracking import SweepRecord, list_sweeps, log_report, read_runs, resolve_uri

MOST_SCALES = 3  # other sweeps of an ablation that its report is compared with
EXAMPLES = """\
examples:
  python reports/build.py            the newest sweep of every ablation in the tracker
  python reports/build.py mask_ratio --sweep mask_ratio-0123abcd
  python reports/build.py --source http://tracker:5000 --out /tmp/report
  python reports/build.py --claims results/claims.md

Exit status: 0 built (also if no run has finished yet), 2 bad input, no sweep, no tracker, or runs
that may not share a table."""


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command."""
    parser = ReportParser(
        "build",
        "report",
        description="Tables (Markdown, LaTeX, CSV), figures (PDF, PNG), one HTML page and a "
        "provenance file, from the tracked runs.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "ablations",
        nargs="*",
        metavar="ABLATION",
        help="for example mask_ratio (default: all that are tracked)",
    )
    parser.add_argument(
        "--source",
        default="",
        metavar="URI",
        help="MLflow address (default: $MLFLOW_TRACKING_URI, or sqlite in the folder of the runs)",
    )
    parser.add_argument(
        "--sweep",
        default="",
        metavar="ID",
        help="this sweep (default: the newest of each ablation)",
    )
    parser.add_argument(
        "--study",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="build from these provenance files (such as results/studies/*/*provenance.json) and "
        "not from the tracker; a second file of one ablation is another scale of it; values of "
        "test items and pictures are not in them",
    )
    parser.add_argument(
        "--claims",
        type=Path,
        metavar="FILE",
        help="write only the page of claims, judged by the committed studies, by those of --study "
        "and, if --source or --root is given, by every sweep of that tracker",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help=f"folder of the runs (default: {RuntimeConfig.root})",
    )
    _output_options(parser)
    return parser


def _output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(OPTION, metavar="FILE.py", help="load reports of a file (docs/extend.md)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/out"),
        metavar="DIR",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument(
        "--venue",
        choices=tuple(VENUES),
        default=ARTICLE.name,
        help="width, font and size of figures and tables, for inclusion without scaling "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--no-upload",
        action="store_true",
        help="do not write to the tracker (default: the page is uploaded to the sweep's run)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    log_to_terminal(logging.WARNING, "%(message)s")
    args = argparse.Namespace(out="")
    try:
        words = take_plugins(sys.argv[1:] if arguments is None else arguments)
        args = make_parser().parse_args(words)
        return _run(args)
    except UserError as error:
        print(error, file=sys.stderr)
    except BrokenPipeError:  # the reader of our output (`| head`) has ended; the report is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"the report cannot be written to {args.out}: {error}.", file=sys.stderr)
    return 2


def _run(args: argparse.Namespace) -> int:
    if args.claims is not None:
        return _judge_claims(args)
    venue = VENUES[args.venue]
    if venue.font_note():
        print(f"note: {venue.font_note()}", file=sys.stderr)
    if args.study:
        return _rebuild(args.study, args.out, venue)
    uri, root = _tracker(args), _root(args)
    status, sweeps = 0, list_sweeps(uri)
    for recorded in choose(sweeps, args.ablations, args.sweep):
        try:
            sweep = _gathered(uri, recorded, root)
        except ReportError as error:  # of one ablation; the others are built
            print(visible(f"{recorded.sweep_id}: {error}"), file=sys.stderr)
            status = 2
            continue
        folder = args.out / sweep.plan.ablation
        others = _other_scales(uri, recorded, sweeps, root)
        write_report(sweep, folder, venue, others)
        write_index(args.out, venue)
        if not args.no_upload:
            _upload(uri, recorded, folder / "index.html")
        _print_summary(sweep, folder)
    return status


def _root(args: argparse.Namespace) -> Path:
    return Path(args.root or RuntimeConfig.root)


def _tracker(args: argparse.Namespace) -> str:
    """Returns the address of the tracker.

    Raises:
        ReportError: tracking is off.
    """
    uri = resolve_uri(RuntimeConfig(root=str(_root(args)), tracking_uri=args.source))
    if uri is None:
        raise ReportError(
            "tracking is off, and the report is made from tracked runs: "
            "give the tracker's address by --source."
        )
    return uri


def _judge_claims(args: argparse.Namespace) -> int:
    """Writes the page of claims; a tracked sweep that cannot be read is named and left out."""
    more, status = read_sweeps(args.study), 0
    if args.source or args.root:
        uri = _tracker(args)
        for recorded in list_sweeps(uri):
            try:
                more.append(_gathered(uri, recorded, _root(args)))
            except ReportError as error:
                print(visible(f"{recorded.sweep_id}: {error}"), file=sys.stderr)
                status = 2
    findings = write_claims(args.claims, more)
    print(f"{counts(findings)}\nPage: {args.claims}", flush=True)
    return status


def _gathered(uri: str, recorded: SweepRecord, root: Path) -> SweepResults:
    plan = recorded.plan
    runs = read_runs(uri, [point["fingerprint"] for point in plan["points"]])
    return gather(plan, runs, report_type_of(plan).make_axis, recorded.states, root)


def _other_scales(
    uri: str, recorded: SweepRecord, sweeps: Sequence[SweepRecord], root: Path
) -> list[SweepResults]:
    """Returns the newest sweeps of the same ablation that share no experiment with this one."""
    own = {point["cell_fingerprint"] for point in recorded.plan["points"]}
    found: list[SweepResults] = []
    for other in sweeps:
        if other.ablation != recorded.ablation or len(found) == MOST_SCALES:
            continue
        if own.isdisjoint(point["cell_fingerprint"] for point in other.plan["points"]):
            try:
                found.append(_gathered(uri, other, root))
            except ReportError as error:
                print(visible(f"note: {other.sweep_id} is left out: {error}"), file=sys.stderr)
    return found


def _rebuild(files: Sequence[Path], out: Path, venue: Venue) -> int:
    """Builds reports from provenance files; of one ablation the first, others are other scales."""
    studies: dict[str, list[SweepResults]] = {}
    for file in files:
        record = read_record(file)
        sweep = stored_study(record, report_type_of(record).make_axis)
        known = studies.setdefault(sweep.plan.ablation, [])
        if any(one.plan.sweep_id == sweep.plan.sweep_id for one in known):
            raise ReportError(f"{file} is of sweep {sweep.plan.sweep_id}, which was given before.")
        known.append(sweep)
    for first, *others in studies.values():
        folder = out / first.plan.ablation
        write_report(first, folder, venue, others)
        write_index(out, venue)
        _print_summary(first, folder)
    return 0


def _upload(uri: str, recorded: SweepRecord, page: Path) -> None:
    """Uploads the page to the sweep's run; a tracker that is read-only causes a warning."""
    try:
        content = without_links(page.read_text(encoding="utf-8"))
        log_report(uri, recorded.run_id, recorded.plan, content)
    except UserError as error:
        print(
            f"warning: the page of {recorded.sweep_id} was not uploaded to the tracker "
            f"(--no-upload skips this): {error}",
            file=sys.stderr,
        )


def choose(
    sweeps: Sequence[SweepRecord], ablations: Sequence[str], sweep_id: str
) -> list[SweepRecord]:
    """Returns the named sweep, or the newest of each ablation.

    Args:
        sweeps: the newest first.
        ablations: names; empty for all.
        sweep_id: id of one sweep; empty for the newest ones.

    Raises:
        ReportError: there is no such sweep.
    """
    if not sweeps:
        raise ReportError(
            "the tracker holds no sweep yet: run one, for example `python sweeps/mask_ratio.py`."
        )
    newest: dict[str, SweepRecord] = {}
    for recorded in sweeps:
        newest.setdefault(recorded.ablation, recorded)
    if sweep_id:
        for recorded in sweeps:
            if recorded.sweep_id == sweep_id and (not ablations or recorded.ablation in ablations):
                return [recorded]
        wanted = f" of {', '.join(ablations)}" if ablations else ""
        known = ", ".join(recorded.sweep_id for recorded in sweeps)
        raise ReportError(f"the tracker holds no sweep {sweep_id}{wanted}; there are: {known}.")
    missing = ", ".join(name for name in ablations if name not in newest)
    if missing:
        known = ", ".join(sorted(newest))
        raise ReportError(f"the tracker holds no sweep of {missing}; there are sweeps of {known}.")
    return [newest[name] for name in (dict.fromkeys(ablations) if ablations else sorted(newest))]


def write_index(out: Path, venue: Venue = ARTICLE) -> None:
    """Writes the page of the papers and the page that links all reports under `out`."""
    write_papers(out, venue)
    write_report_index(out)


def _print_summary(sweep: SweepResults, folder: Path) -> None:
    """Prints the table, the verdict, warnings and the runs that are not in the tables."""
    kind = report_type_of(sweep.plan)
    print(render.markdown(kind.tables(sweep)))
    print(visible(" ".join(kind.verdict(sweep))))
    warnings = list(sweep.notices)
    if not sweep.runs:
        warnings.append(
            f"no run of sweep {sweep.plan.sweep_id} has finished; the tables are empty."
        )
    dirty = sum(run.dirty for run in sweep.runs)
    if dirty:
        warnings.append(
            f"{dirty} of {len(sweep.runs)} runs came from a tree with uncommitted changes."
        )
    for warning in warnings:
        print(f"warning: {visible(warning)}", file=sys.stderr)
    outside = [excluded for excluded in sweep.excluded if excluded.state != "finished"]
    if outside:
        print("\nNot in the tables:")
    for one in outside:
        run = f", run {one.run_id}" if one.run_id else ""
        cell = f"{sweep.plan.describe(one.point.cell)}, seed {one.point.seed}"
        print(visible(f"  {cell}: {one.state} ({one.remark}{run})"))
    print(f"\nReport: {folder / 'index.html'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
