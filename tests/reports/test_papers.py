"""The papers' tables, copied as printed, and what was measured here, on a page of its own."""

import csv
import json
from pathlib import Path
from typing import Any

from reports.analysis.verdict import sentences
from reports.build import write_index
from reports.kinds.report_writer import write_report
from reports.output.layout import MISSING, Table
from reports.papers.claim_evidence import ClaimVerdict
from reports.papers.measured_rows import measured_tables
from reports.papers.paper_tables import draw_efficiency, write_papers
from reports.papers.published import ROWS, other_tables, paper_tables, published_table
from reports.study.archive import ReportRecord, measured_rows
from reports.study.study_provenance import provenance_record, to_json
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

ROOT = Path(__file__).resolve().parents[2]

SHARE = "data.fraction"
PAGES = ("index.html", "measured.html")


def grid(
    seeds: tuple[int, ...] = (0, 1, 2),
    values: dict[tuple[float, float], float] | None = None,
    **plan: Any,
) -> SweepResults:
    values = values or {(0.5, 0.15): 10.0, (0.5, 0.75): 12.0, (0.9, 0.15): 11.0, (0.9, 0.75): 18.0}
    return made_up.sweep_results(
        made_up.plan(seeds=seeds, **plan),
        lambda cell, seed: values[cell[VIDEO], cell[TEXT]] + 0.2 * seed,
    )


def shares(seeds: tuple[int, ...] = (0, 1, 2)) -> SweepResults:
    axes = [{"key": SHARE, "label": "share of the data", "values": [0.1, 0.5, 1.0]}]
    cells = [{SHARE: share} for share in axes[0]["values"]]
    made = made_up.plan(
        axes=axes, cells=cells, ablation="data_fraction", published_optimum=None, seeds=seeds
    )
    return made_up.sweep_results(made, lambda cell, seed: 10 + 5 * cell[SHARE] + 0.1 * seed)


def written(sweep: SweepResults) -> str:
    """Returns the text of the provenance file."""
    return to_json(provenance_record(sweep, sentences(sweep)))


def of(sweep: SweepResults) -> ReportRecord:
    """Returns the record as it is read back."""
    return ReportRecord.from_dict(json.loads(written(sweep)))


VALUES = ("R@1", "R@5", "R@10", "MdR")


