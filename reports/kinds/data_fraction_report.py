"""How much data: a curve over shares of the training data, equal ratios equally far apart, and a
table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.kinds.report_kind import Kind
from reports.study.report_plan import Axis, hashable, plain_axis


@dataclass(frozen=True)
class Share(Axis):
    """Shares of the data, 0 to 1, written in per cent."""

    @property
    def logarithmic(self) -> bool:
        return self.numeric and min(self.values, default=0.0) > 0

    def text(self, value: Any) -> str:
        return f"{100 * value:g} %" if self.numeric else super().text(value)


def make_axis(axis: Mapping[str, Any], plan: Mapping[str, Any]) -> Axis:
    """Axes of fractions are shares; another axis of the same sweep stays as it is."""
    if "fraction" not in axis["key"]:
        return plain_axis(axis, plan)
    return Share(axis["key"], axis["label"], hashable(axis["values"]))


KIND = Kind(make_axis=make_axis)
