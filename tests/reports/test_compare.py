"""Two run directories side by side, without a tracker."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import run_scores
from reports.build import write_index
from reports.compare import main
from reports.kinds.report_writer import write_report
from reports.run_diff import sections
from reports.run_scores import ChangedItem
from reports.run_side import read_side
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.tree import to_dict
from simvtp.runs.journal import Journal
from simvtp.runs.results import Result
from tests.reports import made_up

KEY = "test/finetuned/t2v"
CODE = {
    "branch": "main",
    "dirty": False,
    "python": "3.11",
    "torch": "2.9",
    "cpu": "a CPU",
    "cores": 2,
    "gpus": [],
    "argv": ["x"],
}


def ranked(ranks: np.ndarray, **protocol: Any) -> Result:
    figures = {
        "R1": float(100 * np.mean(ranks == 1)),
        "MdR": float(np.median(ranks)),
        "MnR": float(ranks.mean()),
    }
    made = made_up.result(10.0, **protocol)
    return replace(made, metrics=figures, ranks=tuple(ranks.tolist()), queries=len(ranks))


def write(
    root: Path, settings: list[str], result: Result | None, patch: str = "", **code: Any
) -> Path:
    experiment = override(get_recipe("tiny"), [f"runtime.root={root}", *settings])
    folder = experiment.run_dir
    folder.mkdir(parents=True)
    identity = {"fingerprint": experiment.fingerprint, "experiment": to_dict(experiment)}
    (folder / "experiment.json").write_text(json.dumps(identity))
    (folder / "provenance.json").write_text(
        json.dumps(CODE | {"commit": "a" * 40, "packages": {"numpy": "2.1"}} | code)
    )
    (folder / "status.json").write_text(json.dumps({"state": "finished" if result else "running"}))
    if patch:
        (folder / "diff.patch").write_text(patch)
    if result:
        (folder / "results.json").write_text(json.dumps([result.to_dict()]))
    journal = Journal(folder / "journal.jsonl")
    for step in (2, 4, 6):
        journal.write(
            "metrics", stage="pretrain", step=step, metrics={"loss/total": 3.0 / step, "lr": 0.1}
        )
    journal.write(
        "metrics", stage="pretrain", step=4, metrics={"loss/total": 9.0}
    )  # written again after a restart
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs with another ratio, package and patch; the second is right on more items."""
    random = np.random.default_rng(0)
    first = np.where(random.random(200) < 0.3, 1, 8)
    second = np.where(random.random(200) < 0.3, 1, first)
    second[7] = 60
    a = write(tmp_path, ["masks.text_ratio=0.15"], ranked(first))
    b = write(
        tmp_path,
        ["masks.text_ratio=0.75"],
        ranked(second),
        patch="--- x\n+++ x\n-a\n+b\n",
        packages={"numpy": "2.2"},
    )
    return a, b


def test_differences_are_listed_by_kind(pair: tuple[Path, Path]) -> None:
    a, b = map(read_side, pair)
    settings, code, data, environment = sections(a, b, Path("/nowhere"))
    assert settings.rows == (("masks.text_ratio", "0.15", "0.75"),)
    assert ("uncommitted changes", "none", "2 lines") in code.rows and "diff.patch" in code.remark
    assert data.rows == ()
    assert environment.rows == (("package numpy", "2.1", "2.2"),)


def test_items_are_counted_and_those_that_changed_most_named(pair: tuple[Path, Path]) -> None:
    a, b = map(read_side, pair)
    (one,) = run_scores.wins(a, b)
    first, second = (np.array(side.results[KEY].ranks) for side in (a, b))
    assert one.both + one.only_first + one.only_second + one.neither == 200
    assert (one.only_first, one.only_second) == (
        int(((first == 1) & (second > 1)).sum()),
        int(((first > 1) & (second == 1)).sum()),
    )
    assert one.lost[0] == ChangedItem("7", float(first[7]), 60.0)
    assert all(changed.second < changed.first for changed in one.won)
    scores = {score.metric: score for score in run_scores.scores(a, b)}
    gap = scores["R1"].gap
    assert gap is not None and gap.mean == pytest.approx(
        100 * np.mean((second == 1) * 1.0 - (first == 1))
    )
    assert scores["MdR"].gap is None and "mean" in scores["MdR"].remark


def test_figures_under_another_protocol_are_not_subtracted(tmp_path: Path) -> None:
    ranks = np.arange(1, 101)
    a = write(tmp_path, ["seed=1"], ranked(ranks))
    b = write(tmp_path, ["seed=2"], ranked(ranks, frames=16))
    first, second = map(read_side, (a, b))
    assert all(
        score.gap is None and score.remark == "another protocol"
        for score in run_scores.scores(first, second)
    )
    assert run_scores.wins(first, second) == ()
    assert (f"{KEY}: frames", "8", "16") in sections(first, second, tmp_path)[2].rows


def test_the_command_writes_a_page_and_says_the_same(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        assert (
            main([str(pair[0]), pair[1].name[:6], "--root", str(tmp_path), "--out", str(out)]) == 0
        )
    shown = capsys.readouterr().out
    assert (
        "masks.text_ratio  0.15  0.75" in shown
        and "Data: no difference" in shown
        and "One run each says nothing" in shown
    )
    page = (out / "index.html").read_text()
    assert "masks.text_ratio" in page and "data:image/png;base64," in page and "src=" in page
    assert "Much better in" in page and (out / "curves.pdf").exists()


def test_the_index_page_of_the_reports_links_to_a_comparison(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    words = [str(pair[0]), str(pair[1]), "--out", str(site / "compare_one")]
    assert main(words) == 0
    assert not (site / "index.html").exists(), "without reports the folder is somebody else's"
    write_report(
        made_up.sweep_results(made_up.plan(), lambda cell, seed: 10.0), site / "mask_ratio"
    )
    assert main([*words[:-1], str(site / "compare_two")]) == 0
    page = (site / "index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert (
        "compare_one/index.html" in links
        and "compare_two/index.html" in links
        and "mask_ratio/index.html" in links
    )
    assert "masks.text_ratio" in page and "One run each says nothing" in page
    write_index(site)
    assert re.findall(r'href="([^"]+)"', (site / "index.html").read_text()) == links, (
        "building the reports again keeps them"
    )


def test_the_last_value_of_a_step_counts(pair: tuple[Path, Path]) -> None:
    assert read_side(pair[0]).curves == {"pretrain/loss/total": [(2, 1.5), (4, 9.0), (6, 0.5)]}


def test_a_run_that_has_not_ended_can_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path, ["seed=1"], None), write(tmp_path, ["seed=2"], None)
    assert main([str(a), str(b), "--out", str(tmp_path / "out")]) == 0
    assert "Results: none yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [("nothing", "no run under"), ("{tmp}", "is not a run directory"), ("../x", "is no folder")],
    ids=["unknown", "folder", "path"],
)
def test_bad_input_is_one_sentence(
    given: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, [], None)
    assert (
        main(
            [
                given.format(tmp=tmp_path),
                str(folder),
                "--root",
                str(tmp_path),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    shown = capsys.readouterr()
    assert (
        message in shown.err
        and len(shown.err.strip().splitlines()) == 1
        and not (tmp_path / "out").exists()
    )
