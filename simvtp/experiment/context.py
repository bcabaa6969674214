"""Settings, data, tasks, run directory and journal that the stages of one experiment share."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import WEIGHTED_KINDS, MACMaskConfig
from simvtp.data.datasets import Dataset, open_dataset, require_captions
from simvtp.data.progress import LogFn
from simvtp.data.text.piece_weights import counted_captions, piece_weights
from simvtp.data.text.tokenizer import Tokenizer, load_tokenizer
from simvtp.errors import ConfigError
from simvtp.methods import method_of
from simvtp.models.common.masking import masks_at_step
from simvtp.runs.journal import Journal
from simvtp.runs.results import rate_text
from simvtp.runs.rundir import StatusWriter
from simvtp.tasks import Context, Task, open_task, open_zero_shot
from simvtp.tasks.retrieval import Retrieval
from simvtp.training.checkpointing.preemption import StopFlag, stop_on_signals
from simvtp.training.parallel.distributed import Launch, together
from simvtp.training.parallel.kept_parts import KeptParts
from simvtp.training.stage import StageOutcome

Item = TypeVar("Item")
BLIND = "finetune_blind"  # the training of the text-only baseline, a part of the stage finetune


def with_vocabulary(experiment: Experiment, tokenizer: Tokenizer) -> Experiment:
    """Returns the experiment with the tokenizer's size in place of `model.vocab_size` 0.

    Raises ConfigError if the size is set and smaller than the tokenizer's.
    """
    size = experiment.model.vocab_size
    if 0 < size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size={size} is smaller than the {tokenizer.vocab_size} pieces of "
            f"data.tokenizer={experiment.data.tokenizer}: "
            "set model.vocab_size=0 to take the tokenizer's."
        )
    model = replace(experiment.model, vocab_size=size or tokenizer.vocab_size)
    return replace(experiment, model=model)


@contextlib.contextmanager
def until_signal() -> Iterator[StopFlag]:
    """Yields a flag that stop signals set.

    Signals can only be caught in the main thread (a notebook cell may run elsewhere).
    """
    if threading.current_thread() is threading.main_thread():
        with stop_on_signals() as flag:
            yield flag
    else:
        yield StopFlag()


@dataclass
class ExperimentContext:
    """State that all stages of one experiment share.

    Attributes:
        experiment: resolved settings.
        directory: the run directory.
        device: where the models are trained and scored.
        launch: rank and number of ranks.
        say: logs a line on rank 0.
        stop: set once somebody asks the process to stop.
        status: writer of status.json.
        check_ownership: raises once another attempt has taken the run directory over.
        journal: of the run; None on ranks that do not write.
        dataset: clips of all splits.
        tokenizer: of the captions.
        piece_weights: see `masking.draw_masks`; None where the kind of word masks needs none.
        zero_shot: test of the pre-trained model; None if there is none.
        tasks: task of each training, by the name of the training.
        models: final model of each training.
        outcomes: how each training ended.
        kept: parts of the evaluation in progress.
    """

    experiment: Experiment
    directory: Path
    device: torch.device
    launch: Launch
    say: LogFn
    stop: StopFlag
    status: StatusWriter
    check_ownership: Callable[[], None]
    journal: Journal | None
    dataset: Dataset
    tokenizer: Tokenizer
    piece_weights: Tensor | None = None
    zero_shot: Retrieval | None = None
    tasks: dict[str, Task] = field(default_factory=dict)
    models: dict[str, nn.Module] = field(default_factory=dict)
    outcomes: dict[str, StageOutcome] = field(default_factory=dict)
    kept: KeptParts = field(default_factory=KeptParts)

    def task_context(self, blind: bool = False) -> Context:
        """Returns the arguments with which a task is opened."""
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
            kept=self.kept,
        )

    def draw_masks(
        self, batch: Batch, step: int, first_sample: int, total_steps: int | None = None
    ) -> Masks:
        """Returns the pre-training masks of a batch.

        With `total_steps` those of a step of the training, whose ratios may change; without it,
        those of the constant ratios.
        """
        experiment, masks = self.experiment, self.experiment.masks
        seed = experiment.seed_of("masks")
        if total_steps is not None:
            masks = masks_at_step(masks, seed=seed, step=step, total_steps=total_steps)
        return method_of(experiment.model).draw(
            batch,
            experiment.model,
            masks,
            mask_id=self.tokenizer.mask_id,
            seed=seed,
            step=step,
            first_sample=first_sample,
            piece_weights=self.piece_weights,
        )

    def draw_finetuning_masks(self, batch: Batch, step: int, first_sample: int) -> Masks:
        """Returns the masks of a batch while fine-tuning (`finetune.task.masks`), of all frames."""
        masks = self.experiment.masks
        if isinstance(masks, MACMaskConfig):
            masks = replace(masks, frame_schedule="")
        seeds = replace(self.experiment.seeds, masks=self.experiment.seed_of("finetune"))
        changed = replace(self.experiment, masks=masks, seeds=seeds)
        of_all_frames = replace(self, experiment=changed)
        return of_all_frames.draw_masks(batch, step, first_sample)

    def until_stopped(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the same items.

        Raises Stopped once that was asked for, and Fenced once the run directory is another
        attempt's.
        """
        with contextlib.closing(items):  # type: ignore[type-var]
            for item in items:
                self.check_ownership()
                self.stop.check()
                yield item

    def on_log(self, record: dict[str, Any]) -> None:
        """Writes the training loop's report to the status and to the log."""
        self.status.on_log(record)
        metrics, left = record["metrics"], int(record["metrics"]["speed/eta_s"])
        self.say(
            f"{record['stage']} {record['step']}/{record['total_steps']}  "
            f"loss {metrics['loss/total']:.3f}  "
            f"{rate_text(metrics['speed/clips_per_s'])} clips/s  "
            f"data wait {100 * metrics['speed/data_wait_share']:.0f} %  "
            f"{left // 60}:{left % 60:02d} left in this stage"
        )


