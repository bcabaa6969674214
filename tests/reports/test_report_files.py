"""The files of a report: the page, its links, the index and LaTeX."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reports.build import write_index
from reports.kinds.report_writer import write_report
from tests.reports import made_up

ROOT = Path(__file__).resolve().parents[2]


def report_of(folder: Path, seeds: tuple[int, ...] = (0, 1), **plan: Any) -> Path:
    sweep = made_up.sweep_results(
        made_up.plan(seeds=seeds, **plan), lambda cell, seed: 10.0 + 5 * cell[made_up.VIDEO] + seed
    )
    write_report(sweep, folder / sweep.plan.ablation)
    write_index(folder)
    return folder / sweep.plan.ablation


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []  # what a browser fetches by itself
        self.linked: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.loaded += [
            found[name] or "" for name in ("src", "srcset", "data", "poster") if name in found
        ]
        if "href" in found:
            (self.linked if tag == "a" else self.loaded).append(found["href"] or "")
        if tag == "img":
            assert found.get("alt")


def test_the_page_loads_nothing_and_links_to_what_is_there(tmp_path: Path) -> None:
    folder = report_of(tmp_path)
    for page in (folder / "index.html", tmp_path / "index.html"):
        links = _Links()
        text = page.read_text(encoding="utf-8")
        links.feed(text)
        assert "script" not in links.tags and "url(" not in text and "@import" not in text
        for source in links.loaded:
            assert source.startswith("data:image/png;base64,")
            assert base64.b64decode(source.partition(",")[2]).startswith(b"\x89PNG")
        assert links.linked
        for target in links.linked:
            assert (page.parent / target).exists(), target
    assert (
        len(re.findall("<img", (folder / "index.html").read_text()))
        == len(list(folder.rglob("*.png")))
        >= 1
    )


def test_text_from_a_plan_is_escaped_in_the_page(tmp_path: Path) -> None:
    text = (report_of(tmp_path, title="<script>alert(1)</script>") / "index.html").read_text(
        encoding="utf-8"
    )
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_the_index_links_every_report_there_is(tmp_path: Path) -> None:
    report_of(tmp_path)
    report_of(tmp_path, ablation="another", title="Another one")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="another/index.html"' in text and 'href="mask_ratio/index.html"' in text


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="pdflatex is not installed (texlive-latex-base and -recommended)",
)
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one seed", "three seeds"])
def test_latex_compiles(seeds: tuple[int, ...], tmp_path: Path) -> None:
    folder = report_of(tmp_path, seeds, title="100 % of a_b & c # {d} × 动作 ~ ^", dataset="a_b")
    document = [
        r"\documentclass{article}",
        r"\usepackage{array,booktabs,graphicx}",
        r"\begin{document}",
    ]
    document += [
        rf"\input{{{folder.name}/{name}}}" for name in ("table", "all", "comparisons", "published")
    ]
    document += [rf"\input{{papers/{name}}}\clearpage" for name in ("tables", "claims")] + [
        r"\end{document}"
    ]
    (tmp_path / "doc.tex").write_text("\n".join(document))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "doc.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout and "Float too large" not in done.stdout
