"""Two runs side by side, from their directories alone: settings, code, data, environment, results,
curves, and each test item.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reports.output.metric_formats import metric_of
from reports.statistics.paired_bootstrap import item_values
from reports.statistics.seed_statistics import Difference, is_number, paired_bootstrap
from reports.study.collect import Run
from reports.study.report_plan import Point, ReportError
from simvtp.errors import DamagedFile
from simvtp.runs.atomic_files import read_json
from simvtp.runs.journal import read_journal
from simvtp.runs.results import Result

MISSING = "—"
SHOWN_ITEMS = 10  # of the items that changed most, each way
_DATA = ("data.",)
_CURVES = 6  # panels at most


@dataclass(frozen=True)
class Side:
    """All that is read of one run directory."""

    folder: Path
    name: str  # short fingerprint
    config: Mapping[str, Any]  # flat
    provenance: Mapping[str, Any]
    patch: str  # uncommitted changes
    status: Mapping[str, Any]
    results: Mapping[str, Result]
    curves: Mapping[str, list[tuple[int, float]]]  # `<stage>/<metric>` -> (step, value)


@dataclass(frozen=True)
class Section:
    """What differs in one respect: (name, first, second); and a remark where that is not all."""

    title: str
    rows: tuple[tuple[str, str, str], ...]
    remark: str = ""


@dataclass(frozen=True)
class Score:
    """One figure of both runs; `gap` is second minus first, over the items where both kept them.
    `remark` says why it is none.
    """

    key: str
    metric: str
    first: float | None
    second: float | None
    gap: Difference | None
    remark: str = ""


@dataclass(frozen=True)
class Wins:
    """Who was right on which items of a result. `lost` and `won`: (item, first's figure, second's),
    those that changed most.
    """

    key: str
    metric: str
    both: int
    only_first: int
    only_second: int
    neither: int
    lost: tuple[tuple[str, float, float], ...] = field(default=())
    won: tuple[tuple[str, float, float], ...] = field(default=())


def read_side(folder: Path) -> Side:
    """ReportError if this is no run directory; what a run has not written yet is empty."""
    if not (folder / "experiment.json").exists():
        raise ReportError(f"'{folder}' is not a run directory: it has no experiment.json.")
    try:
        identity = read_json(folder / "experiment.json")
        results = [Result.from_dict(values) for values in _optional(folder / "results.json") or []]
        config = dict(_flat(identity["experiment"]))
        name = identity["fingerprint"][:12]
    except (DamagedFile, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"the files of '{folder}' cannot be read ({type(error).__name__}: {error}): they were damaged."
        ) from error
    patch = folder / "diff.patch"
    return Side(
        folder=folder,
        name=name,
        config=config,
        provenance=_optional(folder / "provenance.json") or {},
        patch=patch.read_text(errors="replace") if patch.exists() else "",
        status=_optional(folder / "status.json") or {},
        results={result.key: result for result in results},
        curves=_curves(folder / "journal.jsonl"),
    )


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Series of losses and of validation figures; a step that was written again after a restart
    counts once, the last time.
    """
    found: dict[str, dict[int, float]] = {}
    if path.exists():
        for _, line in read_journal(path, 0):
            for name, value in line["metrics"].items() if line["kind"] == "metrics" else ():
                if name.startswith(("loss/", "val/")) and value is not None and is_number(value):
                    found.setdefault(f"{line['stage']}/{name}", {})[int(line["step"])] = float(
                        value
                    )
    return {name: sorted(points.items()) for name, points in found.items()}


# ---- what differs --------------------------------------------------------------------------------


def sections(a: Side, b: Side, repository: Path) -> tuple[Section, ...]:
    """Settings, code, data and environment; `repository`: where git may know the commits."""
    keys = [
        key
        for key in dict.fromkeys((*a.config, *b.config))
        if a.config.get(key) != b.config.get(key)
    ]
    place = [key for key in keys if key.startswith("runtime.") or key == "name"]
    data = [key for key in keys if key.startswith(_DATA)]
    rest = [key for key in keys if key not in place and key not in data]
    where = (
        f"Names and places, which change no figure, differ in {', '.join(place)}." if place else ""
    )
    return (
        Section("Settings", _rows(rest, a.config, b.config), where),
        _code(a, b, repository),
        Section("Data", (*_rows(data, a.config, b.config), *_protocols(a, b))),
        _environment(a, b),
    )


