"""Tables that turn the names of foreign checkpoints into ours, and ours back into the released
ones.

Every key of a foreign checkpoint must be explained: it is loaded under one of our names, or it is
known and not used, with the reason; anything else raises. Shapes are compared one by one. Sources:
the released SimVTP naming, VideoMAE in its original naming (the same for the parts both have) and
in transformers' naming, image ViTs in timm's and in transformers' naming, and BERT, of which only
the embeddings are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from simvtp.errors import CheckpointError

UNUSED = ""  # a rule's target for keys that are known and not loaded


@dataclass(frozen=True)
class Rule:
    """Foreign keys that match `pattern` as a whole become `target` (regular-expression template).

    `change`: conv = Conv3d kernel to matrix; inflate = Conv2d kernel to the matrix of a tube;
    vector = drop leading axes of size 1; q, k, v = a third of the fused qkv; q_bias = a fused bias
    of q, k and v; cut = a position table that may be longer than needed; `why` explains an unused
    key.
    """

    pattern: str
    target: str
    change: str = ""
    why: str = ""


@dataclass(frozen=True)
class Naming:
    """One kind of checkpoint: its rules, and which of our parameters it must or may bring (name
    prefixes).
    """

    kind: str
    rules: tuple[Rule, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConversionReport:
    """A foreign state dict in our names and shapes.

    Attributes:
        values: our name -> tensor, in the shape of the model's parameter.
        names: foreign key -> our name, for the keys that were used.
        unused: foreign key -> why it was not loaded.
        kept: our parameters that the file does not bring and that keep their values.
        notes: what was changed on the way, in words.
    """

    kind: str
    values: dict[str, Tensor]
    names: dict[str, str]
    unused: dict[str, str]
    kept: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def _bert_embeddings(prefix: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{prefix}word_embeddings\.weight", f"{target}.word.weight"),
        Rule(rf"{prefix}position_embeddings\.weight", f"{target}.position.weight", "cut"),
        Rule(rf"{prefix}token_type_embeddings\.weight", f"{target}.token_type.weight"),
        Rule(rf"{prefix}LayerNorm\.(?:weight|gamma)", f"{target}.norm.weight"),
        Rule(rf"{prefix}LayerNorm\.(?:bias|beta)", f"{target}.norm.bias"),
        Rule(rf"{prefix}position_ids", UNUSED, why="a constant of older BERT modules"),
    )


_VIDEOMAE_ORIGINAL = (
    Rule(r"encoder\.patch_embed\.proj\.weight", "video_embedding.proj.weight", "conv"),
    Rule(r"encoder\.patch_embed\.proj\.bias", "video_embedding.proj.bias"),
    Rule(r"encoder\.(blocks\..+|norm\.(?:weight|bias))", r"encoder.\1"),
    Rule(r"encoder_to_decoder\.weight", "video_decoder.bridge.weight"),
    Rule(r"mask_token", "video_decoder.mask_token", "vector"),
    Rule(r"decoder\.((?:blocks|norm|head)\..+)", r"video_decoder.\1"),
)

_VIDEO_PARTS = ("video_embedding.", "encoder.blocks.")

VIDEOMAE_ORIGINAL = Naming(
    "VideoMAE, original naming",
    _VIDEOMAE_ORIGINAL,
    (*_VIDEO_PARTS, "encoder.norm."),
    ("video_decoder.",),
)

RELEASED = Naming(
    "released SimVTP",
    (
        *_VIDEOMAE_ORIGINAL,
        *_bert_embeddings(r"text_embeddings\.", "text_embedding"),
        Rule(r"text_cls\.(weight|bias)", r"text_decoder.head.\1"),
        Rule(r"vtm_head\.(weight|bias)", r"match_head.\1"),
    ),
    ("",),
)

RELEASED_DUAL = Naming(
    "released dual encoder",
    (
        Rule(
            r"video_encoder\.patch_embed\.proj\.weight",
            "video_encoder.embedding.proj.weight",
            "conv",
        ),
        Rule(r"video_encoder\.patch_embed\.proj\.bias", "video_encoder.embedding.proj.bias"),
        Rule(r"video_encoder\.text_embeddings\..+", UNUSED, why="the video copy never reads text"),
        Rule(
            r"text_encoder\.patch_embed\.proj\.(?:weight|bias)",
            UNUSED,
            why="the text copy never reads video",
        ),
        *_bert_embeddings(r"text_encoder\.text_embeddings\.", "text_encoder.embedding"),
        Rule(r"(video|text)_encoder\.(blocks\..+)", r"\1_encoder.encoder.\2"),
        Rule(r"(video|text)_encoder\.(fc_norm\.(?:weight|bias))", r"\1_encoder.\2"),
    ),
    ("",),
)


def _transformers_blocks(prefix: str, target: str) -> tuple[Rule, ...]:
    own = rf"{prefix}\.(\d+)\."
    new = rf"{target}.blocks.\1."
    attention = own + r"attention\.attention\."
    return (
        *(
            Rule(rf"{attention}{name}\.weight", f"{new}attn.qkv.weight", name[0])
            for name in ("query", "key", "value")
        ),
        Rule(rf"{attention}(?:query\.bias|q_bias)", f"{new}attn.q_bias"),
        Rule(rf"{attention}(?:value\.bias|v_bias)", f"{new}attn.v_bias"),
        Rule(
            rf"{attention}(?:key\.bias|k_bias)",
            UNUSED,
            why="shifts all scores of a query alike, which softmax does not see",
        ),
        Rule(rf"{own}attention\.output\.dense\.(weight|bias)", rf"{new}attn.proj.\2"),
        Rule(rf"{own}intermediate\.dense\.(weight|bias)", rf"{new}mlp.fc1.\2"),
        Rule(rf"{own}output\.dense\.(weight|bias)", rf"{new}mlp.fc2.\2"),
        Rule(rf"{own}layernorm_before\.(weight|bias)", rf"{new}norm1.\2"),
        Rule(rf"{own}layernorm_after\.(weight|bias)", rf"{new}norm2.\2"),
    )


VIDEOMAE_TRANSFORMERS = Naming(
    "VideoMAE, transformers naming",
    (
        Rule(
            r"(?:videomae\.)?embeddings\.patch_embeddings\.projection\.weight",
            "video_embedding.proj.weight",
            "conv",
        ),
        Rule(
            r"(?:videomae\.)?embeddings\.patch_embeddings\.projection\.bias",
            "video_embedding.proj.bias",
        ),
        *_transformers_blocks(r"(?:videomae\.)?encoder\.layer", "encoder"),
        Rule(r"(?:videomae\.)?layernorm\.(weight|bias)", r"encoder.norm.\1"),
        Rule(r"encoder_to_decoder\.weight", "video_decoder.bridge.weight"),
        Rule(r"mask_token", "video_decoder.mask_token", "vector"),
        *_transformers_blocks(r"decoder\.decoder_layers", "video_decoder"),
        Rule(r"decoder\.(norm|head)\.(weight|bias)", r"video_decoder.\1.\2"),
        Rule(r"(?:fc_norm|classifier)\.(?:weight|bias)", UNUSED, why="head of a classifier"),
    ),
    _VIDEO_PARTS,
    (
        "encoder.norm.",
        "video_decoder.",
    ),  # transformers leaves the final norm out where its config asks for mean pooling
)

_IMAGE_ONLY = "video has no [CLS] and positions of its own"

IMAGE_TRANSFORMERS = Naming(
    "image ViT, transformers naming",
    (
        Rule(
            r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.weight",
            "video_embedding.proj.weight",
            "inflate",
        ),
        Rule(
            r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.bias", "video_embedding.proj.bias"
        ),
        Rule(
            r"(?:vit\.)?embeddings\.(?:cls_token|position_embeddings|mask_token)",
            UNUSED,
            why=_IMAGE_ONLY,
        ),
        *_transformers_blocks(r"(?:vit\.)?encoder\.layer", "encoder"),
        Rule(r"(?:vit\.)?layernorm\.(weight|bias)", r"encoder.norm.\1"),
        Rule(
            r"(?:vit\.)?(?:pooler\.dense|classifier|decoder\..+)\.(?:weight|bias)",
            UNUSED,
            why="head of the image model",
        ),
    ),
    _VIDEO_PARTS,
    ("encoder.norm.",),
)

IMAGE_TIMM = Naming(
    "image ViT, timm naming",
    (
        Rule(r"patch_embed\.proj\.weight", "video_embedding.proj.weight", "inflate"),
        Rule(r"patch_embed\.proj\.bias", "video_embedding.proj.bias"),
        Rule(r"(?:cls_token|pos_embed|mask_token)", UNUSED, why=_IMAGE_ONLY),
        Rule(r"(blocks\.\d+\.attn)\.qkv\.bias", r"encoder.\1.q_bias", "q_bias"),
        Rule(
            r"(blocks\.\d+\.(?:norm[12]|mlp\.fc[12]|attn\.proj)\.(?:weight|bias)|blocks\.\d+\.attn\.qkv\.weight)",
            r"encoder.\1",
        ),
        Rule(r"norm\.(weight|bias)", r"encoder.norm.\1"),
        Rule(
            r"(?:head|fc_norm|pre_logits\.fc)\.(?:weight|bias)",
            UNUSED,
            why="head of the image model",
        ),
    ),
    _VIDEO_PARTS,
    ("encoder.norm.",),
)

BERT = Naming(
    "BERT",
    (
        *_bert_embeddings(r"(?:bert\.)?embeddings\.", "text_embedding"),
        Rule(r"(?:bert\.)?(?:encoder|pooler)\..+", UNUSED, why="no BERT layers are used"),
        Rule(r"cls\..+", UNUSED, why="BERT's own pre-training heads are not used"),
    ),
    ("text_embedding.",),
)

NATIVE = Naming("export of this project", (Rule(r"(.+)", r"\1"),), ("",))
NATIVE_PARTIAL = Naming(  # for another pre-training to start from
    NATIVE.kind,
    NATIVE.rules,
    ("video_embedding.", "text_embedding.", "encoder."),
    ("video_decoder.", "text_decoder.", "match_head."),
)


def detect(keys: Mapping[str, Tensor], where: str) -> Naming:
    """Which kind of checkpoint has these keys; raises CheckpointError if it is none that is known."""
    if any(key.startswith(("video_encoder.embedding.", "video_embedding.")) for key in keys):
        return NATIVE
    if any(key.startswith("video_encoder.") for key in keys):
        return RELEASED_DUAL
    if "text_embeddings.word_embeddings.weight" in keys:
        return RELEASED
    if "encoder.patch_embed.proj.weight" in keys:
        return VIDEOMAE_ORIGINAL
    patches = next(
        (key for key in keys if key.endswith("embeddings.patch_embeddings.projection.weight")), ""
    )
    if patches:
        return VIDEOMAE_TRANSFORMERS if keys[patches].dim() == 5 else IMAGE_TRANSFORMERS
    if "patch_embed.proj.weight" in keys and keys["patch_embed.proj.weight"].dim() == 4:
        return IMAGE_TIMM
    if any(key.endswith("embeddings.word_embeddings.weight") for key in keys):
        return BERT
    some = ", ".join(list(keys)[:4])
    raise CheckpointError(
        f"{where}: the keys ({some}, ...) are of no known kind: use a SimVTP, VideoMAE (pre-training), image ViT or BERT checkpoint."
    )


def convert(
    state: Mapping[str, Tensor], model: nn.Module, naming: Naming, where: str
) -> ConversionReport:
    """`state` in the names and shapes of `model`; nothing is loaded yet.

    Raises CheckpointError for keys that no rule explains, for parameters that the file should bring
    and does not, and for shapes that differ. Keys of a module that the model does not have, because
    its objective is off, are listed as unused.
    """
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    parts = {name.split(".")[0] for name in wanted}
    values: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    names: dict[str, str] = {}
    unused: dict[str, str] = {}
    unknown: list[str] = []
    notes: list[str] = []
    for key, value in state.items():
        rule, target = _match(key, naming)
        if rule is None:
            unknown.append(key)
        elif target == UNUSED:
            unused[key] = rule.why
        elif target.split(".")[0] not in parts and target.startswith(
            ("video_decoder.", "text_decoder.", "match_head.")
        ):
            unused[key] = "its objective is off"
        elif target not in wanted:
            unknown.append(key)
        elif rule.change in ("q", "k", "v"):
            thirds.setdefault(target, {})[rule.change] = value
            names[key] = target
        else:
            values[target] = _changed(value, rule.change, wanted[target], key, notes)
            names[key] = target
            if (
                rule.change == "q_bias"
            ):  # the fused bias of q, k and v; that of k shifts all scores of a query alike
                values[target.replace("q_bias", "v_bias")] = value[2 * (len(value) // 3) :]
    values |= {
        target: torch.cat([part[c] for c in "qkv"])
        for target, part in thirds.items()
        if len(part) == 3
    }
    if unknown:
        raise CheckpointError(
            f"{where}: {len(unknown)} keys that this model has no place for ({naming.kind}): {_some(unknown)}; "
            "is it of the same depth and kind as the model?"
        )
    kept = _missing(wanted, values, naming, where)
    for target, value in values.items():
        if value.shape != wanted[target]:
            raise _shape_error(target, value, wanted[target], where)
    return ConversionReport(naming.kind, values, names, unused, tuple(kept), tuple(notes))


def load(model: nn.Module, conversion: ConversionReport) -> None:
    """Copy the converted values into the model's parameters."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in conversion.values.items():
            parameters[name].copy_(value)


