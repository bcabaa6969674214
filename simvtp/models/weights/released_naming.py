"""The released naming: our state dict in the names and shapes of the authors' code."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from simvtp.errors import CheckpointError

_BERT_NAMES = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",
    "norm": "LayerNorm",
}
_RELEASED_PARTS = (
    (r"video_embedding\.proj\.(.+)", r"encoder.patch_embed.proj.\1"),
    (r"encoder\.(.+)", r"encoder.\1"),
    (r"video_decoder\.bridge\.weight", "encoder_to_decoder.weight"),
    (r"video_decoder\.mask_token", "mask_token"),
    (r"video_decoder\.(.+)", r"decoder.\1"),
    (r"text_embedding\.(.+)", r"text_embeddings.\1"),
    (r"text_decoder\.head\.(.+)", r"text_cls.\1"),
    (r"match_head\.(.+)", r"vtm_head.\1"),
    (r"video_encoder\.embedding\.(.+)", r"video_encoder.patch_embed.\1"),
    (r"text_encoder\.embedding\.(.+)", r"text_encoder.text_embeddings.\1"),
    (r"(video|text)_encoder\.encoder\.(.+)", r"\1_encoder.\2"),
    (r"((?:video|text)_encoder\.fc_norm\..+)", r"\1"),
)


def _released_name(name: str) -> str:
    for old, new in _RELEASED_PARTS:
        match = re.fullmatch(old, name)
        if match:
            return match.expand(new)
    raise CheckpointError(
        f"{name} has no name in the released naming: only models with "
        "model.text_decoder_depth=0 can be exported to it."
    )


def to_released(state: Mapping[str, Tensor], tubelet: int, patch: int) -> dict[str, Tensor]:
    """Returns our state dict in the released naming and shapes, the inverse of the import.

    The released dual encoder holds both embeddings in both copies, one of them unused in each; that
    one is filled from the other copy, so that the released strict loading succeeds.

    Raises:
        CheckpointError: a parameter has no released name, such as a text decoder above depth 0.
    """
    released: dict[str, Tensor] = {}
    for name, value in state.items():
        target = _released_name(name)
        if target.endswith("patch_embed.proj.weight"):
            value = (
                value.unflatten(1, (tubelet, patch, patch, 3)).permute(0, 4, 1, 2, 3).contiguous()
            )
        if target == "mask_token":
            value = value[None, None]
        head, sign, tail = target.partition("text_embeddings.")
        if sign:
            module, _, leaf = tail.partition(".")
            target = f"{head}{sign}{_BERT_NAMES[module]}.{leaf}"
        released[target] = value
    for name in list(released):
        for part, own, other in (
            ("text_embeddings", "text", "video"),
            ("patch_embed", "video", "text"),
        ):
            if name.startswith(f"{own}_encoder.{part}."):
                released[f"{other}{name.removeprefix(own)}"] = released[name]
    return released
