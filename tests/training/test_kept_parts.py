"""Parts of a long evaluation are kept, and a killed evaluation continues with them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from simvtp.training.parallel import kept_parts
from simvtp.training.parallel.kept_parts import KeptParts
from simvtp.training.parallel.shares import share_of

COUNT, UNIT = 27, 2


def owned() -> None:
    pass


def evaluate(folder: Path, world: int, dies_after: int = 10**9) -> tuple[list[Tensor], list[range]]:
    """Two calls on each rank in turn; the process dies once so many parts are computed.

    Returns:
        (all values of both calls, what was computed).
    """
    computed: list[range] = []

    def work(of: int) -> Callable[[range], tuple[Tensor, float]]:
        def part(mine: range) -> tuple[Tensor, float]:
            if len(computed) == dies_after:
                raise KeyboardInterrupt
            computed.append(mine)
            return torch.arange(mine.start, mine.stop).double().mul(of).sin(), 1.5

        return part

    values: list[list[Tensor]] = [[], []]
    for rank in range(world):
        kept = KeptParts()
        with kept.stage(folder, owned):
            for call in (0, 1):
                mine = share_of(COUNT, UNIT, rank, world)
                values[call] += [part for part, _ in kept.run(mine, UNIT, work(call + 1))]
    return [torch.cat(parts) for parts in values], computed


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_parts, "KEPT_FROM_S", 0.0)
    monkeypatch.setattr(kept_parts, "PART_S", 1e-9)  # parts of one unit after the first


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("first", "then"), [(1, 1), (2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("dies_after", [0, 3])
def test_a_killed_evaluation_continues_with_its_parts(
    tmp_path: Path, first: int, then: int, dies_after: int
) -> None:
    whole, _ = evaluate(tmp_path / "whole", 1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "killed", first, dies_after)
    names = [path.stem.split("_") for path in (tmp_path / "killed").glob("*.part")]
    stored = sum(int(last) - int(start) for _, start, last in names)
    again, computed = evaluate(tmp_path / "killed", then)
    assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))
    if first == then:
        assert sum(map(len, computed)) == 2 * COUNT - stored, "what is kept is not made again"
    assert all(part.start % UNIT == 0 for part in computed)


@pytest.mark.usefixtures("at_once")
def test_a_damaged_part_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _ = evaluate(tmp_path, 1)
    damaged = sorted(tmp_path.glob("*.part"))[:3]
    for path, content in zip(damaged, (b"", bytes(4000), b"nonsense"), strict=True):
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again, computed = evaluate(tmp_path, 1)
    assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))
    assert len(computed) == 3 == caplog.text.count("is computed again")


def test_short_work_leaves_nothing_and_is_not_cut_outside_of_a_stage(tmp_path: Path) -> None:
    evaluate(tmp_path / "short", 2)
    assert not (tmp_path / "short").exists()
    assert KeptParts().run(range(4, 9), 1, list) == [[4, 5, 6, 7, 8]]
    assert KeptParts().run(range(0), 1, list) == []
