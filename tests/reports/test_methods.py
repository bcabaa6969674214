"""Methods side by side, and the pictures of what models fill in."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from reports.build import write_index
from reports.figures.reconstructions import reconstruction_figures, shown_cells
from reports.kinds.registry import REPORT_TYPES, report_type_of
from reports.kinds.report_writer import write_report
from reports.study.collect import gather
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

R1 = {
    "prediction, same samples": 14.0,
    "alignment": 12.0,
    "no mask, same samples": 11.0,
    "none, MAC": 8.0,
}
AXIS = "prediction_vs_alignment"


def sweep_results() -> SweepResults:
    axes = [{"key": AXIS, "label": "arm", "values": list(R1)}]
    cells = [{AXIS: name} for name in R1]
    made = made_up.plan(
        axes=axes,
        cells=cells,
        ablation=AXIS,
        published_optimum=None,
        seeds=(0, 1, 2),
        title="Methods",
    )
    return made_up.sweep_results(made, lambda cell, seed: R1[cell[AXIS]] + noise(cell, seed))


def noise(cell: dict[str, Any], seed: int) -> float:
    """Returns an error that is no sum of one of the cell and one of the seed."""
    return 0.1 * ((list(R1).index(cell[AXIS]) + 1) * (seed + 2) % 4)


def test_size_cost_and_both_directions_stand_in_one_row() -> None:
    made = sweep_results()
    assert report_type_of(made.plan) is REPORT_TYPES["prediction_vs_alignment"]
    (table,) = report_type_of(made.plan).tables(made)
    heads = [(column.group, column.head) for column in table.columns]
    assert heads[:5] == [
        ("", "arm"),
        ("", "n"),
        ("", "parameters"),
        ("", "GMAC"),
        ("", "CPU-hours"),
    ]
    assert heads[5:] == [
        (way, name)
        for way in ("text to video", "video to text")
        for name in ("R@1", "R@5", "R@10", "MdR")
    ]
    first = [cell.text for cell in table.rows[0]]
    assert (
        first[:6] == ["prediction, same samples", "3", "1.2 M", "0.17", "0.25", "14.2"]
        and table.rows[0][5].rank == 1
    )
    assert any(
        note.startswith("Protocol: text-to-video and video-to-text retrieval on shapes")
        for note in table.notes
    )


def test_published_rows_have_tables_of_their_own_and_all_methods_stand_on_the_papers_page(
    tmp_path: Path,
) -> None:
    made = sweep_results()
    published = report_type_of(made.plan).published(made)
    assert (
        all(row[0].text not in R1 for table in published for row in table.rows)
        and len(published) == 2
    )
    write_report(made, tmp_path / "prediction_vs_alignment")
    write_index(tmp_path)
    assert (
        json.loads((tmp_path / "prediction_vs_alignment" / "provenance.json").read_text())[
            "methods"
        ]
        is True
    )
    text = (tmp_path / "papers" / "measured.md").read_text()
    assert all(f"arm {name}" in text for name in R1)
    assert "arm " not in (tmp_path / "papers" / "tables.md").read_text()
    claims = (tmp_path / "papers" / "claims.csv").read_text()
    assert next(line for line in claims.splitlines() if line.startswith("mac-frozen")).endswith(
        ",supported"
    )


def test_methods_may_see_other_numbers_of_frames_and_the_table_says_so() -> None:
    made = made_up.plan(
        axes=[{"key": AXIS, "label": "arm", "values": list(R1)}],
        cells=[{AXIS: n} for n in R1],
        ablation=AXIS,
        published_optimum=None,
    )
    runs = [
        made_up.run(p, made_up.result(10.0, frames=f))
        for p, f in zip(made["points"], (8, 4, 4, 4), strict=True)
    ]
    (table,) = REPORT_TYPES[AXIS].tables(gather(made, runs))
    assert (
        "The rows differ in the frames of their test (4, 8), which this sweep varies; "
        "all else is equal." in table.notes
    )


# ---- reconstructions -----------------------------------------------------------------------------


def drawn(root: Path, video: tuple[float, ...] = (0.5, 0.9), skip: int = -1) -> SweepResults:
    made = made_up.plan(video=video, seeds=(0, 1))
    runs = []
    for number, point in enumerate(made["points"]):
        folder = root / f"run{number}"
        (folder / "figures").mkdir(parents=True)
        for clip in (
            () if number % (2 * len(video)) == skip else ("00_test_a", "01_test_b", "02_test_c")
        ):
            shade = (10 * number, 50 * len(clip), 100)
            Image.new("RGB", (80, 60 + number), shade).save(
                folder / "figures" / f"reconstruction_{clip}.png"
            )
        runs.append(
            made_up.run(point, *made_up.all_results(10.0, point["seed"]), run_dir=str(folder))
        )
    return gather(made, runs)


def test_the_same_clips_of_each_cell_are_in_one_image(tmp_path: Path) -> None:
    made = drawn(tmp_path)
    pictures = reconstruction_figures(made, tmp_path)
    assert [picture.name for picture in pictures] == ["reconstructions_0", "reconstructions_1"]
    assert "test_a" in pictures[0].caption and "text mask ratio 0.75" in pictures[0].alt
    first = pictures[0].png.read_bytes()
    with Image.open(pictures[0].png) as page:
        assert page.width == 2 * 60 + 3 * 18  # two columns of sheets at three quarters
    assert first == reconstruction_figures(made, tmp_path)[0].png.read_bytes()


def test_a_cell_without_pictures_is_left_out_and_directories_that_are_away_give_none(
    tmp_path: Path,
) -> None:
    (picture, *_) = reconstruction_figures(drawn(tmp_path, skip=0), tmp_path)
    assert "video mask ratio 0.5, text mask ratio 0.15" not in picture.alt
    assert reconstruction_figures(sweep_results(), tmp_path) == ()


def test_a_cell_without_pretraining_is_not_drawn_and_the_page_says_why(tmp_path: Path) -> None:
    """Older versions drew what its random decoder gives."""
    made = drawn(tmp_path)
    cell = made.plan.cells[1]
    for run in made.by_cell[cell]:
        settings = {"experiment": {"finetune": {"init": "initial"}}}
        Path(run.run_dir, "experiment.json").write_text(json.dumps(settings))
    (picture, *_) = reconstruction_figures(made, tmp_path)
    name = made.plan.describe(cell)
    assert cell not in shown_cells(made) and name not in picture.alt
    assert f"Not drawn: {name}: no pre-training, so the decoder has random" in picture.caption


def test_of_a_large_grid_first_middle_and_last_are_shown() -> None:
    made = made_up.sweep_results(
        made_up.plan(video=(0.5, 0.6, 0.7, 0.8, 0.9), text=(0.15, 0.3, 0.75)),
        lambda cell, seed: 10.0,
    )
    assert {cell[0] for cell in shown_cells(made)} == {0.5, 0.7, 0.9} and len(
        shown_cells(made)
    ) == 9
    few = made_up.sweep_results(
        made_up.plan(), lambda cell, seed: 10.0 if cell[VIDEO] < 0.6 or cell[TEXT] < 0.2 else None
    )
    assert len(shown_cells(few)) == 3


def test_the_page_shows_them(tmp_path: Path) -> None:
    write_report(drawn(tmp_path / "runs"), tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Reconstructions" in page and page.count("full size") == 2
    record = json.loads((tmp_path / "report" / "provenance.json").read_text())
    assert "reconstructions_0.png" in record["figures"]
