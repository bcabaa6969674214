"""`python reports/build.py`: from the tracked runs to tables, figures, a page and their provenance.

The same runs give the same bytes: no dates, no places, no order that depends on the tracker. All
checks are made before anything is written."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from reports.figures.costs import cost_plots, costs_frame
from reports.figures.reconstructions import rebuilt_pictures
from reports.figures.style import draw_figures
from reports.kinds.registry import kind_of
from reports.output import render
from reports.output.dataframes import metrics_frame
from reports.output.html_page import ablation_page, without_links
from reports.output.report_index import write_front
from reports.papers.paper_tables import write_papers
from reports.statistics.comparisons import comparisons_frame
from reports.study.collect import Study, gather
from reports.study.report_plan import ReportError
from reports.study.study_provenance import NAME as PROVENANCE
from reports.study.study_provenance import record, to_json
from simvtp.config.schema import RuntimeConfig
from simvtp.errors import UserError
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.tracking import SweepRecord, list_sweeps, log_report, read_runs, resolve_uri

EXAMPLES = """\
examples:
  python reports/build.py                                    the newest sweep of every ablation in the tracker
  python reports/build.py mask_ratio --sweep mask_ratio-0123abcd
  python reports/build.py --source http://tracker:5000 --out /tmp/report

Exit status: 0 built (also if no run has finished yet), 2 bad input, no sweep, no tracker, or runs that may not share a table."""


class _Parser(argparse.ArgumentParser):
    """One sentence and status 2, without the usage text in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the options.\n")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python reports/build.py",
        description="Tables (Markdown, LaTeX, CSV), figures (PDF, PNG), one HTML page and a provenance file, from the tracked runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
        "--root",
        default=RuntimeConfig.root,
        metavar="DIR",
        help="folder of the runs (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/out"),
        metavar="DIR",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument(
        "--no-upload",
        action="store_true",
        help="leave the tracker as it is (default: the page is put to the sweep's run, which links to it)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    args = make_parser().parse_args(arguments)
    try:
        return _run(args)
    except UserError as error:
        print(error, file=sys.stderr)
    except (
        BrokenPipeError
    ):  # whoever read our output (`| head`) has seen enough; the report itself is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"the report cannot be written to {args.out}: {error}.", file=sys.stderr)
    return 2


def _run(args: argparse.Namespace) -> int:
    uri = resolve_uri(RuntimeConfig(root=args.root, tracking_uri=args.source))
    if uri is None:
        raise ReportError(
            "tracking is off, and the report is made from tracked runs: give the tracker's address by --source."
        )
    status = 0
    for sweep in choose(list_sweeps(uri), args.ablations, args.sweep):
        try:
            runs = read_runs(uri, [point["fingerprint"] for point in sweep.plan["points"]])
            study = gather(sweep.plan, runs, kind_of(sweep.plan).make_axis, sweep.states)
        except ReportError as error:  # of one ablation; the others are built
            print(f"{sweep.sweep_id}: {error}", file=sys.stderr)
            status = 2
            continue
        folder = args.out / study.plan.ablation
        write_report(study, folder)
        write_index(args.out)
        if not args.no_upload:
            _upload(uri, sweep, folder / "index.html")
        _tell(study, folder)
    return status


def _upload(uri: str, sweep: SweepRecord, page: Path) -> None:
    """The page beside the sweep in the tracker; a tracker that may only be read costs a warning."""
    try:
        log_report(uri, sweep.run_id, sweep.plan, without_links(page.read_text(encoding="utf-8")))
    except UserError as error:
        print(
            f"warning: the page of {sweep.sweep_id} is not linked in the tracker (--no-upload: do not try): {error}",
            file=sys.stderr,
        )


def choose(
    sweeps: Sequence[SweepRecord], ablations: Sequence[str], sweep_id: str
) -> list[SweepRecord]:
    """The named sweep, or the newest of each ablation; ReportError if there is none. `sweeps`: the
    newest first.
    """
    if not sweeps:
        raise ReportError(
            "the tracker holds no sweep yet: run one, for example `python sweeps/mask_ratio.py`."
        )
    if sweep_id:
        found = [
            sweep
            for sweep in sweeps
            if sweep.sweep_id == sweep_id and (not ablations or sweep.ablation in ablations)
        ]
        if not found:
            wanted = f" of {', '.join(ablations)}" if ablations else ""
            raise ReportError(
                f"the tracker holds no sweep {sweep_id}{wanted}; there are: {', '.join(s.sweep_id for s in sweeps)}."
            )
        return found[:1]
    newest: dict[str, SweepRecord] = {}
    for sweep in sweeps:
        newest.setdefault(sweep.ablation, sweep)
    missing = [name for name in ablations if name not in newest]
    if missing:
        raise ReportError(
            f"the tracker holds no sweep of {', '.join(missing)}; there are sweeps of {', '.join(sorted(newest))}."
        )
    return [newest[name] for name in (dict.fromkeys(ablations) if ablations else sorted(newest))]


def write_report(study: Study, folder: Path) -> None:
    """All files of one ablation's report."""
    kind = kind_of(study.plan)
    verdict, tables = kind.verdict(study), kind.tables(study)
    more = kind.more(
        study, len(study.plan.seeds) > 1
    )  # with spreads, both directions would be too wide
    sections = {
        "comparisons": kind.comparisons(study),
        "published": kind.published(study),
        "costs": kind.costs(study),
    }
    comments = [f"sweep {study.plan.sweep_id}; the runs behind each figure: {PROVENANCE}"]
    files = {
        "table.md": render.markdown(tables),
        "table.tex": render.latex(tables, comments),
        "table.csv": render.csv(kind.points(study)),
        "all.md": render.markdown(more),
        "all.tex": render.latex(kind.more(study, True), comments),
        "all.csv": render.csv(kind.cells(study)),
    }
    frames = {"comparisons": comparisons_frame, "costs": costs_frame}
    for name, made in sections.items():
        if made:
            files |= {
                f"{name}.md": render.markdown(made),
                f"{name}.tex": render.latex(made, comments),
            }
            files |= {f"{name}.csv": render.csv(frames[name](study))} if name in frames else {}
    files["values.csv"] = render.csv(metrics_frame(study))
    folder.mkdir(parents=True, exist_ok=True)
    pictures = (
        draw_figures(study, [*kind.plots(study), *cost_plots(study)], folder) if study.runs else ()
    )
    rebuilt = rebuilt_pictures(study, folder)
    paths = dict.fromkeys(
        path for picture in (*pictures, *rebuilt) for path in (picture.pdf, picture.png)
    )
    drawn = [path.relative_to(folder).as_posix() for path in paths]
    _remove_figures(folder, keep=drawn)
    files[PROVENANCE] = to_json(record(study, verdict, drawn) | {"methods": kind.methods})
    for name, text in files.items():
        write_atomically(folder / name, text)
    write_atomically(
        folder / "index.html",
        ablation_page(
            study, verdict, tables, sections, more, pictures, rebuilt, folder, tuple(files)
        ),
    )


def _remove_figures(folder: Path, keep: Sequence[str]) -> None:
    """Figures of an earlier report in this folder that this one does not have, for instance those
    of another sweep.
    """
    earlier = folder / PROVENANCE
    if earlier.exists():
        for name in set(read_json(earlier).get("figures", ())) - set(keep):
            path = folder / name
            if path.resolve().is_relative_to(folder.resolve()):
                path.unlink(missing_ok=True)


def write_index(out: Path) -> None:
    """The page that links all reports under `out`, and the one that sets them beside the papers."""
    write_papers(out)
    write_front(out)


def _tell(study: Study, folder: Path) -> None:
    """The table and the sentences on the terminal."""
    kind = kind_of(study.plan)
    print(f"{render.markdown(kind.tables(study))}\n{' '.join(kind.verdict(study))}")
    for notice in study.notices:
        print(f"warning: {notice}", file=sys.stderr)
    if not study.runs:
        print(
            f"warning: no run of sweep {study.plan.sweep_id} has finished; the tables are empty.",
            file=sys.stderr,
        )
    dirty = sum(run.dirty for run in study.runs)
    if dirty:
        print(
            f"warning: {dirty} of {len(study.runs)} runs came from a tree with uncommitted changes.",
            file=sys.stderr,
        )
    outside = [aside for aside in study.asides if aside.state != "finished"]
    if outside:
        print("\nNot in the tables:")
        for aside in outside:
            run = f", run {aside.run_id}" if aside.run_id else ""
            print(
                f"  {study.plan.describe(aside.point.cell)}, seed {aside.point.seed}: {aside.state} ({aside.remark}{run})"
            )
    print(f"\nReport: {folder / 'index.html'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
