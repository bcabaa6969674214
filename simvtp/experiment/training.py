"""The two stages that train: pre-training, and fine-tuning on a task.

A task may be trained a second time as its text-only baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from simvtp.batch import Batch, Masks
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.config.finetune_config import INITIAL
from simvtp.config.train_config import TrainConfig
from simvtp.config.tree import to_dict
from simvtp.data.clips import Clip, ClipView
from simvtp.data.loading.sample_order import SampleOrder, partners
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.manifest import take_fraction
from simvtp.errors import ConfigError, Stopped, StopReason
from simvtp.experiment.context import BLIND, ExperimentContext
from simvtp.experiment.measuring import zero_shot_on_the_way
from simvtp.experiment.measuring_use import use_on_the_way
from simvtp.experiment.startup_timing import FIRST_STEP, MODEL, record_timestamp
from simvtp.methods import build_model, method_of
from simvtp.models.flops.model_size import model_size
from simvtp.models.weights.conversion import ConversionReport
from simvtp.models.weights.pretrained import import_weights
from simvtp.resolve import init_weights
from simvtp.runs.results import Result
from simvtp.tasks import Task
from simvtp.training.loop import train
from simvtp.training.lr_schedule import stage_steps
from simvtp.training.objectives import Objective, PretrainObjective
from simvtp.training.parallel.batch_split import BatchSplit, split_batch
from simvtp.training.parallel.distributed import on_main, together
from simvtp.training.parallel.micro_batch import fewest_samples
from simvtp.training.stage import Evaluate, Stage, StageOutcome


def pretrain(context: ExperimentContext) -> list[Result]:
    """Pre-trains the model, or loads the weights of `finetune.init` in its place."""
    experiment = context.experiment
    model = build_model(experiment.model, experiment.losses.wanted, experiment.seed_of("init"))
    if experiment.finetune.init:
        return load_initial_weights(context, model)
    context.status.update(
        **model_size(experiment.model, experiment.masks, experiment.losses.wanted)
    )
    if not (context.directory / "checkpoints" / "pretrain.json").exists():
        _initialise(context, model)
    settings, clips = experiment.pretrain, context.dataset.splits["train"]
    negatives = experiment.losses.vtc_negatives if "vtc" in experiment.losses.wanted else ""
    share = _split_batch(context, "pretrain", settings, negatives)
    if "vtm" in experiment.losses.wanted and share.samples < 2:
        raise ConfigError(
            "losses.vtm needs another clip as negative, but a rank takes one sample at a time "
            f"({share.describe('pretrain', '')}): use fewer ranks or accumulation steps, "
            "a larger runtime.micro_batch, or a batch_size with more divisors."
        )
    loader = together(
        lambda: TrainLoader(
            pretraining_clips(clips, experiment),
            context.tokenizer,
            data=experiment.data,
            model=experiment.model,
            runtime=experiment.runtime,
            batch_size=settings.batch_size,
            seed=experiment.seed_of("order"),
            rank=context.launch.rank,
            world=context.launch.world,
            stage="pretrain",
            say=context.say,
            check=context.stop.check,
        )
    )
    # Steps of the full split, whatever data.fraction: runs on a fraction of the data take as many
    # steps, so that only the data differ.
    score, evaluate_at = _on_the_way(context, _total_steps(settings, len(clips)))
    _train(
        context,
        "pretrain",
        settings,
        len(clips),
        model,
        PretrainObjective(experiment.losses, experiment.model),
        loader,
        partial(context.draw_masks, total_steps=_total_steps(settings, len(clips))),
        negatives,
        score,
        evaluate_at,
    )
    return []


def _on_the_way(context: ExperimentContext, total: int) -> tuple[Evaluate | None, tuple[int, ...]]:
    """Returns what is measured during pre-training, and after which steps."""
    wanted = context.experiment.evaluate
    points = (
        (use_on_the_way(context), wanted.use_points),
        (zero_shot_on_the_way(context), wanted.during_pretraining),
    )
    measures = [(measure, spread_steps(total, count)) for measure, count in points if measure]

    def score(model: nn.Module, step: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for measure, steps in measures:
            if step in steps:
                found |= measure(model, step)
        return found

    evaluate_at = sorted({step for _, steps in measures for step in steps})
    return (score if measures else None), tuple(evaluate_at)


def pretraining_clips(clips: Sequence[Clip], experiment: Experiment) -> Sequence[Clip]:
    """Returns the training clips that pre-training sees, with the captions that it sees.

    With `data.pairing=shuffled` each has the captions of another one of them.
    """
    data, seed = experiment.data, experiment.seed_of("data")
    chosen = take_fraction(clips, data.fraction, seed if data.subset == "drawn" else None)
    if data.pairing == "own":
        return chosen
    others = partners(len(chosen), seed)
    if isinstance(chosen, ClipView):
        return chosen.with_captions_of(others)
    return tuple(
        replace(clip, captions=chosen[other].captions)
        for clip, other in zip(chosen, others.tolist(), strict=True)
    )


def _initialise(context: ExperimentContext, model: nn.Module) -> list[ConversionReport]:
    config = context.experiment.model
    conversions = method_of(config).initialise(model, config)
    for conversion in conversions:
        context.say(str(conversion))
    return conversions


def load_initial_weights(context: ExperimentContext, model: nn.Module) -> list[Result]:
    """Loads the weights of `finetune.init` as the end of the pre-training, which is left out.

    Raises ConfigError if `evaluate.rerank` needs a matching head that they lack.
    """
    tuning = context.experiment.finetune
    if tuning.init == INITIAL:
        conversions = _initialise(context, model)
    else:
        weights = init_weights(tuning.init)
        conversions = [together(lambda: import_weights(model, weights))]
        context.say(f"pre-trained weights: {weights}")
    if context.experiment.evaluate.rerank and not any(map(_has_match_head, conversions)):
        raise ConfigError(
            f"evaluate.rerank={context.experiment.evaluate.rerank} needs a trained matching head, "
            f"but the weights of finetune.init={tuning.init} have none: set evaluate.rerank=0, "
            "or start from a pre-training with losses.vtm above 0."
        )
    context.models["pretrain"] = model.to(context.device).eval()
    context.outcomes["pretrain"] = StageOutcome(
        step=0, stopped=False, sha256=tuning.init_digest or INITIAL
    )
    return []


def _has_match_head(conversion: ConversionReport) -> bool:
    return not any(name.startswith("match_head.") for name in conversion.kept)


def finetune(context: ExperimentContext) -> list[Result]:
    """Fine-tunes on the task, after its text-only baseline if there is one."""
    # the main training last: the results that follow belong to its lines in the journal
    for name in (BLIND, "finetune"):
        if name in context.tasks:
            _train_task(context, name, context.tasks[name])
    return []


def _train_task(context: ExperimentContext, name: str, task: Task) -> None:
    settings = context.experiment.finetune
    unified = context.models["pretrain"]
    prefix = "blind/" if name == BLIND else ""  # so that a metric is one curve in the journal

    def score(candidate: nn.Module, step: int) -> dict[str, float]:
        scored = task.score(candidate, settings.selection, "selection", "")
        selected = task.select([one.result for one in scored])
        return {prefix + key: value for key, value in selected.items()}

    _split_batch(context, name, settings.train, task.negatives)
    loader = together(lambda: task.loader(settings.train, name))
    model = task.build(unified)
    selection = prefix + task.selection
    draw = context.draw_finetuning_masks if settings.ranking.masks else None
    _train(
        context,
        name,
        settings.train,
        task.samples,
        model,
        task.objective(),
        loader,
        draw,
        task.negatives,
        score,
        _evaluation_steps(settings.train, task.samples, settings.evaluations),
        selection,
    )


def _split_batch(
    context: ExperimentContext, name: str, settings: TrainConfig, negatives: str
) -> BatchSplit:
    """Returns how the batches of a training are split over ranks, and logs it.

    On a GPU it may be split further by the loop, which then logs it.
    """
    runtime = context.experiment.runtime
    most = _most_samples(runtime)
    share = split_batch(name, settings.batch_size, context.launch.world, runtime.accumulate, most)
    if context.device.type == "cpu" or not _fits_itself(runtime):
        context.say(share.describe(name, negatives))
    return share


def _most_samples(runtime: RuntimeConfig) -> int:
    """Returns `runtime.micro_batch`; 0, which is all samples, where it is chosen later."""
    return 0 if runtime.micro_batch == "auto" else runtime.micro_batch


def _fits_itself(runtime: RuntimeConfig) -> bool:
    """Returns whether the loop chooses the micro-batch, on a GPU."""
    return runtime.micro_batch == "auto" and runtime.accumulate == 0


def _train(
    context: ExperimentContext,
    name: str,
    settings: TrainConfig,
    samples: int,
    model: nn.Module,
    objective: Objective,
    loader: TrainLoader,
    draw: Callable[[Batch, int, int], Masks] | None,
    negatives: str,
    score: Evaluate | None = None,
    evaluate_at: tuple[int, ...] = (),
    selection: str = "",
) -> None:
    """Trains one stage to its end, or loads it if it has ended before.

    Args:
        context: of the experiment; gets the final model and the outcome.
        name: name of the training.
        settings: schedule and optimizer.
        samples: samples of an epoch.
        model, objective: what is trained, and the losses of a batch.
        loader: batches of this rank.
        draw: returns the masks of a micro-batch; None without masks.
        negatives: see `BatchSplit.describe`.
        score: returns metrics on the way, also those by which weights are selected.
        evaluate_at: steps after which `score` is called.
        selection: name of the metric that selects the weights; empty: the last ones.

    Raises Stopped once the process was asked to stop and the state is saved.
    """
    total = _total_steps(settings, samples)
    on_main(lambda: context.status.update(stage=name, step=0, total_steps=total))
    on_main(lambda: record_timestamp(context.status, MODEL))
    stage = _stage(context, name, settings, total, evaluate_at, selection)
    stage = replace(stage, negatives=negatives, workers=loader.workers)
    outcome = train(
        stage,
        model,
        objective,
        loader.batches,
        draw,
        context.journal,
        evaluate=score,
        on_log=context.on_log,
        measure=loader.counters.metrics,
        stop=context.stop,
        check_ownership=context.check_ownership,
        on_first_batch=partial(record_timestamp, context.status, FIRST_STEP),
        say=context.say,
    )
    context.status.spent[name] = outcome.cpu_hours, outcome.gpu_hours
    if outcome.stopped:
        raise Stopped(
            f"stopped at step {outcome.step} of {total} of {name} "
            f"({context.stop.reason or 'another rank'}); the same command continues there.",
            context.stop.cause or StopReason.OTHER_RANK,
        )
    context.models[name], context.outcomes[name] = model.eval(), outcome


def _steps_per_epoch(settings: TrainConfig, samples: int) -> int:
    return SampleOrder(samples, settings.batch_size, seed=0).steps_per_epoch


def _total_steps(settings: TrainConfig, samples: int) -> int:
    return stage_steps(settings, _steps_per_epoch(settings, samples))


def _stage(
    context: ExperimentContext,
    name: str,
    settings: TrainConfig,
    total: int,
    evaluate_at: tuple[int, ...],
    selection: str,
) -> Stage:
    """Returns the description of a training that the loop needs."""
    experiment, runtime = context.experiment, context.experiment.runtime
    return Stage(
        name=name,
        train=settings,
        total_steps=total,
        seed=experiment.seed_of("order" if name == "pretrain" else "finetune"),
        directory=context.directory,
        fingerprint=experiment.fingerprint,
        config=to_dict(experiment),
        device=str(context.device),
        log_every=runtime.log_every,
        log_every_s=runtime.log_every_s,
        checkpoint_every=runtime.checkpoint_every,
        checkpoint_every_s=runtime.checkpoint_every_s,
        keep=runtime.keep_checkpoints,
        accumulate=runtime.accumulate,
        micro_batch=_most_samples(runtime),
        fit=_fits_itself(runtime),
        fewest=fewest_samples(experiment.losses.wanted if name == "pretrain" else ()),
        compile=runtime.compile,
        compile_mode=runtime.compile_mode,
        gradient_checkpointing=runtime.gradient_checkpointing,
        merge_passes=runtime.merge_passes,
        pack_text=_packs_text(context),
        shard=runtime.shard == "full",
        evaluate_at=evaluate_at,
        best=selection,
    )


def _evaluation_steps(settings: TrainConfig, samples: int, evaluations: int) -> tuple[int, ...]:
    """Returns the steps after which the selection split is scored; 0 evaluations: every epoch."""
    total = _total_steps(settings, samples)
    if evaluations:
        return spread_steps(total, evaluations)
    epoch = _steps_per_epoch(settings, samples)
    return (*range(epoch, total, epoch), total)


def spread_steps(total: int, points: int) -> tuple[int, ...]:
    """Returns so many steps, evenly spread, the last of them the end of the training."""
    return tuple(round(total * (number + 1) / points) for number in range(points))


def _packs_text(context: ExperimentContext) -> bool:
    """Returns `runtime.pack_text`.

    `auto` is off on a GPU, which would wait for the number of words, and with compiled blocks,
    which need one shape.
    """
    runtime = context.experiment.runtime
    wanted = runtime.pack_text
    return wanted == "on" or (
        wanted == "auto" and context.device.type == "cpu" and not runtime.compile
    )
