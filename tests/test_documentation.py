"""The pages name files, folders, links and settings that exist."""

import re
from pathlib import Path

import pytest

from simvtp.config.overrides import CHOOSERS
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.config.tree import flatten

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PATH = re.compile(r"`((?:simvtp|ablations|sweeps|reports|tests|results|docs)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_on_a_page_exists(page: Path) -> None:
    named = {name for name in PATH.findall(page.read_text()) if not re.search(r"out/|mine", name)}
    assert not sorted(name for name in named if not (ROOT / name).exists())


def test_the_architecture_page_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = [path.parent.name for path in (ROOT / "simvtp").glob("*/__init__.py")]
    assert not sorted(name for name in packages if not re.search(rf"^  {name}/ ", text, re.M))


def test_named_things_are_at_most_three_folders_deep() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| to find | open |")[2].partition("\n\n")[0]
    paths = PATH.findall(table)
    assert len(paths) == 10 and all(path.count("/") <= 3 for path in paths)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_on_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert not sorted(link for link in links if not (page.parent / link).exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_on_a_page_exists(page: Path) -> None:
    known = {key for name in RECIPES for key in flatten(get_recipe(name))}
    known |= set(CHOOSERS)  # `finetune.task=qa` chooses a component
    groups = {key.split(".")[0] for key in known if "." in key}
    written = re.findall(rf"(?<![\w/.-])((?:{'|'.join(groups)})(?:\.[a-z]\w*)+)=", page.read_text())
    assert not sorted(set(written) - known)
