"""Compares our model with a reference file of Frozen-in-Time as published.

The file (see `reference_file`) holds weights in the published naming, `in/pixels_uint8`
[B, frames, 3, H, W], `in/input_ids` and `in/attention_mask` [B, L], the features, their cosines and
the loss, gradient norms, and gradients in full. Sizes come from its metadata, or from the shapes
where only these have them; the settings of the model come from the recipe `frozen`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.model_config import MACConfig, MoreFrames
from simvtp.config.recipes import frozen
from simvtp.config.tree import narrow
from simvtp.errors import CheckpointError
from simvtp.experiment.references.feature_comparison import compare_features
from simvtp.experiment.references.reference_file import (
    NEGLIGIBLE,
    TENSOR_LIMIT,
    Deviation,
    Reference,
    compare,
    ratio,
)
from simvtp.models.common.embeddings import PAD_ID, TEXT_NORM_EPS
from simvtp.models.common.layers import BLOCK_NORM_EPS
from simvtp.models.mac.mac_model import MAC
from simvtp.models.weights.frozen_naming import (
    SPATIAL,
    is_frozen,
    to_frozen,
    without_parallel,
)
from simvtp.models.weights.mac_weights import import_mac_state

# the published names of the ways to fill positions in time that the weights lack
MORE_FRAMES: dict[str, MoreFrames] = {"zeros": "zero", "interp": "nearest", "bilinear": "bilinear"}


def is_frozen_reference(reference: Reference) -> bool:
    """Returns whether the weights of the file are in Frozen's naming."""
    return is_frozen(reference.group("state/"))


def check_frozen(reference: Reference, dtype: torch.dtype) -> Iterator[Deviation]:
    """Compares features, cosines, loss and gradients with those of the file.

    Raises:
        CheckpointError: the file lacks something, or its parts contradict each other.
    """
    config = _config(reference)
    model = MAC(config).to(dtype).eval()
    import_mac_state(model, reference.group("state/"), reference.path, {})
    model.text_tower.embedding.word.padding_idx = reference.config.get("pad_id", PAD_ID)
    outputs = model(_batch(reference, config), None)
    yield from compare_features(reference, outputs)
    yield from _gradients(reference, model)


def _gradients(reference: Reference, model: MAC) -> Iterator[Deviation]:
    """Yields the deviations of gradient norms, and of elements where the file has gradients."""
    found = to_frozen(
        {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in model.named_parameters()
        },
        model.config.patch_size,
    )

    def ours(name: str) -> Tensor:
        if name not in found:
            raise CheckpointError(
                f"{reference.path}: there is a gradient of '{name}', which is no parameter of "
                "Frozen-in-Time with these weights."
            )
        return found[name]

    norms = without_parallel(reference.group("grad_norm/"))
    floor = NEGLIGIBLE * max((norm.item() for norm in norms.values()), default=0.0)
    for name, norm in norms.items():
        difference = abs(ours(name).double().norm().item() - norm.item())
        yield Deviation(
            f"grad_norm/{name}", ratio(difference, max(norm.item(), floor)), TENSOR_LIMIT
        )
    elements = without_parallel(reference.group("grad/"))
    largest = max((value.abs().max().item() for value in elements.values()), default=0.0)
    for name, value in elements.items():
        yield compare(f"grad/{name}", ours(name), value, NEGLIGIBLE * largest)


def _config(reference: Reference) -> MACConfig:
    """Returns the model of the recipe `frozen` with the sizes of the file.

    Raises:
        CheckpointError: a size is missing, or is not that of the weights.
    """
    state = without_parallel(reference.group("state/"))

    def shape(name: str) -> torch.Size:
        return _tensor(reference, state, name).shape

    for key, ours in (
        ("layer_norm_eps_video", BLOCK_NORM_EPS),
        ("layer_norm_eps_text", TEXT_NORM_EPS),
    ):
        eps = reference.config.get(key, ours)
        if eps != ours:
            raise CheckpointError(
                f"{reference.path}: computed with {key}={eps}, but this model has {ours}."
            )
    layer = "text_model.transformer.layer.0."
    words = shape("text_model.embeddings.word_embeddings.weight")
    positions = shape("text_model.embeddings.position_embeddings.weight")
    kernel = shape("video_model.patch_embed.proj.weight")
    video_hidden = shape("video_model.blocks.0.mlp.fc1.weight")[0]
    config = replace(
        narrow(frozen().model, MACConfig),
        image_size=reference.whole("image_size"),
        frames=reference.whole("num_frames"),
        patch_size=kernel[-1],
        dim=kernel[0],
        depth=_blocks(state, r"video_model\.blocks\.(\d+)\."),
        heads=reference.whole("heads"),
        mlp_ratio=video_hidden / kernel[0],
        vocab_size=words[0],
        text_length=reference.tensor("in/attention_mask").shape[1],
        max_text_positions=positions[0],
        text_dim=words[1],
        text_depth=_blocks(state, r"text_model\.transformer\.layer\.(\d+)\."),
        text_heads=reference.whole("text_heads"),
        text_mlp_ratio=shape(f"{layer}ffn.lin1.weight")[0] / words[1],
        projection=shape("vid_proj.0.weight")[0],
        more_frames=_filling(reference),
        text_dropout=0.0,
        text_block_dropout=0.0,
    )
    _check_sizes(reference, config, shape(SPATIAL)[1] - 1)
    return config


