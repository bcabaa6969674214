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
import time
from dataclasses import dataclass
from pathlib import Path

from simvtp.errors import UserError

PACKAGES = ("simvtp", "ablations", "sweeps")  # imported by jobs; the controller builds the reports
LARGEST = 4 * 2**20  # bytes: packages hold code and word lists, not data
SKIPPED = {"__pycache__"}


@dataclass(frozen=True)
class CodeSnapshot:
    """A copy of the code.

    Attributes:
        path: its folder.
        digest: sha256 of all names and contents.
    """

    path: Path
    digest: str

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
    """Copies the packages (and that of `entry`) below `root`, unless this content is there already.

    Args:
        root: folder of the runs.
        entry: `module:function`; a top-level package next to ours is copied with its Python files.
        source: folder that contains the packages; None = that of this one.
        write: False: only return where the copy would be.

    Raises:
        UserError: the disk cannot be written.
    """
    source = source or Path(__file__).resolve().parents[2]
    files = _files(source, entry.partition(".")[0].partition(":")[0])
    contents = {str(path.relative_to(source)): path.read_bytes() for path in files}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = root / "sweeps" / "code" / digest.hexdigest()[:16]
    if write:
        if not _is_intact(target, contents):
            _write(target, contents)
        os.utime(target)  # time of the last use, for sweeps/doctor.py
    return CodeSnapshot(target, digest.hexdigest())


def _files(source: Path, extra: str) -> list[Path]:
    found = []
    for package in dict.fromkeys((*PACKAGES, extra)):
        if not (source / package).is_dir():
            continue  # the entry may be a module that is installed elsewhere
        for path in sorted((source / package).rglob("*")):
            ours = package in PACKAGES or path.suffix == ".py"
            if (
                path.is_file()
                and ours
                and not SKIPPED & set(path.parts)
                and path.stat().st_size <= LARGEST
            ):
                found.append(path)
    return found


def _is_intact(target: Path, contents: dict[str, bytes]) -> bool:
    """Returns whether the copy is there and was not changed by hand."""
    try:
        return all((target / name).read_bytes() == content for name, content in contents.items())
    except OSError:
        return False


def _write(target: Path, contents: dict[str, bytes]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for name, content in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o444)  # a reminder: editing it would change what queued jobs run
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
