"""`bench start`: a run records the phases of its start, and the page shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvtp.bench.start_up import PHASES, Starts, StartUpOptions, measure_start, start_page
from simvtp.errors import UserError
from simvtp.experiment import run
from simvtp.experiment.startup_timing import TIMESTAMPS
from simvtp.runs.run_records import read_status
from tests.small import SETTINGS, small_experiment


def test_a_run_records_its_phases_in_their_order(tmp_path: Path, shapes_cache: Path) -> None:
    experiment = small_experiment(tmp_path, shapes_cache)
    run(experiment, until="pretrain", say=lambda line: None)
    status = read_status(experiment.run_dir)
    assert status is not None
    start = status.start
    assert tuple(start) == TIMESTAMPS == tuple(PHASES)
    for value in ("time", "cpu_s"):
        values = [start[name][value] for name in TIMESTAMPS]
        assert values == sorted(values)


def test_what_was_not_measured_is_a_dash() -> None:
    page = start_page(StartUpOptions(sweep=False), Starts())
    assert page.count("| — | — |") == 2 * len(PHASES) + 2 and "| commit |" in page


def test_an_experiment_that_does_not_start_is_one_sentence() -> None:
    with pytest.raises(
        UserError, match="did not reach its first step; its last line: .*no_such_setting"
    ):
        measure_start(StartUpOptions(overrides=("no_such_setting=1",), rounds=1))


@pytest.mark.slow
def test_the_start_of_a_run_and_of_a_sweeps_point_is_measured(shapes_cache: Path) -> None:
    settings = tuple(
        text
        for text in SETTINGS
        if not text.startswith(("runtime.tracking_uri", "masks.", "pretrain.max_steps"))
    )
    options = StartUpOptions(overrides=(*settings, f"runtime.cache={shapes_cache}"), rounds=1)
    starts = measure_start(options, say=lambda line: None)
    for spent in (*starts.run.values(), *starts.point.values()):
        assert len(spent.wall) == len(spent.cpu) == 1 and spent.wall[0] > 0 and spent.cpu[0] > 0
    assert (
        starts.tracker.wall[0] > 0
        and "—" not in start_page(options, starts).partition("| --- | --: | --: |")[2]
    )
