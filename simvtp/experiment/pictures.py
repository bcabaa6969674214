"""Pictures of a run: what its model fills in, and pages of examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.schema import Experiment
from simvtp.data.datasets import open_dataset
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.errors import UserError
from simvtp.evaluation.examples.gallery import redraw_examples
from simvtp.evaluation.reconstruction import draw_reconstructions
from simvtp.experiment.context import Running, Say, open_experiment
from simvtp.methods import build_model
from simvtp.runs.rundir import StatusWriter, load_experiment
from simvtp.training.checkpointing.checkpoint import unguarded
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.parallel.distributed import Launch, choose_device

VISUALISED = 4  # samples in the pictures of each run


def draw_pictures(running: Running, split: str, samples: int = VISUALISED) -> list[Path]:
    """Reconstructions of the first clips of a split by the pre-trained model, in `figures/`."""
    experiment, model = running.experiment, running.models["pretrain"]
    if not {"mvm", "mlm"} & set(experiment.losses.wanted):
        return []
    clips = [clip for clip in running.dataset.splits[split] if clip.captions][:samples]
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
    tokens = running.tokenizer.encode(
        [clip.captions[0] for clip in clips], experiment.model.text_length
    )
    batch = Batch(
        frames,
        tokens.input_ids,
        tokens.attention_mask,
        tokens.word_ids,
        tuple(clip.id for clip in clips),
    ).to(running.device)
    masks = running.draw(batch, step=0, first_sample=0)
    return draw_reconstructions(
        model,
        batch,
        masks,
        running.tokenizer,
        running.directory / "figures",
        experiment.losses.mvm_target,
    )


def visualize(
    run_dir: Path,
    samples: int = VISUALISED,
    split: str = "test",
    say: Say = print,
    *,
    examples: int = 8,
) -> list[Path]:
    """Draw reconstructions of `samples` clips by the pre-trained model of a run, if it has
    pre-trained one, and example pages of `examples` items of each task that it was scored on;
    returns the paths."""
    experiment = load_experiment(run_dir)
    dataset = open_dataset(experiment.data, experiment.runtime, say=say)
    paths = [
        *_rebuild(run_dir, experiment, samples, split, say),
        *redraw_examples(run_dir, experiment, dataset, examples, say),
    ]
    if paths:
        return paths
    if not (run_dir / "checkpoints" / "pretrain.json").exists() and not experiment.finetune.init:
        raise UserError(
            f"the pre-training in {run_dir} has not ended: there are no weights to look at yet."
        )
    raise UserError(
        f"there is nothing to show of {run_dir}: its training rebuilds nothing (no MVM or MLM), and no test was scored, or by a version that "
        "kept no items."
    )


def _rebuild(
    run_dir: Path, experiment: Experiment, samples: int, split: str, say: Say
) -> list[Path]:
    checkpoints = run_dir / "checkpoints"
    if not (checkpoints / "pretrain.json").exists():
        return []
    launch = Launch()
    device = choose_device(experiment.runtime.device, launch)
    status = StatusWriter(run_dir, writes=False)  # looking at a run does not change it
    running = open_experiment(
        experiment, run_dir, device, replace(launch, rank=1), say, StopFlag(), status, unguarded
    )
    model = build_model(running.experiment.model, experiment.losses.wanted, experiment.seed)
    model.load_state_dict(safetensors.torch.load_file(checkpoints / "pretrain.safetensors"))
    running.models["pretrain"] = model.to(device).eval()
    return draw_pictures(running, split, samples)