def _tensor(reference: Reference, state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise CheckpointError(
            f"{reference.path}: there is no weight '{name}', so the model cannot be built."
        )
    return state[name]


def _blocks(state: dict[str, Tensor], pattern: str) -> int:
    """Returns the number of blocks, whose numbers are the group of `pattern`."""
    matches = [re.match(pattern, name) for name in state]
    return 1 + max(int(match[1]) for match in matches if match)


def _filling(reference: Reference) -> MoreFrames:
    published = reference.config.get("load_temporal_fix", "zeros")
    if published not in MORE_FRAMES:
        raise CheckpointError(
            f"{reference.path}: load_temporal_fix={published} in its metadata is none of "
            f"{', '.join(MORE_FRAMES)}."
        )
    return MORE_FRAMES[published]


def _check_sizes(reference: Reference, config: MACConfig, positions: int) -> None:
    """Compares the sizes in the metadata with those of the weights and the inputs."""
    _, height, width = config.grid
    if height * width != positions or config.image_size % config.patch_size:
        raise CheckpointError(
            f"{reference.path}: image_size={config.image_size} with patches of "
            f"{config.patch_size} pixels does not give the {positions} positions of {SPATIAL}."
        )
    for part, dim, heads in (
        ("heads", config.dim, config.heads),
        ("text_heads", config.text_width, config.text_head_count),
    ):
        if heads < 1 or dim % heads:
            raise CheckpointError(
                f"{reference.path}: {part}={heads} in its metadata does not divide the width {dim}."
            )
    for key, found in {
        "patch_size": config.patch_size, "embed_dim": config.dim, "depth": config.depth,
        "vocab_size": config.vocab_size, "text_dim": config.text_dim,
        "text_depth": config.text_depth, "projection_dim": config.projection,
        "max_text_positions": config.max_text_positions,
    }.items():  # fmt: skip
        if reference.config.get(key, found) != found:
            raise CheckpointError(
                f"{reference.path}: '{key}' in its metadata is {reference.config[key]}, but its "
                f"weights have {found}."
            )


def _batch(reference: Reference, config: MACConfig) -> Batch:
    pixels = reference.tensor("in/pixels_uint8")  # [B, T, 3, H, W]
    side = config.image_size
    if pixels.dim() != 5 or pixels.dtype != torch.uint8 or pixels.shape[2:] != (3, side, side):
        raise CheckpointError(
            f"{reference.path}: in/pixels_uint8 is {pixels.dtype} {list(pixels.shape)}, but must "
            f"be uint8 [B, frames, 3, {side}, {side}]."
        )
    if not 1 <= pixels.shape[1] <= config.frames:
        raise CheckpointError(
            f"{reference.path}: in/pixels_uint8 has {pixels.shape[1]} frames, but the model has "
            f"positions for {config.frames}."
        )
    ids, mask = reference.tensor("in/input_ids").long(), reference.tensor("in/attention_mask")
    if ids.shape != mask.shape or len(ids) != len(pixels):
        raise CheckpointError(
            f"{reference.path}: in/input_ids {list(ids.shape)}, in/attention_mask "
            f"{list(mask.shape)} and {len(pixels)} clips do not belong together."
        )
    return Batch(
        pixels.permute(0, 1, 3, 4, 2).contiguous(),
        ids,
        mask.bool(),
        torch.full_like(ids, -1),
        ("",) * len(ids),
    )
