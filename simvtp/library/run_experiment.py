"""Runs an experiment: a recipe, a file of settings, or the settings of an earlier run."""

from __future__ import annotations

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.data.progress import LogFn
from simvtp.experiment import run as run_stages
from simvtp.runs.results import Result
from simvtp.sources.experiment_source import experiment_of


def run(
    source: str | Experiment,
    *settings: str,
    say: LogFn = print,
    until: str = "evaluate",
    wait: bool = False,
) -> list[Result]:
    """Runs what is missing of an experiment and returns its results.

    It is `python -m simvtp run` as a function, for notebooks, jobs and scripts; a script needs no
    main guard unless it defines a reader of its own. A finished experiment is not run again.

    Args:
        source: name of a recipe, a file of settings (`.yaml`), a run directory, or an experiment.
        settings: changes, `key=value` each.
        say: gets a line now and then.
        until: last stage: pretrain, use, zero_shot, finetune or evaluate.
        wait: wait while another process works on this experiment; False: UserError.

    Raises:
        ConfigError: there is no such experiment or setting.
        UserError: see its subclasses; nothing that was saved is lost.
        Stopped: a signal asked for it; the same call continues.

    Examples:
        >>> results = simvtp.run("tiny", *settings, "masks.video_ratio=0.75", say=str)
        >>> results[-1].protocol.direction, sorted(results[-1].metrics)
        ('v2t', ['MdR', 'MnR', 'R1', 'R10', 'R5', 'R50'])
    """
    experiment = experiment_of(source) if isinstance(source, str) else source
    return run_stages(override(experiment, settings), say=say, until=until, wait=wait)
