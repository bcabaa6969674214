"""The example pages in a real browser: wide screen and phone, light, dark and print.

Needs a chromium of the system and Playwright; skipped, with the reason, if one is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simvtp.evaluation.examples.gallery import example_page, sections
from tests.evaluation.examples import KINDS, previews_for, results_and_items

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed (requirements-dev.txt)"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian's package: chromium)"
)

PATIENCE_S = 120.0  # of one step in a browser; a busy machine takes its time
WIDTHS = (1200, 360)
# Elements that stick out of the window or of the card they stand in, and are not meant to be
# scrolled.
STICKING_OUT = """() => [...document.querySelectorAll('main *')].filter(node => {
  if (node.closest('.scroll') || node.closest('.unseen')) return false;
  if (getComputedStyle(node).display === 'none') return false;
  const box = node.getBoundingClientRect(), card = node.closest('article');
  const right = card ? card.getBoundingClientRect().right : innerWidth;
  return box.width > 0 && (box.right > right + 1 || box.left < -1);
}).map(node => node.outerHTML.slice(0, 120))"""
BROKEN = (
    "() => [...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length"
)
SEEN = """() => [...document.images]
  .filter(image => image.getBoundingClientRect().width > 0).map(image => image.className)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.mark.parametrize(
    "kind",
    [
        "retrieval",
        "grounding",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("qa", "count")),
    ],
)
def test_nothing_is_missing_or_cut_off(browser: Any, tmp_path: Path, kind: str) -> None:
    results, items = results_and_items(KINDS[kind]())
    [made] = sections(
        results, items, 48
    ).values()  # all items: also the texts that are made to break a page
    path = tmp_path / "page.html"
    path.write_text(
        example_page(made, previews_for(results, items, 48), "0123456789ab, recipe tiny"),
        encoding="utf-8",
    )
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    asked: list[str] = []
    troubles: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path.as_uri())
        page.screenshot(path=tmp_path / f"{kind}_{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (
            "the page scrolls sideways"
        )
        assert page.evaluate(STICKING_OUT) == [] and page.evaluate(BROKEN) == 0
    assert page.title().startswith(("Retrieval", "Question", "Temporal")), (
        "a caption has become a script"
    )
    assert all(url.startswith(("file:", "data:")) for url in asked) and not troubles
    moving = [name for name in page.evaluate(SEEN) if name]
    page.keyboard.press("Tab")  # past the link to the examples
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    still = [name for name in page.evaluate(SEEN) if name]
    assert set(moving) <= {"moving"} and still == ["still"] * len(moving), (
        "the clips are held still from the keyboard"
    )
    page.reload()
    page.emulate_media(media="print", color_scheme="dark")
    assert [name for name in page.evaluate(SEEN) if name] == still and page.evaluate(
        STICKING_OUT
    ) == []
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ), "paper is white"
    context.close()
