"""Refuses settings that are impossible: ranges of numbers, and what settings need of each other."""

from simvtp.config.validation.setting_checks import check

__all__ = ["check"]
