"""One experiment from its settings to its results: pre-train, zero-shot test, fine-tune, test.

`run` is a plain function: call it in a notebook, in a job, or under torchrun on many ranks. Everything it knows lies in the run
directory, so it can be killed at any moment and called again: it continues at the stage, and inside a training stage at the
checkpoint, that it had reached. A finished experiment is not run again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from simvtp import tracking
from simvtp.batch import Batch, Masks
from simvtp.config import Experiment, TrainConfig, to_dict
from simvtp.data.datasets import Dataset, open_dataset, require_captions
from simvtp.data.loader import TrainLoader, ViewLoader
from simvtp.data.manifest import take_fraction
from simvtp.data.order import Order
from simvtp.data.text import Tokenizer, load_tokenizer
from simvtp.errors import ConfigError, Stopped, UserError
from simvtp.evaluation.cards import all_items, with_baseline
from simvtp.evaluation.gallery import draw_examples, redraw_examples
from simvtp.evaluation.items import items_path, write_items
from simvtp.evaluation.reconstruction import draw_reconstructions
from simvtp.journal import Journal, read_json, write_atomically
from simvtp.lease import Lease, hold
from simvtp.models import SimVTP, build_model, method_of
from simvtp.models.pretrained import import_weights
from simvtp.models.renaming import Conversion
from simvtp.models.size import model_size
from simvtp.results import Result
from simvtp.rundir import Status, is_finished, load_experiment, load_results, write_identity
from simvtp.settings import INITIAL, finalise, init_weights
from simvtp.tasks import Context, Task, open_task, open_zero_shot
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.twostage import Matcher
from simvtp.training.checkpoint import unguarded
from simvtp.training.distributed import (
    Launch,
    choose_device,
    distributed,
    launch_from_environment,
    on_main,
    telling_lost_ranks,
    threads_per_rank,
    together,
)
from simvtp.training.loop import train
from simvtp.training.meters import CostMeter
from simvtp.training.objectives import Objective, PretrainObjective
from simvtp.training.preemption import StopFlag, stop_on_signals
from simvtp.training.schedule import stage_steps
from simvtp.training.share import Share, share_batch
from simvtp.training.stage import Outcome, Stage

Say = Callable[[str], None]
Item = TypeVar("Item")
STAGES = ("pretrain", "zero_shot", "finetune", "evaluate")
BLIND = "finetune_blind"  # the training of the text-only baseline, a part of the stage finetune
VISUALISED = 4  # samples in the pictures of each run


def with_vocabulary(experiment: Experiment, tokenizer: Tokenizer) -> Experiment:
    """`model.vocab_size` 0 becomes the tokenizer's; a size that is smaller than the tokenizer's raises ConfigError."""
    size = experiment.model.vocab_size
    if 0 < size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size={size} is smaller than the {tokenizer.vocab_size} pieces of data.tokenizer={experiment.data.tokenizer}: "
            "set model.vocab_size=0 to take the tokenizer's."
        )
    return replace(experiment, model=replace(experiment.model, vocab_size=size or tokenizer.vocab_size))


# ---- one experiment ---------------------------------------------------------------------------------------------------------


def run(experiment: Experiment, *, say: Say = print, until: str = "evaluate", wait: bool = False) -> list[Result]:
    """Run what is missing of `experiment` and return its results (under torchrun: rank 0 does, the others return none).

    Args:
        experiment: settings; files they name are resolved here (`settings.finalise`).
        say: gets a plain line now and then, on rank 0.
        until: last stage to run, one of STAGES; the experiment counts as finished only after `evaluate`.
        wait: what to do while another process works on this experiment: wait for it, or raise UserError.

    Raises:
        UserError: see its subclasses; the state is in status.json and nothing that was saved is lost.
        Stopped: SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 asked for it; call again to continue. Its subclass `lease.Fenced`: another attempt
            has taken the run directory over, and this one has written nothing since.
    """
    experiment = finalise(experiment)
    if is_finished(experiment):
        return _known(experiment, say)
    launch = launch_from_environment()
    threads = threads_per_rank(experiment.runtime.threads, launch)
    if threads:
        torch.set_num_threads(threads)
    device = choose_device(experiment.runtime.device, launch)
    heard: Say = say if launch.rank == 0 else lambda line: None
    with distributed(device, launch), _owned(experiment.run_dir, wait, heard) as lease, until_signal() as stop:
        if on_main(lambda: is_finished(experiment)):  # another process finished it while this one waited
            return _known(experiment, heard) if launch.rank == 0 else []
        lease.on_lost(lambda: stop.set("taken over by another job"))
        return _run_stages(experiment, device, launch, heard, stop, lease.check, until)


def _known(experiment: Experiment, say: Say) -> list[Result]:
    say(f"{experiment.run_dir} holds the finished results of this experiment: nothing to run.")
    return load_results(experiment.run_dir)


@contextlib.contextmanager
def _owned(directory: Path, wait: bool, say: Say) -> Iterator[Lease]:
    """The run directory, for rank 0; if it cannot be had, all ranks learn of it."""
    with contextlib.ExitStack() as stack:
        taken: list[Lease] = []
        on_main(lambda: taken.append(stack.enter_context(hold(directory, wait=wait, say=say))))
        yield taken[0] if taken else Lease(None)


def _run_stages(
    experiment: Experiment, device: torch.device, launch: Launch, say: Say, stop: StopFlag, guard: Callable[[], None], until: str
) -> list[Result]:
    """The stages up to `until` in the run directory, which is ours."""
    directory, writes, whole = experiment.run_dir, launch.rank == 0, until == STAGES[-1]
    on_main(lambda: write_identity(experiment, directory))
    mirror = tracking.BackgroundMirror(directory, experiment.runtime) if writes else contextlib.nullcontext()
    with mirror, Status(directory, writes=writes, whole=whole, guard=guard) as status, telling_lost_ranks():
        running = open_experiment(experiment, directory, device, launch, say, stop, status, guard)
        results = [result for name in STAGES[: STAGES.index(until) + 1] for result in RUN_STAGE[name](running)]
        if whole:
            content = json.dumps([result.to_dict() for result in results])
            on_main(lambda: write_atomically(directory / "results.json", content, guard))
    return results


@contextlib.contextmanager
def until_signal() -> Iterator[StopFlag]:
    """Signals can only be caught in the main thread (a notebook cell may run elsewhere)."""
    if threading.current_thread() is threading.main_thread():
        with stop_on_signals() as flag:
            yield flag
    else:
        yield StopFlag()


@dataclass
class _Running:
    """All that the stages of one experiment share."""

    experiment: Experiment
    directory: Path
    device: torch.device
    launch: Launch
    say: Say
    stop: StopFlag
    status: Status
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
        return replace(self, experiment=replace(self.experiment, masks=masks)).draw(batch, step, first_sample)

    def until_stopped(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; ends with Stopped once that was asked for, or once the run directory is not ours any more."""
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
            f"{metrics['speed/clips_per_s']:.0f} clips/s  data wait {100 * metrics['speed/data_wait_share']:.0f} %  "
            f"{left // 60}:{left % 60:02d} left in this stage"
        )


