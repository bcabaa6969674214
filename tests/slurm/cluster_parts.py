"""Starts the daemons and nodes of the test cluster, and finds their processes."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from tests.slurm import processes
from tests.slurm.configuration import Ports, Settings
from tests.slurm.packages import NAMESPACES, program
from tests.slurm.processes import Recorded, wait_until

CGROUPS = tuple(Path("/sys/fs/cgroup") / name for name in ("memory", "freezer"))
SMALL_DISK_MB = 48

# The first process of a node: gives it its name, its /etc/hosts and its part of the cgroups, and
# then only keeps it alive.
_NODE = """
set -e
name=$1 folder=$2; shift 2
echo "$name" > /proc/sys/kernel/hostname
mount --bind "$folder/etc/hosts" /etc/hosts
for cgroup in "$@"; do mount --bind "$cgroup/$(basename "$folder")" "$cgroup"; done
touch "$folder/run/$name.ready"
while :; do sleep 3600 & wait $!; done
"""


class ClusterError(Exception):
    """A cluster operation failed; the message has the end of the log that says why."""


class ClusterParts:
    """Daemons and nodes of the cluster in `folder`."""

    folder: Path
    settings: Settings
    _children: list[subprocess.Popen[bytes]]  # to be waited for, or they stay as zombies

    @property
    def configuration(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def small_disk(self) -> Path:
        """Folder on a file system of SMALL_DISK_MB, seen by all nodes."""
        return self.folder / "small"

    def environment(self, **more: str) -> dict[str, str]:
        """Returns the environment of a user's shell.

        That is this process's environment with SLURM_CONF and without the variables of an outer
        job.
        """
        outer = ("SLURM_", "SLURMD_", "SBATCH_", "SUBMITIT_")
        own = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
        return own | {"SLURM_CONF": str(self.configuration)} | more

    def _daemon(self, name: str) -> Recorded:
        for child in self._children:
            child.poll()
        return Recorded(self.folder / "run" / f"{name}.process")

    def _init(self, node: str) -> Recorded:
        return self._daemon(f"node-{node}")

    def _members(self, node: str) -> list[int]:
        pid = self._init(node).pid
        return processes.in_namespace_of(pid) if pid else []

    def _slurmd(self, node: str) -> int:
        """Process id of the node's slurmd; 0 if there is none."""
        alive = (
            pid
            for pid in self._members(node)
            if processes.name(pid) == "slurmd" and processes.started(pid)
        )
        return next(alive, 0)

    def _spawn(self, name: str, *arguments: str, **more: str) -> None:
        """Starts a daemon in the foreground, in a session of its own.

        It outlives this program unless it is stopped.
        """
        with self._log(name) as log:
            child = subprocess.Popen(
                [program(name), *arguments],
                env=self.environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children.append(child)
        self._daemon(name).write(child.pid)

    def _log(self, name: str) -> IO[bytes]:
        return open(self.folder / "log" / f"{name}.out", "ab")

    def _wait_for(self, name: str, ready: object, seconds: float = 30) -> None:
        def up() -> bool:
            if not self._daemon(name).pid:
                raise ClusterError(f"{name} ended at once.\n{self._ends_of_logs(name)}")
            return bool(ready())  # type: ignore[operator]

        wait_until(
            up,
            seconds,
            f"an answer of {name}",
            every=0.05,
            details=lambda: self._ends_of_logs(name),
        )

    def _ends_of_logs(self, *names: str) -> str:
        paths = [
            self.folder / "log" / f"{name}.{kind}" for name in names for kind in ("log", "out")
        ]
        return "\n".join(
            "\n".join([f"--- {path}", *path.read_text(errors="replace").splitlines()[-8:]])
            for path in paths
            if path.exists()
        )

    def _make_devices(self) -> None:
        """Pretended GPUs: SLURM takes character devices only, and these are further /dev/null."""
        for number in range(self.settings.gpus):
            path = self.folder / "dev" / f"gpu{number}"
            if not path.exists():
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def _make_small_disk(self) -> None:
        self.small_disk.mkdir(exist_ok=True)
        if not os.path.ismount(self.small_disk):
            subprocess.run(
                [
                    "mount",
                    "-t",
                    "tmpfs",
                    "-o",
                    f"size={SMALL_DISK_MB}m",
                    "simvtp-small",
                    str(self.small_disk),
                ],
                check=True,
            )

    def _start_munge(self) -> None:
        key = self.folder / "munge" / "key"
        if not key.exists():
            key.touch(0o600)
            key.write_bytes(os.urandom(1024))
        if not self._daemon("munged").pid:
            run, munge = self.folder / "run", self.folder / "munge"
            for left in run.glob("munge.socket*"):
                left.unlink()
            self._spawn(
                "munged",
                "--foreground",
                "--num-threads=10",
                f"--key-file={key}",
                f"--socket={run / 'munge.socket'}",
                f"--pid-file={run / 'munged.pid'}",
                f"--log-file={self.folder / 'log' / 'munged.log'}",
                f"--seed-file={munge / 'seed'}",
            )
        self._wait_for("munged", lambda: socket_answers(self.folder / "run" / "munge.socket"))

    def _start_accounting(self) -> None:
        data, socket_path, options = (
            self.folder / "database",
            self.folder / "run" / "database.socket",
            self.folder / "etc" / "my.cnf",
        )
        if not self._daemon("mariadbd").pid:
            if not (data / "mysql").is_dir():
                self._make_database(data, options)
            self._spawn("mariadbd", f"--defaults-file={options}", "--user=root")
        self._wait_for("mariadbd", lambda: socket_answers(socket_path))
        if not self._daemon("slurmdbd").pid:
            self._spawn(
                "slurmdbd", "-D", MYSQL_UNIX_PORT=str(socket_path)
            )  # the variable by which the client library finds our socket
        # the controller ends at once if it is started before this answers
        self._wait_for("slurmdbd", lambda: self._accountingsocket_answers())

    def _accountingsocket_answers(self) -> bool:
        done = subprocess.run(
            ["sacctmgr", "--noheader", "show", "cluster"],
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def _make_database(self, data: Path, options: Path) -> None:
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        command = [
            program("mariadb-install-db"),
            f"--defaults-file={options}",
            "--user=root",
            "--skip-test-db",
        ]
        done = subprocess.run(
            [*command, "--auth-root-authentication-method=socket"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ClusterError(
                f"the database could not be made: {done.stderr.strip() or done.stdout.strip()}"
            )

    def _boot(self, node: str) -> None:
        ready = self.folder / "run" / f"{node}.ready"
        ready.unlink(missing_ok=True)
        (self.folder / "spool" / node).mkdir(exist_ok=True)
        cgroups = CGROUPS if self.settings.memory_limits else ()
        for cgroup in cgroups:
            (cgroup / self.folder.name).mkdir(exist_ok=True)
        shell = [program("bash"), "-c", _NODE, "node", node, str(self.folder), *map(str, cgroups)]
        with self._log(f"node-{node}") as log:
            child = subprocess.Popen(
                [program("unshare"), *NAMESPACES, *shell],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children.append(child)

        def first() -> int:
            if child.poll() is not None:
                raise ClusterError(
                    f"node {node} did not start.\n{self._ends_of_logs(f'node-{node}')}"
                )
            return next(
                (pid for pid in processes.all_pids() if processes.parent(pid) == child.pid), 0
            )

        pid = wait_until(first, 10, f"the first process of node {node}", every=0.02)
        self._init(node).write(pid)
        wait_until(
            ready.exists,
            10,
            f"the name of node {node}",
            every=0.02,
            details=lambda: self._ends_of_logs(f"node-{node}"),
        )

    def _enter(
        self, node: str, words: Sequence[str], check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        pid = self._init(node).pid
        if not pid:
            raise ClusterError(f"node {node} is switched off.")
        inside = [program("nsenter"), "--target", str(pid), "--uts", "--mount", "--pid", *words]
        done = subprocess.run(
            inside, env=self.environment(), capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise ClusterError(
                f"{' '.join(words)} on {node}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done


def socket_answers(path: Path) -> bool:
    """Returns whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def free_ports(nodes: int) -> Ports:
    """Ports that nobody uses, below those that the system gives to outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(12000, 32000), 2000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == nodes + 2:
            return Ports(found[0], found[1], tuple(found[2:]))
    raise ClusterError("no free ports on 127.0.0.1.")


def remove_cgroups(top: Path) -> None:
    """Removes the folder of a control group and those below it.

    They are empty once their processes are gone.
    """
    below: Iterable[str] = (path for path, _, _ in os.walk(top, topdown=False))
    for path in below:
        try:
            os.rmdir(path)
        except OSError as error:
            print(f"{path} stays: {error.strerror}", file=sys.stderr)
