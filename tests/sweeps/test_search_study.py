"""The study of a search, without jobs: a function of the cell stands for the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablations import search
from ablations.design import Point
from ablations.search import Search
from ablations.search_space import SearchParameter
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.errors import UserError
from sweeps.study import SearchStudy
from sweeps.study import open_study as open_any

Figure = Callable[[Point], float]


def made(base: Experiment, *space: SearchParameter, **values: Any) -> Search:
    return (
        replace(search.build(base, **values), space=space)
        if space
        else search.build(base, **values)
    )


def reopen(folder: Path, wanted: Search, recorded: Any = ()) -> SearchStudy:
    study = open_any(folder / "study.journal", wanted, recorded)
    assert isinstance(study, SearchStudy)
    return study


def hill(point: Point) -> float:
    """Best at video 0.6, text 0.3 and a learning rate of 0.004."""
    lr = math.log10(point.cell["pretrain.base_lr"] / 0.004)
    return (
        -((point.cell["masks.video_ratio"] - 0.6) ** 2)
        - (point.cell["masks.text_ratio"] - 0.3) ** 2
        - 0.3 * lr**2
    )


def run_all(study: SearchStudy, figure: Figure = hill) -> list[Point]:
    points = []
    while (point := study.ask()) is not None:
        points.append(point)
        study.tell(point.fingerprint, [figure(point)])
    return points


def requeue(point: Point, last: Any) -> bool:
    """Plans as the engine does after all jobs have died: what is open is run again."""
    return last is None or last.name == "RUNNING"


# ---- searching -----------------------------------------------------------------------------------


def test_tpe_finds_better_points_than_chance(tmp_path: Path, base: Experiment) -> None:
    def best(sampler: str, seed: int) -> float:
        study = reopen(
            tmp_path / f"{sampler}{seed}", made(base, trials=60, sampler=sampler, sampler_seed=seed)
        )
        return max(hill(point) for point in run_all(study))

    seeds = range(4)
    tpe, chance = [best("tpe", seed) for seed in seeds], [best("random", seed) for seed in seeds]
    assert sum(tpe) / len(tpe) > 0.5 * sum(chance) / len(chance), (
        f"half the distance to the top: {tpe} against {chance}"
    )


def test_the_base_is_the_first_point_and_each_point_is_one_experiment(
    tmp_path: Path, base: Experiment
) -> None:
    wanted = made(base, trials=15)
    points = run_all(reopen(tmp_path, wanted))
    assert points[0].fingerprint == base.fingerprint
    assert len(points) == len({point.fingerprint for point in points}) == 15
    assert reopen(tmp_path, wanted).ask() is None
    more = run_all(reopen(tmp_path, replace(wanted, trials=18)))
    assert len(more) == 3, "asking for more trials continues the search"


def test_what_the_study_stores_is_what_is_run(tmp_path: Path, base: Experiment) -> None:
    study = reopen(tmp_path, made(base, trials=25))
    points = {point.fingerprint: point for point in run_all(study)}
    for trial in study._study.trials:
        assert trial.params == points[trial.user_attrs["fingerprint"]].cell
        assert all(
            len(f"{value:.12g}".replace(".", "").strip("0")) <= 3 for value in trial.params.values()
        )
    assert study._study.study_name.startswith("search-")


def test_two_objectives_give_a_pareto_front(tmp_path: Path, base: Experiment) -> None:
    """Quality and cost grow with the depth of the decoder.

    So every depth is on the front, with the best of its points.
    """
    depth = SearchParameter("model.decoder_depth", "depth", "int", 1, 4)
    study = reopen(
        tmp_path,
        made(
            base,
            depth,
            SearchParameter("masks.video_ratio", "video", "float", 0.3, 0.9),
            trials=40,
            objectives="cost,quality",
        ),
    )
    while (point := study.ask()) is not None:
        cost, video = float(point.cell["model.decoder_depth"]), point.cell["masks.video_ratio"]
        assert study.report(point.fingerprint, 10, 0.0) is False, "two objectives are never pruned"
        study.tell(point.fingerprint, [10 * cost - abs(video - 0.6), cost])
    front = study._study.best_trials
    assert {trial.params["model.decoder_depth"] for trial in front} == {1, 2, 3, 4}
    assert all(abs(trial.params["masks.video_ratio"] - 0.6) < 0.2 for trial in front)
    assert study._study.metric_names == ["val text-to-video R@1 (%)", "CPU-hours"]


def test_a_wrong_number_of_figures_is_a_failure(tmp_path: Path, base: Experiment) -> None:
    study = reopen(tmp_path, made(base, trials=2, objectives="quality,cost"))
    point = study.ask()
    assert point is not None
    study.tell(point.fingerprint, [1.0], "no status.json")
    assert study.counts() == {"FAIL": 1}


# ---- proposals that are no new point -------------------------------------------------------------


def test_known_points_are_closed_at_once_and_a_small_space_is_searched_to_its_end(
    tmp_path: Path, base: Experiment
) -> None:
    space = (
        SearchParameter("model.decoder_depth", "depth", "int", 1, 3),
        SearchParameter("masks.video_ratio", "video", "choice", choices=(0.5, 0.9)),
    )
    study = reopen(tmp_path, made(base, *space, trials=50))
    points = run_all(study, lambda point: point.cell["model.decoder_depth"])
    assert len(points) == len({point.fingerprint for point in points}) == 6, (
        "all of the space, each once"
    )
    assert len(study.notes) == 1 and "6 of 50 points" in study.notes[0]
    doubles = [trial for trial in study._study.trials if "duplicate_of" in trial.user_attrs]
    assert doubles and all(
        trial.value == study._study.trials[trial.user_attrs["duplicate_of"]].value
        for trial in doubles
    )
    before = len(study._study.trials)
    assert study.ask() is None and len(study._study.trials) == before, (
        "it does not go on proposing at every look"
    )


def test_a_proposal_that_runs_already_is_not_started_twice(
    tmp_path: Path, base: Experiment
) -> None:
    study = reopen(
        tmp_path,
        made(base, SearchParameter("model.decoder_depth", "depth", "int", 1, 2), trials=50),
    )
    first, second = study.ask(), study.ask()
    assert first is not None and second is not None and first.fingerprint != second.fingerprint
    assert study.ask() is None
    assert study.running() == {first.fingerprint, second.fingerprint}


def test_an_impossible_proposal_fails_with_its_reason_and_another_follows(
    tmp_path: Path, base: Experiment
) -> None:
    width = SearchParameter(
        "model.decoder_dim", "width", "int", 60, 70
    )  # two heads: odd widths are impossible
    study = reopen(tmp_path, made(base, width, trials=5))
    points = run_all(study, lambda point: 1.0)
    assert len(points) == 5 and all(point.cell["model.decoder_dim"] % 2 == 0 for point in points)
    failed = [trial for trial in study._study.trials if trial.state.name == "FAIL"]
    assert failed and all(
        "not divisible by model.decoder_heads" in trial.user_attrs["reason"] for trial in failed
    )


# ---- pruning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_the_pruner_ends_bad_points_and_keeps_the_best(
    tmp_path: Path, base: Experiment, pruner: str
) -> None:
    wanted = made(
        override(base, ["finetune.evaluations=4"]), trials=40, pruner=pruner, sampler="random"
    )
    study = reopen(tmp_path, wanted)
    points = []
    while (point := study.ask()) is not None:
        points.append(point)
        pruned = any(
            study.report(point.fingerprint, 30 * number, hill(point)) for number in range(1, 5)
        )
        study.tell(
            point.fingerprint,
            None if pruned else [hill(point)],
            "pruned" if pruned else "",
            pruned=pruned,
        )
    states = {trial.user_attrs["fingerprint"]: trial.state.name for trial in study._study.trials}
    ranked = sorted(points, key=hill)
    ended = [states[point.fingerprint] == "PRUNED" for point in ranked]
    assert states[ranked[-1].fingerprint] == "COMPLETE"
    assert sum(ended[:20]) > 10 > sum(ended[-10:]) * 2, (
        "most of the bad half, little of the best quarter"
    )


def test_the_last_evaluation_prunes_nothing(tmp_path: Path, base: Experiment) -> None:
    study = reopen(tmp_path, made(base, trials=6, pruner="halving"))
    for figure in (6.0, 7.0, 8.0, 9.0):  # each the best so far, and each bad in the end
        point = study.ask()
        assert point is not None
        assert study.report(point.fingerprint, 50, figure) is False
        assert study.report(point.fingerprint, 100, 10.0 - figure) is False
    worst = study.ask()
    assert worst is not None
    assert study.report(worst.fingerprint, 50, 1.0) is True


def test_the_pruner_remembers_after_a_restart(tmp_path: Path, base: Experiment) -> None:
    wanted = made(override(base, ["finetune.evaluations=4"]), trials=6, pruner="halving")
    study = reopen(tmp_path, wanted)
    good, bad = study.ask(), study.ask()
    assert good is not None and bad is not None
    assert study.report(good.fingerprint, 10, 50.0) is False
    study = reopen(tmp_path, wanted)  # the first controller is gone, the jobs run on
    assert study.report(bad.fingerprint, 10, 1.0) is True
    study = reopen(tmp_path, wanted)  # died before it could end the job
    assert study.report(bad.fingerprint, 10, 1.0) is True, "what was decided stays decided"
    lines = len(study.path.read_bytes().splitlines())
    assert study.report(good.fingerprint, 10, 50.0) is False
    assert len(study.path.read_bytes().splitlines()) == lines, (
        "an evaluation that is known is not stored again"
    )
    assert study.report(good.fingerprint, 20, 60.0) is False
    assert study._study.trials[0].intermediate_values == {1: 50.0, 2: 60.0}
    study.tell(bad.fingerprint, None, "pruned", pruned=True)
    assert reopen(tmp_path, wanted).counts() == {"RUNNING": 1, "PRUNED": 1}


# ---- what may die --------------------------------------------------------------------------------


def test_a_restarted_controller_proposes_what_the_first_would_have(
    tmp_path: Path, base: Experiment
) -> None:
    wanted = made(base, trials=20)
    undisturbed = [point.name for point in run_all(reopen(tmp_path / "one", wanted))]
    names = []
    for _ in range(20):
        study = reopen(tmp_path / "two", wanted)
        point = study.ask()
        assert point is not None
        names.append(point.name)
        study.tell(point.fingerprint, [hill(point)])
    assert names == undisturbed


def test_a_point_whose_job_died_is_run_again_with_its_parameters(
    tmp_path: Path, base: Experiment
) -> None:
    wanted = made(base, trials=4)
    study = reopen(tmp_path, wanted)
    study.ask()
    lost = study.ask()
    assert lost is not None
    study = reopen(
        tmp_path, wanted
    )  # plan.json was not written either: the point is known from its trial
    assert lost.fingerprint in {point.fingerprint for point in study.points()}
    study.plan(lambda point, last: point.fingerprint == lost.fingerprint)
    again = study.ask()
    assert again is not None and again.fingerprint == lost.fingerprint
    assert (
        study._study.trials[2].user_attrs["retry_of"] == 1
        and study._study.trials[2].params == lost.cell
    )
    assert study.counts() == {"RUNNING": 2, "FAIL": 1}


def test_a_proposal_torn_off_half_made_is_closed(tmp_path: Path, base: Experiment) -> None:
    wanted = made(base, trials=4)
    study = reopen(tmp_path, wanted)
    study.ask()
    study.ask()
    lines = study.path.read_bytes().splitlines(keepends=True)
    attrs = next(
        number
        for number, line in enumerate(lines)
        if b'"fingerprint"' in line and json.loads(line)["op_code"] == 8
    )
    study.path.write_bytes(b"".join(lines[:attrs]) + lines[attrs][:20])
    study = reopen(tmp_path, wanted)
    assert "torn last line" in study.repairs[0]
    assert study.counts() == {"RUNNING": 1, "FAIL": 1}
    assert len(study.running()) == 1 and study.ask() is not None


def test_a_lost_study_is_rebuilt_from_the_plan_and_the_run_directories(
    tmp_path: Path, base: Experiment
) -> None:
    wanted = made(base, trials=14)
    study = reopen(tmp_path, wanted)
    points = run_all(study)
    before = [(trial.params, trial.value, trial.user_attrs) for trial in study._study.trials]
    recorded = json.loads(json.dumps(wanted.plan(study.points())))["points"]
    study.path.unlink()
    study = reopen(tmp_path, wanted, recorded)
    assert [point.fingerprint for point in study.points()] == [
        point.fingerprint for point in points
    ]
    study.plan(requeue)
    figures = {point.fingerprint: hill(point) for point in points}
    for _ in points:
        point = study.ask()
        assert point is not None
        study.tell(
            point.fingerprint, [figures[point.fingerprint]]
        )  # finished: the engine tells it again
    after = [(trial.params, trial.value, trial.user_attrs) for trial in study._study.trials]
    assert [entry[:2] for entry in after] == [entry[:2] for entry in before]
    assert [entry[2]["run_dir"] for entry in after] == [entry[2]["run_dir"] for entry in before]
    wider = replace(wanted, trials=15)
    assert run_all(reopen(tmp_path, wider, recorded)) != [], "and the search goes on from there"


def test_a_recorded_point_of_another_base_is_left_out_with_a_word(
    tmp_path: Path, base: Experiment
) -> None:
    wanted = made(base, trials=3)
    recorded = [
        {"cell": dict(point.cell), "fingerprint": "0" * 64}
        for point in run_all(reopen(tmp_path / "one", wanted))
    ]
    study = reopen(tmp_path / "two", wanted, recorded)
    assert study.points() == () and len(study.repairs) == 3


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, base: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = reopen(tmp_path, made(base, trials=3))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*study\.journal: No space left on device"):
        study.ask()
    monkeypatch.undo()
    assert not (tmp_path / "study.journal.lock").exists()
