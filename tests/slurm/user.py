"""A user of the cluster: runs sweep commands on the login node and reads run directories."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file

from ablations.design import Point
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.runs.attempts import Attempt, attempts
from simvtp.runs.journal import read_journal
from sweeps.runner.point import REQUEUE_FOR_S
from tests.slurm.cluster import Cluster
from tests.slurm.processes import wait_until
from tests.small import small_settings
from tests.sweeps import ratio_grid

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
REAL, SLOW = ("-m", "tests.sweeps.ratio_grid"), ("-m", "tests.slurm.slow_sweep")
STEPS = 60  # of pre-training
TRAINING = (f"pretrain.max_steps={STEPS}", "runtime.log_every=1", "runtime.checkpoint_every=5")
NOT_COMPARED = (
    "speed/",
    "system/",
    "cost/",
    "data/wait_s",
)  # they differ between two runs of the same experiment


@dataclass(frozen=True)
class Pace:
    """Behaviour of the jobs of tests/slurm/slurm_jobs.py.

    Each harm happens once per run, after step `harm_at` of pre-training.
    """

    pause_s: float = 0.25
    eat_mb: int = 0
    signal_in_log: bool = False
    diverges: bool = False
    clock_shift_s: float = 0.0
    requeue_for_s: float = REQUEUE_FOR_S
    harm_at: int = 12


class Command:
    """A sweep command that was given and may still be running."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process, self._output = process, output

    @property
    def output(self) -> str:
        """Output of both streams so far."""
        return self._output.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float = 180) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the command did not end within {seconds:.0f} s:\n{self.output[-4000:]}"
            ) from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


