"""Formats of places of publication: width of a line, family and size of letters.

Figures are drawn at the width of the line, so they are included without scaling and their letters
have the size that is stated here; none is smaller than `LEAST`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matplotlib import font_manager

LEAST = 6.0  # points of the smallest letters in a figure or a table
# Times and fonts that are drawn after it; the last one comes with matplotlib.
TIMES = (
    "Times New Roman",
    "Times",
    "Nimbus Roman",
    "Nimbus Roman No9 L",
    "TeX Gyre Termes",
    "Tinos",
    "Liberation Serif",
    "STIXGeneral",
)


@dataclass(frozen=True)
class Venue:
    """The format of a place of publication.

    Attributes:
        name: value of `--venue`.
        column: width of the line that a figure fills, inches.
        page: width of the text over all columns, inches: the same for one column.
        families: fonts of figures, the wanted one first; the last one is always there.
        letters: size of the letters in a figure, points.
        source: where the widths come from.
    """

    name: str
    column: float
    page: float
    families: tuple[str, ...]
    letters: float
    source: str

    @property
    def two_columns(self) -> bool:
        """True if tables and figures can be wider than the line (`table*`)."""
        return self.page > self.column

    def family(self, installed: Iterable[str] | None = None) -> str:
        """Returns the first of the families that is installed as TrueType.

        Args:
            installed: names of fonts; default: those that matplotlib finds.
        """
        there = set(truetype_fonts() if installed is None else installed)
        return next((name for name in self.families if name in there), self.families[-1])

    def font_note(self, installed: Iterable[str] | None = None) -> str:
        """Returns a sentence if another font than the wanted one is used; else an empty text."""
        found = self.family(installed)
        if found == self.families[0]:
            return ""
        return (
            f"{self.families[0]}, the font of {self.name}, is not installed (as TrueType): the "
            f"figures use {found}. Files made on another machine may use another font."
        )


def truetype_fonts() -> list[str]:
    """Returns the names of the installed TrueType fonts, which PDF files embed as such."""
    return [font.name for font in font_manager.fontManager.ttflist if font.fname.endswith(".ttf")]


ARTICLE = Venue(
    "article", 4.75, 4.75, ("DejaVu Sans",), 9.0, "LaTeX's article: 345 pt, a little less"
)
VENUES: Mapping[str, Venue] = {
    venue.name: venue
    for venue in (
        ARTICLE,
        Venue("cvpr", 3.25, 6.875, TIMES, 8.0, "cvpr.sty: text 6.875 in, columns 0.3125 in apart"),
        Venue("neurips", 5.5, 5.5, TIMES, 9.0, "neurips.sty: text 5.5 in"),
        Venue("acl", 3.03, 6.3, TIMES, 8.0, "acl.sty: text 16 cm, columns 0.6 cm apart"),
    )
}
