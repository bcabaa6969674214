"""Figures: what is drawn where, fixed sizes, real fonts, the same bytes each time."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from reports.figures import curves, marks, style
from reports.figures import heatmap as heat
from reports.figures.venue import ARTICLE, LEAST
from reports.kinds.report_type import grid_plots
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

Value = Callable[[dict[str, Any], int], float | None]
REPORT_TYPE = "masks.video_kind"


def kinds() -> dict[str, Any]:
    names = ["tube", "random", "frame"]
    axes = [{"key": REPORT_TYPE, "label": "video masking", "values": names}]
    return made_up.plan(
        axes=axes,
        cells=[{REPORT_TYPE: name} for name in names],
        seeds=(0, 1),
        published_optimum={REPORT_TYPE: "tube"},
    )


def by_cell(values: dict[tuple[float, float], float | None]) -> Value:
    return lambda cell, seed: values[cell[VIDEO], cell[TEXT]]


def gap() -> SweepResults:
    return made_up.sweep_results(
        made_up.plan(),
        by_cell({(0.5, 0.15): 10.0, (0.5, 0.75): 12.0, (0.9, 0.15): None, (0.9, 0.75): 14.96}),
    )


def drawn(sweep: SweepResults, folder: Path) -> tuple[style.ReportFigure, ...]:
    return style.draw_figures(sweep, grid_plots(sweep), folder)


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(figure: Any) -> list[str]:
    return [
        text.get_text().replace("\n", " ") for box in figure.legends for text in box.get_texts()
    ]


def test_same_runs_same_bytes_fixed_size_and_fonts(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    first, second = (drawn(gap(), tmp_path / name) for name in ("a", "b"))
    assert dict(matplotlib.rcParams) == before
    assert [picture.name for picture in first] == [
        "heatmap",
        "curve_video_ratio",
        "curve_text_ratio",
    ]
    for one, two in zip(first, second, strict=True):
        assert (
            one.pdf.read_bytes() == two.pdf.read_bytes()
            and one.png.read_bytes() == two.png.read_bytes()
        )
        with Image.open(one.png) as image:
            assert (
                image.width == round(ARTICLE.column * style.PNG_DPI)
                and "Creation Time" not in image.info
            )
        content = one.pdf.read_bytes()
        assert (
            b"/CreationDate" not in content
            and b"/FontFile2" in content
            and b"/Type3" not in content
        )


def test_heat_map_shows_best_missing_and_the_published_optimum() -> None:
    figure = heat.heat_map(gap())
    axes = figure.axes[0]
    assert sorted(words(axes)) == sorted(["10.0", "12.0", "—", "15.0†"])
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    hatched = [patch for patch in frames if patch.get_hatch()]
    framed = [patch for patch in frames if not patch.get_hatch()]
    # the larger video ratio is the upper row: (0.9, 0.15) is missing, (0.9, 0.75) is best
    assert [(int(p.get_x()), int(p.get_y())) for p in hatched] == [(0, 0)]
    assert [(int(p.get_x()), int(p.get_y())) for p in framed] == [(1, 0)]
    assert legend(figure) == ["best (rounded mean)", "published optimum", "planned, no figure"]


def test_heat_map_says_the_spread_and_how_many_seeds_are_missing() -> None:
    def value(cell: dict[str, Any], seed: int) -> float | None:
        few = cell == {VIDEO: 0.5, TEXT: 0.15}
        return None if few and seed else 10.0 + seed + cell[TEXT]

    sweep = made_up.sweep_results(made_up.plan(seeds=(0, 1, 2)), value)
    found = words(heat.heat_map(sweep).axes[0])
    assert "10.2\nn = 1" in found and "11.8\n± 1.0" in found


@style.report_style()
def test_no_number_leaves_its_cell() -> None:
    few = {VIDEO: 0.5, TEXT: 0.75}
    for ratios in (
        (0.5, 0.75),
        tuple(n / 20 for n in range(4, 19, 2)),
        tuple(n / 20 for n in range(4, 19)),
    ):
        plan = made_up.plan(video=(0.5, 0.9), text=ratios, seeds=(0, 1, 2))
        figure = heat.heat_map(
            made_up.sweep_results(
                plan, lambda cell, seed: None if cell == few and seed == 2 else 10.0 + 5 * seed
            )
        )
        figure.draw_without_rendering()
        axes = figure.axes[0]
        width, height = (axes.bbox.width / len(ratios), axes.bbox.height / 2)
        found = [text.get_window_extent() for text in axes.texts]
        assert len(found) == 2 * len(ratios)
        assert any("n = 2" in text for text in words(axes)) == (len(ratios) == 2)
        shown = [text for text in axes.texts if text.get_text()]
        assert bool(shown) == (len(ratios) < 15)  # smaller letters could not be read
        assert min((text.get_fontsize() for text in shown), default=LEAST) >= LEAST
        assert max(box.width for box in found) < width and max(box.height for box in found) < height


def test_numbers_stand_out_from_their_cells() -> None:
    assert style.contrast(
        style.relative_luminance((1, 1, 1)), style.relative_luminance((0, 0, 0))
    ) == pytest.approx(21)
    assert style.relative_luminance((0.5, 0.5, 0.5)) == pytest.approx(0.214, abs=1e-3)
    ratios = tuple(n / 20 for n in range(4, 19))
    sweep = made_up.sweep_results(made_up.plan((0.5,), ratios), lambda cell, seed: 10 * cell[TEXT])
    axes = heat.heat_map(sweep).axes[0]
    colors = axes.collections[0].to_rgba(axes.collections[0].get_array().ravel())
    pairs = [
        (style.relative_luminance(to_rgb(text.get_color())), style.relative_luminance(c))
        for text, c in zip(axes.texts, colors, strict=True)
    ]
    assert min(style.contrast(*pair) for pair in pairs) > 3.9


@style.report_style()
def test_nothing_is_cut_off_and_labels_do_not_touch() -> None:
    many = tuple(n / 20 for n in range(3, 19))
    full = (0.50, 0.60, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
    for plan in (
        made_up.plan(full, (0.15, 0.75)),
        made_up.plan(many, many, published_optimum={VIDEO: 0.9, TEXT: 0.75}),
        kinds(),
    ):
        sweep = made_up.sweep_results(plan, lambda cell, seed: 10.0 + seed)
        along, lines = sweep.plan.axes[0], sweep.plan.axes[1] if len(sweep.plan.axes) > 1 else None
        figure = curves.curve(sweep, along, lines)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert (
            box.y0 >= 0 and box.x1 <= figure.bbox.width and legend(figure)[-1].startswith("chance")
        )
        labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
        assert len(labels) == len(along.values)
        if labels[0].get_rotation() == 0:
            boxes = [label.get_window_extent() for label in labels]
            assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_line_for_each_value_with_the_marker_of_the_legend() -> None:
    ratios = tuple(n / 20 for n in range(4, 19))
    sweep = made_up.sweep_results(
        made_up.plan((0.5, 0.9), ratios), lambda cell, seed: 10 * cell[TEXT]
    )
    figure = curves.curve(sweep, sweep.plan.axes[0], sweep.plan.axes[1])
    lines = {
        (line.get_marker(), tuple(line.get_color()))
        for line in figure.axes[0].lines
        if line.get_markersize() == marks.MEAN_SIZE and line.get_marker() != "None"
    }
    shown = {
        (h.get_marker(), tuple(h.get_color()))
        for h in figure.legends[0].legend_handles
        if h.get_marker() not in ("None", "")
    }
    assert len(shown) == len(ratios) and lines == shown
    assert legend(figure)[: len(ratios)] == [sweep.plan.axes[1].text(ratio) for ratio in ratios]


def test_captions_say_the_metric_the_protocol_the_seeds_and_how_to_read_the_marks(
    tmp_path: Path,
) -> None:
    heat, along_video, _ = drawn(gap(), tmp_path)
    for picture in (heat, along_video):
        assert (
            picture.caption.startswith("text-to-video R@1 (%) over video mask ratio")
            and "one seed" in picture.caption
        )
        assert (
            "Protocol: text-to-video retrieval on shapes "
            "(test split, 256 queries against 256 candidates)" in picture.caption
        )
        assert "Protocol" not in picture.alt
    assert "Outlined: best" in heat.caption and "Hatched (—)" in heat.caption
    assert "†: the published optimum (video mask ratio 0.9, text mask ratio 0.75)." in heat.caption
    assert (
        "Dashed: chance (R@1 0.40 %)" in along_video.caption
        and "Dotted: video mask ratio of the published optimum (0.9)." in along_video.caption
    )
    elsewhere = made_up.sweep_results(
        made_up.plan(video=(0.5, 0.8)), lambda cell, seed: 10 * cell[VIDEO]
    )
    assert not any(
        "†" in plot.title + " ".join(plot.reading) or "0.9" in " ".join(plot.reading)
        for plot in grid_plots(elsewhere)[:2]
    )


def test_cells_outside_the_plan_stay_blank() -> None:
    cells = [{VIDEO: 0.5, TEXT: 0.15}, {VIDEO: 0.9, TEXT: 0.75}]
    sweep = made_up.sweep_results(made_up.plan(cells=cells), lambda cell, seed: 10 * cell[VIDEO])
    axes = heat.heat_map(sweep).axes[0]
    assert sorted(words(axes)) == ["5.0", "9.0†"] and not any(
        patch.get_hatch() for patch in axes.patches
    )


@pytest.mark.parametrize(("level", "where"), [(1.0, "on"), (12.0, "below"), (60.0, "below")])
def test_chance_is_drawn_or_named_as_outside_the_axis(level: float, where: str) -> None:
    sweep = made_up.sweep_results(
        made_up.plan(), lambda cell, seed: level + cell[VIDEO]
    )  # range 0.4
    axis = sweep.plan.axes[0]
    figure = curves.curve(sweep, axis, sweep.plan.axes[1])
    bottom, top = figure.axes[0].get_ylim()
    dashed = [line for line in figure.axes[0].lines if list(line.get_ydata()) == [0.4, 0.4]]
    assert (
        (len(dashed) == 1 and bottom == 0.0)
        if where == "on"
        else (not dashed and bottom > level - 1)
    )
    chance = next(text for text in legend(figure) if text.startswith("chance"))
    assert "0.40 %" in chance and chance.endswith("below the axis") == (where == "below")
    assert top > level + 0.9 and top - bottom >= 1.99


def test_names_are_not_joined_by_a_line_and_numbers_are() -> None:
    named = made_up.sweep_results(kinds(), lambda cell, seed: len(cell[REPORT_TYPE]) + seed)
    (plot,) = grid_plots(named)
    figure = plot.draw(named)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "tube†",
        "random",
        "frame",
    ]
    assert not any(len(line.get_xdata()) == 3 for line in figure.axes[0].lines)
    numbers = gap()
    assert curves.curve(numbers, numbers.plan.axes[0], None).axes[0].lines[0].get_linestyle() == "-"


@pytest.mark.parametrize(
    ("plan", "count"),
    [
        (made_up.plan(video=(0.9,), text=(0.75,)), 1),  # no curve through one point
        (made_up.plan(video=(0.9,)), 2),
        (made_up.plan(), 3),  # all cells equal
        (
            made_up.plan(
                video=tuple(n / 20 for n in range(4, 19)), text=tuple(n / 20 for n in range(3, 19))
            ),
            3,
        ),  # more lines than markers
        (kinds(), 1),
    ],
    ids=["one cell", "one row", "all equal", "large", "names"],
)
def test_odd_grids_are_drawn(tmp_path: Path, plan: dict[str, Any], count: int) -> None:
    sweep = made_up.sweep_results(plan, lambda cell, seed: 5.0)
    assert len(drawn(sweep, tmp_path)) == count


def test_one_measured_cell_gives_a_heat_map_without_a_best(tmp_path: Path) -> None:
    sweep = made_up.sweep_results(
        made_up.plan(), lambda cell, seed: 12.0 if cell == {VIDEO: 0.5, TEXT: 0.15} else None
    )
    (picture,) = drawn(sweep, tmp_path)
    assert (
        picture.name == "heatmap"
        and picture.png.stat().st_size > 2000
        and "Outlined" not in picture.caption
    )
    assert sorted(words(heat.heat_map(sweep).axes[0])) == sorted(["12.0", "—", "—", "—†"])


def test_nothing_measured_gives_the_empty_grid_and_no_curves(tmp_path: Path) -> None:
    sweep = made_up.sweep_results(made_up.plan(), lambda cell, seed: None)
    (picture,) = drawn(sweep, tmp_path)
    assert picture.name == "heatmap" and "nothing measured yet" in picture.caption
    figure = heat.heat_map(sweep)
    assert len(figure.axes) == 1  # no colour bar without colours
    assert sorted(words(figure.axes[0])) == sorted(["—", "—", "—", "—†"])
    assert drawn(made_up.sweep_results(kinds(), lambda cell, seed: None), tmp_path) == ()
