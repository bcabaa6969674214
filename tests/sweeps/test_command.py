from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablations.design import Ablation
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny_pair
from sweeps.cli.command import main
from sweeps.cli.options import make_comparison, make_options
from sweeps.cli.sweep_parser import make_parser
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY, ROOT
from tests.sweeps.jobs import result, status
from tests.sweeps.ratio_grid import SWEEP

QUIET = ["--tracking-uri", "off", "--no-report"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def parse(*arguments: str) -> Ablation:
    return make_comparison(SWEEP, make_parser(SWEEP).parse_intermixed_args(list(arguments)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence with which bad input is refused; nothing may have been written."""
    try:
        code = main(SWEEP, arguments)
    except SystemExit as leave:  # argparse
        code = int(leave.code or 0)
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1, (code, out, err)
    return err


def test_bad_input_is_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], root: Path, tmp_path: Path
) -> None:
    here = ["--root", str(root)]
    assert "no setting 'pretrain.epoch': did you mean 'pretrain.epochs'" in refused(
        capsys, *here, "pretrain.epoch=3"
    )
    assert "masks.video_ratio=1.5: must be in [0, 1)" in refused(
        capsys, *here, "--video-ratios", "0.5,1.5"
    )
    assert "'0.5,x' is not a list of numbers" in refused(capsys, *here, "--video-ratios", "0.5,x")
    assert "'1.5' is not a list of whole numbers" in refused(capsys, *here, "--seeds", "1.5")
    assert "masks.video_ratio is varied by this sweep" in refused(
        capsys, *here, "masks.video_ratio=0.5"
    )
    assert "seed is varied by this sweep: give its values by --seeds" in refused(
        capsys, *here, "seed=3"
    )
    assert "no recipe 'tinny'" in refused(capsys, *here, "--recipe", "tinny")
    assert "nope.csv: there is no such file" in refused(
        capsys, *here, "--data", str(tmp_path / "nope.csv")
    )
    assert "--only text=0.33 leaves no point" in refused(capsys, *here, "--only", "text=0.33")
    assert "--only colour=red: choose a key from" in refused(capsys, *here, "--only", "colour=red")
    assert "'soon' is not a time" in refused(capsys, *here, "--time", "soon")
    assert "unrecognized arguments: --paralel" in refused(capsys, *here, "--paralel=2")
    assert "model.frames=7 is not divisible" in refused(capsys, *here, "model.frames=7")
    assert not root.exists()


def test_slurm_without_sbatch_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(root))  # whatever this machine has installed
    assert "needs the command sbatch" in refused(capsys, "--root", str(root), "--executor", "slurm")
    assert not root.exists()


def test_help_names_every_option_and_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(SWEEP, ["--help"])
    out = capsys.readouterr().out
    assert leave.value.code == 0
    options = """--video-ratios --text-ratios --seeds --recipe --data --executor --parallel
        --partition --account --gpus --cpus --mem --nodes --time --setup --root --tracking-uri
        --dry-run --retry --only --no-report key=value"""
    assert [option for option in options.split() if option not in out] == []
    assert "examples:" in out and "Exit status" in out


def test_options_reach_the_experiments(tmp_path: Path) -> None:
    ablation = parse(
        "model.depth=2",
        "--seeds",
        "1,2",
        "--video-ratios",
        "0.9",
        "--root",
        str(tmp_path),
        "pretrain.epochs=3",
    )
    points = ablation.points()
    assert len(points) == 1 * 2 * 2
    assert {
        (p.experiment.model.depth, p.experiment.pretrain.epochs, p.experiment.runtime.root)
        for p in points
    } == {(2, 3.0, str(tmp_path))}
    assert (
        ablation.sweep_id
        == ratio_grid.build(
            override(tiny_pair(), ["model.depth=2", "pretrain.epochs=3"]), (0.9,), seeds=(1, 2)
        ).sweep_id
    )
    assert len(parse("--full-grid").points()) == 48


def test_a_manifest_becomes_the_data_set(tmp_path: Path) -> None:
    manifest = tmp_path / "captions.csv"
    manifest.write_text("videoid,path,caption\na,a.mp4,a dog\n")
    data = parse("--data", str(manifest)).points()[0].experiment.data
    assert (data.dataset, data.manifest) == ("manifest", str(manifest)) and len(
        data.manifest_digest
    ) == 64
    assert parse("--data", "shapes").base.data.dataset == "shapes"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("30:00", 30), ("1:30", 2), ("2-00", 2880), ("2-00:00", 2880), ("01:00:00", 60)],
)
def test_times(text: str, minutes: int) -> None:
    assert make_options(make_parser(SWEEP).parse_args(["--time", text])).minutes == minutes


def test_dry_run_lists_the_points_with_their_states_and_runs_nothing(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    assert main(SWEEP, ["--dry-run", "--root", str(root)]) == 0
    assert "4 points: 4 missing. This command would start 4" in capsys.readouterr().out
    assert not root.exists()
    ablation = parse("--root", str(root))
    finished, failed, _, stopped = ablation.points()
    for point, state in ((finished, "finished"), (failed, "failed"), (stopped, "stopped")):
        point.run_dir.mkdir(parents=True)
        status(point.run_dir, state, 5, 10)
    (finished.run_dir / "results.json").write_text(
        json.dumps([result(finished.experiment).to_dict()])
    )
    assert main(SWEEP, ["--dry-run", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    for point, state in zip(
        ablation.points(), ("finished", "failed", "missing", "stopped"), strict=True
    ):
        assert point.fingerprint[:12] in lines[point.name] and state in lines[point.name]
    assert "would start 2" in out
    assert main(SWEEP, ["--dry-run", "--retry", "--root", str(root)]) == 0
    assert "would start 3" in capsys.readouterr().out
    assert (
        main(
            SWEEP, ["--dry-run", "--only", "video=0.95", "--only", "text=0.15", "--root", str(root)]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "would start 1" in out and out.count("not selected") == 3


def test_a_run_prints_values_next_to_chance_and_failures_at_the_end(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    given = ["--root", str(root), *QUIET, "--video-ratios", "0.9", "pretrain.max_steps=4"]
    assert main(SWEEP, given, ENTRY) == 0
    out = capsys.readouterr().out
    table = [line.split() for line in out.splitlines() if line.startswith("video 0.90 text")]
    assert ["video", "0.90", "text", "0.75", "67.50", "0.50", "135.0", "finished"] in table
    assert main(SWEEP, [*given, "finetune.enabled=false"], ENTRY) == 1
    out = capsys.readouterr().out
    assert out.count("the loss became NaN at step 2") == 4, (
        "once when it happens and once at the end, for both points"
    )
    assert "tried again with --retry" in out


def test_the_script_runs_from_the_repository_root() -> None:
    begun = time.time()
    for program in (["-m", "sweeps.mask_ratio"], ["sweeps/mask_ratio.py"]):
        done = subprocess.run(
            [sys.executable, *program, "--dry-run", "--seeds", "0,1"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "10 points" in done.stdout, "four cells and no pre-training, twice"
    assert time.time() - begun < 30, "a dry run must not load torch"