def _match(key: str, naming: Naming) -> tuple[Rule | None, str]:
    for rule in naming.rules:
        match = re.fullmatch(rule.pattern, key)
        if match:
            return rule, match.expand(rule.target)
    return None, UNUSED


def _changed(value: Tensor, change: str, shape: torch.Size, key: str, notes: list[str]) -> Tensor:
    if change == "conv" and value.dim() == 5:  # [D, 3, tubelet, p, p] -> [D, (t, h, w, c)]
        return value.permute(0, 2, 3, 4, 1).flatten(1)
    if (
        change == "inflate" and value.dim() == 4
    ):  # [D, 3, p, p] -> each frame of a tube gets its share: [D, (t, h, w, c)]
        patch = value.permute(0, 2, 3, 1).flatten(1)
        frames = shape[1] // patch.shape[1]
        notes.append(f"{key}: repeated over the {frames} frames of a tube and divided by them")
        return (patch / frames).repeat(1, frames) if frames else patch
    if change == "q_bias":
        return value[: len(value) // 3]
    if change == "vector":
        return value.flatten()
    if change == "cut" and value.dim() == 2 and value.shape[0] > shape[0]:
        notes.append(f"{key}: the first {shape[0]} of {value.shape[0]} positions are used")
        return value[: shape[0]]
    return value


def _missing(
    wanted: Mapping[str, torch.Size], values: Mapping[str, Tensor], naming: Naming, where: str
) -> list[str]:
    """Parameters that keep their values; raises if a part is missing that the file must bring, or
    is there only in part.
    """
    lacking = [name for name in wanted if name not in values]
    brought = {
        prefix for prefix in naming.optional if any(name.startswith(prefix) for name in values)
    }
    needed = (*naming.required, *brought)
    missing = [name for name in lacking if name.startswith(needed)]
    if missing:
        raise CheckpointError(
            f"{where}: {len(missing)} parameters of the model are not in this checkpoint ({naming.kind}): {_some(missing)}; "
            "is it of the same depth and kind as the model?"
        )
    return lacking


def _shape_error(name: str, value: Tensor, shape: torch.Size, where: str) -> CheckpointError:
    found, expected = list(value.shape), list(shape)
    hints = {
        ".word.weight": "model.vocab_size must be that of the checkpoint: use its tokenizer (data.tokenizer)",
        ".position.weight": "set model.max_text_positions to at most the positions of the checkpoint",
        "text_decoder.head.": "the released text decoder is a linear head: model.text_decoder_depth must be 0, and the vocabulary the same",
    }
    hint = next(
        (text for part, text in hints.items() if part in name),
        "set the sizes of the model to those of the checkpoint",
    )
    return CheckpointError(
        f"{where}: {name} is {found} in the checkpoint and {expected} in the model; {hint}."
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


# ---- back to the released naming -----------------------------------------------------------------

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


def to_released(state: Mapping[str, Tensor], tubelet: int, patch: int) -> dict[str, Tensor]:
    """Our state dict in the released naming and shapes, the inverse of the import.

    The released dual encoder holds both embeddings in both copies, one of them unused in each; that
    one is filled from the other copy, so that the released strict loading is content. A text
    decoder above depth 0 has no released name and raises.
    """
    released: dict[str, Tensor] = {}
    for name, value in state.items():
        target = next(
            (
                match.expand(new)
                for old, new in _RELEASED_PARTS
                if (match := re.fullmatch(old, name))
            ),
            None,
        )
        if target is None:
            raise CheckpointError(
                f"{name} has no place in the released naming: only models with model.text_decoder_depth=0 can be exported to it."
            )
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
