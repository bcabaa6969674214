"""The reports in a real browser, from disk: on a wide page, on a phone, and in print.

Skipped, with the reason, without a chromium or Playwright.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.build import write_index
from reports.kinds.report_writer import write_report
from tests.reports import made_up
from tests.reports.test_methods import drawn

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed (requirements-dev.txt)"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine (Debian's package: chromium)"
    ),
]

PAGES = (
    "index.html",
    "mask_ratio/index.html",
    "data_fraction/index.html",
    "prediction_vs_alignment/index.html",
    "papers/index.html",
)
WIDTHS = {"wide": 1400, "phone": 360}

# elements whose text is wider than they are, but for those that may be scrolled or that lie in one
OVERFLOWING = """() =>
  [...document.querySelectorAll('p, li, dd, dt, h1, h2, figcaption, td, th, a')]
  .filter(e => !e.closest('.scroll') && (e.scrollWidth > e.clientWidth + 1)
    && getComputedStyle(e).display !== 'inline')
  .map(e => e.textContent.slice(0, 60))"""
# a table in a box does not widen the page on paper either: what sticks out is lost
WIDER_THAN_PAPER = """() => [...document.querySelectorAll('table')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.textContent.trim().slice(0, 60))"""
# on a phone the names of the rows leave room for figures, and stay in sight while these are
# scrolled
ROW_NAMES = """() => [...document.querySelectorAll('.scroll tbody .label:first-child')].map(e =>
  [e.offsetWidth <= innerWidth / 2, getComputedStyle(e).position])"""
CUT_OFF = """() => [...document.querySelectorAll('.scroll')]
  .filter(e => e.scrollWidth > e.clientWidth + 1
  && !['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).length"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid with pictures, a curve with several seeds, long names, and a failed run."""
    out = tmp_path_factory.mktemp("out")
    write_report(drawn(tmp_path_factory.mktemp("runs")), out / "mask_ratio")
    axes = [
        {
            "key": "data.fraction",
            "label": "share of the pre-training data",
            "values": [0.1, 0.5, 1.0],
        }
    ]
    plan = made_up.plan(
        axes=axes,
        cells=[{"data.fraction": share} for share in (0.1, 0.5, 1.0)],
        ablation="data_fraction",
        published_optimum=None,
        seeds=(0, 1, 2),
        dataset="a_data_set_with_a_long_name_that_has_no_place_to_break_and_goes_on",
    )
    missing = made_up.sweep_results(
        plan,
        lambda cell, seed: (
            None if cell["data.fraction"] == 0.5 and seed else 10 + 5 * cell["data.fraction"] + seed
        ),
    )
    write_report(missing, out / "data_fraction")
    arms = [
        "alignment",
        "prediction with a contrast as well, same compute",
        "prediction with a contrast as well, same samples",
    ]
    names = [{"key": "arm", "label": "arm and budget", "values": arms}]
    plan = made_up.plan(
        axes=names,
        cells=[{"arm": arm} for arm in arms],
        ablation="prediction_vs_alignment",
        published_optimum=None,
        seeds=(0, 1),
    )
    write_report(
        made_up.sweep_results(plan, lambda cell, seed: 10 + len(cell["arm"]) / 10 + seed),
        out / "prediction_vs_alignment",
    )
    write_index(out)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_picture_is_missing_no_text_overflows_and_nothing_is_asked_of_the_network(
    browser: Any, site: Path, width: str, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": WIDTHS[width], "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        page.goto((site / name).as_uri())
        page.screenshot(path=tmp_path / f"{name.replace('/', '_')}.png", full_page=True)
        pictures = page.evaluate(
            "() => [...document.images]"
            ".map(i => [i.complete && i.naturalWidth > 0, i.clientWidth <= innerWidth])"
        )
        assert all(shown and fits for shown, fits in pictures), name
        assert len(pictures) >= (name != "index.html"), name
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), (
            f"{name} is wider than the {width} page"
        )
        assert page.evaluate(OVERFLOWING) == [], name
        assert page.evaluate(CUT_OFF) == 0, name
        if width == "phone":
            assert all(row == [True, "sticky"] for row in page.evaluate(ROW_NAMES)), name
    page.close()
    assert not [url for url in asked if not re.match(r"(file:|data:)", url)]


def test_links_lead_somewhere(browser: Any, site: Path) -> None:
    page = browser.new_page()
    for name in PAGES:
        page.goto((site / name).as_uri())
        links = page.evaluate("() => [...document.links].map(a => a.href)")
        assert links and all(Path(link.removeprefix("file://")).exists() for link in links), name
    page.close()


def test_in_print_no_table_is_cut_off(browser: Any, site: Path) -> None:
    page = browser.new_page(viewport={"width": 794, "height": 1123})  # A4 at 96 dpi
    page.emulate_media(media="print", color_scheme="dark")
    for name in PAGES:
        page.goto((site / name).as_uri())
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") in (
            "rgb(255, 255, 255)",
            "rgba(0, 0, 0, 0)",
        ), name
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(WIDER_THAN_PAPER) == [], name
        assert (
            page.evaluate(
                "() => [...document.images].filter(i => i.clientHeight > innerHeight).length"
            )
            == 0
        ), f"{name}: taller than a page"
    assert len(page.pdf(format="A4")) > 20_000
    page.close()