@dataclass
class User:
    """One user with one folder of runs.

    Attributes:
        cluster: the cluster.
        root: folder of the runs.
        cache: folder of the data cache.
        seeds: one point per seed.
        settings: of the experiment, in addition to those that make it small.
        code: the working tree.
    """

    cluster: Cluster
    root: Path
    cache: Path
    seeds: tuple[int, ...] = (0,)
    settings: tuple[str, ...] = ()
    code: Path = ROOT
    papers: Path | None = None  # where the commands' output goes, if not in the runs
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.pace()

    # ---- what is run -----------------------------------------------------------------------------

    def pace(self, **values: Any) -> None:
        """Tell the jobs how to behave from now on: see `Pace`."""
        temporary = self.root / ".pace"
        temporary.write_text(json.dumps(asdict(Pace(**values))))
        temporary.replace(self.root / "pace.json")

    @property
    def given(self) -> list[str]:
        """Settings on the command line, without the mask ratios, which the sweep varies."""
        small = small_settings(self.root, self.cache, *TRAINING, *self.settings)
        return [
            text for text in small if not text.startswith(("masks.video_ratio", "masks.text_ratio"))
        ]

    def experiment(self, *more: str) -> Experiment:
        return override(get_recipe("tiny"), [*self.given, *more])

    @property
    def points(self) -> tuple[Point, ...]:
        """One point a seed."""
        return ratio_grid.build(self.experiment(), (0.5,), (0.5,), seeds=self.seeds).points()

    def sweep(
        self,
        *options: str,
        program: tuple[str, ...] = SLOW,
        executor: str = "slurm",
        inside: tuple[str, ...] = (),
        **environment: str,
    ) -> Command:
        """Give the sweep command and return at once.

        Args:
            options: of the command.
            program: that is run.
            executor: "" = do not name one.
            inside: a command that runs this one, such as salloc with its options.
            environment: variables of the command.
        """
        number = len(self.commands) + 1
        grid = (
            "--video-ratios",
            "0.5",
            "--text-ratios",
            "0.5",
            "--seeds",
            ",".join(map(str, self.seeds)),
        )
        where = ("--executor", executor) if executor else ()
        recipe = ("--recipe", "tiny", "--no-report")
        words = [*inside, sys.executable, *program, *where, *grid, *recipe, *options, *self.given]
        variables = {
            "PYTHONPATH": str(self.code),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        } | environment
        output = (self.papers or self.root) / f"command-{number}.log"
        with open(output, "wb") as file:
            process = subprocess.Popen(
                words,
                cwd=self.code,
                env=self.cluster.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.commands.append(Command(process, output))
        return self.commands[-1]

    def ask(self, *words: str) -> str:
        """Runs a Python program of the working tree (sweeps/status.py) and returns its output."""
        variables = {"PYTHONPATH": str(self.code), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.code,
            env=self.cluster.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def leave(self) -> None:
        """Kill what the user has left running on the login node."""
        for command in self.commands:
            if command.running:
                command.kill()

    # ---- what is read ----------------------------------------------------------------------------

    def job_id(self, point: Point) -> str:
        """The SLURM job of the point's newest submission; "" before there is one."""
        return str(read(point.run_dir / "job.json").get("job_id", ""))

    def wait_for_job(self, point: Point, seconds: float = 60) -> str:
        return self._wait(lambda: self.job_id(point), seconds, f"the submission of {point.name}")

    def wait_for_step(self, point: Point, step: int, seconds: float = 120) -> None:
        """Until the journal holds that step of pre-training."""
        self._wait(
            lambda: last_step(point.run_dir) >= step, seconds, f"step {step} of {point.name}"
        )

    def wait_for_restart(self, point: Point, attempt: int, seconds: float = 120) -> None:
        """Until the attempt with this number (from 1) has taken the run directory."""
        self._wait(
            lambda: len(starts(point.run_dir)) >= attempt,
            seconds,
            f"attempt {attempt} at {point.name}",
        )

    def wait_for_end(self, point: Point, seconds: float = 180) -> dict[str, Any]:
        """Until the results are written; returns status.json."""
        return self._wait(
            lambda: finished_status(point.run_dir), seconds, f"the end of {point.name}"
        )

    def _wait(self, condition: Callable[[], T], seconds: float, what: str) -> T:
        """Waits until `condition` is true; fails at once if the newest command has failed.

        A command that was killed has not failed.
        """

        def come() -> T:
            failed = bool(self.commands) and (self.commands[-1].process.poll() or 0) > 0
            found = (
                condition()
            )  # after the look at the command: it may have ended because of what is waited for
            assert found or not failed, f"{what}: the command has ended\n{self.details()}"
            return found

        return wait_until(come, seconds, what, details=self.details)

    def details(self) -> str:
        """Returns what helps to find a fault: outputs, states, ends of the jobs' logs."""
        parts = [
            f"--- command {number}\n{command.output[-2500:]}"
            for number, command in enumerate(self.commands, 1)
        ]
        for point in self.points:
            job, status = read(point.run_dir / "job.json"), read(point.run_dir / "status.json")
            parts.append(
                f"--- {point.name}: {len(starts(point.run_dir))} attempts, "
                f"step {last_step(point.run_dir)}\n{job}\n{status}"
            )
            for name in ("stdout", "stderr"):
                path = Path(str(job.get(name, "")))
                if path.is_file():
                    parts.append(f"--- {path}\n{path.read_text(errors='replace')[-2500:]}")
        try:
            parts.append(f"--- squeue\n{self.cluster.command('squeue', '--array')}")
        except (
            Exception
        ) as error:  # it is only for the message, and the controller may be what is down
            parts.append(f"--- squeue: {error}")
        return "\n".join(parts)


def read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def finished_status(run_dir: Path) -> dict[str, Any]:
    """Returns status.json once the run is over and its results exist; {} before."""
    status = read(run_dir / "status.json") if (run_dir / "results.json").exists() else {}
    return status if status.get("state") == "finished" else {}


def starts(run_dir: Path) -> list[Attempt]:
    """Returns the attempts at the run directory in order, also killed and replaced ones."""
    return attempts(run_dir)


def metric_lines(run_dir: Path, stage: str = "pretrain") -> list[dict[str, Any]]:
    lines = (line for _, line in read_journal(run_dir / "journal.jsonl"))
    return [line for line in lines if line["kind"] == "metrics" and line["stage"] == stage]


def last_step(run_dir: Path, stage: str = "pretrain") -> int:
    return max((line["step"] for line in metric_lines(run_dir, stage)), default=0)


def comparable(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the journal without what two undisturbed runs do not share.

    That is: times, speed, cost, and remarks about the progress.
    """
    lines = []
    for _, line in read_journal(run_dir / "journal.jsonl"):
        if line["kind"] == "event":
            continue
        kept = {key: value for key, value in line.items() if key != "time"}
        if "metrics" in kept:
            kept["metrics"] = {
                key: value
                for key, value in kept["metrics"].items()
                if not key.startswith(NOT_COMPARED)
            }
        lines.append(kept)
    return lines


def assert_same_run(run_dir: Path, undisturbed: Path) -> None:
    """Final weights of both stages bit by bit, the journal line by line, and the results."""
    for stage in ("pretrain", "finetune"):
        ours, theirs = (
            load_file(folder / "checkpoints" / f"{stage}.safetensors")
            for folder in (run_dir, undisturbed)
        )
        assert ours.keys() == theirs.keys()
        different = [name for name in theirs if not ours[name].equal(theirs[name])]
        assert not different, f"weights of {stage} differ: {different[:5]}"
    ours_lines, their_lines = comparable(run_dir), comparable(undisturbed)
    doubled = [
        key
        for key, count in Counter(
            (line.get("stage"), line.get("step")) for line in ours_lines
        ).items()
        if count > 1
    ]
    known = {
        key
        for key, count in Counter(
            (line.get("stage"), line.get("step")) for line in their_lines
        ).items()
        if count > 1
    }
    assert set(doubled) == known, f"steps that stand twice in the journal: {set(doubled) - known}"
    for number, (mine, theirs_line) in enumerate(zip(ours_lines, their_lines, strict=True), 1):
        assert mine == theirs_line, f"journal line {number}"
    assert read_results(run_dir) == read_results(undisturbed)


def read_results(run_dir: Path) -> Any:
    return json.loads((run_dir / "results.json").read_text())


def elsewhere(experiment: Experiment, root: Path) -> Experiment:
    """Returns the experiment with another folder of runs."""
    return replace(experiment, runtime=replace(experiment.runtime, root=str(root)))