def file_rows() -> list[dict[str, str]]:
    with open(ROWS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def printed(row: dict[str, str]) -> list[str]:
    return [row["method"], *(row[name] or MISSING for name in VALUES)]


def test_every_published_figure_is_copied_as_its_paper_prints_it() -> None:
    """Each row of the file stands in exactly one table, with its values, its note and source."""
    tables = (*paper_tables(), *other_tables())
    left = [row for row in file_rows() if row["source"] != "SimVTP abstract"]  # in the figure
    for table in tables:
        for row in table.rows:
            texts = [cell.text for cell in row[5:9]]
            same = [one for one in left if printed(one) == [row[0].text, *texts]]
            source = next(one for one in same if one["source"] in table.notes[1])
            left.remove(source)
            assert not source["note"] or any(source["note"] in note for note in table.notes)
    assert left == []


def texts_of(table: Table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_a_method_that_two_papers_print_differently_has_a_row_in_each() -> None:
    simvtp, mac = paper_tables()
    assert (len(simvtp.rows), len(mac.rows)) == (8, 16)
    by_table = [texts_of(table) for table in (simvtp, mac)]
    assert by_table[0]["Frozen"][4:] == ["31.0", "59.5", "70.5", "3"]
    assert by_table[1]["Frozen"][4:] == ["34.2", "61.1", "71.6", MISSING]
    assert by_table[0]["HERO"][2] == "136M" and by_table[0]["HERO"][6] == "57.7"
    assert by_table[1]["HERO"][2:4] == ["120M", "32"] and by_table[1]["HERO"][6] == "53.7"
    assert by_table[1]["BridgeFormer"][4:] == ["37.6", "64.8", "75.1", "3"]
    assert by_table[1]["CE"][1:3] == ["none", "none"]  # printed as a hyphen: no pre-training
    assert simvtp.rows[-1][0].text == "SimVTP" and mac.rows[-1][0].text == "MAC"


def test_other_data_sets_have_tables_of_their_own() -> None:
    captions = [table.caption for table in other_tables()]
    assert captions == [
        "Published on MSR-VTT 1k-A, zero-shot, text to video.",
        "Published on DiDeMo, finetuned, text to video.",
        "Published on LSMDC, finetuned, text to video.",
        "Published on MSVD, finetuned, text to video.",
    ]
    assert len({table.name for table in (*paper_tables(), *other_tables())}) == 6


def test_measured_rows_share_no_table_with_published_ones() -> None:
    (table,) = measured_tables(measured_rows([of(grid())]))
    (row,) = table.rows
    assert [cell.text for cell in row] == [
        "tiny",
        "video mask ratio 0.9, text mask ratio 0.75",
        "3",
        "18.2",
        "36.4",
        "54.6",
        "5.5",
    ]
    assert row[3].spread == "0.2" and not any(cell.rank for cell in row)
    assert "256 queries against 256 candidates" in table.notes[1]


def test_rows_of_two_protocols_have_tables_of_their_own() -> None:
    first = of(grid())
    other = json.loads(written(grid()).replace("on shapes (test split", "on clips (test split"))
    for cell in other["cells"]:
        for run in cell["runs"]:
            run["cell_fingerprint"] += "x"
    tables = measured_tables(measured_rows([first, ReportRecord.from_dict(other)]))
    assert [table.name for table in tables] == ["measured_1", "measured_2"]
    assert "on shapes" in tables[0].notes[1] and "on clips" in tables[1].notes[1]


def test_the_same_experiment_in_two_sweeps_is_one_row() -> None:
    assert len(measured_rows([of(grid()), of(grid(ablation="another"))])) == 1


def test_published_cells_are_dashes_but_those_known() -> None:
    (table,) = published_table(grid())
    assert [row[-1].text for row in table.rows] == [MISSING] * 4
    (table,) = published_table(shares())
    assert [row[-1].text for row in table.rows] == ["43.8", MISSING, "53.6"]
    assert [column.group for column in table.columns][1:] == ["measured here"] * 2 + ["published"]
    assert sum("SimVTP abstract" in note for note in table.notes) == 2


def test_the_page_is_made_of_the_reports_in_its_folder_and_is_the_same_twice(
    tmp_path: Path,
) -> None:
    write_index(tmp_path)
    empty = {name: (tmp_path / "papers" / name).read_text() for name in PAGES}
    assert "Nothing was measured here yet" in empty["measured.html"]
    assert "not measured here yet" in empty["index.html"]
    for sweep in (grid(), shares()):
        write_report(sweep, tmp_path / sweep.plan.ablation)
    write_papers(tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "papers").iterdir()}
    write_papers(tmp_path)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "papers").iterdir()}
    page = first["index.html"].decode()
    assert (
        "53.6" in page and "18.2" in page and ClaimVerdict.NOT_TESTABLE in page
    )  # 18.2: of a claim
    measured = first["measured.html"].decode()
    assert "18.2" in measured and "53.6" not in measured
    assert "Right: text-to-video retrieval on shapes" in page
    assert first["measured.csv"].count(b"\n") == 2


def test_published_and_measured_points_are_on_axes_of_their_own() -> None:
    figure = draw_efficiency([])
    assert len(figure.axes) == 2
    assert [tuple(line.get_ydata()) for line in figure.axes[0].lines] == [
        (43.8, 53.6)
    ] and not figure.axes[1].lines


def committed(pattern: str = "*/*provenance.json") -> list[ReportRecord]:
    paths = sorted((ROOT / "results" / "studies").glob(pattern))
    return [ReportRecord.from_dict(json.loads(path.read_text())) for path in paths]


def test_committed_reports_can_still_be_read() -> None:
    """They keep the names of settings that they were measured under."""
    records = committed()
    assert len(records) >= 8
    assert all(cell.runs for record in records for cell in record.cells)
