"""Outcomes of each test item: rank of its right candidate, overlap or error; cards of some.

`RUN_DIR/stages/items_<stage>.jsonl.gz` has one line for each figure that the stage measured (see
`simvtp.runs.results.Result`), in the same order, then those of trained baselines. Paired tests over
test items read `outcomes`; the example pages (gallery.py) read `cards`, so that they need neither
the model nor another pass over the test set. Runs of versions that wrote no such file have none:
`run_items` is then empty. Reading needs no torch.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simvtp.errors import DamagedFile, DataError
from simvtp.evaluation.temporal_spans import reaches
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.metric_names import slug
from simvtp.runs.results import USE, Protocol, Result

STAGES = ("use", "zero_shot", "evaluate")  # that measure figures

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """Items behind one figure.

    Attributes:
        protocol: of the figure.
        ids: name of each item, each once: `<clip>#<number of its caption>` for text queries, the
            clip for video queries, otherwise the name of the question, sentence or video. Two runs
            on the same data have the same names in the same order.
        values: column -> a number for each item. `rank`: of the right candidate, from 1.
            `IoU-top<n>`: best overlap among the first n spans, 0 to 1. Or a metric itself, whose
            mean over the items is the figure; of `use` the mean with the weights in the column
            that `weight_column` names.
        groups: category of each item, where the figure has one metric a category
            (`accuracy-<category>`); else empty.
        baseline: empty, or the name (as in `Result.baselines`) of the trained baseline whose items
            these are.
        cards: {item: what was predicted and what is true} of some items, chosen by a hash of their
            names, for the example pages.
    """

    protocol: Protocol
    ids: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    groups: tuple[str, ...] = ()
    baseline: str = ""
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.values.items()} | (
            {"groups": len(self.groups)} if self.groups else {}
        )
        wrong = [
            f"{name} has {length}" for name, length in lengths.items() if length != len(self.ids)
        ]
        names = len(set(self.ids))
        if wrong or names != len(self.ids):
            found = wrong[0] if wrong else f"there are {len(self.ids)}"
            raise DataError(f"{names} test items have a name, but {found}.")

    def outcomes(self, metric: str) -> Values:
        """Returns the metric of each item [items], in the unit of the figure (per cent, ranks).

        Their mean is the figure, of MdR their median. Items that the metric is not about (those of
        other categories) are NaN: use `figure`, or leave them out.

        Raises:
            DataError: the metric does not follow from the stored columns.
        """
        if metric in self.values:
            return self._column(metric)
        for pattern, derive in _DERIVED.items():
            found = re.fullmatch(pattern, metric)
            if found:
                try:
                    return derive(self, *found.groups())
                except KeyError:
                    break
        raise DataError(
            f"the items of {self.protocol.task} hold {', '.join(self.values) or 'nothing'}: "
            f"{metric} does not follow from it."
        )

    def figure(self, metric: str, chosen: NDArray[np.int64] | None = None) -> float:
        """Returns the figure over the items, which `Result.metrics` holds.

        Args:
            chosen: numbers of the items, repeats counted; None: all.
        """
        values, weights = self.outcomes(metric), self._weights(metric)
        if chosen is not None:
            values, weights = values[chosen], None if weights is None else weights[chosen]
        if weights is not None:
            total = weights.sum()
            return float((weights * values).sum() / total) if total else math.nan
        return float(np.nanmedian(values) if metric == "MdR" else np.nanmean(values))

    def _weights(self, metric: str) -> Values | None:
        column = weight_column(metric) if self.protocol.task == USE else ""
        return self._column(column) if column in self.values else None

    def _column(self, name: str) -> Values:
        return np.array(self.values[name], dtype=np.float64)

    def _rank_within(self, depth: str) -> Values:
        return np.where(self._column("rank") <= int(depth), 100.0, 0.0)

    def _of_category(self, category: str) -> Values:
        if category not in map(slug, self.groups):
            raise KeyError(category)
        return np.where(
            [slug(group) == category for group in self.groups], self.outcomes("accuracy"), np.nan
        )


# Metric -> its derivation from the columns; a KeyError says that a column is missing.
_DERIVED: dict[str, Callable[..., Values]] = {
    r"R(\d+)": lambda items, depth: items._rank_within(depth),
    r"top(\d+)": lambda items, depth: items._rank_within(depth),
    r"accuracy": lambda items: items._rank_within("1"),
    r"accuracy-(.+)": lambda items, category: items._of_category(category),
    r"MdR|MnR": lambda items: items._column("rank"),
    r"mIoU": lambda items: 100.0 * items._column("IoU-top1"),
    r"R(\d+)-IoU([\d.]+)": lambda items, depth, level: (
        100.0 * reaches(items._column(f"IoU-top{depth}"), float(level)).astype(np.float64)
    ),
}


def weight_column(metric: str) -> str:
    """Returns the column that weighs the items of a metric of the task `use`; "" for none.

    Figures of words are means over words, and clips differ in their number.
    """
    if metric.endswith("_motion"):
        return "motion_captions"
    return {"mlm": "words", "content": "content_words"}.get(metric.partition("_")[0], "")


def items_of(result: Result, ids: Sequence[str], **more: Any) -> Items:
    """Returns items with the ranks that the result already holds.

    Args:
        more: other fields of `Items`.
    """
    values = {"rank": tuple(map(float, result.ranks))} if result.ranks else {}
    return Items(**{"protocol": result.protocol, "ids": distinct(ids), "values": values, **more})


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names; a repeated one gets a number (`clip`, `clip (2)`).

    So an annotation that names an item twice does not end the evaluation.
    """
    seen: dict[str, int] = {}
    given = set(names)
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique = name
        while seen[name] > 1 and (unique := f"{name} ({seen[name]})") in given:
            seen[name] += 1
        given.add(unique)
        found.append(unique)
    return tuple(found)


# ---- file ----------------------------------------------------------------------------------------


def items_path(run_dir: Path, stage: str) -> Path:
    """Returns the path of the items of a stage (one of STAGES)."""
    return run_dir / "stages" / f"items_{stage}.jsonl.gz"


def write_items(
    path: Path, items: Sequence[Items], guard: Callable[[], None] | None = None
) -> None:
    """Writes all figures of a stage atomically; the same items give the same bytes.

    Args:
        guard: see `journal.write_atomically`.
    """
    lines = [json.dumps(asdict(one), allow_nan=False, separators=(",", ":")) for one in items]
    write_atomically(
        path, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0), guard
    )


def read_items(path: Path) -> list[Items]:
    """Returns the figures of a file that `write_items` wrote.

    Raises:
        DamagedFile: the file is damaged, or another version wrote it.
    """
    try:
        return [
            _from_dict(json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        advice = "delete it and its stages/*.json, and run the same command again to score it."
        raise DamagedFile(path, reason, advice) from error


def _from_dict(values: Mapping[str, Any]) -> Items:
    columns = {name: tuple(column) for name, column in values["values"].items()}
    lists = {"ids": tuple(values["ids"]), "groups": tuple(values["groups"])}
    return Items(
        **{**values, **lists, "protocol": Protocol(**values["protocol"]), "values": columns}
    )


def run_items(run_dir: Path) -> list[Items]:
    """Returns all items of a run, stage by stage; stages without stored items have none."""
    paths = [items_path(run_dir, stage) for stage in STAGES]
    return [one for path in paths if path.exists() for one in read_items(path)]


def find_items(items: Sequence[Items], protocol: Protocol, baseline: str = "") -> Items | None:
    """Returns the items behind the figure of this protocol, or None."""
    return next(
        (one for one in items if one.protocol == protocol and one.baseline == baseline), None
    )
