"""Records of the check of a GPU: what its sections measured, and whether their gates hold.

They cross from the process that measures to the one that writes the report (`gpu_check`), and need
no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Value = str | int | float | bool | None
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: its name.
        values: by column; None prints as a dash.
    """

    table: str
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Gate:
    """Something that must hold, and whether it does."""

    text: str
    held: bool


@dataclass(frozen=True)
class Failure:
    """A part of a section that gave no result.

    Attributes:
        part: name of the part.
        reason: the error, or that there was no time.
        fatal: the device may be unusable after it (any error but a lack of memory).
    """

    part: str
    reason: str
    fatal: bool = False


@dataclass(frozen=True)
class Begun:
    """The section has begun."""


@dataclass(frozen=True)
class Done:
    """The section has ended by itself."""

    seconds: float


Message = Row | Gate | Failure | Begun | Done


class SectionState(StrEnum):
    """State of a section at its end."""

    ENDED = "ended"
    FAILED = "failed"  # an error, or a part that gave no result
    KILLED = "killed"  # it took too long, or its process died
    NOT_RUN = "not run"  # the time was over before it


@dataclass
class SectionRecord:
    """Record of one section.

    Attributes:
        name: of the section.
        title: what it does.
        budget_s: seconds that it may take.
        state: how it ended.
        seconds: that it took.
    """

    name: str
    title: str
    budget_s: float
    state: SectionState = SectionState.NOT_RUN
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, message: Message) -> None:
        """Adds what the measuring process sent."""
        if isinstance(message, Row):
            self.rows.append(message)
        elif isinstance(message, Gate):
            self.gates.append(message)
        elif isinstance(message, Failure):
            self.failures.append(message)
        elif isinstance(message, Done):
            self.seconds = message.seconds
            self.state = SectionState.FAILED if self.failures else SectionState.ENDED

    @property
    def passed(self) -> bool:
        """True if it ended, nothing failed in it, and all its gates hold."""
        return self.state is SectionState.ENDED and all(gate.held for gate in self.gates)

    @property
    def tables(self) -> dict[str, list[Mapping[str, Value]]]:
        """Rows of each table, in the order in which they came."""
        found: dict[str, list[Mapping[str, Value]]] = {}
        for row in self.rows:
            found.setdefault(row.table, []).append(row.values)
        return found

    def line(self) -> str:
        """Returns one line for the terminal."""
        held = sum(gate.held for gate in self.gates)
        parts = [f"{self.name}: {self.state.value}, {self.seconds:.1f} of {self.budget_s:.0f} s"]
        if self.gates:
            parts.append(f"{held} of {len(self.gates)} gates hold")
        parts += [f"NOT HELD: {gate.text}" for gate in self.gates if not gate.held]
        parts += [f"{failure.part}: {failure.reason}" for failure in self.failures]
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "budget_s": round(self.budget_s, 1),
            "state": self.state.value,
            "seconds": round(self.seconds, 2),
            "passed": self.passed,
            "gates": [{"text": gate.text, "held": gate.held} for gate in self.gates],
            "failures": [{"part": f.part, "reason": f.reason} for f in self.failures],
            "tables": {name: [dict(row) for row in rows] for name, rows in self.tables.items()},
        }


def report(sections: list[SectionRecord], about: Mapping[str, Value]) -> dict[str, Any]:
    """Returns the content of gpu.json.

    Args:
        sections: all of them, also those that have not run.
        about: command, commit, machine and date.
    """
    return {
        "format": FORMAT,
        **about,
        "passed": all(section.passed for section in sections),
        "sections": [section.to_dict() for section in sections],
    }


def page(sections: list[SectionRecord], about: Mapping[str, Value]) -> str:
    """Returns gpu.md: the same as gpu.json, for people."""
    passed = all(section.passed for section in sections)
    lines = [
        "# Check of a GPU" if passed else "# Check of a GPU: not passed",
        "",
        *_table([{"": name, " ": value} for name, value in about.items()]),
        "",
        *_table([_summary(section) for section in sections]),
    ]
    for section in sections:
        lines += ["", f"## {section.name}: {section.title}"]
        lines += [""] if section.gates or section.failures else []
        lines += [
            f"* {'holds' if g.held else '**does not hold**'}: {g.text}" for g in section.gates
        ]
        lines += [f"* **failed**: {f.part}: {f.reason}" for f in section.failures]
        for name, rows in section.tables.items():
            lines += ["", f"{name}:", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _summary(section: SectionRecord) -> dict[str, Value]:
    held = sum(gate.held for gate in section.gates)
    return {
        "section": section.name,
        "state": section.state.value,
        "seconds": round(section.seconds, 1),
        "budget, s": round(section.budget_s),
        "gates": f"{held} of {len(section.gates)}" if section.gates else None,
        "failures": len(section.failures) or None,
    }


def _table(rows: list[Mapping[str, Value]] | list[dict[str, Value]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(f"| {' | '.join(_shown(row.get(column)) for column in columns)} |" for row in rows),
    ]


def _shown(value: Value) -> str:
    if value is None or value == "":
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
