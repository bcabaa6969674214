"""The kinds of reports. A new one is a file with a `KIND` and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.kinds import data_fraction_report, losses_report, methods_report, search_report
from reports.kinds.report_kind import Kind
from reports.study.report_plan import Plan, ReportError

GRID = Kind()
KINDS: dict[
    str, Kind
] = {  # by `kind` of plan.json; a plan without one by the name of its ablation, else it is a plain grid
    "search": search_report.KIND,
    "losses": losses_report.KIND,
    "data_fraction": data_fraction_report.KIND,
    "prediction_vs_alignment": methods_report.KIND,
}


def kind_of(plan: Plan | Mapping[str, Any]) -> Kind:
    """The kind of report for a plan, read or as plan.json has it; ReportError for a `kind` that is
    not known.
    """
    kind, name = (
        (plan.kind, plan.ablation)
        if isinstance(plan, Plan)
        else (plan.get("kind", ""), plan.get("ablation", ""))
    )
    if kind and kind not in KINDS:
        raise ReportError(
            f"sweeps of kind '{kind}' have no report here; there are reports for grids and {', '.join(KINDS)}."
        )
    return KINDS.get(kind or name, GRID)
