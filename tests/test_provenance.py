"""The record of the code: complete enough to rebuild it, and free of credentials."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simvtp.runs import provenance

ROOT = Path(__file__).resolve().parents[1]


def git(folder: Path, *arguments: str) -> str:
    settings = (
        "-c",
        "user.name=T",
        "-c",
        "user.email=t@example.org",
        "-c",
        "init.defaultBranch=trunk",
        "-c",
        "commit.gpgsign=false",
    )
    done = subprocess.run(
        ["git", *settings, "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("x = 1\n")
    (folder / "table.bin").write_bytes(bytes(range(256)))
    (folder / "old.py").write_text("gone\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_clean_repository(repository: Path, tmp_path: Path) -> None:
    record = provenance.capture(repository)
    assert record.commit == git(repository, "rev-parse", "HEAD")
    assert (record.branch, record.dirty, record.untracked, record.diff) == ("trunk", False, (), b"")
    run = tmp_path / "run"
    provenance.write(run, record)
    assert not (run / "diff.patch").exists()
    stored = json.loads((run / "provenance.json").read_text())
    assert stored["commit"] == record.commit and stored["dirty"] is False and stored["diff"] == ""


def test_a_folder_below_the_top_sees_the_whole_repository(repository: Path) -> None:
    (repository / "deep").mkdir()
    (repository / "code.py").write_text("x = 2\n")
    assert (
        provenance.capture(repository / "deep").diff == provenance.capture(repository).diff != b""
    )


def test_the_patch_rebuilds_the_code_that_ran(repository: Path, tmp_path: Path) -> None:
    """Text, binary (not UTF-8), deleted and staged new files."""
    (repository / "code.py").write_bytes(b"x = 2  # caf\xe9\n")
    (repository / "table.bin").write_bytes(bytes(reversed(range(256))))
    (repository / "old.py").unlink()
    (repository / "staged.py").write_text("y = 3\n")
    git(repository, "add", "staged.py")
    (repository / "notes ü.txt").write_text("not added\n")
    record = provenance.capture(repository)
    assert record.dirty and record.untracked == ("notes ü.txt",)
    run = tmp_path / "run"
    provenance.write(run, record)

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(repository), str(clone)], check=True)
    git(clone, "apply", str(run / "diff.patch"))
    for name in ("code.py", "table.bin", "staged.py"):
        assert (clone / name).read_bytes() == (repository / name).read_bytes()
    assert not (clone / "old.py").exists()


def test_the_users_diff_settings_do_not_change_the_patch(repository: Path) -> None:
    (repository / "code.py").write_text("x = 2\n")
    plain = provenance.capture(repository).diff
    for setting in (
        ("diff.noprefix", "true"),
        ("diff.external", "/bin/true"),
        ("color.ui", "always"),
    ):
        git(repository, "config", *setting)
    assert provenance.capture(repository).diff == plain


def test_an_untracked_file_alone_makes_it_dirty(repository: Path) -> None:
    (repository / "new.py").write_text("z = 1\n")
    record = provenance.capture(repository)
    assert record.dirty and record.diff == b"" and record.untracked == ("new.py",)


def test_a_later_clean_capture_removes_the_old_patch(repository: Path, tmp_path: Path) -> None:
    (repository / "code.py").write_text("x = 2\n")
    provenance.write(tmp_path / "run", provenance.capture(repository))
    git(repository, "commit", "-q", "-am", "second")
    provenance.write(tmp_path / "run", provenance.capture(repository))
    assert not (tmp_path / "run" / "diff.patch").exists()


def test_without_a_repository_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    record = provenance.capture(tmp_path)
    assert record.commit == "" and not record.dirty and "no git repository" in record.note
    assert record.packages["numpy"] and record.python
    provenance.write(tmp_path / "run", record)
    assert (
        "no git repository"
        in json.loads((tmp_path / "run" / "provenance.json").read_text())["note"]
    )


def test_a_repository_without_commits(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1\n")
    record = provenance.capture(tmp_path)
    assert (
        record.commit == ""
        and record.dirty
        and record.untracked == ("a.py",)
        and "no commit" in record.note
    )


def test_without_git_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed" in provenance.capture(tmp_path).note


def test_no_credentials_in_the_record(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-do-not-keep"
    for name in (
        "SLURM_JWT",
        "SLURM_ACCESS_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "HF_TOKEN",
        "XSLURM_JOB_ID",
        "HOME",
    ):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(
        sys, "argv", ["run", f"runtime.tracking_uri=https://me:{secret}@tracker.example.org/x"]
    )
    record = provenance.capture(repository)
    provenance.write(tmp_path / "run", record)
    stored = (tmp_path / "run" / "provenance.json").read_text()
    assert secret not in stored
    kept = json.loads(stored)
    assert {"SLURM_JOB_ID": "4711", "CUDA_VISIBLE_DEVICES": "0,1"}.items() <= kept[
        "environment"
    ].items()
    assert all(
        key.startswith("SLURM_") or key == "CUDA_VISIBLE_DEVICES" for key in kept["environment"]
    )
    assert kept["argv"][1] == "runtime.tracking_uri=https://***@tracker.example.org/x"


def test_the_default_repository_is_the_one_of_this_package() -> None:
    record = provenance.capture()
    top = subprocess.run(
        ["git", "rev-parse", "--show-toplevel"],
        cwd=Path(provenance.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert record.repository == top.stdout.strip()
    assert record.cores == os.cpu_count()


def test_a_repository_around_an_installed_copy_is_not_ours(repository: Path) -> None:
    """A copy of the package in an environment inside another project, untracked or ignored."""
    site = repository / ".venv" / "site-packages"
    shutil.copytree(ROOT / "simvtp", site / "simvtp", ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "code.py").write_text("x = 'changed'\n")
    code = "import json; from simvtp.runs import provenance; p = provenance.capture(); "
    code += "print(json.dumps([p.repository, p.commit, p.dirty, p.note, len(p.diff)]))"

    def captured() -> list[object]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[object] = json.loads(done.stdout)
        return found

    *state, note, length = captured()
    assert state == ["", "", False] and length == 0
    assert "installed package" in str(note) and str(repository) not in str(note)
    git(repository, "add", "-f", str(site))
    assert captured()[0] == str(repository.resolve()), "tracked files are the project's own"
