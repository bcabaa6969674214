"""The two stages that train: pre-training, and fine-tuning on a task (with its text-only baseline,
if one is wanted).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from simvtp.batch import Batch, Masks
from simvtp.config.schema import TrainConfig, to_dict
from simvtp.config.validation import INITIAL
from simvtp.data.loading.sample_order import SampleOrder
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.manifest import take_fraction
from simvtp.errors import ConfigError, Stopped, StopReason
from simvtp.experiment.context import BLIND, Running
from simvtp.experiment.startup_timing import MODEL, mark, marking
from simvtp.methods import build_model, method_of
from simvtp.models.flops.model_size import model_size
from simvtp.models.weights.pretrained import import_weights
from simvtp.models.weights.state_dict_maps import Conversion
from simvtp.resolve import init_weights
from simvtp.runs.results import Result
from simvtp.tasks import Task
from simvtp.training.loop import train
from simvtp.training.lr_schedule import stage_steps
from simvtp.training.objectives import Objective, PretrainObjective
from simvtp.training.parallel.batch_split import Share, share_batch
from simvtp.training.parallel.distributed import on_main, together
from simvtp.training.stage import Outcome, Stage


def pretrain(running: Running) -> list[Result]:
    experiment = running.experiment
    model = build_model(experiment.model, experiment.losses.wanted, experiment.seed)
    if experiment.finetune.init:
        return take_weights(running, model)
    running.status.update(
        **model_size(experiment.model, experiment.masks, experiment.losses.wanted)
    )
    if not (running.directory / "checkpoints" / "pretrain.json").exists():
        _initialise(running, model)
    settings, clips = experiment.pretrain, running.dataset.splits["train"]
    share = _share(
        running,
        "pretrain",
        settings,
        experiment.losses.vtc_negatives if "vtc" in experiment.losses.wanted else "",
    )
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
    # Of the whole split, whatever data.fraction: runs on a share of the data take as many steps, so
    # that only the data differ.
    _train(
        running,
        "pretrain",
        settings,
        len(clips),
        model,
        PretrainObjective(experiment.losses),
        loader,
        running.draw,
    )
    return []


def _initialise(running: Running, model: nn.Module) -> list[Conversion]:
    config = running.experiment.model
    conversions = method_of(config).initialise(model, config)
    for conversion in conversions:
        running.say(str(conversion))
    return conversions


def take_weights(running: Running, model: nn.Module) -> list[Result]:
    """No pre-training here: the weights of `finetune.init` stand in for its end."""
    tuning = running.experiment.finetune
    if tuning.init == INITIAL:
        conversions = _initialise(running, model)
    else:
        weights = init_weights(tuning.init)
        conversions = [together(lambda: import_weights(model, weights))]
        running.say(f"pre-trained weights: {weights}")
    brought = any(
        not any(name.startswith("match_head.") for name in conversion.kept)
        for conversion in conversions
    )
    if running.experiment.evaluate.rerank and not brought:
        raise ConfigError(
            f"evaluate.rerank={running.experiment.evaluate.rerank} needs a trained matching head, but the weights of "
            f"finetune.init={tuning.init} bring none: set evaluate.rerank=0, or start from a pre-training with losses.vtm above 0."
        )
    running.models["pretrain"] = model.to(running.device).eval()
    running.outcomes["pretrain"] = Outcome(
        step=0, stopped=False, sha256=tuning.init_digest or INITIAL
    )
    return []


def finetune(running: Running) -> list[Result]:
    for name in (
        BLIND,
        "finetune",
    ):  # the main one last: what is scored afterwards follows its lines in the journal
        if name in running.tasks:
            _train_task(running, name, running.tasks[name])
    return []


def _train_task(running: Running, name: str, task: Task) -> None:
    settings = running.experiment.finetune
    unified = running.models["pretrain"]
    prefix = "blind/" if name == BLIND else ""  # so that a metric has one course in the journal

    def score(candidate: nn.Module, step: int) -> dict[str, float]:
        scored = task.score(candidate, settings.selection, "selection", "")
        selected = task.select([one.result for one in scored])
        return {prefix + key: value for key, value in selected.items()}

    _share(running, name, settings.train, task.negatives)
    loader = together(lambda: task.loader(settings.train, name))
    model = task.build(unified)
    selection = prefix + task.selection
    draw = running.draw_tuning if settings.masks else None
    _train(
        running,
        name,
        settings.train,
        task.samples,
        model,
        task.objective(),
        loader,
        draw,
        score,
        settings.evaluations,
        selection,
    )


def _share(running: Running, name: str, settings: TrainConfig, negatives: str) -> Share:
    """How the batches of a training are cut; it is said."""
    share = share_batch(
        name, settings, running.launch.world, running.experiment.runtime.micro_batch
    )
    running.say(share.sentence(name, negatives))
    return share


def _train(
    running: Running,
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
    """Train one stage to its end (or load it, if it has ended before); its model is then in
    `running.models`. `samples` make an epoch.
    """
    experiment, runtime = running.experiment, running.experiment.runtime
    epoch = SampleOrder(samples, settings.batch_size, experiment.seed).steps_per_epoch
    total = stage_steps(settings, epoch)
    on_main(lambda: running.status.update(stage=name, step=0, total_steps=total))
    on_main(lambda: mark(running.status, MODEL))
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
        pack_text=_packs_text(running, settings),
        shard=runtime.shard == "full",
        evaluate_at=tuple(round(total * (i + 1) / evaluations) for i in range(evaluations))
        if evaluations
        else (),
        best=selection,
    )
    outcome = train(
        stage,
        model,
        objective,
        marking(loader.batches, running.status),
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
            f"stopped at step {outcome.step} of {total} of {name} ({running.stop.reason or 'another rank'}); the same command continues there.",
            running.stop.cause or StopReason.OTHER_RANK,
        )
    running.models[name], running.outcomes[name] = model.eval(), outcome


def _packs_text(running: Running, settings: TrainConfig) -> bool:
    """runtime.pack_text; "auto" leaves a GPU alone, which would wait for the number of words, and
    compiled blocks, which want one shape.
    """
    wanted = running.experiment.runtime.pack_text
    return wanted == "on" or (
        wanted == "auto" and running.device.type == "cpu" and not settings.compile
    )