def open_experiment(
    experiment: Experiment,
    directory: Path,
    device: torch.device,
    launch: Launch,
    say: Say,
    stop: StopFlag,
    status: Status,
    guard: Callable[[], None],
) -> _Running:
    def prepare() -> tuple[Tokenizer, Dataset]:
        return load_tokenizer(experiment.data.tokenizer), open_dataset(experiment.data, experiment.runtime, say=say, check=stop.check)

    tokenizer, dataset = together(prepare)
    journal = Journal(directory / "journal.jsonl", guard) if launch.rank == 0 else None
    sizes = ", ".join(f"{name} {len(clips)}" for name, clips in dataset.splits.items())
    say(f"{dataset.name}: {sizes} videos; fingerprint {experiment.fingerprint[:12]}; seed {experiment.seed}; {device}")
    resolved, tuning = with_vocabulary(experiment, tokenizer), experiment.finetune
    if not tuning.init:
        together(functools.partial(require_captions, dataset, "pre-training"))
    running = _Running(resolved, directory, device, launch, say, stop, status, guard, journal, dataset, tokenizer)
    # Opened before the pre-training, so that what a task lacks is said at once.
    if experiment.evaluate.zero_shot:
        running.zero_shot = together(lambda: open_zero_shot(running.context()))
    if tuning.enabled:
        blind = {"finetune": tuning.blind, **({BLIND: True} if tuning.baseline else {})}
        for name, hidden in blind.items():
            running.tasks[name] = together(functools.partial(open_task, tuning.task, running.context(hidden)))
    return running


# ---- training stages --------------------------------------------------------------------------------------------------------


