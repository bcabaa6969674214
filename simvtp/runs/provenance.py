"""Records the origin of a result: code, packages, machine and command.

Captured when a run is submitted, because the tree may have changed by the time that a queued job
starts. Only what is named here is recorded: of the environment SLURM_* and CUDA_VISIBLE_DEVICES,
without anything that looks like a credential; user names and passwords inside URLs are masked.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from simvtp.runs.atomic_files import write_atomically

SCHEMA = 1
RECORD = "provenance.json"
PATCH = "diff.patch"
_ENVIRONMENT = re.compile(r"SLURM_\w+|CUDA_VISIBLE_DEVICES")
_CREDENTIAL = re.compile(r"JWT|TOKEN|SECRET|PASSW|CREDENTIAL|KEY", re.IGNORECASE)
_URL_USER = re.compile(
    r"(?<=://).*@", re.DOTALL
)  # to the last @: a password may hold any character


@dataclass(frozen=True)
class Provenance:
    """Record of provenance.json and diff.patch.

    Attributes:
        time: of capture, seconds since 1970.
        repository: top folder of the git repository; empty if there is none.
        commit: its commit.
        branch: its branch; empty on a detached head.
        dirty: tracked files differ from the commit, or there are untracked ones.
        note: why there is no commit, if there is none.
        untracked: untracked files.
        python: version.
        torch: version.
        platform: operating system.
        cpu: name of the processor.
        cores: number of cores.
        gpus: names of the GPUs.
        argv: the command.
        environment: variables that say where a job ran.
        packages: {name: version} of the installed distributions.
        diff: output of `git diff HEAD --binary`, so `git apply diff.patch` on `commit` restores
            the code.
    """

    time: float
    repository: str
    commit: str
    branch: str
    dirty: bool
    note: str
    untracked: tuple[str, ...]
    python: str
    torch: str
    platform: str
    cpu: str
    cores: int
    gpus: tuple[str, ...]
    argv: tuple[str, ...]
    environment: dict[str, str]
    packages: dict[str, str]
    diff: bytes = field(default=b"", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; the diff is a file of its own."""
        values = {"schema": SCHEMA, **asdict(self), "diff": PATCH if self.diff else ""}
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Provenance:
        """Returns the record of provenance.json; raises KeyError or TypeError if it is none.

        The diff stays in its own file.
        """
        names = {item.name for item in fields(Provenance)} - {"diff"}
        lists = ("untracked", "gpus", "argv")
        known = {key: value for key, value in values.items() if key in names}
        return Provenance(**known | {name: tuple(values[name]) for name in lists})


def capture(repo: Path | None = None) -> Provenance:
    """Returns the provenance of this process.

    Args:
        repo: any folder of the repository; None for the one that this package lies in. An
            installed package may lie in an environment within a repository of its user: it is
            ours only if it tracks this very file.
    """
    own = Path(__file__).resolve()
    folder = own.parents[2] if repo is None else Path(repo)
    packages = installed_packages()
    return Provenance(
        time=time.time(),
        **_git_state(folder, own if repo is None else None),
        python=platform.python_version(),
        torch=packages.get("torch", ""),
        platform=platform.platform(),
        cpu=_cpu_name(),
        cores=os.cpu_count() or 0,
        gpus=_gpu_names(),
        argv=tuple(without_credentials(word) for word in sys.argv),
        environment=allowed_environment(os.environ),
        packages=packages,
    )


def write(run_dir: Path, provenance: Provenance) -> None:
    """Writes provenance.json and, where there are uncommitted changes, diff.patch.

    Raises UserError on a full disk.
    """
    if provenance.diff:
        write_atomically(run_dir / PATCH, provenance.diff)
    else:
        (run_dir / PATCH).unlink(missing_ok=True)
    write_atomically(run_dir / RECORD, json.dumps(provenance.to_dict(), indent=1))


def allowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the few variables that say where a job ran.

    SLURM_JWT and the like are credentials and stay out.
    """
    return {
        key: without_credentials(value)
        for key, value in sorted(environment.items())
        if _ENVIRONMENT.fullmatch(key) and not _CREDENTIAL.search(key)
    }


def without_credentials(text: str) -> str:
    """Masks user name and password of an address: `http://***@host` for `http://me:secret@host`.

    Everything from `://` to the last `@` is masked: a password that was typed as it is may hold a
    slash, a space or another `@`, and then no library takes it apart.

    Args:
        text: one word, setting or message that may hold an address.
    """
    return _URL_USER.sub("***@", text)


def installed_packages() -> dict[str, str]:
    """Returns {name: version} of every installed distribution, by lower-case name."""
    found = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a broken installation leaves folders without a name
            found[name.lower()] = distribution.version
    return dict(sorted(found.items()))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    # the user's own settings must not change what the diff looks like, and a job must not take the
    # index lock
    settings = (
        "-c",
        "core.quotepath=off",
        "-c",
        "diff.noprefix=false",
        "-c",
        "diff.mnemonicPrefix=false",
    )
    return subprocess.run(
        ["git", "--no-optional-locks", *settings, "-C", str(folder), *arguments],
        capture_output=True,
        check=False,
    )


def _git_state(folder: Path, tracked: Path | None = None) -> dict[str, Any]:
    """Returns the fields of `Provenance` about a repository.

    Args:
        folder: any folder in it.
        tracked: a file that it must track; without it, the repository is another project's.
    """
    none = {
        "repository": "",
        "commit": "",
        "branch": "",
        "dirty": False,
        "untracked": (),
        "diff": b"",
    }
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
    except FileNotFoundError:
        return {**none, "note": "git is not installed: the state of the code is not recorded"}
    if top.returncode:
        reason = _text(top.stderr).splitlines()
        return {
            **none,
            "note": f"no git repository at {folder}: "
            + (reason[0] if reason else "git gave no reason"),
        }
    root = Path(_text(top.stdout))
    if tracked and _git(root, "ls-files", "--error-unmatch", "--", str(tracked)).returncode:
        return {
            **none,
            "note": "the code is an installed package: no git repository tracks it; "
            "its version is among the packages",
        }
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z").stdout
    untracked = tuple(sorted(os.fsdecode(name) for name in listed.split(b"\0") if name))
    head = _git(root, "rev-parse", "--verify", "HEAD")
    if head.returncode:
        return {
            **none,
            "repository": str(root),
            "dirty": True,
            "untracked": untracked,
            "note": "the repository has no commit yet",
        }
    diff = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
    failed = diff.returncode != 0
    return {
        "repository": str(root),
        "commit": _text(head.stdout),
        "branch": _text(_git(root, "symbolic-ref", "--short", "-q", "HEAD").stdout),
        "dirty": bool(diff.stdout or untracked or failed),
        "untracked": untracked,
        "note": f"git diff failed: {_text(diff.stderr)}" if failed else "",
        "diff": diff.stdout,
    }


def _text(output: bytes) -> str:
    return output.decode(errors="replace").strip()


def _cpu_name() -> str:
    """Returns the model name that Linux reports; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_names() -> tuple[str, ...]:
    """Returns the names of this machine's NVIDIA GPUs.

    Asked of the driver, not of torch: that would start CUDA in the submitting process.
    """
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [
        line
        for file in files
        for line in file.read_text().splitlines()
        if line.startswith("Model:")
    ]
    if lines:
        return tuple(line.partition(":")[2].strip() for line in lines)
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ()
    return (
        tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
        if done.returncode == 0
        else ()
    )
