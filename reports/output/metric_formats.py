"""Decides how each metric is written and which direction is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from simvtp.runs.metric_names import LOWER_IS_BETTER

AT_OVERLAP = re.compile(r"R(\d+)-IoU([\d.]+)")  # R@n at a least overlap of the predicted span
OF_CATEGORY = "accuracy-"


@dataclass(frozen=True)
class Metric:
    """The format of a metric.

    Attributes:
        is_fraction: True if it is the fraction of test queries that were answered correctly.
    """

    label: str
    unit: str
    decimals: int
    higher_is_better: bool
    is_fraction: bool = False

    @property
    def margin(self) -> float | None:
        """Largest difference that counts as none: 2 points of metrics in per cent."""
        return 2.0 if self.unit == "%" else None

    def text(self, value: float) -> str:
        """Returns a value with the decimals of this metric."""
        return f"{value:.{self.decimals}f}"

    def interval(self, ends: tuple[float, float]) -> str:
        """Returns `[−1.0, 4.4]` for (low, high), with minus signs that are no hyphens."""
        low, high = ends
        return f"[{self.text(low)}, {self.text(high)}]".replace("-", "−")

    def guess(self, value: float) -> str:
        """Returns the value of guessing with its unit; two decimals, because chance is small."""
        return f"{value:.2f} {self.unit}".strip()


METRICS = {
    "R1": Metric("R@1", "%", 1, True, is_fraction=True),
    "R5": Metric("R@5", "%", 1, True, is_fraction=True),
    "R10": Metric("R@10", "%", 1, True, is_fraction=True),
    "R50": Metric("R@50", "%", 1, True, is_fraction=True),
    "MdR": Metric("MdR", "rank", 1, False),
    "MnR": Metric("MnR", "rank", 1, False),
    "accuracy": Metric("accuracy", "%", 1, True, is_fraction=True),
    "top1": Metric("top-1", "%", 1, True, is_fraction=True),
    "top5": Metric("top-5", "%", 1, True, is_fraction=True),
    "MSE": Metric("MSE", "", 2, False),
    "MSE-raw": Metric("MSE (not rounded)", "", 2, False),
    "mIoU": Metric("mIoU", "%", 1, True),
    "mAP": Metric("mAP", "%", 1, True),
    "mlm_gain_other": Metric("gain of masked words over another clip (nat)", "", 3, True),
}


def metric_of(name: str) -> Metric:
    """Returns the format of a metric; an unknown one has its own name and two decimals."""
    if name in METRICS:
        return METRICS[name]
    if match := AT_OVERLAP.fullmatch(name):
        return Metric(f"R@{match[1]} (IoU {match[2]})", "%", 1, True, is_fraction=True)
    if name.startswith("mAP-IoU"):
        return Metric(f"mAP (IoU {name.removeprefix('mAP-IoU')})", "%", 1, True)
    if name.startswith(OF_CATEGORY):
        return Metric(f"accuracy ({name.removeprefix(OF_CATEGORY)})", "%", 1, True)
    return Metric(name, "", 2, name not in LOWER_IS_BETTER)


def baseline_name(name: str) -> str:
    """Returns the name of a baseline for the beginning of a sentence, with its meaning."""
    return "Prior (most frequent answer of training)" if name == "prior" else capital(name)


def range_text(metric: Metric, values: Iterable[float]) -> str:
    """Returns `31.00 %`, or `28.00 to 31.00 %` if the values differ as printed."""
    return f"{ends(values, 2)} {metric.unit}".strip()


def ends(values: Iterable[float], decimals: int) -> str:
    """Returns the lowest and the highest value, or one number if both are printed alike."""
    ordered = sorted(values)
    texts = dict.fromkeys(f"{value:.{decimals}f}" for value in (ordered[0], ordered[-1]))
    return " to ".join(texts)


def capital(text: str) -> str:
    """Returns the text with a capital first letter."""
    return text[:1].upper() + text[1:]
