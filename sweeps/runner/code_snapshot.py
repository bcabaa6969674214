"""Copies the code at submission, so that jobs run what was submitted.

A job that starts an hour later would otherwise run what the working tree has become. The packages
are copied once per content to `<root>/sweeps/code/<digest>/` and put in front of the import path of
the jobs; requeued jobs find them there too. The commit and the uncommitted changes are recorded
separately (see `simvtp.runs.provenance`); this copy holds both."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from simvtp.errors import UserError
from simvtp.plugins import FROZEN, loaded_plugins

PACKAGES = ("simvtp", "ablations", "sweeps")  # imported by jobs; the controller builds the reports
LARGEST = 4 * 2**20  # bytes: packages hold code and word lists, not data
# What is copied where git does not say which files are the project's (an unpacked archive).
SOURCE_ENDINGS = (".py", ".typed", ".txt", ".csv", ".html", ".css")
NOT_IMPORTED = "sweeps/clusters/"  # profiles: read by the command only, and may have secrets


@dataclass(frozen=True)
class CodeSnapshot:
    """A copy of the code.

    Attributes:
        path: its folder.
        digest: sha256 of all names and contents.
        left_out: Python files that were not copied, as git does not track them.
    """

    path: Path
    digest: str
    left_out: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """Returns variables that make a Python process import this copy in any folder."""
        before = os.environ.get("PYTHONPATH", "")
        return {
            "PYTHONPATH": f"{self.path}{os.pathsep}{before}" if before else str(self.path),
            "PYTHONSAFEPATH": "1",
        }


def take_snapshot(
    root: Path, entry: str, source: Path | None = None, write: bool = True
) -> CodeSnapshot:
    """Copies packages, that of `entry`, and plugins below `root`, unless they are there already.

    Only source files are copied: those that git tracks, never what a link outside the tree points
    to, and never readable for more users than the original.

    Args:
        root: folder of the runs.
        entry: `module:function`; a top-level package next to ours is copied with its Python files.
        source: folder that contains the packages; None = that of this one.
        write: False: only return where the copy would be.

    Raises:
        UserError: the disk cannot be written.
    """
    source = (source or Path(__file__).resolve().parents[2]).resolve()
    packages = dict.fromkeys((*PACKAGES, entry.partition(".")[0].partition(":")[0]))
    names, left_out = _tracked_files(source, packages)
    if names is None:
        names = _source_files(source, packages)
    contents = {}
    for name in sorted(names):
        path = source / name
        ours = name.partition("/")[0] in PACKAGES or path.suffix == ".py"
        if ours and not name.startswith(NOT_IMPORTED) and _is_inside(path, source):
            contents[name] = _File(path.read_bytes(), path.stat().st_mode & 0o444)
    for plugin in loaded_plugins():
        contents[f"{FROZEN}/{plugin.file_name}"] = _File(plugin.content, 0o400)
    digest = hashlib.sha256()
    for name, file in contents.items():
        digest.update(f"{name}\0{len(file.content)}\0".encode() + file.content)
    target = root / "sweeps" / "code" / digest.hexdigest()[:16]
    if write:
        if not _is_intact(target, contents):
            _write(target, contents)
        os.utime(target)  # time of the last use, for sweeps/doctor.py
    return CodeSnapshot(target, digest.hexdigest(), tuple(left_out))


@dataclass(frozen=True)
class _File:
    """Content of a file, and the permissions of its copy: those to read it, no more."""

    content: bytes
    mode: int


def _tracked_files(source: Path, packages: Iterable[str]) -> tuple[list[str] | None, list[str]]:
    """Returns (files that git tracks, Python files that it neither tracks nor ignores).

    The first is None if `source` is not the work tree of a repository.
    """
    there = [package for package in packages if (source / package).is_dir()]

    def listed(*options: str) -> list[str] | None:
        command = ["git", "-C", str(source), "ls-files", "-z", *options, "--", *there]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:  # no git
            return None
        return os.fsdecode(done.stdout).split("\0")[:-1] if done.returncode == 0 else None

    tracked = listed()
    if not tracked:
        return None, []
    others = listed("--others", "--exclude-standard") or []
    return tracked, sorted(name for name in others if name.endswith(".py"))


def _source_files(source: Path, packages: Iterable[str]) -> list[str]:
    """Returns the source files of the packages by their endings, without hidden ones."""
    paths = [path for package in packages for path in (source / package).rglob("*")]
    names = [path.relative_to(source) for path in paths if path.suffix in SOURCE_ENDINGS]
    return [str(name) for name in names if not any(part[0] == "." for part in name.parts)]


def _is_inside(path: Path, source: Path) -> bool:
    """Returns whether to copy a path: a file of acceptable size that is really below `source`."""
    try:
        inside = path.resolve(strict=True).is_relative_to(source)
        return inside and path.is_file() and path.stat().st_size <= LARGEST
    except OSError:  # a deleted file that git still tracks, or a dangling link
        return False


def _is_intact(target: Path, contents: dict[str, _File]) -> bool:
    """Returns whether the copy is there and was not changed by hand."""
    try:
        return all((target / name).read_bytes() == file.content for name, file in contents.items())
    except OSError:
        return False


def _private(path: str, flags: int) -> int:
    """Opens a new file that others cannot read yet."""
    return os.open(path, flags, 0o600)


def _write(target: Path, contents: dict[str, _File]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for name, file in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb", opener=_private) as copy:
                copy.write(file.content)
            path.chmod(file.mode)  # read-only: editing it would change what queued jobs run
        if target.exists():  # damaged or edited: queued jobs get the intact one
            target.rename(target.with_name(f"{target.name}.changed-{int(time.time())}"))
        try:
            temporary.rename(target)
        except OSError:
            if not _is_intact(target, contents):
                raise  # otherwise another controller was faster
    except OSError as error:
        raise UserError(
            f"cannot copy the code to {target}: {error.strerror or error}; "
            "free some space or choose another --root."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