def _pretrain(running: _Running) -> list[Result]:
    experiment = running.experiment
    model = build_model(experiment.model, experiment.losses.wanted, experiment.seed)
    if experiment.finetune.init:
        return take_weights(running, model)
    running.status.update(**model_size(experiment.model, experiment.masks, experiment.losses.wanted))
    if not (running.directory / "checkpoints" / "pretrain.json").exists():
        _initialise(running, model)
    settings, clips = experiment.pretrain, running.dataset.splits["train"]
    share = _share(running, "pretrain", settings, experiment.losses.vtc_negatives if "vtc" in experiment.losses.wanted else "")
    if "vtm" in experiment.losses.wanted and share.samples < 2:
        raise ConfigError(
            f"losses.vtm needs another clip as negative, but a rank takes one sample at a time ({share.sentence('pretrain', '')}): "
            "use fewer ranks or accumulation steps, a larger runtime.micro_batch, or a batch_size with more divisors."
        )
    loader = together(
        lambda: TrainLoader(
            take_fraction(clips, experiment.data.fraction),
            running.tokenizer,
            data=experiment.data,
            model=experiment.model,
            runtime=experiment.runtime,
            batch_size=settings.batch_size,
            seed=experiment.seed,
            rank=running.launch.rank,
            world=running.launch.world,
            stage="pretrain",
            say=running.say,
            check=running.stop.check,
        )
    )
    # Of the whole split, whatever data.fraction: runs on a share of the data take as many steps, so that only the data differ.
    _train(running, "pretrain", settings, len(clips), model, PretrainObjective(experiment.losses), loader, running.draw)
    return []


def _initialise(running: _Running, model: nn.Module) -> list[Conversion]:
    config = running.experiment.model
    conversions = method_of(config).initialise(model, config)
    for conversion in conversions:
        running.say(str(conversion))
    return conversions


def take_weights(running: _Running, model: nn.Module) -> list[Result]:
    """No pre-training here: the weights of `finetune.init` stand in for its end."""
    tuning = running.experiment.finetune
    if tuning.init == INITIAL:
        conversions = _initialise(running, model)
    else:
        weights = init_weights(tuning.init)
        conversions = [together(lambda: import_weights(model, weights))]
        running.say(f"pre-trained weights: {weights}")
    brought = any(not any(name.startswith("match_head.") for name in conversion.kept) for conversion in conversions)
    if running.experiment.evaluate.rerank and not brought:
        raise ConfigError(
            f"evaluate.rerank={running.experiment.evaluate.rerank} needs a trained matching head, but the weights of "
            f"finetune.init={tuning.init} bring none: set evaluate.rerank=0, or start from a pre-training with losses.vtm above 0."
        )
    running.models["pretrain"] = model.to(running.device).eval()
    running.outcomes["pretrain"] = Outcome(step=0, stopped=False, sha256=tuning.init_digest or INITIAL)
    return []


def _finetune(running: _Running) -> list[Result]:
    for name in (BLIND, "finetune"):  # the main one last: what is scored afterwards follows its lines in the journal
        if name in running.tasks:
            _train_task(running, name, running.tasks[name])
    return []


def _train_task(running: _Running, name: str, task: Task) -> None:
    settings = running.experiment.finetune
    unified = running.models["pretrain"]
    prefix = "blind/" if name == BLIND else ""  # so that a metric has one course in the journal

    def score(candidate: nn.Module, step: int) -> dict[str, float]:
        results = task.score(candidate, settings.selection, "selection", "")
        return {prefix + key: value for key, value in task.select(results).items()}

    _share(running, name, settings.train, task.negatives)
    loader = together(lambda: task.loader(settings.train, name))
    model = task.build(unified)
    selection = prefix + task.selection
    draw = running.draw_tuning if settings.masks else None
    _train(running, name, settings.train, task.samples, model, task.objective(), loader, draw, score, settings.evaluations, selection)


def _share(running: _Running, name: str, settings: TrainConfig, negatives: str) -> Share:
    """How the batches of a training are cut; it is said."""
    share = share_batch(name, settings, running.launch.world, running.experiment.runtime.micro_batch)
    running.say(share.sentence(name, negatives))
    return share


