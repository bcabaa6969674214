"""Writes the configuration files of the test cluster.

Each unusual value has its reason next to it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of the cluster.

    Times are in seconds and short, so that tests need not wait; SLURM's own are in the comments.
    """

    nodes: int = 4
    cpus: int = 2  # per node; may be more than the machine has
    gpus: int = 2  # per node; pretended: device files that do nothing
    memory_mb: int = 65536  # per node; claimed, not needed
    accounting: bool = True
    memory_limits: bool = True  # by cgroups; without them SLURM does not hold a job to its memory
    grace_s: int = 20  # of the partition `grace`
    silent_node_s: int = (
        10  # SlurmdTimeout, 300: then a node counts as lost (in practice after 25-32 s)
    )
    kill_wait_s: int = 5  # KillWait, 30: between SIGTERM and SIGKILL
    # cred_expire, 120: a requeued job waits one second longer than this; less than 5 is not
    # accepted
    requeue_wait_s: int = 5
    min_job_age_s: int = 300  # how long `scontrol show job` knows a job that has ended

    @property
    def names(self) -> list[str]:
        return [f"n{number + 1}" for number in range(self.nodes)]


@dataclass(frozen=True)
class Ports:
    """On 127.0.0.1."""

    controller: int
    database: int
    nodes: tuple[int, ...]


def write_files(folder: Path, settings: Settings, ports: Ports) -> None:
    """Write all configuration files into `folder`/etc."""
    etc = folder / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    (etc / "slurm.conf").write_text(slurm_conf(folder, settings, ports))
    devices = f"{folder}/dev/gpu[0-{settings.gpus - 1}]"
    # GPUs that are only counted (without File=) are reported as 0 by the node, which is then
    # drained
    (etc / "gres.conf").write_text(
        f"NodeName={','.join(settings.names)} Name=gpu File={devices}\n" if settings.gpus else ""
    )
    (etc / "cgroup.conf").write_text(_cgroup_conf(folder, settings))
    (etc / "slurmdbd.conf").write_text(_slurmdbd_conf(folder, ports))
    (etc / "slurmdbd.conf").chmod(0o600)  # it refuses to start otherwise
    (etc / "my.cnf").write_text(_database_conf(folder))
    # All names are one address: a job's srun listens on the address of its host name, and what
    # connects to it comes from 127.0.0.1
    (etc / "hosts").write_text(
        f"127.0.0.1 localhost {socket.gethostname()} {' '.join(settings.names)}\n"
    )


def slurm_conf(folder: Path, settings: Settings, ports: Ports) -> str:
    limits = (
        ("proctrack/cgroup", "task/cgroup")
        if settings.memory_limits
        else ("proctrack/linuxproc", "task/none")
    )
    daemons = f"""\
ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports.controller}
# listen on 127.0.0.1 and not on all addresses
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire={settings.requeue_wait_s}
CredType=cred/munge
MpiDefault=none
ProctrackType={limits[0]}
TaskPlugin={limits[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
# nodes may claim more cores and memory than this machine has
SlurmdParameters=config_overrides
# a pre-empted job gets the signal that it asked for with --signal
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# without this, a job that names no memory takes all of its node's
DefMemPerCPU={settings.memory_mb // settings.cpus}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
KillWait={settings.kill_wait_s}
MinJobAge={settings.min_job_age_s}
SlurmctldTimeout=30
SlurmdTimeout={settings.silent_node_s}
InactiveLimit=0
"""
    gpus = f"Gres=gpu:{settings.gpus}" if settings.gpus else ""
    return daemons + _accounting(folder, settings, ports) + _nodes(settings, ports, gpus)


def _accounting(folder: Path, settings: Settings, ports: Ports) -> str:
    """Returns the lines about GPUs and the accounting."""
    lines = "GresTypes=gpu\n" if settings.gpus else ""
    if not settings.accounting:
        return lines + "AccountingStorageType=accounting_storage/none\n"
    lines += f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.database}
# a socket, not a password
AccountingStoragePass={folder}/run/munge.socket
"""
    return lines + ("AccountingStorageTRES=gres/gpu\n" if settings.gpus else "")


def _nodes(settings: Settings, ports: Ports, gpus: str) -> str:
    """Returns the lines about nodes and partitions."""
    lines = ""
    shape = (
        f"CPUs={settings.cpus} Sockets=1 CoresPerSocket={settings.cpus} ThreadsPerCore=1 "
        f"RealMemory={settings.memory_mb} {gpus}"
    )
    for name, port in zip(settings.names, ports.nodes, strict=True):
        node = f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1"
        lines += f"{node} Port={port} {shape} State=UNKNOWN\n"
    common = "Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP"
    requeue = f"{common} PriorityTier=10 PreemptMode=REQUEUE"
    lines += f"PartitionName=main {requeue} Default=YES\n"
    lines += f"PartitionName=grace {requeue} GraceTime={settings.grace_s}\n"
    return lines + f"PartitionName=high {common} PriorityTier=100 PreemptMode=OFF\n"


def _cgroup_conf(folder: Path, settings: Settings) -> str:
    lines = "CgroupAutomount=no\nCgroupPlugin=cgroup/v1\n"
    if settings.memory_limits:
        lines += "CgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\n"
        lines += "ConstrainCores=no\nConstrainDevices=no\n"
    return lines


def _slurmdbd_conf(folder: Path, ports: Ports) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports.database}
CommunicationParameters=NoInAddrAny
SlurmUser=root
DebugLevel=info
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


def _database_conf(folder: Path) -> str:
    return f"""\
[mariadbd]
datadir={folder}/database
socket={folder}/run/database.socket
pid-file={folder}/run/mariadbd.pid
skip-networking
skip-log-bin
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
performance_schema=OFF
"""
