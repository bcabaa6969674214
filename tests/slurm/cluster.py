"""A real SLURM cluster on one machine: controller, accounting, and nodes that tests can break.

Every node is a set of namespaces (host name, mounts, process ids) with its own slurmd, so a node
dies completely when its first process is killed, and `hostname` says n1, n2, ... inside a job.
Everything is in one folder and listens on 127.0.0.1 at ports that were free; nothing outside the
folder is changed. `Cluster(folder)` finds what another process has started there.

Times to expect: start 5-10 s, an empty job 1-2 s, a lost node is noticed after 25-32 s, a time
limit is acted upon at half-minute steps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.slurm import processes
from tests.slurm.cluster_parts import (
    CGROUPS,
    ClusterError,
    ClusterParts,
    free_ports,
    remove_cgroups,
)
from tests.slurm.configuration import Ports, Settings, write_files
from tests.slurm.packages import program
from tests.slurm.processes import wait_until

HOME = (
    Path(tempfile.gettempdir()) / "simvtp-slurm"
)  # short: the path of a socket may have 107 characters


@dataclass(frozen=True)
class JobTask:
    """One task of a job step: a process on a node.

    `pid` is that outside of the node, so os.kill can be used.
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


class Cluster(ClusterParts):
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
    def nodes(self) -> list[str]:
        return self.settings.names

    def command(self, *words: str, check: bool = True, seconds: float = 60) -> str:
        """Runs one of SLURM's commands and returns its output; raises ClusterError if it fails.

        `check` False returns the output of a failed command too.
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
        """Returns the controller's record of a job (JobState, ...); empty if there is none."""
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
        """Returns the accounting's rows of a job; `lives`: also those of requeued starts."""
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

    def tasks(self, job_id: str = "") -> list[JobTask]:
        """Returns the living task processes of a job (`12`, or `12_3`), or of all jobs, by rank."""
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
                    found.append(JobTask(pid, node, int(values["SLURM_PROCID"]), known))
        return sorted(found, key=lambda task: (task.job_id, task.rank))

    def signal(self, job_id: str, name: str) -> None:
        """Sends a signal to all tasks of a job.

        SLURM does that before a time limit (USR2) or when it ends a job (TERM).
        """
        self.command("scancel", f"--signal={name}", job_id)

    def drive_out(self, seconds: int = 1) -> str:
        """Submits a job of higher priority that takes all nodes for a moment; returns its id.

        Every other job has to go.
        """
        everything = (f"--nodes={self.settings.nodes}", f"--ntasks-per-node={self.settings.cpus}")
        return self.submit(f"srun sleep {seconds}", "--partition=high", *everything)

    def node_of(self, job_id: str) -> str:
        """The (first) node a job runs on; "" if it has none."""
        return self.show(job_id).get("BatchHost", "")

    # ---- start and stop --------------------------------------------------------------------------

    def start(self, owner: int = 0) -> None:
        """Starts all that is not running.

        `owner` is the process that will stop the cluster; without one it stays until it is stopped.
        """
        settings = self.settings
        if settings.memory_limits and not all(
            os.access(path / "tasks", os.W_OK) for path in CGROUPS
        ):
            self.settings = settings = replace(
                settings, memory_limits=False
            )  # cgroups of version 2 only, or none
        self._ports = self._ports or free_ports(settings.nodes)
        for name in ("run", "log", "state", "spool", "dev", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / name).chmod(0o755)
        write_files(self.folder, settings, self._ports)
        about = {"settings": asdict(settings), "ports": asdict(self._ports)}
        about["owner"] = [owner, processes.started(owner)]
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
            remove_cgroups(cgroup / self.folder.name)
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
                details=lambda: str(self.queue()),
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
            details=lambda: (
                f"{self._node_states()}\n{self._ends_of_logs('slurmctld', 'slurmd.n1')}"
            ),
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
                details=lambda: self._ends_of_logs(f"slurmd.{node}"),
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
        """Changes `Settings` (accounting, min_job_age_s, ...) of the running cluster.

        Restarts the controller.
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


def remove_leftovers(home: Path = HOME) -> list[Path]:
    """Stops the clusters in `home` whose owner is gone (a test session that was killed).

    Those started by hand stay. Returns their folders.
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
