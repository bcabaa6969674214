"""Report on the sources of chance: the spread that each one causes, then the means."""

from __future__ import annotations

from reports.analysis.seed_variance import variance_table
from reports.kinds.report_type import ReportType
from reports.output.layout import Table
from reports.output.tables import headline
from reports.study.sweep_results import SweepResults


def tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out the table of variances and that of the means."""
    return (*variance_table(sweep), *headline(sweep))


REPORT_TYPE = ReportType(tables=tables)