def _train(
    running: _Running,
    name: str,
    settings: TrainConfig,
    samples: int,
    model: nn.Module,
    objective: Objective,
    loader: TrainLoader,
    draw: Callable[[Batch, int, int], Masks] | None,
    score: Callable[[nn.Module, int], dict[str, float]] | None = None,
    evaluations: int = 0,
    selection: str = "",
) -> None:
    """Train one stage to its end (or load it, if it has ended before); its model is then in `running.models`. `samples` make an epoch."""
    experiment, runtime = running.experiment, running.experiment.runtime
    epoch = Order(samples, settings.batch_size, experiment.seed).steps_per_epoch
    total = stage_steps(settings, epoch)
    on_main(lambda: running.status.update(stage=name, step=0, total_steps=total))
    stage = Stage(
        name=name,
        train=settings,
        total_steps=total,
        seed=experiment.seed,
        directory=running.directory,
        fingerprint=experiment.fingerprint,
        config=to_dict(experiment),
        device=str(running.device),
        log_every=runtime.log_every,
        checkpoint_every=runtime.checkpoint_every,
        keep=runtime.keep_checkpoints,
        micro_batch=runtime.micro_batch,
        merge_passes=runtime.merge_passes,
        shard=runtime.shard == "full",
        evaluate_at=tuple(round(total * (i + 1) / evaluations) for i in range(evaluations)) if evaluations else (),
        best=selection,
    )
    outcome = train(
        stage,
        model,
        objective,
        loader.batches,
        draw,
        running.journal,
        evaluate=score,
        on_log=running.on_log,
        measure=loader.counters.metrics,
        stop=running.stop,
        guard=running.guard,
    )
    running.status.spent[name] = outcome.cpu_hours, outcome.gpu_hours
    if outcome.stopped:
        raise Stopped(
            f"stopped at step {outcome.step} of {total} of {name} ({running.stop.reason or 'another rank'}); the same command continues there."
        )
    running.models[name], running.outcomes[name] = model.eval(), outcome


# ---- scoring ----------------------------------------------------------------------------------------------------------------


def _zero_shot(running: _Running) -> list[Result]:
    """Retrieval with the pre-trained encoder, whatever the task of the fine-tuning."""
    if running.zero_shot is None:
        return []
    pictures = functools.partial(_draw_pictures, running, running.experiment.evaluate.split)
    return _scored(running, "zero_shot", "pretrain", functools.partial(zero_shot_figures, running), pictures)


def zero_shot_figures(running: _Running, checkpoint: str) -> list[Result]:
    """All figures of the pre-trained model; none if the experiment asks for none."""
    split = running.experiment.evaluate.split
    if running.zero_shot is None:
        return []
    return _retrieval_figures(running, running.zero_shot, "pretrain", split, "zero-shot", checkpoint)


def _evaluate(running: _Running) -> list[Result]:
    if not running.experiment.finetune.enabled:
        return []
    return _scored(running, "evaluate", "finetune", functools.partial(finetuned_figures, running))


def finetuned_figures(running: _Running, checkpoint: str) -> list[Result]:
    """All figures of the fine-tuned model, its trained baseline beside them."""
    settings, split, task = running.experiment.finetune, running.experiment.evaluate.split, running.tasks["finetune"]
    setting = "finetuned" + ", video hidden" * settings.blind + ", selected on test" * (settings.selection == "test")
    if isinstance(task, Retrieval):
        return _retrieval_figures(running, task, "finetune", split, setting, checkpoint)
    results = task.score(running.models["finetune"], split, setting, checkpoint)
    if not settings.baseline:
        return results
    blind = running.tasks[BLIND].score(running.models[BLIND], split, setting, running.outcomes[BLIND].sha256)
    pairs = zip(results, blind, strict=True)
    return [with_baseline(result, other, "video hidden") for result, other in pairs]


def _retrieval_figures(running: _Running, task: Retrieval, trained: str, split: str, setting: str, checkpoint: str) -> list[Result]:
    """The plain figures first, then those that were asked for; whatever was trained, the pre-trained pair encoder (if any) re-ranks."""
    unified = running.models["pretrain"]
    matcher = Matcher(unified, running.outcomes["pretrain"].sha256) if isinstance(unified, SimVTP) else None
    return task.report(running.models[trained], split, setting, checkpoint, matcher)


def _scored(
    running: _Running, name: str, trained: str, measure: Callable[[str], list[Result]], afterwards: Callable[[], object] = lambda: None
) -> list[Result]:
    """Figures of a trained stage, measured once and kept in `stages/<name>.json`; the results are rank 0's."""
    results: list[Result] = []
    on_main(lambda: results.extend(_score_once(running, name, trained, measure, afterwards)))
    return results


