"""Bad input: one clear sentence, a non-zero exit, nothing lost."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch

from simvtp.__main__ import main
from simvtp.config.recipes import RECIPES
from tests.import_graph import ROOT
from tests.small import small_settings

FIXTURES = Path(__file__).parent / "fixtures"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Returns the only error line of a command that must end with status 2."""
    assert main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["mask.video_ratio=0.5"], "did you mean 'masks.video_ratio'"),
        (["masks.video_ratio=1.0"], "masks.video_ratio=1.0: must be in [0, 1)"),
        (["masks.text_ratio=-0.1"], "must be in [0, 1)"),
        (["model.frames=5"], "not divisible by model.tubelet_size"),
        (["data.dataset=manifest", "data.manifest=nowhere.csv"], "there is no such file"),
        (["data.dataset=videos"], "there is no such data set"),
        (["model.method=other"], "model.method=other: choose from simvtp"),
        (["data.tokenizer=./no/such/folder"], "tokenizer"),
    ],
)
def test_settings(
    capsys, tmp_path: Path, shapes_cache: Path, settings: list[str], words: str
) -> None:
    assert words.split(":")[0] in refused(
        capsys, "run", "tiny", *small_settings(tmp_path, shapes_cache), *settings
    )


def test_unknown_recipe(capsys) -> None:
    message = refused(capsys, "run", "small")
    assert "choose from tiny, " in message and all(name in message for name in RECIPES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("videoid,path\n1,1.mp4\n", "caption"),
        ("", "empty"),
        ("videoid,path,caption,split\n1,1.mp4,x,train\n2,2.mp4,y,val\n", "the test split of"),
        ("videoid,path,caption\n3,3.mp4,x\n", "no video of its column `path` exists"),
    ],
)
def test_manifests(capsys, tmp_path: Path, shapes_cache: Path, content: str, words: str) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_text(content)
    (tmp_path / "1.mp4").touch()
    settings = small_settings(
        tmp_path / "runs", shapes_cache, "data.dataset=manifest", f"data.manifest={manifest}"
    )
    message = refused(capsys, "run", "tiny", *settings)
    assert words in message and "clips.csv" in message


def test_a_clip_that_does_not_decode_is_named_when_there_are_too_many(
    capsys, tmp_path: Path, shapes_cache: Path
) -> None:
    manifest = tmp_path / "clips.csv"
    rows = []
    for number in range(30):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
        rows.append(f"{number},{number}.mp4,a caption,{('train', 'val', 'test')[number % 3]}\n")
    manifest.write_text("videoid,path,caption,split\n" + "".join(rows))
    settings = small_settings(
        tmp_path / "runs", shapes_cache, "data.dataset=manifest", f"data.manifest={manifest}"
    )
    assert ".mp4" in refused(capsys, "run", "tiny", *settings)


def test_looking_at_what_is_no_run(capsys, tmp_path: Path) -> None:
    assert "is not a run directory" in refused(capsys, "visualize", str(tmp_path))
    assert "there is no folder" in refused(capsys, "sync", str(tmp_path / "nowhere"))
    refused(capsys, "data", "check", str(tmp_path / "nowhere.csv"))
    refused(capsys, "parity", str(tmp_path / "nowhere.safetensors"))


def test_weights_of_another_size_name_what_differs(capsys, tmp_path: Path) -> None:
    with safetensors.safe_open(FIXTURES / "simvtp_released_a.safetensors", "pt") as file:
        state = {
            name.removeprefix("state/"): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
            if name.startswith("state/")
        }
    safetensors.torch.save_file(state, tmp_path / "other.safetensors")
    message = refused(capsys, "convert", str(tmp_path / "other.safetensors"), str(tmp_path / "out"))
    assert "other.safetensors" in message
    assert not (tmp_path / "out").exists()


def test_an_unreachable_tracker_costs_a_warning_and_loses_nothing(
    tmp_path: Path, shapes_cache: Path
) -> None:
    """Port 9 answers nobody: the run ends well and the warning says how to replay it."""
    settings = [
        *small_settings(tmp_path, shapes_cache, "finetune.enabled=false"),
        "runtime.tracking_uri=http://127.0.0.1:9",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "simvtp", "run", "tiny", *settings],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "simvtp sync" in done.stderr + done.stdout
    assert next(tmp_path.glob("*/results.json")).stat().st_size > 100


def test_settings_are_printed(capsys) -> None:
    assert main(["settings", "tiny", "masks.video_ratio=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "masks.video_ratio = 0.5" in printed and "# fingerprint " in printed


def test_parity_command(capsys) -> None:
    assert main(["parity", str(FIXTURES / "finetune_released_a.safetensors")]) == 0
    assert "comparisons hold" in capsys.readouterr().out


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simvtp", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    listed = re.findall(r"^    ([a-z]+)(?: |$)", done.stdout, flags=re.MULTILINE)
    assert {
        "run",
        "pretrain",
        "finetune",
        "evaluate",
        "visualize",
        "data",
        "bench",
        "parity",
        "convert",
        "sync",
    } <= set(listed)
    for command in listed:
        status = 0
        try:
            status = main([command, "--help"])  # of commands that another parser reads
        except SystemExit as left:
            assert left.code == 0, command
        assert status == 0 and "help" in capsys.readouterr().out, command


@pytest.mark.parametrize("words", [("settings", "tiny"), ("ablations", "list")])
def test_output_whose_reader_has_left_ends_quietly(words: tuple[str, ...]) -> None:
    """Nobody reads what it prints, as behind `simvtp settings tiny | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "simvtp", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
