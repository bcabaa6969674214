"""`bench mac`: counts and table."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvtp.__main__ import main
from simvtp.bench.measure import Timed
from simvtp.bench.step.mac_speed import MacRow, ratio_for


def row(ratio: float, seconds: float) -> MacRow:
    return MacRow(ratio, 1, Timed([seconds, seconds], [seconds, seconds]), 1, 1)


def test_the_ratio_of_the_claim_lies_between_the_measured_ones() -> None:
    assert ratio_for([row(0, 1.0), row(0.8, 0.25), row(0.6, 0.5)]) == pytest.approx(0.7)
    assert ratio_for([row(0, 1.0), row(0.6, 0.5)]) is None


def test_one_run_writes_the_whole_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert (
        main(
            [
                "bench",
                "mac",
                "--ratios",
                "0,0.75",
                "--batch",
                "2",
                "--rounds",
                "2",
                "--seconds",
                "0",
                "--device",
                "cpu",
                "--out",
                str(page),
            ]
        )
        == 0
    )
    lines = page.read_text().splitlines()
    assert any(line.startswith("| commit |") for line in lines)
    frozen, masked = (
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in lines
        if line.startswith(("| 0 |", "| 0.75 |"))
    )
    assert frozen[2] == frozen[8] == "100%" and float(masked[1]) < 0.45 * float(frozen[1])
    assert int(masked[7]) < int(frozen[7]) and int(masked[9]) > int(frozen[9])
    assert (
        main(["bench", "mac", "--ratios", "0,x"]) == 2
        and main(["bench", "mac", "--ratios", "0,1"]) == 2
    )
    assert "write numbers with commas" in capsys.readouterr().err
