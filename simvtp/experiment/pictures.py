"""Draws pictures of a run: what its model reconstructs, and pages of examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import INITIAL
from simvtp.config.train_config import LossConfig
from simvtp.config.tree import narrow
from simvtp.data.datasets import open_dataset
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.progress import LogFn
from simvtp.data.text.tokenizer import encode_captions
from simvtp.errors import UserError
from simvtp.evaluation.examples.gallery import redraw_examples
from simvtp.evaluation.reconstruction import draw_reconstructions
from simvtp.experiment.context import ExperimentContext, open_experiment
from simvtp.experiment.final_weights import load_final_weights
from simvtp.methods import build_model
from simvtp.runs.rundir import StatusWriter, load_experiment
from simvtp.training.checkpointing.checkpoint import always_owned
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.parallel.distributed import Launch, choose_device

VISUALISED = 4  # samples in the reconstructions of each run


def draw_pictures(context: ExperimentContext, split: str, samples: int = VISUALISED) -> list[Path]:
    """Draws reconstructions of the first clips of a split into `figures/`; returns the paths.

    There are none of a model that was never pre-trained: what its random decoder draws looks like
    a result and is none.
    """
    experiment, model = context.experiment, context.models["pretrain"]
    reconstructs = bool({"mvm", "mlm"} & set(experiment.losses.wanted))
    if not reconstructs or experiment.finetune.init == INITIAL:
        return []
    clips = [clip for clip in context.dataset.splits[split] if clip.captions][:samples]
    if not clips:
        return []
    loader = ViewLoader(
        clips,
        data=experiment.data,
        model=experiment.model,
        runtime=experiment.runtime,
        segments=1,
        crops=1,
        batch_size=samples,
    )
    frames: Tensor = torch.cat([views for views, _ in loader.batches()])
    captions = [clip.captions[0] for clip in clips]
    tokens = encode_captions(context.tokenizer, captions, experiment.model)
    batch = Batch(
        frames,
        tokens.input_ids,
        tokens.attention_mask,
        tokens.word_ids,
        tuple(clip.id for clip in clips),
    ).to(context.device)
    masks = context.draw_masks(batch, step=0, first_sample=0)
    return draw_reconstructions(
        model,
        batch,
        masks,
        context.tokenizer,
        context.directory / "figures",
        narrow(experiment.losses, LossConfig).mvm_target,
    )


def visualize(
    run_dir: Path,
    samples: int = VISUALISED,
    split: str = "test",
    say: LogFn = print,
    *,
    examples: int = 8,
) -> list[Path]:
    """Draws the pictures of a run and returns their paths.

    Args:
        run_dir: the run directory.
        samples: clips that the pre-trained model reconstructs, if the run has pre-trained one.
        split: split of these clips.
        say: gets lines about what is missing.
        examples: items on the example page of each task that the run was scored on.

    Raises:
        UserError: there is nothing to draw.
        CheckpointError: the weights are not those that the run has written.
    """
    experiment = load_experiment(run_dir)
    dataset = open_dataset(experiment.data, experiment.runtime, say=say)
    paths = [
        *_draw_reconstructions(run_dir, experiment, samples, split, say),
        *redraw_examples(run_dir, experiment, dataset, examples, say),
    ]
    if paths:
        return paths
    if not (run_dir / "checkpoints" / "pretrain.json").exists() and not experiment.finetune.init:
        raise UserError(
            f"the pre-training in {run_dir} has not ended: there are no final weights yet."
        )
    raise UserError(
        f"there is nothing to show of {run_dir}: its training reconstructs nothing "
        "(no MVM or MLM), and no test was scored, or only by a version that stored no items."
    )


def _draw_reconstructions(
    run_dir: Path, experiment: Experiment, samples: int, split: str, say: LogFn
) -> list[Path]:
    if not (run_dir / "checkpoints" / "pretrain.json").exists():
        return []
    launch = Launch()
    device = choose_device(experiment.runtime.device, launch)
    status = StatusWriter(run_dir, writes=False)  # a run is not changed by drawing it
    context = open_experiment(
        experiment, run_dir, device, replace(launch, rank=1), say, StopFlag(), status, always_owned
    )
    model = build_model(context.experiment.model, experiment.losses.wanted, experiment.seed)
    load_final_weights(model, run_dir, "pretrain")
    context.models["pretrain"] = model.to(device).eval()
    return draw_pictures(context, split, samples)
