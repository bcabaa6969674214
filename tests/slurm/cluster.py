"""A real SLURM cluster on one machine: a controller, accounting with its database, and nodes that
can be broken on purpose.

Every node is a set of namespaces of its own (host name, mounts, process ids) with its own slurmd,
so a node dies whole when the first process in it is killed, and `hostname` says n1, n2, ... inside
a job. Everything lies in one folder and listens on 127.0.0.1 at ports that were free; nothing
outside the folder is changed. `Cluster(folder)` finds again what another process has started there.

Times to expect: start 5-10 s, a job that does nothing 1-2 s, a lost node is noticed after 25-32 s,
a time limit is acted upon at half-minute steps."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from tests.slurm import processes
from tests.slurm.configuration import Ports, Settings, write_files
from tests.slurm.packages import NAMESPACES, program
from tests.slurm.processes import Recorded, wait_until

HOME = (
    Path(tempfile.gettempdir()) / "simvtp-slurm"
)  # short: the path of a socket may have 107 characters
CGROUPS = tuple(Path("/sys/fs/cgroup") / name for name in ("memory", "freezer"))
SMALL_DISK_MB = 48
GONE = frozenset(
    {
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "OUT_OF_MEMORY",
        "NODE_FAIL",
        "BOOT_FAIL",
        "DEADLINE",
    }
)

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
    """The cluster could not do what it was told; the message holds the end of the log that says
    why.
    """


@dataclass(frozen=True)
class Task:
    """One task of a job step: a process on a node. `pid` is as seen from outside the node, so
    os.kill can be used.
    """

    pid: int
    node: str
    rank: int
    job_id: str

    def kill(self, number: int = signal.SIGKILL) -> None:
        processes.send(self.pid, number)

    @property
    def alive(self) -> bool:
        return processes.started(self.pid) > 0


class Cluster:
    """The cluster in `folder`, running or not."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.folder = folder
        self._children: list[
            subprocess.Popen[bytes]
        ] = []  # to be waited for, or they stay as zombies
        self._lab = folder / "lab.json"
        stored = json.loads(self._lab.read_text()) if self._lab.exists() else None
        self.settings = settings or (Settings(**stored["settings"]) if stored else Settings())
        self._ports = Ports(**stored["ports"]) if stored else None

    # ---- what a user of the cluster needs --------------------------------------------------------

    @property
    def configuration(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def small_disk(self) -> Path:
        """A folder on a file system of SMALL_DISK_MB, seen by all nodes."""
        return self.folder / "small"

    @property
    def nodes(self) -> list[str]:
        return self.settings.names

    def environment(self, **more: str) -> dict[str, str]:
        """What a user's shell would have: this process's environment, with SLURM_CONF and without
        an outer job's variables.
        """
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SLURM_", "SLURMD_", "SBATCH_", "SUBMITIT_"))
        }
        return kept | {"SLURM_CONF": str(self.configuration)} | more

    def command(self, *words: str, check: bool = True, seconds: float = 60) -> str:
        """Run one of SLURM's commands and return what it prints. ClusterError if it fails and
        `check` is set.
        """
        done = subprocess.run(
            words,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            raise ClusterError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """`sbatch` a shell script; returns the job's id."""
        path = self.folder / "run" / f"script-{time.monotonic_ns()}.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        return self.command(
            "sbatch",
            "--parsable",
            "--output",
            str(self.folder / "log" / "job-%A_%a.log"),
            *options,
            str(path),
        ).strip()

    def show(self, job_id: str) -> dict[str, str]:
        """What the controller knows of a job (JobState, Restarts, NodeList, Reason, ...); empty if
        it knows none.
        """
        text = self.command("scontrol", "--oneliner", "show", "job", job_id, check=False)
        words = (
            (word.partition("=") for word in text.splitlines()[0].split()) if text.strip() else ()
        )
        return {key: value for key, sign, value in words if sign}

    def queue(self) -> dict[str, str]:
        """State of every job that waits or runs, by its id (arrays taken apart)."""
        lines = self.command("squeue", "--noheader", "--array", "--format", "%i %T").splitlines()
        return {words[0]: words[1] for words in map(str.split, lines)}

    def sacct(self, job_id: str, *, lives: bool = False) -> list[dict[str, str]]:
        """The accounting's lines about a job; `lives`: also those of earlier starts that were
        requeued.
        """
        columns = ("JobID", "State", "ExitCode", "NodeList", "Elapsed", "Submit")
        options = ["--duplicates"] if lives else []
        text = self.command(
            "sacct",
            "--allocations",
            "--noheader",
            "--parsable2",
            *options,
            "--jobs",
            job_id,
            "--format",
            ",".join(columns),
        )
        return [dict(zip(columns, line.split("|"), strict=True)) for line in text.splitlines()]

    def tasks(self, job_id: str = "") -> list[Task]:
        """The living task processes of a job (`12`, or `12_3` of an array), or of all jobs, in the
        order of their ranks.
        """
        found = []
        for node in self.nodes:
            for pid in self._members(node):
                if processes.name(processes.parent(pid)) != "slurmstepd":
                    continue
                values = processes.environment(pid)
                if "SLURM_PROCID" not in values or "SLURM_STEP_ID" not in values:
                    continue  # the batch script, or a process that is just starting
                job, array = values.get("SLURM_JOB_ID", ""), values.get("SLURM_ARRAY_JOB_ID", "")
                known = f"{array}_{values.get('SLURM_ARRAY_TASK_ID', '')}" if array else job
                if job_id in ("", known, job):
                    found.append(Task(pid, node, int(values["SLURM_PROCID"]), known))
        return sorted(found, key=lambda task: (task.job_id, task.rank))

    def signal(self, job_id: str, name: str) -> None:
        """Send a signal to all tasks of a job, as SLURM does before a time limit (USR2) or when it
        ends one (TERM).
        """
        self.command("scancel", f"--signal={name}", job_id)

    def drive_out(self, seconds: int = 1) -> str:
        """A job of higher priority that takes all nodes for a moment, so that every other job has
        to go; returns its id.
        """
        everything = (f"--nodes={self.settings.nodes}", f"--ntasks-per-node={self.settings.cpus}")
        return self.submit(f"srun sleep {seconds}", "--partition=high", *everything)

    def node_of(self, job_id: str) -> str:
        """The (first) node a job runs on; "" if it has none."""
        return self.show(job_id).get("BatchHost", "")

    # ---- start and stop --------------------------------------------------------------------------

    def start(self, owner: int = 0) -> None:
        """Start all that is not running. `owner`: the process that will stop the cluster; without
        one it stays until it is stopped.
        """
        settings = self.settings
        if settings.memory_limits and not all(
            os.access(path / "tasks", os.W_OK) for path in CGROUPS
        ):
            self.settings = settings = replace(
                settings, memory_limits=False
            )  # cgroups of version 2 only, or none
        self._ports = self._ports or _free_ports(settings.nodes)
        for name in ("run", "log", "state", "spool", "dev", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / name).chmod(0o755)
        write_files(self.folder, settings, self._ports)
        about = {
            "settings": asdict(settings),
            "ports": asdict(self._ports),
            "owner": [owner, processes.started(owner)],
        }
        self._lab.write_text(json.dumps(about, indent=1))
        self._make_devices()
        self._make_small_disk()
        self._start_munge()
        if settings.accounting:
            self._start_accounting()
        self.start_controller()
        for node in self.nodes:
            self.boot(node)
        self.wait_for_nodes()

    def stop(self) -> None:
        """Kill everything, nodes with their jobs first, and remove the folder."""
        for node in self.nodes:
            self._init(node).end()
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._daemon(name).end()
        for child in self._children:
            child.wait(timeout=30)
        self._children.clear()
        for cgroup in CGROUPS:
            _remove_cgroups(cgroup / self.folder.name)
        if os.path.ismount(self.small_disk):
            subprocess.run(["umount", "--lazy", str(self.small_disk)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def status(self) -> str:
        """The daemons and nodes, and what SLURM says of them."""
        lines = [
            f"{name:10} {self._daemon(name).pid or '-'}"
            for name in ("munged", "mariadbd", "slurmdbd", "slurmctld")
        ]
        for node in self.nodes:
            lines.append(
                f"node {node:5} {self._init(node).pid or '-'}, slurmd {self._slurmd(node) or '-'}"
            )
        answer = (
            self.command("sinfo", "--Node", "--long", "--partition", "main", check=False)
            if self._daemon("slurmctld").pid
            else ""
        )
        return "\n".join([*lines, answer])

    def heal(self) -> None:
        """Repair every fault, cancel every job, and return when all nodes are free."""
        for node in self.nodes:
            self.thaw(node)
        if self._daemon("munged").pid and (
            not self.settings.accounting or self._daemon("slurmdbd").pid
        ):
            self.start_controller()
            for node in self.nodes:
                self.boot(node)
        else:
            self.start(self.owner)
        self.command("scancel", "--user", "root")
        if self.queue():
            wait_until(
                lambda: not self.queue(),
                90,
                "an empty queue",
                every=0.5,
                told=lambda: str(self.queue()),
            )
        self.wait_for_nodes()

    def wait_for_nodes(self, seconds: float = 90) -> None:
        """Until all nodes are idle; nodes that SLURM has taken out are taken in again."""

        def idle() -> bool:
            states = dict(line.split() for line in self._node_states())
            for node, state in states.items():
                if state.rstrip("*") in (
                    "down",
                    "drained",
                    "draining",
                    "drng",
                    "drain",
                ) and self._slurmd(node):
                    self.command(
                        "scontrol", "update", f"nodename={node}", "state=resume", check=False
                    )
            return len(states) == self.settings.nodes and set(states.values()) == {"idle"}

        wait_until(
            idle,
            seconds,
            "all nodes idle",
            told=lambda: f"{self._node_states()}\n{self._ends_of_logs('slurmctld', 'slurmd.n1')}",
        )

    def _node_states(self) -> list[str]:
        return self.command(
            "sinfo", "--noheader", "--Node", "--partition", "main", "--format", "%N %t", check=False
        ).splitlines()

    @property
    def owner(self) -> int:
        """The process that is to stop this cluster; 0 if there is none, or none any more."""
        pid, begun = json.loads(self._lab.read_text()).get("owner", (0, 0))
        return pid if begun and processes.started(pid) == begun else 0

    # ---- faults ----------------------------------------------------------------------------------

    def crash(self, node: str) -> None:
        """Power off: everything in the node dies at once."""
        self._init(node).end()
        (self.folder / "run" / f"{node}.ready").unlink(missing_ok=True)

    def boot(self, node: str) -> None:
        """Power on, or only start slurmd where that is what is missing."""
        if not self._init(node).pid:
            self._boot(node)
        self.start_slurmd(node)

    def kill_slurmd(self, node: str) -> None:
        """The node's daemon dies; its jobs go on."""
        if pid := self._slurmd(node):
            processes.send(pid, signal.SIGKILL)
            wait_until(
                lambda: not processes.started(pid), 10, f"the end of slurmd on {node}", every=0.02
            )

    def start_slurmd(self, node: str) -> None:
        if not self._slurmd(node):
            self._enter(node, [program("slurmd"), "-N", node])
            wait_until(
                lambda: self._slurmd(node),
                20,
                f"slurmd on {node}",
                told=lambda: self._ends_of_logs(f"slurmd.{node}"),
            )

    def freeze(self, node: str) -> None:
        """Everything in the node stands still, as in a machine that hangs."""
        for pid in self._members(node):
            processes.send(pid, signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        for pid in self._members(node):
            processes.send(pid, signal.SIGCONT)

    def stop_controller(self) -> None:
        """slurmctld ends in good order: it saves its state first."""
        self._daemon("slurmctld").end(signal.SIGTERM)

    def kill_controller(self) -> None:
        """slurmctld dies. Its last few seconds are lost, and job ids may be given out again."""
        self._daemon("slurmctld").end()

    def start_controller(self) -> None:
        if not self._daemon("slurmctld").pid:
            self._spawn("slurmctld", "-D")
        self._wait_for(
            "slurmctld", lambda: "is UP" in self.command("scontrol", "ping", check=False)
        )

    def change(self, **settings: object) -> None:
        """Change some `Settings` (accounting, min_job_age_s, grace_s, ...) of the running cluster;
        restarts the controller.
        """
        assert self._ports is not None
        self.settings = replace(self.settings, **settings)  # type: ignore[arg-type]
        write_files(self.folder, self.settings, self._ports)
        about = json.loads(self._lab.read_text()) | {"settings": asdict(self.settings)}
        self._lab.write_text(json.dumps(about, indent=1))
        self.stop_controller()
        if self.settings.accounting:
            self._start_accounting()
        self.start_controller()

    def ps(self, node: str) -> str:
        """The processes of a node, as it counts them."""
        return self.run_on(node, "ps", "-eo", "pid,ppid,stat,args").stdout

    def run_on(self, node: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a node (as a person would by ssh)."""
        return self._enter(node, words, check=False)

    # ---- the parts -------------------------------------------------------------------------------

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
        """Start a daemon that stays in the foreground, in a session of its own: it outlives this
        program unless it is stopped.
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
            up, seconds, f"an answer of {name}", every=0.05, told=lambda: self._ends_of_logs(name)
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
        self._wait_for("munged", lambda: _answers(self.folder / "run" / "munge.socket"))

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
        self._wait_for("mariadbd", lambda: _answers(socket_path))
        if not self._daemon("slurmdbd").pid:
            self._spawn(
                "slurmdbd", "-D", MYSQL_UNIX_PORT=str(socket_path)
            )  # the variable by which the client library finds our socket
        # the controller ends at once if it is started before this answers
        self._wait_for("slurmdbd", lambda: self._accounting_answers())

    def _accounting_answers(self) -> bool:
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
            told=lambda: self._ends_of_logs(f"node-{node}"),
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


def remove_leftovers(home: Path = HOME) -> list[Path]:
    """Stop the clusters in `home` whose owner is gone (a test session that was killed). Those
    started by hand stay.
    """
    removed = []
    for folder in sorted(home.iterdir()) if home.is_dir() else []:
        if (folder / "lab.json").exists() and json.loads((folder / "lab.json").read_text())[
            "owner"
        ][0]:
            cluster = Cluster(folder)
            if not cluster.owner:
                cluster.stop()
                removed.append(folder)
    return removed


def _answers(path: Path) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _free_ports(nodes: int) -> Ports:
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


def _remove_cgroups(top: Path) -> None:
    """Remove the folder of a control group and those below it; they are empty once their processes
    are gone.
    """
    below: Iterable[str] = (path for path, _, _ in os.walk(top, topdown=False))
    for path in below:
        try:
            os.rmdir(path)
        except OSError as error:
            print(f"{path} stays: {error.strerror}", file=sys.stderr)
