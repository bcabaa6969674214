"""`bench gpu`: the report is written after each section, whatever a section does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.__main__ import main
from simvtp.bench.gpu import case_checks, gpu_check
from simvtp.bench.gpu.case_checks import HostDraws, difference
from simvtp.bench.gpu.check_records import (
    Done,
    Failure,
    Gate,
    Row,
    SectionRecord,
    SectionState,
    page,
)
from simvtp.bench.gpu.check_worker import Recorder, Section
from simvtp.bench.gpu.gpu_check import GpuCheckOptions, check_gpu
from simvtp.bench.gpu.sections import SECTIONS
from simvtp.bench.gpu.step_cases import StepCase, step_cases
from tests.bench.check_sections import (
    CRASHES,
    FINE,
    HANGS,
    MEMORY,
    NOT_HELD,
    OPTIONAL,
    RAISES,
    SLOW,
)

ROOT = Path(__file__).resolve().parents[2]
LONG = "100000"  # seconds: other work on the machine ends no section
# everything in requirements.txt but torch, transformers, pyarrow, and what these three need
ABSENT = (
    *("torchvision", "timm", "mlflow", "optuna", "submitit", "decord", "av", "pandas"),
    *("seaborn", "tabulate", "scipy", "statsmodels", "matplotlib", "PIL", "psutil", "rich"),
    *("torchcodec", "pynvml"),
)


def checked(
    folder: Path, sections: Sequence[Section], budget_s: float = 1e5
) -> tuple[bool, dict[str, Any], list[str]]:
    """Returns (passed, gpu.json, lines for the terminal)."""
    lines: list[str] = []
    options = GpuCheckOptions(folder, budget_s, "cpu", tuple(sections))
    passed = check_gpu(options, lines.append)
    return passed, json.loads((folder / "gpu.json").read_text()), lines


def process_of(section: dict[str, Any]) -> int:
    return int(section["tables"]["process"][0]["number"])


def test_what_sections_do_wrong_is_recorded_and_the_others_run(tmp_path: Path) -> None:
    sections = (FINE, NOT_HELD, MEMORY, OPTIONAL, RAISES, CRASHES, FINE)
    passed, content, lines = checked(tmp_path, sections)
    fine, not_held, memory, optional, raises, crashes, last = content["sections"]
    assert not passed and not content["passed"] and len(lines) == len(sections)
    assert fine["passed"] and last["passed"] and optional["passed"]
    assert [one["passed"] for one in (not_held, memory, raises, crashes)] == [False] * 4
    assert not_held["state"] == "ended" and "NOT HELD: one is two" in lines[1]
    assert memory["state"] == "failed" and "out of memory" in memory["failures"][0]["reason"]
    assert raises["failures"][0]["part"] == "first part" and raises["gates"][0]["held"]
    assert crashes["state"] == "killed" and "SIGSEGV" in crashes["failures"][0]["reason"]
    # a lack of memory leaves the process as it is; another error and a crash cost it
    numbers = [process_of(one) for one in (fine, not_held, memory, raises, crashes, last)]
    assert len(set(numbers[:4])) == 1 and len({numbers[3], numbers[4], numbers[5]}) == 3
    text = (tmp_path / "gpu.md").read_text()
    assert "not passed" in text and "SIGSEGV" in text and "1.235e+04" in text


def test_a_section_that_hangs_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "GRACE_S", 0.2)
    patient = replace(FINE, seconds=1000)
    passed, content, _ = checked(tmp_path, (HANGS, patient), budget_s=3000)
    hangs, fine = content["sections"]
    assert not passed and hangs["state"] == "killed" and 3 < hangs["seconds"] < 60
    assert fine["passed"]
    with pytest.raises(ProcessLookupError):
        os.kill(process_of(hangs), 0)


def test_parts_and_sections_without_time_are_named(tmp_path: Path) -> None:
    passed, content, _ = checked(tmp_path, (SLOW,))
    (slow,) = content["sections"]
    assert not passed and slow["tables"]["parts"] == [{"name": "short"}]
    assert "left out" in slow["failures"][0]["reason"]
    passed, content, _ = checked(tmp_path, (FINE, FINE), budget_s=0.5)
    assert not passed and {one["state"] for one in content["sections"]} == {"not run"}


def test_the_command_on_two_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cpu", "--out", str(tmp_path), "--budget", LONG]
    chosen = ["--sections", "ceilings,versions"]
    assert main(["bench", "gpu", *arguments, *chosen]) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [one["name"] for one in content["sections"]] == ["versions", "ceilings"]
    assert content["passed"] and content["commit"] and content["format"] == 1
    kernels = content["sections"][0]["tables"]["kernels of attention in bf16"]
    assert len(kernels) == 5 and all(row["kernel"] for row in kernels)
    printed = capsys.readouterr().out
    assert "versions: ended" in printed and "passed" in printed
    assert main(["bench", "gpu", *arguments, "--sections", "speed"]) == 2
    assert main(["bench", "gpu", "--out", str(tmp_path), "--budget", "0"]) == 2
    assert "no section speed" in capsys.readouterr().err


@pytest.mark.slow
def test_all_sections_on_a_cpu_with_torch_transformers_and_pyarrow_alone(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # Python imports this module first, in every process
    hiding = (
        "import sys\n"
        "class Filtered:\n"
        "    def __init__(self, finder): self.finder = finder\n"
        "    def __getattr__(self, name): return getattr(self.finder, name)\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {ABSENT!r}: return None\n"
        "        return self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Filtered(finder) for finder in sys.meta_path]\n"
    )
    (hidden / "sitecustomize.py").write_text(hiding)
    command = [sys.executable, "-m", "simvtp", "bench", "gpu", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--budget", LONG, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{hidden}:{ROOT}", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [one["name"] for one in content["sections"]] == [one.name for one in SECTIONS]
    assert all(
        one["passed"] and one["tables"] for one in content["sections"] if one["name"] != "waits"
    )
    equal = next(one for one in content["sections"] if one["name"] == "equality")
    assert len(equal["gates"]) == 6
    assert len(equal["tables"]["relative differences"]) > 40


# ---- parts ---------------------------------------------------------------------------------------


class Kept:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


def gates_of_equality(monkeypatch: pytest.MonkeyPatch, cases: list[StepCase]) -> dict[str, bool]:
    monkeypatch.setattr(case_checks, "step_cases", lambda: cases)
    kept: Any = Kept()
    case_checks.check_equality(Recorder(torch.device("cpu"), 1e5, kept))
    assert not [one for one in kept.sent if isinstance(one, Failure)]
    return {one.text: one.held for one in kept.sent if isinstance(one, Gate)}


def test_equality_notices_a_step_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [one for one in step_cases() if one.name in ("base", "mac nearest", "task qa choice")]
    assert all(gates_of_equality(monkeypatch, cases).values())
    real = torch.nn.functional.gelu

    def approximated(x: torch.Tensor, **options: Any) -> torch.Tensor:
        return real(x, approximate="tanh" if x.dtype is torch.float32 else "none")

    monkeypatch.setattr(torch.nn.functional, "gelu", approximated)
    gates = gates_of_equality(monkeypatch, cases)
    assert not any(
        held for text, held in gates.items() if text.startswith(("outputs", "gradients"))
    )
    assert all(held for text, held in gates.items() if text.startswith(("weights", "all masks")))


def test_the_difference_is_relative_to_all_tensors_and_infinite_without_a_pair() -> None:
    ones = {"a": torch.ones(3, dtype=torch.float64), "b": torch.ones(1, dtype=torch.float64)}
    off = {**ones, "b": ones["b"] * 1.02}
    assert difference(ones, ones) == 0 and difference(off, ones) == pytest.approx(0.01)
    missing, broken = {"a": ones["a"]}, {**ones, "b": ones["b"] * float("nan")}
    assert difference(missing, ones) == difference(broken, ones) == float("inf")


def test_draws_on_the_host_are_those_of_the_cpu() -> None:
    torch.manual_seed(3)
    plain = torch.rand(2, 3)
    torch.manual_seed(3)
    with HostDraws():
        moved = torch.rand(2, 3, device="meta")
        assert moved.device.type == "meta"
    torch.manual_seed(3)
    with HostDraws():
        assert torch.equal(torch.rand(2, 3, device="cpu"), plain)


def test_the_sections_fit_into_the_time_and_have_names_of_their_own() -> None:
    assert sum(section.seconds for section in SECTIONS) <= 440
    assert len({section.name for section in SECTIONS}) == len(SECTIONS) == 12


def test_cases_have_names_of_their_own_and_build() -> None:
    names = [case.name for case in step_cases()]
    assert len(set(names)) == len(names) >= 46


def test_a_record_passes_only_if_it_ended_with_all_gates_held() -> None:
    def record(*messages: Any) -> SectionRecord:
        made = SectionRecord("name", "title", 10)
        for message in messages:
            made.add(message)
        return made

    assert record(Done(1.0)).passed and record(Gate("holds", True), Done(1.0)).passed
    assert not record(Gate("holds", True)).passed  # it has not ended
    assert not record(Gate("does not", False), Done(1.0)).passed
    failed = record(Failure("part", "reason"), Done(1.0))
    assert not failed.passed and failed.state is SectionState.FAILED
    shown = page([record(Row("table", {"a|b": "x|y", "none": None}), Done(1.0))], {"commit": "abc"})
    assert "x\\|y" in shown and "| — |" in shown
