"""Hook of the documentation site: pages and pictures outside `docs/` that its pages link to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"(\]\(|src=\")\.\./((?:results|CONTRIBUTING|README|CHANGELOG)[^)\"#]*)")


def on_files(files: Files, config: Any) -> Files:
    """Adds what the pages link to outside their folder; the README becomes the first page."""
    pages = [file for file in files if file.src_uri.endswith(".md")]
    linked = {
        name
        for page in pages
        if page.abs_src_path
        for _, name in OUTSIDE.findall(Path(page.abs_src_path).read_text(encoding="utf-8"))
    }
    folders = {ROOT / name if (ROOT / name).is_dir() else (ROOT / name).parent for name in linked}
    sources = {path for folder in folders - {ROOT} for path in folder.iterdir() if path.is_file()}
    sources |= {ROOT / name for name in linked if (ROOT / name).is_file()}
    for source in sorted({*sources, ROOT / "CONTRIBUTING.md"}):
        uri = source.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(source)))
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Returns the page with links that stay inside the site."""
    if page.file.src_uri.count("/"):
        return markdown.replace("](docs/", "](../" * page.file.src_uri.count("/"))
    return OUTSIDE.sub(r"\1\2", markdown).replace("](docs/", "](")
