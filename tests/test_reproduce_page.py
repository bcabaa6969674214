"""The page on reproducing the papers computes its hours from counted operations."""

import re
from pathlib import Path

from simvtp.config.model_config import SimVTPConfig
from simvtp.config.recipes import get_recipe
from simvtp.models.flops.simvtp_flops import describe

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "reproduce.md").read_text(encoding="utf-8")


def test_the_operations_are_those_that_describe_counts() -> None:
    base = get_recipe("base")
    assert isinstance(base.model, SimVTPConfig)
    total = re.search(r"total +([\d.]+)", describe(base.model, base.masks).rpartition("forward")[2])
    assert total is not None
    assert f"counts {float(total[1]):.1f} GFLOP a sample" in PAGE


def test_the_hours_follow_from_operations_peak_and_use() -> None:
    gflop = re.search(r"counts ([\d.]+) GFLOP", PAGE)
    data = re.search(r"([\d,]+) clips × (\d+) epochs", PAGE)
    rows = re.findall(r"\| (\d+) × \w+ \| (\d+) TFLOP/s \| (\d+) % \| (\d+) \|", PAGE)
    assert gflop is not None and data is not None and len(rows) == 2
    total = 3 * float(gflop[1]) * 1e9 * int(data[1].replace(",", "")) * int(data[2])
    for gpus, peak, used, hours in rows:
        seconds = total / (int(gpus) * int(peak) * 1e12 * int(used) / 100)
        assert round(seconds / 3600) == int(hours)