def _rows(
    keys: Iterable[str], a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[tuple[str, str, str], ...]:
    return tuple((key, _text(a.get(key)), _text(b.get(key))) for key in keys)


def _text(value: Any) -> str:
    if value is None or value == "":
        return MISSING
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _code(a: Side, b: Side, repository: Path) -> Section:
    first, second = (
        {
            "commit": s.provenance.get("commit", "")[:10],
            "branch": s.provenance.get("branch"),
            **_changes(s),
        }
        for s in (a, b)
    )
    rows = tuple(row for row in _rows(first, first, second) if row[1] != row[2])
    remark = ""
    if a.patch != b.patch:
        remark = "The uncommitted changes differ; each run keeps its own as diff.patch."
    commits = [side.provenance.get("commit", "") for side in (a, b)]
    if commits[0] != commits[1]:
        remark = f"{_changed_files(repository, commits)} {remark}".strip()
    return Section("Code", rows, remark)


def _changes(side: Side) -> dict[str, str]:
    lines = sum(
        line.startswith(("+", "-")) and not line.startswith(("+++", "---"))
        for line in side.patch.splitlines()
    )
    return {
        "uncommitted changes": f"{lines} lines" if side.patch else "none" if side.provenance else ""
    }


def _changed_files(repository: Path, commits: Sequence[str]) -> str:
    """What git says lies between two commits; a sentence if it does not know them."""
    if not all(commits):
        return "One run has no commit on record."
    command = [
        "git",
        "--no-optional-locks",
        "-C",
        str(repository),
        "diff",
        "--name-only",
        *commits,
        "--",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "git is not there to compare the commits."
    if done.returncode:
        return "The commits are not in this repository, so their difference cannot be told."
    files = done.stdout.split()
    shown = ", ".join(files[:12]) + (f" and {len(files) - 12} more" if len(files) > 12 else "")
    return f"Between the commits {len(files)} files differ{f': {shown}' if files else ''}."


def _protocols(a: Side, b: Side) -> tuple[tuple[str, str, str], ...]:
    """Where results of one name were measured in different ways."""
    rows = []
    for key in (key for key in a.results if key in b.results):
        first, second = (
            {**vars(side.results[key].protocol), "queries": side.results[key].queries}
            for side in (a, b)
        )
        rows += [
            (f"{key}: {name}", _text(first[name]), _text(second[name]))
            for name in first
            if name not in ("seed", "checkpoint") and first[name] != second[name]
        ]
    return tuple(rows)


def _environment(a: Side, b: Side) -> Section:
    names = ("python", "torch", "platform", "cpu", "cores", "gpus", "argv")
    first, second = ({**{n: s.provenance.get(n) for n in names}, **_packages(s)} for s in (a, b))
    keys = [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]
    missing = [side.name for side in (a, b) if not side.provenance]
    return Section(
        "Environment",
        _rows(keys, first, second),
        f"No provenance on record: {', '.join(missing)}." if missing else "",
    )


def _packages(side: Side) -> dict[str, Any]:
    return {
        f"package {name}": version for name, version in side.provenance.get("packages", {}).items()
    }


# ---- what came out -------------------------------------------------------------------------------


def scores(a: Side, b: Side) -> tuple[Score, ...]:
    """Every figure that either has, second minus first, over the test items where both kept them."""
    made = []
    for key in dict.fromkeys((*a.results, *b.results)):
        first, second = a.results.get(key), b.results.get(key)
        for name in dict.fromkeys(
            (*(first.metrics if first else ()), *(second.metrics if second else ()))
        ):
            values = [result.metrics.get(name) if result else None for result in (first, second)]
            gap, remark = _gap(a, b, key, name)
            made.append(Score(key, name, *values, gap, remark))
    return tuple(made)


def _gap(a: Side, b: Side, key: str, name: str) -> tuple[Difference | None, str]:
    if key not in a.results or key not in b.results:
        return None, "only one run has it"
    if _comparable(a.results[key]) != _comparable(b.results[key]):
        return None, "another protocol"
    found = [item_values(as_run(side), key, name) for side in (a, b)]
    if found[0] is None or found[1] is None:
        return None, "no mean over the items"
    if found[0][0] != found[1][0] or _test_set(a) != _test_set(b):
        return None, "other test items"
    return paired_bootstrap(found[1][1], found[0][1]), ""


def _comparable(result: Result) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(result.protocol).items()
        if name not in ("seed", "checkpoint")
    } | {"gallery": result.gallery}


def _test_set(side: Side) -> list[Any]:
    names = ("data.dataset", "data.manifest_digest", "data.splits", "data.protocol")
    return [side.config.get(name) for name in names] + sorted(
        (key, str(value))
        for key, value in side.config.items()
        if key.startswith("data.shapes.") and key not in ("data.shapes.train", "data.shapes.val")
    )


def as_run(side: Side) -> Run:
    """What the functions on single items read."""
    point = Point((), int(side.config.get("seed", 0)), side.name, "")
    return Run(point, side.name, side.results, "", False, "", 0.0, 0.0, run_dir=str(side.folder))


def wins(a: Side, b: Side) -> tuple[Wins, ...]:
    """For each result that counts right answers: who was right where, and the items whose figure
    changed most.
    """
    made = []
    for key in (key for key in a.results if key in b.results):
        name = next(
            (name for name in ("R1", "accuracy", "top1") if name in a.results[key].metrics), ""
        )
        _, remark = _gap(a, b, key, name) if name else (None, "none")
        if remark:
            continue
        first, second = (item_values(as_run(side), key, name) for side in (a, b))
        assert first is not None and second is not None, "asked above"
        right, left = second[1] > 0, first[1] > 0
        ranks = _ranks(a, b, key)
        counts = [
            int(np.sum(mask))
            for mask in (left & right, left & ~right, ~left & right, ~left & ~right)
        ]
        made.append(
            Wins(
                key,
                name,
                *counts,
                *(_changed(first[0], ranks, sign) if ranks else () for sign in (1, -1)),
            )
        )
    return tuple(made)


def _ranks(a: Side, b: Side, key: str) -> list[np.ndarray] | None:
    found = [np.array(side.results[key].ranks, dtype=float) for side in (a, b)]
    return found if len(found[0]) == len(found[1]) > 0 else None


def _changed(
    ids: Sequence[str], ranks: Sequence[np.ndarray], sign: int
) -> tuple[tuple[str, float, float], ...]:
    """Items whose rank rose most from the first to the second run (sign 1: the second does worse),
    or fell most (-1).
    """
    gap = sign * (ranks[1] - ranks[0])
    order = sorted(range(len(gap)), key=lambda number: (-gap[number], number))[:SHOWN_ITEMS]
    return tuple((ids[n], float(ranks[0][n]), float(ranks[1][n])) for n in order if gap[n] > 0)


def shared_curves(a: Side, b: Side) -> list[str]:
    """Names of the series that both have, the total losses and the figures of validation first."""
    both = [
        name
        for name in a.curves
        if name in b.curves and max(len(a.curves[name]), len(b.curves[name])) > 1
    ]
    return sorted(both, key=lambda name: ("loss/total" not in name, "/val/" not in name, name))[
        :_CURVES
    ]


def verdict(a: Side, b: Side, found: Sequence[Score]) -> str:
    """One sentence on the first fine-tuned figure that both have, else on the first of all."""
    both = [score for score in found if score.gap is not None]
    score = next((s for s in both if "finetuned" in s.key), both[0] if both else None)
    if score is None or score.gap is None:
        return "The two runs share no figure that could be compared item by item."
    metric = metric_of(score.metric)
    text = f"{score.key} {metric.label}: {metric.text(score.first or 0.0)} in {a.name}, {metric.text(score.second or 0.0)} in {b.name}"
    if score.gap.interval is None:
        return f"{text}; the items do not differ at all."
    low, high = score.gap.interval
    told = (
        "not distinguishable on these test items"
        if low <= 0 <= high
        else "the two trained models differ on these test items"
    )
    return f"{text}; difference with 95 % CI over test items {metric.interval(score.gap.interval)}: {told}. One run each says nothing about their settings."
