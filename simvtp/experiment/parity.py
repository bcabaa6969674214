"""Compares our models with reference files of the published implementations.

A reference file (`.safetensors`) holds weights `state/*` in the released naming, inputs `in/*`,
outputs `out/*`, gradient norms `grad_norm/*` (and gradients `grad/*` in full, where it has them)
and its sizes as JSON in the metadata key `config`.
There are three kinds, recognised by their content: of the pre-training model, of the dual encoder,
and of Frozen-in-Time (`frozen_parity`). Of the first, the losses of the whole pipeline of the
recipe `released` are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.recipes import released
from simvtp.config.tree import narrow
from simvtp.data.text.tokenizer import TokenBatch, trim_padding
from simvtp.errors import CheckpointError
from simvtp.experiment.references.feature_comparison import compare_features
from simvtp.experiment.references.frozen_parity import check_frozen, is_frozen_reference
from simvtp.experiment.references.reference_file import (
    NEGLIGIBLE,
    Deviation,
    Reference,
    compare,
    ratio,
    read_reference,
)
from simvtp.models.common.embeddings import PAD_ID
from simvtp.models.common.layers import BLOCK_NORM_EPS
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.models.weights.pretrained import import_state
from simvtp.models.weights.released_naming import to_released
from simvtp.training.losses import (
    contrastive_loss,
    masked_pixel_loss,
    matching_loss,
    normalise_tubes,
    word_loss,
)
from simvtp.training.objectives import PretrainObjective

GRADIENT_LIMIT = 1e-4  # gradient norms


def check_reference_file(
    path: str | Path, dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)
) -> list[Deviation]:
    """Compares every output, loss and gradient norm of the file with ours, in each dtype.

    The name of a deviation begins with its dtype.
    """
    reference = read_reference(path)
    if is_frozen_reference(reference):
        check = check_frozen
    elif any(name.startswith("state/video_encoder.") for name in reference.tensors):
        check = _check_dual
    else:
        check = _check_pretraining
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


# ---- the kinds of the released implementation ---------------------------------------------------


def _build_pretraining(reference: Reference, dtype: torch.dtype) -> tuple[SimVTP, dict[str, str]]:
    """Returns the model with the weights of the file, and {their name: ours}."""
    model = SimVTP(_config(reference, decoder=True)).to(dtype)
    names = import_state(model, reference.group("state/"), reference.path).names
    model.text_embedding.word.padding_idx = reference.config.get("pad_id", PAD_ID)
    return model, dict(names)


def _run_pretraining(reference: Reference, model: SimVTP) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the outputs of the model, and the four losses [4]: mvm, mlm, vtc, vtm."""
    masks = _masks(reference, model.config)
    outputs = model(_batch(reference, "in/input_ids_original"), masks)
    target = normalise_tubes(outputs["video_pixels"], outputs["video_prediction"].dtype)
    temperature = reference.size("temperature")
    losses = (
        masked_pixel_loss(outputs["video_prediction"], target),
        word_loss(outputs["word_logits"], outputs["word_labels"]),
        contrastive_loss(outputs["video_feature"], outputs["text_feature"], temperature),
        matching_loss(outputs["match_logits"]),
    )
    return {**outputs, "video_target": target}, torch.stack(losses)


def pretraining_loss(reference: Reference) -> Tensor:
    """Returns the sum of the four losses of a file of the pre-training model, in float64."""
    model, _ = _build_pretraining(reference, torch.float64)
    with torch.no_grad():
        return _run_pretraining(reference, model)[1].sum()


def _check_pretraining(reference: Reference, dtype: torch.dtype) -> Iterator[Deviation]:
    model, names = _build_pretraining(reference, dtype)
    outputs, losses = _run_pretraining(reference, model)
    losses.sum().backward()
    ours = {
        "out/video_prediction_masked": outputs["video_prediction"],
        "out/video_target_masked": outputs["video_target"],
        "out/mlm_logits": outputs["word_logits"],
        "out/vtm_logits": outputs["match_logits"],
        "out/text_feature": outputs["text_feature"],
        "out/video_feature": outputs["video_feature"],
    }
    for name, value in ours.items():
        yield compare(name, value, reference.tensor(name))
    expected = reference.tensor("out/losses_mvm_mlm_vtc_vtm")
    for name, value, right in zip(("mvm", "mlm", "vtc", "vtm"), losses, expected, strict=True):
        yield compare(f"loss {name}", value, right)
    yield from _gradients(reference, model, names)
    if reference.tensor("in/attention_mask").bool().any(dim=0).all():
        yield from _check_pipeline(reference, dtype)  # padded to the longest caption, as released


