"""How each metric is written, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from simvtp.runs.metric_names import LOWER_IS_BETTER


@dataclass(frozen=True)
class Metric:
    """How a metric is written and which way is better. `share`: it is the share of test queries
    that were answered well.
    """

    label: str
    unit: str
    decimals: int
    higher_is_better: bool
    share: bool = False

    def text(self, value: float) -> str:
        return f"{value:.{self.decimals}f}"

    def interval(self, ends: tuple[float, float]) -> str:
        """`[−1.0, 4.4]`, of (low, high), with a minus sign that is not a hyphen."""
        low, high = ends
        return f"[{self.text(low)}, {self.text(high)}]".replace("-", "−")

    def guess(self, value: float) -> str:
        """What guessing gives, with the unit: two decimals, for chance is small."""
        return f"{value:.2f} {self.unit}".strip()


METRICS = {
    "R1": Metric("R@1", "%", 1, True, share=True),
    "R5": Metric("R@5", "%", 1, True, share=True),
    "R10": Metric("R@10", "%", 1, True, share=True),
    "R50": Metric("R@50", "%", 1, True, share=True),
    "MdR": Metric("MdR", "rank", 1, False),
    "MnR": Metric("MnR", "rank", 1, False),
    "accuracy": Metric("accuracy", "%", 1, True, share=True),
    "top1": Metric("top-1", "%", 1, True, share=True),
    "top5": Metric("top-5", "%", 1, True, share=True),
    "MSE": Metric("MSE", "", 2, False),
    "MSE-raw": Metric("MSE (not rounded)", "", 2, False),
    "mIoU": Metric("mIoU", "%", 1, True),
}
_AT_OVERLAP = re.compile(
    r"R(\d+)-IoU([\d.]+)"
)  # share of sentences with such an overlap among the first spans
OF_CATEGORY = "accuracy-"


def metric_of(name: str) -> Metric:
    """How to write a metric; one that is not known is written by its own name, two decimals."""
    if name in METRICS:
        return METRICS[name]
    if match := _AT_OVERLAP.fullmatch(name):
        return Metric(f"R@{match[1]} (IoU {match[2]})", "%", 1, True, share=True)
    if name.startswith(OF_CATEGORY):
        return Metric(f"accuracy ({name.removeprefix(OF_CATEGORY)})", "%", 1, True)
    return Metric(name, "", 2, name not in LOWER_IS_BETTER)


def baseline_name(name: str) -> str:
    """For the beginning of a sentence, with what it means."""
    return "Prior (most frequent answer of training)" if name == "prior" else capital(name)


def range_text(metric: Metric, values: Iterable[float]) -> str:
    """`31.00 %`, or from the lowest to the highest where they differ as printed: `28.00 to 31.00
    %`.
    """
    return f"{ends(values, 2)} {metric.unit}".strip()


def ends(values: Iterable[float], decimals: int) -> str:
    ordered = sorted(values)
    return " to ".join(
        dict.fromkeys(f"{value:.{decimals}f}" for value in (ordered[0], ordered[-1]))
    )


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
