"""`bench memory`: the memory of a pre-training step of each recipe, counted without a GPU.

The table says how many samples a GPU takes at a time, for some numbers of GPUs and sizes of their
memory, and what a recipe needs that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from simvtp.bench.gpu.step_cases import pretraining_masks
from simvtp.bench.step.sizes import random_batch
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import MACConfig, ModelConfig, SimVTPConfig
from simvtp.config.recipes import get_recipe
from simvtp.config.tree import narrow
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.models.flops.meta_init import on_meta_device
from simvtp.models.mac.mac_model import MAC
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.training.objectives import PretrainObjective
from simvtp.training.parallel.micro_batch import (
    CONTEXT,
    GIB,
    REMAINDERS,
    fewest_samples,
    fitting_samples,
    usable,
)
from simvtp.training.parallel.step_memory import StepMemory, count_memory

MIB = 2**20
RECIPES = ("base", "released", "large", "huge", "mac", "mac_unmasked", "frozen")
GPUS = (1, 2, 4, 8)
# name of a card's memory in GB -> GiB that torch sees, the least of the cards of that name
CARDS = {24: 22.0, 40: 39.3, 80: 79.1, 141: 139.0}


@dataclass(frozen=True)
class RecipeMemory:
    """Counted memory of a recipe's pre-training step.

    Attributes:
        recipe: its name.
        batch: samples of the global batch.
        fewest: samples of a micro-batch at least.
        plain: as the recipe is.
        checkpointed: with gradient checkpointing; None where all fits without.
    """

    recipe: str
    batch: int
    fewest: int
    plain: StepMemory
    checkpointed: StepMemory | None = None


def count_recipe(name: str, config: ModelConfig | None = None) -> RecipeMemory:
    """Returns the counted memory of a recipe, or of it with another model of the same method."""
    experiment = get_recipe(name)
    if config is not None:
        experiment = replace(experiment, model=config)
    plain = count_pretraining(experiment, ForwardOptions())
    fewest = fewest_samples(experiment.losses.wanted)
    memory = RecipeMemory(name, experiment.pretrain.batch_size, fewest, plain)
    if all(fitted(memory, gpus, size * GIB) for gpus in GPUS for size in CARDS.values()):
        return memory
    options = ForwardOptions(gradient_checkpointing=True)
    return replace(memory, checkpointed=count_pretraining(experiment, options))


def count_pretraining(experiment: Experiment, options: ForwardOptions) -> StepMemory:
    """Returns the counted memory of a pre-training step."""
    config = experiment.model
    return count_memory(
        shape_of(config, experiment.losses.wanted),
        PretrainObjective(experiment.losses, config),
        pretraining_masks(experiment),
        random_batch(config, 1),
        experiment.pretrain,
        options,
    )


def shape_of(config: ModelConfig, wanted: tuple[str, ...]) -> nn.Module:
    """Returns the model without values."""
    with on_meta_device():
        if isinstance(config, MACConfig):
            return MAC(config)
        return SimVTP(narrow(config, SimVTPConfig), wanted)


# ---- the page ------------------------------------------------------------------------------------


def memory_page(counted: Sequence[RecipeMemory]) -> str:
    """Returns the page with the table of all recipes, numbers of GPUs and sizes of memory."""
    cards = ", ".join(f"{name} GB: {size:g}" for name, size in CARDS.items())
    lines = [
        "# Memory of a pre-training step, counted",
        "",
        "Counted without a GPU, by `python -m simvtp bench memory`; nothing here was measured on "
        "one. AdamW, one process a GPU, without `torch.compile`.",
        "",
        f"GiB that torch has of a card: {cards}. Of these a step may fill "
        f"{100 * (1 - REMAINDERS):.0f} % less {CONTEXT / GIB:g} GiB.",
        "",
        *_count_lines(counted),
        "",
        "## Samples at a time",
        "",
        "The most samples of a micro-batch that fit, with the counted GiB. In brackets, if they "
        "are fewer than the GPU's part of the batch: how many micro-batches a step has. "
        "`checkpointing`: `runtime.gradient_checkpointing=true`. `shard`: also "
        "`runtime.shard=full`. —: does not fit.",
        "",
        f"| recipe | batch | GPUs | {' | '.join(f'{name} GB' for name in CARDS)} |",
        f"|{' --- |' * 3}{' --- |' * len(CARDS)}",
    ]
    for memory in counted:
        for gpus in GPUS:
            cells = " | ".join(fitted(memory, gpus, size * GIB) or "—" for size in CARDS.values())
            lines.append(f"| {memory.recipe} | {memory.batch} | {gpus} | {cells} |")
    return "\n".join(lines) + "\n"


def _count_lines(counted: Sequence[RecipeMemory]) -> Iterator[str]:
    """Yields a table of what was counted."""
    yield ("| recipe | weights, gradients, AdamW (GiB) | MiB a sample | MiB of any micro-batch |")
    yield "| --- | --- | --- | --- |"
    for memory in counted:
        plain, states = memory.plain, memory.plain.peak(0, 0) - memory.plain.small.fixed
        cells = [
            memory.recipe,
            f"{states / GIB:.2f}",
            f"{plain.small.sample / MIB:.0f}",
            f"{plain.small.fixed / MIB:.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def fitted(memory: RecipeMemory, gpus: int, size: float) -> str:
    """Returns what fits into GPUs of `size` bytes: as the recipe is, or with what it needs.

    Empty if nothing does.
    """
    mine, room = memory.batch // gpus, usable(size)
    for how, counted, shards in (
        ("", memory.plain, 1),
        (", checkpointing", memory.checkpointed, 1),
        (", checkpointing, shard", memory.checkpointed, gpus),
    ):
        if counted is None:
            continue
        samples = fitting_samples(counted, room, mine, memory.fewest, shards)
        if samples is not None:
            parts = "" if samples == mine else f" ({mine // samples})"
            need = counted.peak(samples, mine, shards) / GIB
            return f"{samples}{parts}, {need:.0f}{how}"
    return ""
