"""Imports weights of any known kind into a model, and exports them in the released naming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from simvtp.config.model_config import ModelConfig
from simvtp.errors import CheckpointError
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.mac.mac_model import MAC
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.models.weights.architecture_checks import (
    BERT_EMBEDDINGS,
    IMAGE_VIT,
    VIDEOMAE,
    check_architecture,
    check_fixed_positions,
    check_sizes,
    check_timm,
)
from simvtp.models.weights.conversion import ConversionReport, Naming, convert, load
from simvtp.models.weights.mac_weights import import_mac_state
from simvtp.models.weights.pixel_normalization import with_our_normalization
from simvtp.models.weights.released_naming import to_released
from simvtp.models.weights.state_dict_maps import (
    BERT,
    FIXED_POSITIONS,
    IMAGE_TIMM,
    IMAGE_TRANSFORMERS,
    NATIVE,
    NATIVE_PARTIAL,
    RELEASED,
    RELEASED_DUAL,
    VIDEOMAE_TRANSFORMERS,
    detect,
)
from simvtp.models.weights.weight_files import read_source
from simvtp.runs.atomic_files import write_atomically

TUBES = "video_embedding.proj"


def import_weights(
    model: nn.Module, source: str | Path, beginning: bool = False
) -> ConversionReport:
    """Loads a checkpoint of any known kind into `model`; the kind is found by its keys.

    Kinds: released SimVTP, released dual encoder, VideoMAE in its original naming (pre-trained,
    fine-tuned or the encoder alone) and in transformers', an image ViT, BERT (embeddings only),
    exports of this project; for MAC see `import_mac_state`.

    Args:
        beginning: an export may lack decoders and heads, as one of a pre-training with fewer
            objectives does.

    Returns:
        A report of every key.

    Raises:
        CheckpointError: it does not fit; nothing is changed then.
    """
    read = read_source(source)
    report = import_state(model, read.state, read.where, read.settings, beginning)
    return replace(report, notes=(*read.notes, *report.notes))


def import_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    settings: Mapping[str, Any] | None = None,
    beginning: bool = False,
) -> ConversionReport:
    """Loads a state dict as `import_weights` does; `settings` is its config.json."""
    if isinstance(model, MAC):
        return import_mac_state(model, state, where, settings or {})
    naming = detect(state, where)
    if naming is NATIVE and beginning:
        naming = NATIVE_PARTIAL
    dual = isinstance(model, DualEncoder)
    if naming not in (NATIVE, NATIVE_PARTIAL) and dual != (naming is RELEASED_DUAL):
        raise CheckpointError(
            f"{where}: a checkpoint of kind '{naming.kind}' does not fit a "
            f"{'dual encoder' if dual else 'pre-training model'}."
        )
    notes = _check_origin(naming, state, config_of(model), settings or {}, where)
    conversion = convert(state, model, naming, where)
    if naming not in (NATIVE, NATIVE_PARTIAL, RELEASED, RELEASED_DUAL, BERT):
        conversion = with_our_normalization(conversion, TUBES, settings or {}, where)
    load(model, conversion)
    if naming is not BERT and "encoder.norm.weight" in conversion.kept:
        notes = (*notes, "no final norm in the file: that of the encoder keeps its values")
    return replace(conversion, notes=(*conversion.notes, *notes))


def _check_origin(
    naming: Naming,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    settings: Mapping[str, Any],
    where: str,
) -> tuple[str, ...]:
    """Checks what the shapes of the weights do not show; returns notes.

    Raises CheckpointError if the weights are of another architecture.
    """
    if naming in (NATIVE, NATIVE_PARTIAL):
        return ()
    check_fixed_positions(state, FIXED_POSITIONS.get(naming.kind, ()), where)
    if naming is BERT:
        return check_architecture(settings, BERT_EMBEDDINGS, where)
    check_sizes(settings, config, where)
    if naming is IMAGE_TIMM:
        check_timm(settings, where)
    if naming is VIDEOMAE_TRANSFORMERS:
        return check_architecture(settings, VIDEOMAE, where)
    if naming is IMAGE_TRANSFORMERS:
        return check_architecture(settings, IMAGE_VIT, where)
    return ()


def config_of(model: nn.Module) -> ModelConfig:
    """Returns the settings that a model of this project was built with."""
    config = model.config
    assert isinstance(config, ModelConfig)
    return config


def initialise_from(model: nn.Module, config: ModelConfig) -> list[ConversionReport]:
    """Loads `config.init_video`, then `config.init_text` (either may be empty).

    Returns:
        One report for each, in order.
    """
    return [
        import_weights(model, source, beginning=True)
        for source in (config.init_video, config.init_text)
        if source
    ]


def export_released(model: SimVTP | DualEncoder, path: str | Path) -> None:
    """Writes the weights in the released naming as one `.safetensors` file.

    An objective that is off has no weights there.
    """
    released = to_released(model.state_dict(), model.config.tubelet_size, model.config.patch_size)
    content = safetensors.torch.save(
        {name: value.detach().cpu().clone().contiguous() for name, value in released.items()}
    )
    write_atomically(Path(path), content)
