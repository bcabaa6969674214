"""Requirements on single settings, each refused in one sentence."""

from __future__ import annotations

from typing import Any

from simvtp.errors import ConfigError


def require(holds: bool, key: str, value: Any, what: str) -> None:
    """Raises ConfigError unless `holds`."""
    if not holds:
        raise ConfigError(f"{key}={value}: must be {what}.")


def require_all(group: Any, prefix: str, names: tuple[str, ...], least: int = 0) -> None:
    """Requires that each of the named settings is at least `least`."""
    for name in names:
        value = getattr(group, name)
        require(value >= least, f"{prefix}.{name}", value, f"at least {least}")


def require_ratios(group: Any, prefix: str, names: tuple[str, ...], *, one: bool = False) -> None:
    """Requires that each of the named settings is in [0, 1), or in [0, 1] with `one`."""
    for name in names:
        value = getattr(group, name)
        inside = 0 <= value < 1 or (one and value == 1)
        require(inside, f"{prefix}.{name}", value, "in [0, 1]" if one else "in [0, 1)")


def require_divisible(group: Any, prefix: str, whole: str, part: str, advice: str) -> None:
    total, unit = getattr(group, whole), getattr(group, part)
    if total % unit:
        raise ConfigError(
            f"{prefix}.{whole}={total} is not divisible by {prefix}.{part}={unit}{advice}."
        )
