"""Memory and time that a manifest costs by its number of rows: `bench manifest`.

The rows are made up, with ids, paths and captions as long as those of stock videos. Each
measurement is a process of its own (`simvtp/cli/manifest_probe.py`): it takes the digest of the
table, opens it, starts a loader with workers, and takes batches of films that are not decoded. What
the same costs with FEW rows is subtracted where bytes a row are given. With another checkout of the
project the same is measured by its code, on the same or fewer rows.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from simvtp.errors import UserError

BATCH = 64  # clips
ROOT = Path(__file__).parents[3]
FEW = 1000  # rows whose cost is that of the program, not of rows
TEXT = (
    "aerial view of a young woman walking on the beach at sunset with her dog slow motion close up "
    "shot city traffic at night time lapse clouds over mountains happy family cooking in the "
    "kitchen abstract background animation seamless loop green forest river water flowing hands "
    "typing keyboard laptop office business people meeting"
)


@dataclass(frozen=True)
class ManifestSizeOptions:
    """Options of a measurement.

    Attributes:
        program: Measures one opening: `simvtp/cli/manifest_probe.py`.
        folder: Tables and cache lie there meanwhile.
        rows: Of the made-up table.
        workers: Worker processes of the loader.
        batches: Taken behind the first one, of BATCH clips.
        against: Another checkout of the project, measured too; None: none.
        against_rows: Rows of the table for it; 0: as many.
    """

    program: Path
    folder: Path
    rows: int = 10_000_000
    workers: int = 2
    batches: int = 1000
    against: Path | None = None
    against_rows: int = 0


@dataclass(frozen=True)
class ManifestCost:
    """Cost of one table with one version of the code.

    Attributes:
        commit: Of the code.
        rows: Of the table.
        table_bytes: Size of the table.
        column_bytes: Size of the columns in the cache; 0: there are none.
        first: What the first opening cost, as `manifest_probe` says it.
        again: What the second one cost.
        few: What a table of FEW rows costs.
    """

    commit: str
    rows: int
    table_bytes: int
    column_bytes: int
    first: dict[str, Any]
    again: dict[str, Any]
    few: dict[str, Any]

    def main_bytes(self, when: str, kind: str = "resident") -> float:
        """Returns bytes a row of the main process, beyond those of a small table.

        Args:
            when: opened, first (batch) or later.
            kind: resident, private or shared.
        """

        def of(run: dict[str, Any]) -> float:
            found = run[when] if when == "opened" else run[when]["main"]
            return float(found[kind])

        return (of(self.again) - of(self.few)) / self.rows

    def worker_bytes(self, when: str, kind: str = "resident") -> float:
        """Returns bytes a row of a worker, beyond those of a small table."""

        def of(run: dict[str, Any]) -> float:
            return statistics.mean(worker[kind] for worker in run[when]["workers"])

        return (of(self.again) - of(self.few)) / self.rows

    def peak_bytes(self) -> float:
        """Returns bytes a row of the main process at its peak while it opens for the first time."""
        return float(self.first["peak"] - self.few["peak"]) / self.rows


@dataclass
class ManifestSizes:
    """Measured costs, with the other checkout's if there is one."""

    options: ManifestSizeOptions
    ours: ManifestCost
    other: ManifestCost | None = None
    conditions: dict[str, str] = field(default_factory=dict)

    def document(self) -> str:
        """Returns the costs as JSON."""
        content = {
            "conditions": self.conditions,
            "workers": self.options.workers,
            "batches": self.options.batches,
            "ours": asdict(self.ours),
            "other": asdict(self.other) if self.other else None,
        }
        return json.dumps(content, indent=1)


def read_sizes(document: str) -> ManifestSizes:
    """Returns the costs that `ManifestSizes.document` wrote."""
    content = json.loads(document)
    ours, other = (
        ManifestCost(**found) if found else None for found in (content["ours"], content["other"])
    )
    if ours is None:
        raise UserError("the document holds no costs.")
    options = ManifestSizeOptions(
        program=Path(),
        folder=Path(),
        rows=ours.rows,
        workers=content["workers"],
        batches=content["batches"],
        against_rows=other.rows if other else 0,
    )
    return ManifestSizes(options, ours, other, content["conditions"])


def measure_manifest(
    options: ManifestSizeOptions, say: Callable[[str], None] = print
) -> ManifestSizes:
    """Makes the tables and measures.

    Raises:
        UserError: The system does not tell the memory of a process, or a measurement failed.
    """
    if not Path("/proc/self/smaps_rollup").is_file():
        raise UserError("bench manifest needs Linux: it reads /proc/PID/smaps_rollup.")
    few = _table(options.folder / "few.csv", FEW, say)
    table = _table(options.folder / "rows.csv", options.rows, say)
    ours = _cost(ROOT, table, few, options.rows, options, say)
    other = None
    if options.against is not None:
        count = options.against_rows or options.rows
        if count != options.rows:
            table = _table(options.folder / "fewer.csv", count, say)
        other = _cost(options.against.resolve(), table, few, count, options, say)
    return ManifestSizes(options, ours, other)


def _table(path: Path, rows: int, say: Callable[[str], None]) -> Path:
    say(f"making a table of {rows} rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("videoid,path,caption\n")
        file.writelines(made_up_rows(rows))
    first = next(made_up_rows(1)).split(",")[1]
    (path.parent / first).parent.mkdir(parents=True, exist_ok=True)
    (path.parent / first).touch()  # a table none of whose videos exists is refused
    return path


def made_up_rows(count: int) -> Iterator[str]:
    """Yields lines of a manifest: videoid, path and caption, all ids and files different."""
    vocabulary = TEXT.split()
    size = len(vocabulary)
    for number in range(count):
        name = 1_000_000_000 + number * 7
        page = number // 50 * 50
        first, length = number * 13 % size, 9 + number * 5 % 13
        words = (vocabulary[(first + step * (1 + number % 7)) % size] for step in range(length))
        yield f"{name},videos/{page:06d}_{page + 49:06d}/{name}.mp4,{' '.join(words)}\n"


def _cost(
    code: Path,
    table: Path,
    few: Path,
    rows: int,
    options: ManifestSizeOptions,
    say: Callable[[str], None],
) -> ManifestCost:
    cache = options.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    say(f"{code}: {FEW} rows")
    small = _probe(code, few, cache, options)
    say(f"{code}: {rows} rows, for the first time")
    first = _probe(code, table, cache, options)
    say(f"{code}: {rows} rows, again")
    again = _probe(code, table, cache, options)
    columns = sum(path.stat().st_size for path in cache.rglob("*.arrow"))
    return ManifestCost(_commit(code), rows, table.stat().st_size, columns, first, again, small)


def _probe(code: Path, manifest: Path, cache: Path, options: ManifestSizeOptions) -> dict[str, Any]:
    command = [sys.executable, "-P", str(options.program), str(manifest), str(cache)]
    command += [str(number) for number in (options.workers, options.batches, BATCH)]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(
        command, cwd=code, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(
            f"the measurement of {manifest} with the code in {code} failed "
            f"(exit status {done.returncode}): {done.stderr.strip()[-500:]}"
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _commit(code: Path) -> str:
    """Returns the commit of a checkout, or — where git does not know."""
    done = subprocess.run(
        ["git", "-C", str(code), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "—"
