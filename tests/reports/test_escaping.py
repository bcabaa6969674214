"""Hostile text from plans and runs stays text in Markdown, CSV, LaTeX, pages and terminals."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.kinds.report_writer import write_report
from reports.output import render
from reports.output.escaping import csv_text, file_stem, markdown_text
from reports.output.latex import latex
from reports.output.layout import Cell, Column, Table
from reports.study.report_plan import ReportError, StudyPlan
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

FORMULAS = ('=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "=1\n=2")
EVIL = 'a|b\nc \x1b[31m<img src=x onerror="x"> ![p](http://x/y.png) \u202ereversed $\\frac$'


def table(text: str) -> Table:
    columns = (Column(text, is_label=True), Column("value"))
    return Table("name", text, columns, ((Cell(text), Cell("1.0")),), (text, "end"))


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    written = render.csv(pd.DataFrame({text: [text, None], "value": [-0.5, 1e-7]}))
    head, first, _ = csv.reader(io.StringIO(written))
    assert head[0][0] == first[0][0] == "'" and first[1] == "-0.5"
    assert "\n" not in first[0]


@pytest.mark.parametrize("text", ["-0.5", "+3", "1e-3", "-1.5e+10", "12 %", "a=b", "− 3"])
def test_numbers_and_plain_text_stay_as_they_are_in_csv(text: str) -> None:
    assert csv_text(text) == text


def test_mixed_columns_keep_their_numbers() -> None:
    frame = pd.DataFrame({"mixed": [1, None, "x", True], "whole": [1, 2, 3, 4]})
    assert render.csv(frame) == frame.to_csv(index=False, lineterminator="\n")


def test_a_row_of_markdown_stays_one_row_with_its_columns() -> None:
    lines = render.markdown([table(EVIL)]).split("\n")
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 3
    for row in rows:
        assert row.replace(r"\|", "").count("|") == 3
    text = "\n".join(lines)
    assert "<img" not in text and "](http" not in text and "\x1b" not in text
    assert r"\x1b[31m" in text and r"\u202e" in text


def test_a_table_without_notes_is_written() -> None:
    """That of a sweep of which nothing has run yet."""
    bare = replace(table("x"), notes=())
    assert "**x**" in render.markdown([bare]) and "tab:" in latex([bare], [])


def test_the_backslash_before_a_pipe_does_not_free_it() -> None:
    assert markdown_text("a\\|b") == r"a\\\|b"


def test_plain_text_stays_as_it_is_in_markdown() -> None:
    assert markdown_text("p < 0.001, [−1.0, 4.4]") == "p < 0.001, [−1.0, 4.4]"


def test_latex_has_no_line_that_the_text_began() -> None:
    written = latex([table(EVIL + r"\input{/etc/passwd}%")], [f"sweep {EVIL}"])
    assert not any(line.startswith("c ") for line in written.split("\n"))
    assert r"\input{/etc" not in written and "\x1b" not in written
    assert r"\label{tab:name}" in written


def hostile(**changes: Any) -> dict[str, Any]:
    axes = [
        {"key": VIDEO, "label": f"video {EVIL}", "values": [0.5, 0.9]},
        {"key": f"{TEXT}/../../x", "label": "text", "values": ["=1+1", "b"]},
    ]
    cells = [{VIDEO: v, axes[1]["key"]: t} for v in (0.5, 0.9) for t in ("=1+1", "b")]
    plan = made_up.plan(axes=axes, cells=cells, title=EVIL, published_optimum=None)
    return plan | {"sweep_id": f"x\n{EVIL}", "question": EVIL} | changes


def test_a_report_of_a_hostile_plan_is_written_into_its_folder_alone(tmp_path: Path) -> None:
    sweep = made_up.sweep_results(hostile(), lambda cell, seed: 10.0 + cell[VIDEO])
    write_report(sweep, tmp_path / "site" / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["report"]
    files = list((tmp_path / "site" / "report").iterdir())
    assert all(path.is_file() for path in files)
    page = (tmp_path / "site" / "report" / "index.html").read_text()
    assert "<img src=x" not in page
    rows = list(csv.reader(io.StringIO((tmp_path / "site" / "report" / "table.csv").read_text())))
    assert {row[1] for row in rows[1:]} == {"'=1+1", "b"}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a\nb", "/tmp/x", "-x"])
def test_an_ablation_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ReportError, match="cannot be the name of a folder"):
        StudyPlan.from_dict(hostile(ablation=name))


def test_file_names_hold_plain_characters() -> None:
    assert [file_stem(text) for text in ("a/../b", "..", "video ratio", "x.y")] == [
        "a-..-b",
        "unnamed",
        "video-ratio",
        "x.y",
    ]
