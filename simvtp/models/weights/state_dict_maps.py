"""Namings of foreign checkpoints: rules that turn their keys into ours.

Every key of a foreign checkpoint must be explained: it is loaded under one of our names, or it is
known and unused, with the reason; anything else raises. Sources: the released SimVTP naming,
VideoMAE in its original naming (the same for the parts both have) and in transformers' naming,
image ViTs in timm's and in transformers' naming, and BERT, of which only the embeddings are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from simvtp.errors import CheckpointError
from simvtp.models.weights.architecture_checks import ROBERTA
from simvtp.models.weights.conversion import UNUSED, Naming, Rule


def _bert_embeddings(prefix: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{prefix}word_embeddings\.weight", f"{target}.word.weight"),
        Rule(rf"{prefix}position_embeddings\.weight", f"{target}.position.weight", "cut"),
        Rule(rf"{prefix}token_type_embeddings\.weight", f"{target}.token_type.weight"),
        Rule(rf"{prefix}LayerNorm\.(?:weight|gamma)", f"{target}.norm.weight"),
        Rule(rf"{prefix}LayerNorm\.(?:bias|beta)", f"{target}.norm.bias"),
        Rule(rf"{prefix}position_ids", UNUSED, why="a constant of older BERT modules"),
    )


_FIXED = "the fixed sine-cosine table, which is computed here"
_CLASSIFIER = "head of a classifier, with its norm"

_VIDEOMAE_ORIGINAL = (
    Rule(r"encoder\.patch_embed\.proj\.weight", "video_embedding.proj.weight", "conv"),
    Rule(r"encoder\.patch_embed\.proj\.bias", "video_embedding.proj.bias"),
    Rule(r"encoder\.(blocks\..+|norm\.(?:weight|bias))", r"encoder.\1"),
    Rule(r"encoder_to_decoder\.weight", "video_decoder.bridge.weight"),
    Rule(r"mask_token", "video_decoder.mask_token", "vector"),
    Rule(r"decoder\.((?:blocks|norm|head)\..+)", r"video_decoder.\1"),
    Rule(r"(?:encoder\.|decoder\.)?pos_embed", UNUSED, why=_FIXED),
)

_VIDEO_PARTS = ("video_embedding.", "encoder.blocks.")

VIDEOMAE_ORIGINAL = Naming(
    "VideoMAE, original naming",
    _VIDEOMAE_ORIGINAL,
    (*_VIDEO_PARTS, "encoder.norm."),
    ("video_decoder.",),
)

# fine-tuned: without the final norm, if it averages the tokens and then has `fc_norm`
VIDEOMAE_ENCODER = Naming(
    "VideoMAE, original naming, encoder alone",
    (
        Rule(r"patch_embed\.proj\.weight", "video_embedding.proj.weight", "conv"),
        Rule(r"patch_embed\.proj\.bias", "video_embedding.proj.bias"),
        Rule(r"(blocks\..+|norm\.(?:weight|bias))", r"encoder.\1"),
        Rule(r"pos_embed", UNUSED, why=_FIXED),
        Rule(r"(?:fc_norm|head)\.(?:weight|bias)", UNUSED, why=_CLASSIFIER),
    ),
    _VIDEO_PARTS,
    ("encoder.norm.",),
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


def _newer_transformers_blocks(prefix: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules for blocks of a ViT as transformers 5 names its modules, not its files."""
    own, new = rf"{prefix}\.(\d+)\.", rf"{target}.blocks.\1."
    return (
        *(
            Rule(rf"{own}attention\.{name}_proj\.weight", f"{new}attn.qkv.weight", name)
            for name in "qkv"
        ),
        *(Rule(rf"{own}attention\.{name}_proj\.bias", f"{new}attn.{name}_bias") for name in "qv"),
        Rule(
            rf"{own}attention\.k_proj\.bias",
            UNUSED,
            why="shifts all scores of a query alike, which softmax does not see",
        ),
        Rule(rf"{own}attention\.o_proj\.(weight|bias)", rf"{new}attn.proj.\2"),
        Rule(rf"{own}mlp\.fc([12])\.(weight|bias)", rf"{new}mlp.fc\2.\3"),
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
        Rule(r"(?:fc_norm|classifier)\.(?:weight|bias)", UNUSED, why=_CLASSIFIER),
        Rule(r"(?:videomae\.)?(?:embeddings\.)?position_embeddings", UNUSED, why=_FIXED),
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
        *_newer_transformers_blocks(r"(?:vit\.)?layers", "encoder"),
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
            r"(blocks\.\d+\.(?:(?:norm[12]|mlp\.fc[12]|attn\.proj)\.(?:weight|bias)"
            r"|attn\.qkv\.weight))",
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


# kind -> tables of positions that must be the fixed one
FIXED_POSITIONS = {
    VIDEOMAE_ORIGINAL.kind: ("pos_embed", "encoder.pos_embed", "decoder.pos_embed"),
    RELEASED.kind: ("pos_embed", "encoder.pos_embed", "decoder.pos_embed"),
    VIDEOMAE_ENCODER.kind: ("pos_embed",),
    VIDEOMAE_TRANSFORMERS.kind: (
        "position_embeddings",
        "embeddings.position_embeddings",
        "videomae.embeddings.position_embeddings",
    ),
}


def is_released_dual(keys: Iterable[str]) -> bool:
    """Returns whether the keys are those of the released dual encoder."""
    return any(key.startswith("video_encoder.patch_embed.") for key in keys)


def detect(keys: Mapping[str, Tensor], where: str) -> Naming:
    """Returns the naming of a checkpoint, found by its keys.

    Raises:
        CheckpointError: no naming has these keys.
    """
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
    if "patch_embed.proj.weight" in keys:
        return VIDEOMAE_ENCODER if keys["patch_embed.proj.weight"].dim() == 5 else IMAGE_TIMM
    if any(key.startswith("roberta.") for key in keys):
        raise CheckpointError(f"{where}: this is RoBERTa: {ROBERTA}.")
    if any(key.endswith("embeddings.word_embeddings.weight") for key in keys):
        return BERT
    some = ", ".join(list(keys)[:4])
    raise CheckpointError(
        f"{where}: the keys ({some}, ...) are of no known kind: use a SimVTP, VideoMAE "
        "image ViT or BERT checkpoint."
    )
