"""The command `simvtp` reaches every program, from any folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simvtp import __version__
from simvtp.__main__ import main
from simvtp.cli.programs import PROGRAMS
from tests.small import small_settings

ROOT = Path(__file__).resolve().parents[1]
ENTRY = "import sys; sys.argv[0] = 'bin/simvtp'; from simvtp.__main__ import main; sys.exit(main())"


def simvtp(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the console script as pip would have installed it."""
    return subprocess.run(
        [sys.executable, "-c", ENTRY, *words], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_is_reached_also_where_files_have_its_name(name: str, tmp_path: Path) -> None:
    """With `-c`, the working folder is the first on the import path."""
    for other in ("sweeps.py", "reports.py", "ablations.py"):
        (tmp_path / other).write_text("raise SystemExit('a file of the user')")
    words = ["mask_ratio", "--help"] if name == "sweep" else ["--help"]
    done = simvtp(tmp_path, name, *words)
    assert done.returncode == 0 and "--root" in done.stdout, done.stderr
    if name != "ablations":
        assert f"simvtp {name}" in done.stdout and "python sweeps/" not in done.stdout


def test_the_list_has_every_program_and_imports_none(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom simvtp.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([n for n in sys.modules if n.split('.')[0] in "
        "('sweeps', 'reports', 'ablations', 'torch', 'mlflow', 'yaml')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(f"\n    {name}" in done.stdout for name in PROGRAMS)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["stauts"], "did you mean status?"),
        (["swep", "mask_ratio"], "did you mean sweep?"),
        (["setings", "tiny"], "did you mean settings?"),
        (["data", "chek", "x"], "did you mean check?"),
        (["xyzzy"], "choose from run"),
    ],
)
def test_a_misspelt_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    error = capsys.readouterr().err
    assert left.value.code == 2 and hint in error and len(error.splitlines()) == 1


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"simvtp {__version__}"


def test_bad_input_of_a_program_keeps_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--root", str(tmp_path / "nowhere")]) == 2
    assert main(["sweep", "mask_ration"]) == 2
    assert "did you mean mask_ratio?" in capsys.readouterr().err


def test_output_to_parse(
    tmp_path: Path, shapes_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small_settings(tmp_path, shapes_cache, "finetune.enabled=false")
    assert main(["settings", "tiny", "--json", *settings]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"]["model"]["depth"] == 1
    assert main(["run", "tiny", "--json", *settings]) == 0
    out, err = capsys.readouterr()
    run = json.loads(out)
    assert Path(run["run_dir"]).name == printed["fingerprint"][:12]
    assert {"R1", "MdR"} <= set(run["results"][0]["metrics"]) and "step" in err
    assert main(["evaluate", run["run_dir"], "--json", "evaluate.dual_softmax=true"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert len(again["results"]) > len(run["results"])
    assert main(["run", run["run_dir"], "--json"]) == 0, "the settings of that run"
    assert json.loads(capsys.readouterr().out) == run
    assert main(["ablations", "list", "target", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ablations"][0]["cells"] > 1
