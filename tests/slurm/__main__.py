"""Controls the test cluster by hand: `python -m tests.slurm up`.

Then use sbatch, squeue, sweeps/*.py --executor slurm, and break things.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.slurm.cluster import HOME, Cluster, remove_leftovers
from tests.slurm.cluster_parts import ClusterError
from tests.slurm.packages import prepare

ON_A_NODE = {
    "crash": "power off",
    "boot": "power on",
    "kill-slurmd": "its daemon dies, jobs go on",
    "start-slurmd": "the daemon again",
    "freeze": "everything in it stands still",
    "thaw": "and goes on",
}
ON_THE_CONTROLLER = {
    "stop-controller": "slurmctld ends in good order",
    "kill-controller": "slurmctld dies",
    "start-controller": "slurmctld again",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm",
        description="A real SLURM cluster on this machine, and its faults.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=HOME / "by-hand",
        help="where it lives (default: %(default)s)",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("up", help="start what is not running, and print what to type next")
    actions.add_parser("down", help="kill everything and remove the folder")
    actions.add_parser("status", help="daemons and nodes")
    actions.add_parser("heal", help="repair all faults, cancel all jobs")
    for name, text in ON_A_NODE.items():
        actions.add_parser(name, help=f"a node: {text}").add_argument("node")
    actions.add_parser("ps", help="the processes of a node").add_argument("node")
    execute = actions.add_parser("exec", help="run a command on a node")
    execute.add_argument("node")
    execute.add_argument("words", nargs=argparse.REMAINDER)
    for name, text in ON_THE_CONTROLLER.items():
        actions.add_parser(name, help=text)
    actions.add_parser("accounting", help="with or without").add_argument(
        "wanted", choices=("on", "off")
    )
    args = parser.parse_args(arguments)
    try:
        return act(args)
    except (ClusterError, AssertionError) as error:
        print(error, file=sys.stderr)
        return 1


def act(args: argparse.Namespace) -> int:
    """Carry out one action; returns the exit status."""
    if args.action == "up":
        return up(args.folder)
    cluster = Cluster(args.folder)
    if not (args.folder / "lab.json").exists():
        print(
            f"there is no cluster in {args.folder}; `python -m tests.slurm up` starts one.",
            file=sys.stderr,
        )
        return 2
    if getattr(args, "node", None) and args.node not in cluster.nodes:
        print(
            f"there is no node {args.node}; there are {', '.join(cluster.nodes)}.", file=sys.stderr
        )
        return 2
    if args.action in ON_A_NODE:
        getattr(cluster, args.action.replace("-", "_"))(args.node)
    elif args.action in ON_THE_CONTROLLER:
        getattr(cluster, args.action.replace("-", "_"))()
    elif args.action in ("ps", "exec"):
        done = cluster.run_on(
            args.node,
            *(args.words if args.action == "exec" else ("ps", "-eo", "pid,ppid,stat,args")),
        )
        print(done.stdout + done.stderr, end="")
        return done.returncode
    elif args.action == "accounting":
        cluster.change(accounting=args.wanted == "on")
    elif args.action == "status":
        print(cluster.status())
    else:
        cluster.stop() if args.action == "down" else cluster.heal()
    return 0


def up(folder: Path) -> int:
    if reason := prepare():
        print(reason, file=sys.stderr)
        return 2
    remove_leftovers()
    cluster = Cluster(folder)
    cluster.start()
    print(f"{cluster.status()}\nIn your shell:\n  export SLURM_CONF={cluster.configuration}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
