"""What came of each test item: the rank of its right candidate, its overlap, its error; and of
some, what was predicted.

`RUN_DIR/stages/items_<stage>.jsonl.gz`, one line for each figure that the stage measured (see
`simvtp.runs.results.Result`), in the same order, then those of baselines that were trained. Paired
tests over test items read `outcomes`; the example pages (gallery.py) read `cards`, so that they
need neither the model nor another pass over the test set. Runs of versions that wrote no such file
have none: `run_items` is then empty. Read without torch.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simvtp.errors import DataError
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.metric_names import slug
from simvtp.runs.results import Protocol, Result

STAGES = ("zero_shot", "evaluate")  # that measure figures

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """The items behind one figure.

    Attributes:
        protocol: of the figure.
        ids: name of each item, each once: `<clip>#<number of its caption>` for text queries, the
            clip for video queries, otherwise the name of the question, sentence or video. Two runs
            on the same data have the same names in the same order.
        values: column -> a number for each item. `rank`: of the right candidate, from 1.
            `IoU-top<n>`: best overlap among the first n spans, 0 to 1. Or a metric itself, whose
            mean over the items is the figure.
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
        if wrong or len(set(self.ids)) != len(self.ids):
            raise DataError(
                f"{len(set(self.ids))} test items have a name, but {wrong[0] if wrong else f'there are {len(self.ids)}'}."
            )

    def outcomes(self, metric: str) -> Values:
        """The metric of each item [items], in the unit of the figure (per cent, ranks). Its mean is
        the figure, of MdR its median.

        Items that the metric does not speak of (those of other categories) are NaN: use `figure`,
        or leave them out. Raises DataError if the metric cannot be had from what was written.
        """
        if metric in self.values:
            return self._column(metric)
        for pattern, of in _DERIVED.items():
            found = re.fullmatch(pattern, metric)
            if found:
                try:
                    return of(self, *found.groups())
                except KeyError:
                    break
        raise DataError(
            f"the items of {self.protocol.task} hold {', '.join(self.values) or 'nothing'}: {metric} does not follow from it."
        )

    def figure(self, metric: str, chosen: NDArray[np.int64] | None = None) -> float:
        """The figure over the items (or over those numbers, repeats counted): what `Result.metrics`
        holds.
        """
        values = self.outcomes(metric)
        values = values if chosen is None else values[chosen]
        return float(np.nanmedian(values) if metric == "MdR" else np.nanmean(values))

    def _column(self, name: str) -> Values:
        return np.array(self.values[name], dtype=np.float64)

    def _within(self, depth: str) -> Values:
        return np.where(self._column("rank") <= int(depth), 100.0, 0.0)

    def _of_category(self, category: str) -> Values:
        if category not in map(slug, self.groups):
            raise KeyError(category)
        return np.where(
            [slug(group) == category for group in self.groups], self.outcomes("accuracy"), np.nan
        )


# metric -> how it follows from the columns; a KeyError says that a column is not there
_DERIVED: dict[str, Callable[..., Values]] = {
    r"R(\d+)": lambda items, depth: items._within(depth),
    r"top(\d+)": lambda items, depth: items._within(depth),
    r"accuracy": lambda items: items._within("1"),
    r"accuracy-(.+)": lambda items, category: items._of_category(category),
    r"MdR|MnR": lambda items: items._column("rank"),
    r"mIoU": lambda items: 100.0 * items._column("IoU-top1"),
    r"R(\d+)-IoU([\d.]+)": lambda items, depth, level: (
        100.0 * (items._column(f"IoU-top{depth}") >= float(level))
    ),
}


def items_of(result: Result, ids: Sequence[str], **more: Any) -> Items:
    """Items with the ranks that the result already holds; `more`: other fields of `Items`."""
    values = {"rank": tuple(map(float, result.ranks))} if result.ranks else {}
    return Items(**{"protocol": result.protocol, "ids": distinct(ids), "values": values, **more})


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names; one that was there before gets a number (`clip`, `clip (2)`), so that an
    annotation that names an item twice is no end.
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
    """Where the items of a stage (one of STAGES) lie."""
    return run_dir / "stages" / f"items_{stage}.jsonl.gz"


def write_items(
    path: Path, items: Sequence[Items], guard: Callable[[], None] | None = None
) -> None:
    """Write all figures of a stage atomically; the same items give the same bytes. `guard`: see
    `journal.write_atomically`.
    """
    lines = [json.dumps(asdict(one), allow_nan=False, separators=(",", ":")) for one in items]
    write_atomically(
        path, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0), guard
    )


def read_items(path: Path) -> list[Items]:
    """The figures of a file that `write_items` wrote; DataError if it is damaged."""
    try:
        return [
            _from_dict(json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it was damaged, or another version wrote it."
        ) from error


def _from_dict(values: Mapping[str, Any]) -> Items:
    columns = {name: tuple(column) for name, column in values["values"].items()}
    lists = {"ids": tuple(values["ids"]), "groups": tuple(values["groups"])}
    return Items(
        **{**values, **lists, "protocol": Protocol(**values["protocol"]), "values": columns}
    )


def run_items(run_dir: Path) -> list[Items]:
    """All items of a run, stage by stage; none for what was measured by versions that did not write
    them.
    """
    paths = [items_path(run_dir, stage) for stage in STAGES]
    return [one for path in paths if path.exists() for one in read_items(path)]


def find_items(items: Sequence[Items], protocol: Protocol, baseline: str = "") -> Items | None:
    """Those behind the figure of this protocol."""
    return next(
        (one for one in items if one.protocol == protocol and one.baseline == baseline), None
    )
