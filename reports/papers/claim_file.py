"""Claims of the papers as `ablations/claims.toml` states them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from reports.study.report_plan import ReportError
from simvtp.runs.results import USE

FILE = Path(__file__).resolve().parents[2] / "ablations" / "claims.toml"
SIDES = ("both", "cell", "than")


class ClaimTest(StrEnum):
    """Kind of test that a claim is put to."""

    BETTER = "better"
    BEST = "best"
    USE = "use"
    BENCHMARK = "benchmark"
    SCALE = "scale"


@dataclass(frozen=True)
class ClaimNeed:
    """A figure of the use of the modalities that a cell must reach.

    Attributes:
        metric: `use/<masks>/<metric>`: see docs/modality_use.md.
        above: the mean over the seeds must be larger, and the interval must lie above 0.
        what: the figure in words.
        of: both: all compared cells; cell, than: that side alone.
    """

    metric: str
    above: float
    what: str
    of: str = "both"

    @staticmethod
    def read(entry: Mapping[str, Any], name: str) -> ClaimNeed:
        """Returns the figure of an entry of claim `name`.

        Raises:
            ReportError: the entry has other keys, another metric or another side.
        """
        try:
            need = ClaimNeed(**entry)
        except TypeError:
            need = None
        if need is None or need.of not in SIDES or not need.metric.startswith(f"{USE}/"):
            raise ReportError(
                f"the claim {name} needs {dict(entry)}: write metric = "
                f'"{USE}/<masks>/<metric>", above, what, and of = {" or ".join(SIDES)}.'
            )
        return need


@dataclass(frozen=True)
class ClaimCells:
    """Cells of an ablation that a claim compares.

    Settings that are not named are averaged over: `{"masks.video_ratio": 0.9}` are all cells of
    the grid at this ratio, each compared with the one that has the same other settings.

    Attributes:
        cell: the cells that the claim calls better, or the best.
        than: the cells that it calls worse; of a claim that a cell is the best there are none.
        control: the row without pre-training, which the better side must exceed; empty if the
            claim does not need one.
        metric: tracked name of the compared figure; default: that of the sweep.
        margin: largest difference that counts as none; default: that of the metric.
    """

    ablation: str
    cell: Mapping[str, Any]
    than: Mapping[str, Any] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    metric: str = ""
    margin: float | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper with its test.

    Attributes:
        cells: what is compared, one entry for each comparison that would show the claim.
        needs: figures that the compared cells must reach before their scores are compared.
        figure: of the test "use": the figure that the claim is about.
        at_least, at_most, unit: of a benchmark: the bound.
        device: of a benchmark: the claim is about this kind of device.
        construction: of a benchmark: why it could not have come out otherwise.
        lacks: of the test "scale": what is not at hand.
    """

    id: str
    paper: str
    claim: str
    source: str
    test: ClaimTest
    cells: tuple[ClaimCells, ...] = ()
    needs: tuple[ClaimNeed, ...] = ()
    figure: ClaimNeed | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    device: str = ""
    construction: str = ""
    lacks: str = ""

    @staticmethod
    def read(entry: Mapping[str, Any], where: str = "claims") -> Claim:
        """Returns a claim of the file.

        Raises:
            ReportError: the entry lacks what its test needs, or has keys that nobody reads.
        """
        name, values = str(entry.get("id", "?")), dict(entry)
        values["needs"] = tuple(ClaimNeed.read(need, name) for need in entry.get("needs", ()))
        if "figure" in entry:
            values["figure"] = ClaimNeed.read(entry["figure"], name)
        try:
            values["test"] = ClaimTest(entry.get("test", ""))
            values["cells"] = tuple(ClaimCells(**one) for one in entry.get("cells", ()))
            claim = Claim(**values)
        except (TypeError, ValueError):
            claim = None
        problem = _unknown(entry) if claim is None else claim.missing()
        if problem or claim is None:
            raise ReportError(f"{where}: the claim {name} lacks {problem or 'a known test'}.")
        return claim

    def missing(self) -> str:
        """Returns what the test of this claim needs and the claim does not state."""
        if self.test == ClaimTest.SCALE:
            return "" if self.lacks else "lacks"
        if self.test == ClaimTest.BENCHMARK:
            bounds = (self.at_least is None) + (self.at_most is None)
            return "" if bounds == 1 and self.unit else "unit and one of at_least and at_most"
        if not self.cells or not all(one.cell for one in self.cells):
            return "cells = [{ ablation, cell }]"
        if self.test == ClaimTest.BETTER and not all(one.than for one in self.cells):
            return "cells = [{ ablation, cell, than }]"
        return "figure" if self.test == ClaimTest.USE and self.figure is None else ""


def _unknown(entry: Mapping[str, Any]) -> str:
    """Returns what is wrong with an entry that is no claim."""
    known = {one.name: one for one in fields(Claim)}
    required = [name for name, one in known.items() if name not in entry and _is_required(one)]
    if required:
        return ", ".join(required)
    strange = ", ".join(name for name in entry if name not in known)
    return f"a meaning for {strange}" if strange else "a known test, or cells that can be read"


def _is_required(one: Any) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def read_claims(path: Path = FILE) -> list[Claim]:
    """Returns the claims of the file.

    Raises:
        ReportError: a claim cannot be read, or two have one name.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    claims = [Claim.read(entry, str(path)) for entry in entries]
    names = [claim.id for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReportError(f"{path}: two claims are named {', '.join(twice)}.")
    return claims
