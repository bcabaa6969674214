"""Compares our models with reference files of the released implementation.

A reference file (`.safetensors`) holds weights `state/*` in the released naming, inputs `in/*`,
outputs `out/*`, gradient norms `grad_norm/*` and its sizes as JSON in the metadata key `config`.
There are two kinds, told apart by their content: of the pre-training model and of the dual encoder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import SimVTPConfig
from simvtp.errors import CheckpointError
from simvtp.models.common.embeddings import PAD_ID
from simvtp.models.common.layers import BLOCK_NORM_EPS
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.models.weights.pretrained import import_state
from simvtp.training.losses import (
    contrastive_loss,
    masked_pixel_loss,
    matching_loss,
    normalise_tubes,
    word_loss,
)

TENSOR_LIMIT = 1e-5  # outputs and losses
GRADIENT_LIMIT = 1e-4  # gradient norms
# smaller gradient norms, relative to the file's largest, count as this: rounding noise has no ratio
NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Deviation:
    """One comparison of a tensor.

    Attributes:
        name: of the tensor.
        relative: max |ours - reference| / max |reference|.
        limit: largest value that is accepted.
    """

    name: str
    relative: float
    limit: float

    @property
    def ok(self) -> bool:
        """Returns True if the deviation is within its limit."""
        return self.relative <= self.limit


@dataclass(frozen=True)
class Reference:
    """A reference file in memory; its methods raise CheckpointError for what it lacks."""

    path: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def size(self, key: str) -> Any:
        """Returns an entry of the metadata."""
        if key not in self.config:
            raise CheckpointError(
                f"{self.path}: its metadata `config` has no '{key}', so the model cannot be built."
            )
        return self.config[key]

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor by its full name."""
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path}: there is no tensor '{name}' in this reference file."
            )
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors whose names begin with `prefix`, without it."""
        return {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }


def read_reference(path: str | Path) -> Reference:
    """Reads a reference file; raises CheckpointError if it is none."""
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path}: no sizes in its metadata (key `config`, a JSON object): this is not a reference file."
        )
    return Reference(str(path), config, tensors)


def check_reference_file(
    path: str | Path, dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)
) -> list[Deviation]:
    """Compares every output, loss and gradient norm of the file with ours, in each dtype.

    The name of a deviation begins with its dtype.
    """
    reference = read_reference(path)
    check = (
        _check_dual
        if any(name.startswith("state/video_encoder.") for name in reference.tensors)
        else _check_pretraining
    )
    return [
        Deviation(f"{str(dtype).removeprefix('torch.')} {found.name}", found.relative, found.limit)
        for dtype in dtypes
        for found in check(reference, dtype)
    ]


def main(path: str | Path) -> int:
    """Prints a line per comparison; returns 0 if all are within their limits, else 1."""
    found = check_reference_file(path)
    for deviation in found:
        print(
            f"{deviation.name:<72} {deviation.relative:9.2e}  limit {deviation.limit:.0e}  "
            f"{'ok' if deviation.ok else 'FAILS'}"
        )
    failed = sum(not deviation.ok for deviation in found)
    print(
        f"{len(found) - failed} of {len(found)} comparisons hold"
        + (f", {failed} fail" if failed else "")
    )
    return 1 if failed else 0


# ---- the two kinds -------------------------------------------------------------------------------


def _check_pretraining(reference: Reference, dtype: torch.dtype) -> Iterator[Deviation]:
    config = _config(reference, decoder=True)
    model = SimVTP(config).to(dtype)
    names = import_state(model, reference.group("state/"), reference.path).names
    model.text_embedding.word.padding_idx = reference.config.get("pad_id", PAD_ID)
    outputs = model(_batch(reference, "in/input_ids_original"), _masks(reference, config))
    target = normalise_tubes(outputs["video_pixels"], outputs["video_prediction"].dtype)
    temperature = reference.size("temperature")
    losses = torch.stack([
        masked_pixel_loss(outputs["video_prediction"], target),
        word_loss(outputs["word_logits"], outputs["word_labels"]),
        contrastive_loss(outputs["video_feature"], outputs["text_feature"], temperature),
        matching_loss(outputs["match_logits"]),
    ])  # fmt: skip
    losses.sum().backward()
    ours = {
        "out/video_prediction_masked": outputs["video_prediction"],
        "out/video_target_masked": target,
        "out/mlm_logits": outputs["word_logits"],
        "out/vtm_logits": outputs["match_logits"],
        "out/text_feature": outputs["text_feature"],
        "out/video_feature": outputs["video_feature"],
    }
    for name, value in ours.items():
        yield _deviation(name, value, reference.tensor(name))
    expected = reference.tensor("out/losses_mvm_mlm_vtc_vtm")
    for name, value, right in zip(("mvm", "mlm", "vtc", "vtm"), losses, expected, strict=True):
        yield _deviation(f"loss {name}", value, right)
    yield from _gradients(reference, model, names)


def _check_dual(reference: Reference, dtype: torch.dtype) -> Iterator[Deviation]:
    config = _config(reference, decoder=False)
    model = DualEncoder(config).to(dtype)
    names = import_state(model, reference.group("state/"), reference.path).names
    model.text_encoder.embedding.word.padding_idx = reference.config.get("pad_id", PAD_ID)
    outputs = model(_batch(reference, "in/input_ids"))
    video, text = outputs["video_feature"], outputs["text_feature"]
    loss = contrastive_loss(video, text, reference.size("temperature"))
    loss.backward()
    ours = {
        "out/video_embedding": video,
        "out/text_embedding": text,
        "out/similarity": F.normalize(text, dim=-1) @ F.normalize(video, dim=-1).T,
    }
    for name, value in ours.items():
        yield _deviation(name, value, reference.tensor(name))
    yield _deviation("loss", loss, reference.tensor("out/loss").squeeze())
    yield from _gradients(reference, model, names)


def _config(reference: Reference, decoder: bool) -> SimVTPConfig:
    """Returns the sizes, from the metadata or (MLP width, text length) from the tensors."""
    eps = reference.config.get("layer_norm_eps_blocks", BLOCK_NORM_EPS)
    if eps != BLOCK_NORM_EPS:
        raise CheckpointError(
            f"{reference.path}: computed with LayerNorm eps {eps}, but this model has {BLOCK_NORM_EPS}."
        )
    names = {"dim": "embed_dim", "max_text_positions": "max_text_positions"} | {
        key: key
        for key in (
            "image_size",
            "frames",
            "patch_size",
            "tubelet_size",
            "depth",
            "heads",
            "vocab_size",
        )
    }
    if decoder:
        names |= {key: key for key in ("decoder_dim", "decoder_depth", "decoder_heads")}
    sizes = {ours: reference.size(theirs) for ours, theirs in names.items()}
    first = "state/encoder." if decoder else "state/video_encoder."
    hidden = reference.tensor(f"{first}blocks.0.mlp.fc1.weight").shape[0]
    return SimVTPConfig(
        **sizes,
        mlp_ratio=hidden / sizes["dim"],
        text_length=reference.tensor("in/attention_mask").shape[1],
        text_dropout=0.0,
        pooling="with_pads",
        contrastive_text="masked",
        reuse_pair_pass=True,
    )


def _batch(reference: Reference, ids: str) -> Batch:
    mask = reference.tensor("in/attention_mask").bool()
    clips = (
        reference.tensor("in/pixels_uint8").permute(0, 2, 3, 4, 1).contiguous()
    )  # [B, 3, T, H, W] -> [B, T, H, W, 3]
    return Batch(
        clips,
        reference.tensor(ids).long(),
        mask,
        torch.full_like(mask, -1, dtype=torch.int64),
        ("",) * len(mask),
    )


def _masks(reference: Reference, config: SimVTPConfig) -> Masks:
    """Returns the masks of the file.

    There is a word slot for every position, padding included, because `out/mlm_logits` has them
    all.
    """
    hidden = reference.tensor("in/video_mask").bool()
    count = hidden.sum(dim=1)
    if hidden.shape[1] != config.tubes or (count != count[0]).any():
        raise CheckpointError(
            f"{reference.path}: in/video_mask must hide equally many of {config.tubes} tubes in each sample."
        )
    labels = reference.tensor("in/mlm_labels").long()
    batch, length = labels.shape
    return Masks(
        visible=(~hidden).nonzero()[:, 1].view(batch, -1),
        masked=hidden.nonzero()[:, 1].view(batch, -1),
        input_ids=reference.tensor("in/input_ids_masked").long(),
        word_positions=torch.arange(length).repeat(batch, 1),
        word_labels=labels,
        negative_noise=torch.zeros(batch, batch),
        negative_index=reference.tensor("in/vtm_negative_index").long(),
    )


# ---- comparing -----------------------------------------------------------------------------------


def _deviation(name: str, ours: Tensor, reference: Tensor) -> Deviation:
    if ours.shape != reference.shape:
        raise CheckpointError(
            f"{name}: ours is {list(ours.shape)}, the reference {list(reference.shape)}."
        )
    difference = (ours.detach().double() - reference.double()).abs().max().item()
    scale = reference.double().abs().max().item()
    return Deviation(name, _ratio(difference, scale), TENSOR_LIMIT)


def _gradients(
    reference: Reference, model: torch.nn.Module, names: Mapping[str, str]
) -> Iterator[Deviation]:
    """Yields the deviations of gradient norms.

    A parameter that we do not have, because the released model never uses it, has norm 0.
    """
    parameters = dict(model.named_parameters())
    expected = {name: norm.item() for name, norm in reference.group("grad_norm/").items()}
    floor = NEGLIGIBLE * max(expected.values(), default=0.0)
    for name, norm in expected.items():
        gradient = parameters[names[name]].grad if name in names else None
        ours = 0.0 if gradient is None else gradient.double().norm().item()
        yield Deviation(
            f"grad_norm/{name}", _ratio(abs(ours - norm), max(abs(norm), floor)), GRADIENT_LIMIT
        )


def _ratio(difference: float, scale: float) -> float:
    if math.isnan(difference) or math.isnan(scale):
        return math.inf
    return difference / scale if scale > 0 else (0.0 if difference == 0 else math.inf)