def _score_once(
    running: _Running, name: str, trained: str, measure: Callable[[str], list[Result]], afterwards: Callable[[], object]
) -> list[Result]:
    path = running.directory / "stages" / f"{name}.json"
    outcome = running.outcomes[trained]
    stored = read_json(path) if path.exists() else None
    if stored is not None and stored["checkpoint"] == outcome.sha256:
        running.status.spent[name] = stored["cpu_hours"], stored["gpu_hours"]
        return [Result.from_dict(values) for values in stored["results"]]
    assert running.journal is not None
    running.status.update(stage=name, step=0, total_steps=0)
    running.journal.cut_back(outcome.journal_length)  # an attempt that was killed after its first lines starts anew
    cost = CostMeter(gpus=int(running.device.type == "cuda"))
    results = measure(outcome.sha256)
    for result in results:
        running.journal.write("result", result=result.to_dict())
        running.say(f"{result.line}  ({beside(result)})")
    items = all_items(results)
    results = [replace(result, items=None) for result in results]  # what they are made from is as large as the test set
    write_items(items_path(running.directory, name), items, running.guard)
    afterwards()
    cost.update()
    spent = {"cpu_hours": cost.cpu_s / 3600, "gpu_hours": cost.gpu_s / 3600}
    running.status.spent[name] = spent["cpu_hours"], spent["gpu_hours"]
    content = json.dumps({"checkpoint": outcome.sha256, "results": [result.to_dict() for result in results], **spent})
    write_atomically(path, content, running.guard)
    shown = running.experiment.runtime.examples
    draw_examples(running.directory, name, results, items, running.dataset, running.experiment, shown, running.guard)
    return results


def beside(result: Result) -> str:
    """What a result is to be compared with: `chance accuracy 6.2, prior 31.0, video hidden 32.4`, of its first metric; and what it took."""
    name = next(iter(result.metrics))
    others = [f"{other} {metrics[name]:.1f}" for other, metrics in result.baselines.items() if name in metrics]
    others += [f"{stage} {seconds:.2g} per query" for stage, seconds in result.seconds.items()]
    return ", ".join([f"chance {name} {result.chance[name]:.1f}"] * (name in result.chance) + others)


# ---- pictures ---------------------------------------------------------------------------------------------------------------


def _draw_pictures(running: _Running, split: str, samples: int = VISUALISED) -> list[Path]:
    """Reconstructions of the first clips of a split by the pre-trained model, in `figures/`."""
    experiment, model = running.experiment, running.models["pretrain"]
    if not {"mvm", "mlm"} & set(experiment.losses.wanted):
        return []
    clips = [clip for clip in running.dataset.splits[split] if clip.captions][:samples]
    if not clips:
        return []
    loader = ViewLoader(
        clips, data=experiment.data, model=experiment.model, runtime=experiment.runtime, segments=1, crops=1, batch_size=samples
    )
    frames: Tensor = torch.cat([views for views, _ in loader.batches()])
    tokens = running.tokenizer.encode([clip.captions[0] for clip in clips], experiment.model.text_length)
    batch = Batch(frames, tokens.input_ids, tokens.attention_mask, tokens.word_ids, tuple(clip.id for clip in clips)).to(running.device)
    masks = running.draw(batch, step=0, first_sample=0)
    return draw_reconstructions(model, batch, masks, running.tokenizer, running.directory / "figures", experiment.losses.mvm_target)


def visualize(run_dir: Path, samples: int = VISUALISED, split: str = "test", say: Say = print, *, examples: int = 8) -> list[Path]:
    """Draw reconstructions of `samples` clips by the pre-trained model of a run, if it has pre-trained one, and example pages of
    `examples` items of each task that it was scored on; returns the paths."""
    experiment = load_experiment(run_dir)
    dataset = open_dataset(experiment.data, experiment.runtime, say=say)
    paths = [*_rebuild(run_dir, experiment, samples, split, say), *redraw_examples(run_dir, experiment, dataset, examples, say)]
    if paths:
        return paths
    if not (run_dir / "checkpoints" / "pretrain.json").exists() and not experiment.finetune.init:
        raise UserError(f"the pre-training in {run_dir} has not ended: there are no weights to look at yet.")
    raise UserError(
        f"there is nothing to show of {run_dir}: its training rebuilds nothing (no MVM or MLM), and no test was scored, or by a version that "
        "kept no items."
    )


def _rebuild(run_dir: Path, experiment: Experiment, samples: int, split: str, say: Say) -> list[Path]:
    checkpoints = run_dir / "checkpoints"
    if not (checkpoints / "pretrain.json").exists():
        return []
    launch = Launch()
    device = choose_device(experiment.runtime.device, launch)
    status = Status(run_dir, writes=False)  # looking at a run does not change it
    running = open_experiment(experiment, run_dir, device, replace(launch, rank=1), say, StopFlag(), status, unguarded)
    model = build_model(running.experiment.model, experiment.losses.wanted, experiment.seed)
    model.load_state_dict(safetensors.torch.load_file(checkpoints / "pretrain.safetensors"))
    running.models["pretrain"] = model.to(device).eval()
    return _draw_pictures(running, split, samples)


RUN_STAGE: dict[str, Callable[[_Running], list[Result]]] = {
    "pretrain": _pretrain,
    "zero_shot": _zero_shot,
    "finetune": _finetune,
    "evaluate": _evaluate,
}
