"""The committed error rates of the stopping rule: within their bounds, and as the page says."""

import re
from pathlib import Path

from ablations.evidence.sequential_simulation import scenarios

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "results" / "sequential" / "2026-11-30-stopping-rule.md"
PAGE = ROOT / "docs" / "seeds.md"
BOUND = 5.0 + 2 * 0.5  # per cent: two standard errors of 2000 sweeps


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """Returns {first column: the others} of the table below a heading."""
    table = text.partition(heading)[2].partition("| --- |")[2].partition("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


def test_the_committed_rates_are_within_the_bound() -> None:
    text = FILE.read_text()
    assert re.search(r"^Commit: [0-9a-f]{12}  $", text, re.M), "measured without changes"
    assert "2000 simulated sweeps a row" in text
    found = rows(text, "## False verdicts")
    assert list(found) == [scenario.name for scenario in scenarios()]
    for name, (different, equivalent, wrong, _) in found.items():
        for rate in (different, equivalent, wrong):
            assert rate == "—" or float(rate) <= BOUND, name


def test_the_page_has_the_figures_of_the_file() -> None:
    text = FILE.read_text()
    rates, runs = rows(text, "## False verdicts"), rows(text, "## Decisions and runs")
    shown = rows(PAGE.read_text(), "**Measured.**")
    assert len(shown) >= 6
    for name, cells in shown.items():
        different, equivalent, _, unadjusted = rates[name]
        verdicts, seeds, _, fixed, of_fixed = runs[name]
        assert cells == [different, unadjusted, equivalent, verdicts, fixed, seeds, of_fixed], name