def open_experiment(
    experiment: Experiment,
    directory: Path,
    device: torch.device,
    launch: Launch,
    say: LogFn,
    stop: StopFlag,
    status: StatusWriter,
    check_ownership: Callable[[], None],
) -> ExperimentContext:
    """Returns the context of an experiment, with its data and tasks opened.

    Args: see `ExperimentContext`.

    Raises UserError if data or settings do not fit the experiment.
    """

    def open_data() -> tuple[Tokenizer, Dataset]:
        tokenizer = load_tokenizer(experiment.data.tokenizer)
        return tokenizer, open_dataset(
            experiment.data, experiment.runtime, say=say, check=stop.check
        )

    tokenizer, dataset = together(open_data)
    journal = None
    if launch.rank == 0:
        journal = Journal(directory / "journal.jsonl", check_ownership)
    sizes = ", ".join(f"{name} {len(clips)}" for name, clips in dataset.splits.items())
    say(
        f"{dataset.name}: {sizes} videos; fingerprint {experiment.fingerprint[:12]}; "
        f"seed {experiment.seed}; {device}"
    )
    tuning = experiment.finetune
    if not tuning.init:
        together(functools.partial(require_captions, dataset, "pre-training"))
    context = ExperimentContext(
        experiment=with_vocabulary(experiment, tokenizer),
        directory=directory,
        device=device,
        launch=launch,
        say=say,
        stop=stop,
        status=status,
        check_ownership=check_ownership,
        journal=journal,
        dataset=dataset,
        tokenizer=tokenizer,
    )
    if experiment.masks.text_kind in WEIGHTED_KINDS:
        context.piece_weights = _piece_weights(context)
    # Opened before the pre-training, so that what a task lacks is reported at once.
    if experiment.evaluate.zero_shot:
        context.zero_shot = together(lambda: open_zero_shot(context.task_context()))
    if tuning.enabled:
        blind = {"finetune": tuning.blind, **({BLIND: True} if tuning.baseline else {})}
        for name, hidden in blind.items():
            context.tasks[name] = together(
                functools.partial(open_task, context.task_context(hidden))
            )
    return context


def _piece_weights(context: ExperimentContext) -> Tensor:
    """Returns the weights of the pieces for the kind of word masks, on the device.

    They are those of the whole training split, whatever part of it is trained on.
    """
    model, clips = context.experiment.model, context.dataset.splits["train"]
    counted = counted_captions(clips, context.tokenizer, model)
    weights = piece_weights(counted, model.vocab_size, context.experiment.masks.text_kind)
    return weights.to(context.device)
