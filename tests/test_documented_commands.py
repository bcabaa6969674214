"""Every command that a page shows is one that the programs accept."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import ablations.__main__
import reports.build
import reports.compare
import simvtp.__main__
import sweeps.cancel
import sweeps.doctor
import sweeps.mask_ratio
import sweeps.search
import sweeps.status
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.sources.yaml_file import ENDINGS
from sweeps.cli.sweep_parser import make_parser
from sweeps.run import sweep_for

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
Parse = Callable[[Sequence[str]], argparse.Namespace]
PROGRAMS: dict[str, Parse] = {
    "-m simvtp": simvtp.__main__._parse,
    "-m ablations": ablations.__main__.make_parser().parse_args,
    "sweeps/mask_ratio.py": make_parser(sweeps.mask_ratio.SWEEP).parse_intermixed_args,
    "sweeps/search.py": make_parser(sweeps.search.SWEEP).parse_intermixed_args,
    # a reader's own file of a sweep has the options that all sweeps have
    "sweeps/run.py": lambda words: make_parser(
        sweep_for("mask_ratio" if words[0].endswith(ENDINGS) else words[0])
    ).parse_intermixed_args(words[1:]),
    "sweeps/status.py": sweeps.status.make_parser().parse_args,
    "sweeps/cancel.py": sweeps.cancel.make_parser().parse_args,
    "sweeps/doctor.py": sweeps.doctor.make_parser().parse_args,
    "reports/build.py": reports.build.make_parser().parse_args,
    "reports/compare.py": reports.compare.make_parser().parse_args,
}
OTHER = {
    "sweep": "sweeps/run.py",
    "ablations": "-m ablations",
    "report": "reports/build.py",
    "compare": "reports/compare.py",
    **{name: f"sweeps/{name}.py" for name in ("status", "cancel", "doctor")},
}
# Words that stand for something of the reader's.
UNFINISHED = re.compile(r"\.\.\.|…|\bNAME\b|\bABLATION\b|\bCOMMAND\b|\bTASK\b")


def shown(page: Path) -> Iterator[str]:
    """Yields the commands of a page: lines of blocks, and code within a line."""
    text = page.read_text(encoding="utf-8")
    for line in text.splitlines():
        start = re.match(r" *(?:[A-Z_]+=\S+ )*(?:python |(?=simvtp ))", line)
        if start:
            # a comment, a description after a gap, or a redirection follows the command
            yield re.split(r" +#|(?<=\S) {3,}(?=\w)| > ", line[start.end() :])[0].strip()
    yield from re.findall(r"(?<!`)`(?:python )?((?<=python )[^`\n]*|simvtp [^`\n]*)`", text)


COMMANDS = sorted({(page.name, command) for page in PAGES for command in shown(page)})


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[" ".join(pair) for pair in COMMANDS])
def test_the_command_of_a_page_is_accepted(page: str, command: str) -> None:
    if command.startswith(("-m tests.", "-m pytest", "-c ")) or UNFINISHED.search(command):
        return
    words = shlex.split(command)
    if words[0] == "simvtp":
        words = ["-m", *words]
    if words[:2] == ["-m", "simvtp"] and len(words) <= 3 and not {*words[2:]} - {*OTHER}:
        return  # the name of a command, not a call
    if "--plugin" in words:
        return  # tests/test_plugins.py runs these, with their files
    if words[:2] == ["-m", "simvtp"] and words[2] in OTHER:
        words = [*OTHER[words[2]].split(), *words[3:]]
    program = " ".join(words[:2]) if words[0] == "-m" else words[0]
    rest = words[2:] if words[0] == "-m" else words[1:]
    try:
        options = PROGRAMS[program](rest)
    except SystemExit as end:
        raise AssertionError(f"{page}: python {command}") from end
    if rest[:1] == ["run"] and program == "-m simvtp":
        is_own = rest[1].endswith(ENDINGS) or "/" in rest[1]  # a file or a run of the reader's
        override(get_recipe("tiny" if is_own else rest[1]), options.overrides)


def test_the_readme_shows_commands_of_every_program_but_one() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    unseen = [name for name in PROGRAMS if f"python {name}" not in text]
    assert unseen == ["reports/compare.py"]
