"""`bench manifest`: the made-up table, the measurement, its page, and the figures on our pages."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from simvtp.__main__ import main
from simvtp.bench.data_path.manifest_page import manifest_page, manifest_rows
from simvtp.bench.data_path.manifest_size import (
    ManifestCost,
    ManifestSizeOptions,
    ManifestSizes,
    made_up_rows,
    read_sizes,
)
from tests.import_graph import ROOT


def memory(main_bytes: int, worker: int) -> dict[str, object]:
    def of(size: int) -> dict[str, int]:
        parts = {"private": size // 2, "shared": size - size // 2, "heap": size // 4}
        return {"resident": size, **parts}

    return {"main": of(main_bytes), "workers": [of(worker), of(worker)]}


def run(rows: int, per_row: int, seconds: float) -> dict[str, object]:
    size = 1_000_000 + rows * per_row
    return {
        "digest_s": seconds,
        "open_s": 2 * seconds,
        "open_cpu_s": seconds,
        "first_batch_s": 4 * seconds,
        "opened": memory(size, size)["main"],
        "first": memory(size, size),
        "later": memory(size + 2 * rows, size + 64_000),
        "peak": 2 * size,
    }


def cost(rows: int, per_row: int) -> ManifestCost:
    first, again = run(rows, per_row, 30.0), run(rows, per_row, 0.3)
    return ManifestCost(
        "0123456789abcdef", rows, 140 * rows, 160 * rows, first, again, run(0, 0, 0.1)
    )


def test_made_up_rows_are_a_manifest_without_repeats() -> None:
    lines = list(itertools.islice(made_up_rows(10_000_000), 20_000))
    rows = list(csv.reader(lines))
    assert all(len(row) == 3 and row[2] for row in rows)
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == len(rows)
    assert 100 < sum(map(len, lines)) / len(lines) < 180  # a manifest of 10.7 million is 1.5 GB
    assert list(made_up_rows(3)) == lines[:3]


def test_the_page_has_bytes_a_row_before_and_now() -> None:
    options = ManifestSizeOptions(Path(), Path(), rows=1000, batches=10)
    sizes = ManifestSizes(options, cost(1000, 50), cost(500, 900), {"commit": "abc"})
    table = {what: (before, now) for what, before, now in manifest_rows(sizes)}
    assert table["rows"] == ("500", "1,000")
    assert table["main process at the first batch, resident, bytes a row"] == ("900", "50")
    assert table["peak of the main process at the first opening, bytes a row"] == ("1800", "100")
    assert table["each further one, s"] == ("0.9", "0.9")
    grown = "a worker's private memory, growth over these clips, bytes a clip of its own"
    assert table[grown][1] == "100"  # half of 64,000 more bytes over 320 clips
    heap = "… of which heap; the rest are pages of the columns' file"
    assert table[heap][1] == "50"
    page = manifest_page(sizes)
    assert "| commit | abc |" in page and "before (0123456789ab)" in page
    assert manifest_rows(read_sizes(sizes.document())) == manifest_rows(sizes)
    alone = ManifestSizes(options, replace(cost(1000, 50), column_bytes=0))
    assert {before for _, before, _ in manifest_rows(alone)} == {"—"}
    assert "none" in {what: now for what, _, now in manifest_rows(alone)}.values()


def test_the_page_says_what_was_measured() -> None:
    measured = ROOT / "results" / "speed" / "2026-11-30-manifest"
    sizes = read_sizes(measured.with_suffix(".json").read_text())
    rows = manifest_rows(sizes)
    page = measured.with_suffix(".md").read_text()
    assert page == manifest_page(sizes)
    table = {what: (before, now) for what, before, now in rows}
    starts = {
        "first opening, CPU time, s": rows[4],
        "each further opening, CPU time, s": rows[6],
        "a worker after 25600 clips, resident, bytes a row": rows[14],
        "… of which heap": rows[-1],
    }
    said = (ROOT / "docs" / "data.md").read_text().partition("## Manifests of millions")[2]
    said = said.partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert len(lines) == 9
    for what, before, now in lines[2:]:
        expected = starts[what][1:] if what in starts else table[what]
        assert (before, now) == expected, what
    assert f"{sizes.ours.rows:,} rows" in lines[0][2]
    assert sizes.other is not None and f"{sizes.other.rows:,} rows" in lines[0][1]


@pytest.mark.slow
def test_a_small_table_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "manifest", "--rows", "40000", "--workers", "1", "--batches", "2"]
    assert (
        main([*command, "--folder", str(tmp_path / "work"), "--out", str(tmp_path / "a.md")]) == 0
    )
    sizes = read_sizes((tmp_path / "a.json").read_text())
    assert (tmp_path / "a.md").read_text() == manifest_page(sizes)
    assert sizes.ours.rows == 40_000 and sizes.ours.column_bytes > 40_000 * 100
    first, again = sizes.ours.first, sizes.ours.again
    assert first["digest"] == again["digest"] and first["names"] == again["names"]
    assert len(again["later"]["workers"]) == 1
    assert 0 < again["open_cpu_s"] < first["open_cpu_s"]


def test_too_few_rows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "manifest", "--rows", "10"]) == 2
    assert "--rows of at least 1000" in capsys.readouterr().err
