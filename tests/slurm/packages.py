"""Checks whether this machine can run the test cluster, and installs Debian's packages for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# a program of each package that is needed; mariadb holds the accounting, which SLURM keeps nowhere
# else
PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}
NAMESPACES = ("--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_ADMIN_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
_POLICY = Path("/usr/sbin/policy-rc.d")


def program(name: str) -> str:
    """Returns the path of a program, also from an administrator's PATH; "" without it."""
    return shutil.which(name, path=_ADMIN_PATH) or ""


def prepare() -> str:
    """Installs what is missing; returns "" if the cluster can be started, else the reason."""
    if not sys.platform.startswith("linux"):
        return "the test cluster needs Linux."
    if os.geteuid() != 0:
        return "the test cluster needs root: each of its nodes is a namespace of its own."
    missing = [package for name, package in PROGRAMS.items() if not program(name)]
    reason = _install(missing) if missing else ""
    if reason:
        return reason
    done = subprocess.run(
        [program("unshare") or "unshare", *NAMESPACES, "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return (
            f"the test cluster needs namespaces, which this machine refuses: {done.stderr.strip()}"
        )
    return ""


def _install(packages: list[str]) -> str:
    apt = program("apt-get")
    if not apt:
        return (
            f"the test cluster needs {', '.join(packages)}, and this machine has no apt-get to "
            "install them."
        )
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    waiting = ["-o", "DPkg::Lock::Timeout=600"]
    with _no_services():
        for command in (
            [apt, "update", *waiting],
            [apt, "install", "--yes", "--no-install-recommends", *waiting, *packages],
        ):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        return f"the test cluster needs {', '.join(packages)}, which could not be installed: {said}"
    return ""


@contextmanager
def _no_services() -> Iterator[None]:
    """Keeps Debian's packages from starting their daemons when they are installed."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
