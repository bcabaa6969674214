"""A page of the films that a search has found, as small moving pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simvtp.data.clips import Clip
from simvtp.evaluation.examples.clip_previews import make_previews
from simvtp.evaluation.examples.gallery import PAGE_BYTES, page_environment
from simvtp.library.video_index import SearchHit
from simvtp.library.video_text_model import VideoTextModel
from simvtp.runs.atomic_files import write_atomically


def write_search_page(
    model: VideoTextModel, text: str, hits: Sequence[SearchHit], page: str | Path
) -> None:
    """Writes an HTML page of the hits of a text; it loads nothing from elsewhere.

    A film that does not decode any more is grey.

    Raises:
        UserError: the page cannot be written.

    Examples:
        >>> model = simvtp.load("runs/demo")
        >>> hits = model.search("a red star", model.index("videos", say=str), k=2)
        >>> simvtp.write_search_page(model, "a red star", hits, "found.html")
    """
    names = [hit.path for hit in hits]
    clips = {name: Clip(name, Path(name), ()) for name in names}
    previews = make_previews(model.experiment, clips, names, (), PAGE_BYTES)
    content = (
        page_environment()
        .get_template("search.html")
        .render(
            text=text,
            model=repr(model),
            noun="film",
            films=[
                {
                    "video": hit.path,
                    "name": Path(hit.path).name,
                    "rank": hit.rank,
                    "score": hit.score,
                    "picture": previews.clips[hit.path],
                }
                for hit in hits
            ],
        )
    )
    write_atomically(Path(page), content)
