"""Names of metrics: built and taken apart here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOWER_IS_BETTER = ("MdR", "MnR", "MSE", "MSE-raw")  # metrics; of all others more is better


@dataclass(frozen=True, order=True)
class MetricName:
    """Tracked name of one metric of one result, such as `test/finetuned/t2v/R1`.

    Attributes:
        key: name of the result (`Result.key`): split, setting, then the direction, or else task
            and variant; `cost` for what a run has used; empty for a bare metric.
        metric: name of the metric within the result: `R1`, `accuracy`, `gpu_hours`.
    """

    key: str
    metric: str

    @staticmethod
    def parse(text: str) -> MetricName:
        """Returns the name that `str` turns into `text`."""
        key, _, metric = text.rpartition("/")
        return MetricName(key, metric)

    def __str__(self) -> str:
        return f"{self.key}/{self.metric}" if self.key else self.metric

    @property
    def split(self) -> str:
        """Returns the split, `test`; also `cost` for costs."""
        return self.key.partition("/")[0]

    @property
    def group(self) -> str:
        """Returns the key without its last part: that of a result without its direction."""
        return result_group(self.key)

    @property
    def direction(self) -> str:
        """Returns the last part of the key, `t2v`; empty for a key of one part."""
        return result_direction(self.key)

    @property
    def lower_is_better(self) -> bool:
        """Returns True for ranks and errors."""
        return self.metric in LOWER_IS_BETTER

    def on_validation(self) -> tuple[MetricName, MetricName]:
        """Returns the names that the same figure may have on the validation split in the journal.

        `val/R1` and `val/t2v/R1` for `test/finetuned/t2v/R1`.
        """
        return MetricName("val", self.metric), MetricName(
            "/".join(filter(None, ("val", self.key.rpartition("/")[2]))), self.metric
        )


def result_key(split: str, setting: str, *last: str) -> str:
    """Returns the key of a result from its parts; empty parts are left out."""
    return "/".join(part for part in (split, slug(setting), *map(slug, last)) if part)


def result_group(key: str) -> str:
    """Returns the key of a result without its last part; empty for a key of one part."""
    return key.rpartition("/")[0]


def result_direction(key: str) -> str:
    """Returns the last part of a result's key; empty for a key of one part."""
    return key.rpartition("/")[2] if "/" in key else ""


def slug(text: str) -> str:
    """Returns the text as part of a metric's name.

    What MLflow forbids there, spaces and '/' become '-' (`what?` and `what` are one name).
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")
