"""What the stages of one experiment share: settings, data, tasks, the run directory and its
journal.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from simvtp.batch import Batch, Masks
from simvtp.config.schema import Experiment
from simvtp.data.datasets import Dataset, open_dataset, require_captions
from simvtp.data.text.tokenizer import Tokenizer, load_tokenizer
from simvtp.errors import ConfigError
from simvtp.methods import method_of
from simvtp.runs.journal import Journal
from simvtp.runs.results import rate_text
from simvtp.runs.rundir import StatusWriter
from simvtp.tasks import Context, Task, open_task, open_zero_shot
from simvtp.tasks.retrieval import Retrieval
from simvtp.training.checkpointing.preemption import StopFlag, stop_on_signals
from simvtp.training.parallel.distributed import Launch, together
from simvtp.training.stage import Outcome

Say = Callable[[str], None]
Item = TypeVar("Item")
BLIND = "finetune_blind"  # the training of the text-only baseline, a part of the stage finetune


def with_vocabulary(experiment: Experiment, tokenizer: Tokenizer) -> Experiment:
    """`model.vocab_size` 0 becomes the tokenizer's; a size that is smaller than the tokenizer's
    raises ConfigError.
    """
    size = experiment.model.vocab_size
    if 0 < size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size={size} is smaller than the {tokenizer.vocab_size} pieces of data.tokenizer={experiment.data.tokenizer}: "
            "set model.vocab_size=0 to take the tokenizer's."
        )
    return replace(
        experiment, model=replace(experiment.model, vocab_size=size or tokenizer.vocab_size)
    )


@contextlib.contextmanager
def until_signal() -> Iterator[StopFlag]:
    """Signals can only be caught in the main thread (a notebook cell may run elsewhere)."""
    if threading.current_thread() is threading.main_thread():
        with stop_on_signals() as flag:
            yield flag
    else:
        yield StopFlag()


@dataclass
class Running:
    """All that the stages of one experiment share."""

    experiment: Experiment
    directory: Path
    device: torch.device
    launch: Launch
    say: Say
    stop: StopFlag
    status: StatusWriter
    guard: Callable[[], None]  # raises once another attempt has taken the run directory over
    journal: Journal | None
    dataset: Dataset
    tokenizer: Tokenizer
    zero_shot: Retrieval | None = None  # what the pre-trained model is tested on, if it is
    tasks: dict[str, Task] = field(default_factory=dict)  # training -> what it learns
    models: dict[str, nn.Module] = field(default_factory=dict)  # training -> its final model
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def context(self, blind: bool = False) -> Context:
        """What a task is opened with."""
        return Context(
            experiment=self.experiment,
            dataset=self.dataset,
            tokenizer=self.tokenizer,
            device=self.device,
            rank=self.launch.rank,
            world=self.launch.world,
            blind=blind,
            say=self.say,
            check=self.stop.check,
            until_stopped=self.until_stopped,
        )

    def draw(self, batch: Batch, step: int, first_sample: int) -> Masks:
        """The pre-training masks of a batch."""
        experiment = self.experiment
        return method_of(experiment.model).draw(
            batch,
            experiment.model,
            experiment.masks,
            mask_id=self.tokenizer.mask_id,
            seed=experiment.seed,
            step=step,
            first_sample=first_sample,
        )

    def draw_tuning(self, batch: Batch, step: int, first_sample: int) -> Masks:
        """The same masks while fine-tuning (`finetune.masks`), of all frames."""
        masks = replace(self.experiment.masks, frames="")
        return replace(self, experiment=replace(self.experiment, masks=masks)).draw(
            batch, step, first_sample
        )

    def until_stopped(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; ends with Stopped once that was asked for, or once the run directory is
        not ours any more.
        """
        with contextlib.closing(items):  # type: ignore[type-var]
            for item in items:
                self.guard()
                self.stop.check()
                yield item

    def on_log(self, record: dict[str, Any]) -> None:
        self.status.on_log(record)
        metrics, left = record["metrics"], int(record["metrics"]["speed/eta_s"])
        self.say(
            f"{record['stage']} {record['step']}/{record['total_steps']}  loss {metrics['loss/total']:.3f}  "
            f"{rate_text(metrics['speed/clips_per_s'])} clips/s  data wait {100 * metrics['speed/data_wait_share']:.0f} %  "
            f"{left // 60}:{left % 60:02d} left in this stage"
        )


def open_experiment(
    experiment: Experiment,
    directory: Path,
    device: torch.device,
    launch: Launch,
    say: Say,
    stop: StopFlag,
    status: StatusWriter,
    guard: Callable[[], None],
) -> Running:
    def prepare() -> tuple[Tokenizer, Dataset]:
        return load_tokenizer(experiment.data.tokenizer), open_dataset(
            experiment.data, experiment.runtime, say=say, check=stop.check
        )

    tokenizer, dataset = together(prepare)
    journal = Journal(directory / "journal.jsonl", guard) if launch.rank == 0 else None
    sizes = ", ".join(f"{name} {len(clips)}" for name, clips in dataset.splits.items())
    say(
        f"{dataset.name}: {sizes} videos; fingerprint {experiment.fingerprint[:12]}; seed {experiment.seed}; {device}"
    )
    resolved, tuning = with_vocabulary(experiment, tokenizer), experiment.finetune
    if not tuning.init:
        together(functools.partial(require_captions, dataset, "pre-training"))
    running = Running(
        resolved, directory, device, launch, say, stop, status, guard, journal, dataset, tokenizer
    )
    # Opened before the pre-training, so that what a task lacks is said at once.
    if experiment.evaluate.zero_shot:
        running.zero_shot = together(lambda: open_zero_shot(running.context()))
    if tuning.enabled:
        blind = {"finetune": tuning.blind, **({BLIND: True} if tuning.baseline else {})}
        for name, hidden in blind.items():
            running.tasks[name] = together(
                functools.partial(open_task, tuning.task, running.context(hidden))
            )
    return running
