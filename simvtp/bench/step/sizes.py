"""Sizes, random inputs and masks of the step benchmarks, equal for all that are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MaskConfig, ModelConfig, SimVTPConfig
from simvtp.errors import ConfigError
from simvtp.models.common.embeddings import IMAGENET_MEAN, IMAGENET_STD
from simvtp.models.common.masking import UNUSED, draw_masks

MASK_ID, CLS_ID, SEP_ID, FIRST_WORD = 4, 2, 3, 5
SHORTEST = 8  # words of the shortest caption; the longest fills the text
SIZES = {
    "tiny": SimVTPConfig(
        image_size=64,
        frames=8,
        patch_size=8,
        dim=192,
        depth=4,
        heads=3,
        decoder_dim=96,
        decoder_depth=2,
        decoder_heads=3,
        vocab_size=3000,
        max_text_positions=64,
    ),
    "base": SimVTPConfig(),
}
BATCHES = {"tiny": 32, "base": 4}  # on a CPU; use --batch for more on a GPU


@dataclass(frozen=True)
class Inputs:
    """One batch in the forms that the candidates read.

    Attributes:
        batch: The batch that ours reads.
        masks: The masks that ours reads.
        pixels: float32 [B, T, 3, H, W], normalised with the ImageNet mean and standard deviation,
            as the other implementations' loaders return it.
        hidden: bool [B, N], True at masked tubes.
        labels: int64 [B, L], the original ids at masked words, -100 elsewhere.
        negatives: int64 [B], the index of the clip that is each text's negative.
    """

    batch: Batch
    masks: Masks
    pixels: Tensor
    hidden: Tensor
    labels: Tensor
    negatives: Tensor


def model_size(name: str) -> SimVTPConfig:
    """Returns the sizes of that name.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in SIZES:
        raise ConfigError(f"there is no size '{name}' to measure: choose from {', '.join(SIZES)}.")
    return SIZES[name]


def random_batch(config: ModelConfig, size: int, seed: int = 0) -> Batch:
    """Returns clips of noise with captions of SHORTEST words to the full length, evenly spread."""
    g = torch.Generator().manual_seed(seed)
    clips = torch.randint(
        0,
        256,
        (size, config.frames, config.image_size, config.image_size, 3),
        dtype=torch.uint8,
        generator=g,
    )
    length = config.text_length
    fewest = min(SHORTEST, length - 2)
    words = fewest + torch.arange(size) * (length - 1 - fewest) // size
    words = words[torch.randperm(size, generator=g)][:, None]
    positions = torch.arange(length)
    inside = (positions >= 1) & (positions <= words)
    ids = torch.where(
        inside, torch.randint(FIRST_WORD, config.vocab_size, (size, length), generator=g), 0
    )
    ids = torch.where(positions == 0, CLS_ID, torch.where(positions == words + 1, SEP_ID, ids))
    names = tuple(f"clip{i}" for i in range(size))
    return Batch(clips, ids, positions <= words + 1, torch.where(inside, positions - 1, -1), names)


def make_inputs(
    config: SimVTPConfig, masks: MaskConfig, size: int, device: torch.device, seed: int = 0
) -> Inputs:
    """Returns a batch of `size` samples with its masks, on the device.

    The negative of a text is the next clip.
    """
    batch = random_batch(config, size, seed)
    negatives = (torch.arange(size) + 1) % size
    drawn = draw_masks(batch, config, masks, mask_id=MASK_ID, seed=seed, step=0, first_sample=0)
    drawn = replace(drawn, negative_index=negatives)
    hidden = torch.zeros(size, config.tubes, dtype=torch.bool).scatter(1, drawn.masked, True)
    labels = torch.where((drawn.input_ids != batch.input_ids), batch.input_ids, UNUSED)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    pixels = ((batch.clips.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3).contiguous()
    moved = replace(
        drawn,
        **{name: value.to(device) for name, value in vars(drawn).items() if value is not None},
    )
    return Inputs(
        batch.to(device),
        moved,
        pixels.to(device),
        hidden.to(device),
        labels.to(device),
        negatives.to(device),
    )
