"""Report on the fraction of the training data: values in per cent, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.kinds.report_type import ReportType
from reports.study.report_plan import PlannedAxis, hashable, plain_axis


@dataclass(frozen=True)
class DataFractionAxis(PlannedAxis):
    """Fractions of the data, 0 to 1, written in per cent."""

    @property
    def logarithmic(self) -> bool:
        """True if equal ratios are drawn equally far apart."""
        return self.numeric and min(self.values, default=0.0) > 0

    def text(self, value: Any) -> str:
        """Returns `10 %` for 0.1."""
        return f"{100 * value:g} %" if self.numeric else super().text(value)


def make_axis(axis: Mapping[str, Any], plan: Mapping[str, Any]) -> PlannedAxis:
    """Makes an axis of fractions; other axes of the same sweep stay plain."""
    if "fraction" not in axis["key"]:
        return plain_axis(axis, plan)
    return DataFractionAxis(axis["key"], axis["label"], hashable(axis["values"]))


REPORT_TYPE = ReportType(make_axis=make_axis)