def _check_pipeline(reference: Reference, dtype: torch.dtype) -> Iterator[Deviation]:
    """Compares the losses of the recipe `released` on the file's clips and unpadded captions.

    The recipe gives the padding, the number of masked tubes, the wiring of the model, and the
    losses; the file gives the sizes, and what is drawn by chance: masked tubes, masked words, and
    VTM's negatives.
    """
    recipe = released()
    sizes, wiring = _config(reference, decoder=True), narrow(recipe.model, SimVTPConfig)
    config = replace(
        sizes,
        pooling=wiring.pooling,
        contrastive_text=wiring.contrastive_text,
        contrastive_video=wiring.contrastive_video,
        reuse_pair_pass=wiring.reuse_pair_pass,
        text_padding=wiring.text_padding,
        text_length=min(wiring.text_length, sizes.max_text_positions),
    )
    given = _batch(reference, "in/input_ids_original")
    batch = _pad_by_rule(given, config)
    masks = _masks(reference, config)
    labels = masks.word_labels[:, : batch.input_ids.shape[1]]
    video_ratio = reference.config.get("video_mask_ratio", recipe.masks.video_ratio)
    ruled = replace(recipe.masks, video_ratio=video_ratio)
    hidden = hidden_per_slot(config, ruled) * config.grid[0]
    count = torch.tensor(float(hidden))
    yield compare("pipeline masked tubes", count, torch.tensor(float(masks.masked.shape[1])))
    length = torch.tensor(float(batch.input_ids.shape[1]))
    yield compare("pipeline text length", length, torch.tensor(float(given.input_ids.shape[1])))
    masked_ids = _pad_by_rule(replace(given, input_ids=masks.input_ids), config).input_ids
    masks = replace(
        masks,
        input_ids=masked_ids,
        word_positions=torch.arange(labels.shape[1]).repeat(len(labels), 1),
        word_labels=labels,
    )
    model = SimVTP(config).to(dtype).eval()
    import_state(model, reference.group("state/"), reference.path)
    model.text_embedding.word.padding_idx = reference.config.get("pad_id", PAD_ID)
    temperature = reference.size("temperature")
    objective = PretrainObjective(replace(recipe.losses, temperature=temperature))
    losses, _ = objective(model(batch, masks))
    expected = reference.tensor("out/losses_mvm_mlm_vtc_vtm")
    for (name, value), right in zip(losses.items(), expected, strict=True):
        yield compare(f"pipeline loss {name}", value, right)


def _pad_by_rule(batch: Batch, config: SimVTPConfig) -> Batch:
    """Returns the batch with its captions padded again, by `model.text_padding`."""
    longest = config.text_padding == "longest"
    length = config.max_text_positions if longest else config.text_length
    more = max(0, length - batch.input_ids.shape[1])
    tokens = TokenBatch(
        F.pad(batch.input_ids, (0, more)),
        F.pad(batch.attention_mask, (0, more)),
        F.pad(batch.word_ids, (0, more), value=-1),
    )
    tokens = trim_padding(tokens) if longest else tokens
    return replace(
        batch,
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        word_ids=tokens.word_ids,
    )


def _check_dual(reference: Reference, dtype: torch.dtype) -> Iterator[Deviation]:
    config = _config(reference, decoder=False)
    model = DualEncoder(config).to(dtype)
    names = import_state(model, reference.group("state/"), reference.path).names
    model.text_encoder.embedding.word.padding_idx = reference.config.get("pad_id", PAD_ID)
    outputs = model(_batch(reference, "in/input_ids"))
    yield from compare_features(reference, outputs)
    yield from _gradients(reference, model, names)


def _config(reference: Reference, decoder: bool) -> SimVTPConfig:
    """Returns the sizes, from the metadata or (MLP width, text length) from the tensors."""
    eps = reference.config.get("layer_norm_eps_blocks", BLOCK_NORM_EPS)
    if eps != BLOCK_NORM_EPS:
        raise CheckpointError(
            f"{reference.path}: computed with LayerNorm eps {eps}, "
            f"but this model has {BLOCK_NORM_EPS}."
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
    sizes: dict[str, Any] = {ours: reference.whole(theirs) for ours, theirs in names.items()}
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
            f"{reference.path}: in/video_mask must hide equally many of {config.tubes} tubes "
            "in each sample."
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


# ---- gradients -----------------------------------------------------------------------------------


def _gradients(
    reference: Reference, model: SimVTP | DualEncoder, names: Mapping[str, str]
) -> Iterator[Deviation]:
    """Yields the deviations of gradient norms, and of the elements of the gradients in the file.

    A parameter that we do not have, because the released model never uses it, has gradient 0.
    """
    parameters = dict(model.named_parameters())
    expected = {name: norm.item() for name, norm in reference.group("grad_norm/").items()}
    floor = NEGLIGIBLE * max(expected.values(), default=0.0)
    for name, norm in expected.items():
        gradient = parameters[names[name]].grad if name in names else None
        ours = 0.0 if gradient is None else gradient.double().norm().item()
        yield Deviation(
            f"grad_norm/{name}", ratio(abs(ours - norm), max(abs(norm), floor)), GRADIENT_LIMIT
        )
    elements = reference.group("grad/")
    if elements:
        found = _released_gradients(model)
        largest = max(value.abs().max().item() for value in elements.values())
        for name, value in elements.items():
            gradient = found.get(name, torch.zeros_like(value))
            yield compare(f"grad/{name}", gradient, value, NEGLIGIBLE * largest)


def _released_gradients(model: SimVTP | DualEncoder) -> dict[str, Tensor]:
    """Returns the gradients in the released naming and shapes; 0 where there is none."""
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    return to_released(gradients, model.config.tubelet_size, model.config.patch_size)
