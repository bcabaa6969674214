"""Registry of the report types. A new one is a file with a `REPORT_TYPE` and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.kinds import (
    data_fraction_report,
    losses_report,
    methods_report,
    search_report,
    seed_variance_report,
)
from reports.kinds.report_type import ReportType
from reports.study.report_plan import ReportError, StudyPlan
from simvtp.plugins import extensions

GRID = ReportType()
# By `kind` of plan.json. A plan without a kind has the type of its ablation's name, else a grid's.
REPORT_TYPES: dict[str, ReportType] = {
    "search": search_report.REPORT_TYPE,
    "losses": losses_report.REPORT_TYPE,
    "data_fraction": data_fraction_report.REPORT_TYPE,
    "seed_variance": seed_variance_report.REPORT_TYPE,
    "prediction_vs_alignment": methods_report.REPORT_TYPE,
}


def report_type_of(plan: StudyPlan | Mapping[str, Any]) -> ReportType:
    """Returns the report type of a plan, parsed or as plan.json has it.

    Raises:
        ReportError: the plan is of an unknown kind.
    """
    if isinstance(plan, StudyPlan):
        kind, name = plan.kind, plan.ablation
    else:
        kind, name = plan.get("kind", ""), plan.get("ablation", "")
    known: dict[str, ReportType] = {**REPORT_TYPES, **extensions("REPORT_TYPES")}
    if kind and kind not in known:
        raise ReportError(
            f"sweeps of kind '{kind}' have no report; "
            f"there are reports for grids and {', '.join(known)}."
        )
    return known.get(kind or name, GRID)
