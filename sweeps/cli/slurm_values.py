"""Values of SLURM's options, read as sbatch reads them, or refused with its rule."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass

# Options that the sweep itself gives: it finds jobs, logs and array elements by them.
RESERVED = {
    "array": "--parallel limits how many jobs run at once",
    "error": "logs are below the sweep's folder",
    "job-name": "jobs are found again by their name",
    "output": "logs are below the sweep's folder",
    "wrap": "the job runs one experiment",
    "parsable": "the answer of sbatch is read by the sweep",
    "test-only": "use --dry-run",
    "wait": "the sweep watches its jobs itself",
}
SHORT_NAMES = {"a": "array", "e": "error", "J": "job-name", "o": "output", "W": "wait"}
UNITS = "KMGT"
_MEMORY = re.compile(r"(\d+|\d*\.\d+|\d+\.)\s*([KMGT]?)B?", re.IGNORECASE)
_TIME = re.compile(
    r"(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?"  # D-H, D-H:M, D-H:M:S
    r"|(?P<h>\d+):(?P<hm>\d+):(?P<hs>\d+)"  # H:M:S
    r"|(?P<m>\d+)(?::(?P<ms>\d+))?"  # M, M:S
)
_GPUS = re.compile(r"(?:(?P<kind>[A-Za-z][\w.+-]*)(?::(?P<of>\d+))?|(?P<count>\d+))")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


@dataclass(frozen=True)
class GpuRequest:
    """GPUs per node, with their type where one was given (`a100:4`)."""

    count: int
    kind: str = ""


def one_line(text: str) -> str:
    """Returns the text; refuses control characters, which could start another line of a script."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise argparse.ArgumentTypeError(f"{text!r} has a line break or control character")
    return text


def memory(text: str) -> str:
    """Returns memory per node as sbatch accepts it, in whole units: `2.5` GB is `2560M`.

    A number without unit is in GB; K, M, G and T are sbatch's units. `0` is all memory of the node.
    """
    found = _MEMORY.fullmatch(text.strip())
    if found is None or not math.isfinite(float(found[1])):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an amount of memory such as 480 (GB), 2.5, 480G or 500000M"
        )
    amount, unit = float(found[1]), (found[2] or "G").upper()
    while amount != int(amount) and unit != "K":  # sbatch accepts whole numbers only
        amount, unit = 1024 * amount, UNITS[UNITS.index(unit) - 1]
        if unit == "M":
            amount = float(math.ceil(amount))
    if amount == 0:
        return "0"
    return f"{math.ceil(amount)}{unit}"


def minutes(text: str) -> int:
    """Returns a time limit in minutes, rounded up, from any of sbatch's formats.

    These are M, M:S, H:M:S, D-H, D-H:M and D-H:M:S, with minutes M, seconds S, hours H and days D.
    """
    found = _TIME.fullmatch(text.strip())
    parts = {key: int(value) for key, value in found.groupdict().items() if value} if found else {}
    hours = 24 * parts.get("d", 0) + parts.get("dh", 0) + parts.get("h", 0)
    total = 60 * hours + parts.get("dm", 0) + parts.get("hm", 0) + parts.get("m", 0)
    seconds = parts.get("ds", 0) + parts.get("hs", 0) + parts.get("ms", 0)
    total = math.ceil(total + seconds / 60)
    if total < 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time as sbatch reads it: 90 or 90:00 (minutes), 1:30:00 (hours), "
            "2-00 or 2-00:00 (days)"
        )
    return total


def gpus(text: str) -> GpuRequest:
    """Returns GPUs per node: `4`, `a100:4`, or `a100` for one of that type."""
    found = _GPUS.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of GPUs such as 4, or a type and a number such as a100:4"
        )
    if found["count"] is not None:
        return GpuRequest(int(found["count"]))
    return GpuRequest(1 if found["of"] is None else int(found["of"]), found["kind"])


def sbatch_option(text: str) -> tuple[str, str | bool]:
    """Returns (name, value) of an sbatch option: `key=value`, `flag` or `--flag`.

    The value of a flag is True.
    """
    name, sign, value = one_line(text).strip().lstrip("-").partition("=")
    name = SHORT_NAMES.get(name, name).replace("_", "-")
    if not _OPTION.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an option of sbatch such as exclude=n1 or exclusive"
        )
    if name in RESERVED:
        raise argparse.ArgumentTypeError(
            f"'{text}': the sweep sets --{name} itself ({RESERVED[name]})"
        )
    return name, value if sign else True
