"""Settings of the models and of what is masked: one class a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simvtp.config.tree import added, setting

MoreFrames = Literal["zero", "interpolate", "nearest", "bilinear"]
Pooling = Literal["content", "with_pads", "cls"]
WEIGHTED_KINDS = ("rare", "frequent")  # of masks.text_kind: pieces are preferred by their weight
PIECE_KINDS = ("token", *WEIGHTED_KINDS)  # that hide single pieces
RATIO_STEPS = (
    "uniform:A:B = drawn for each step; linear:A:B = from A in the first step to B in the last; "
    "last:F:B = B in the last fraction F of the steps"
)
POOLING = (
    "of text features: content = mean over words; with_pads = released, padding counts in the "
    "mean; cls = [CLS] alone"
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base class of the models' settings: the sizes that all methods have.

    Defaults: ViT-B as published (method notes 1.1, 1.3, 1.4).
    """

    method: str = setting("", "the method; chooses the class of model, masks and losses")
    image_size: int = setting(224, "height and width of a clip, in pixels")
    frames: int = setting(16, "frames of a clip")
    patch_size: int = setting(16, "height and width of a patch, in pixels")
    dim: int = setting(768, "width of the encoder")
    depth: int = setting(12, "blocks of the encoder")
    heads: int = setting(12, "attention heads of a block of the encoder")
    mlp_ratio: float = setting(4.0, "width of an MLP over the width of its block")
    vocab_size: int = setting(30522, "word pieces; 0 = those of the tokenizer")
    text_length: int = setting(32, "word pieces of a caption, [CLS] and [SEP] included")
    text_padding: Literal["fixed", "longest"] = added(
        "fixed",
        "captions are padded to text_length; longest = released: to the longest of the local "
        "batch, truncated at max_text_positions",
    )
    max_text_positions: int = setting(512, "positions of the text embedding")
    text_dropout: float = setting(0.1, "dropout of the text embedding")
    drop_path: float = setting(0.0, "stochastic depth of the last block; linear from 0")
    init_video: str = setting(
        "", "folder, hub name or file of pre-trained video or image weights; empty = none"
    )
    init_text: str = setting("", "folder or hub name of pre-trained text weights; empty = none")

    @property
    def tubelet_size(self) -> int:
        """Frames that one token covers."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubes along time, height and width."""
        side = self.image_size // self.patch_size
        return self.frames // self.tubelet_size, side, side

    @property
    def tubes(self) -> int:
        t, h, w = self.grid
        return t * h * w

    @property
    def tube_values(self) -> int:
        """Values in one tube: tubelet * patch * patch * 3."""
        return self.tubelet_size * self.patch_size**2 * 3


@dataclass(frozen=True, kw_only=True)
class SimVTPConfig(ModelConfig):
    """Settings of SimVTP: one encoder for pairs, with decoders for pixels and words."""

    method: Literal["simvtp"] = setting("simvtp", "the method: simvtp, mac")
    tubelet_size: int = setting(2, "frames of a tube")
    decoder_dim: int = setting(384, "width of the video decoder")
    decoder_depth: int = setting(4, "blocks of the video decoder")
    decoder_heads: int = setting(6, "attention heads of the decoders")
    decoder_keep_ratio: float = setting(
        1.0, "of the masked tubes, chosen in running cells, that the decoder rebuilds in training"
    )
    decoder_cells: Literal["fixed", "turned"] = added(
        "fixed",
        "where the running cells begin: always at the same tube; turned = at a random one, so that "
        "each masked tube is rebuilt equally often, also with fewer than four time slots",
    )
    text_decoder_depth: int = setting(0, "blocks of the text decoder; 0 = released: linear")
    text_decoder_dim: int = setting(0, "width of a text decoder with blocks; 0 = decoder_dim")
    pooling: Pooling = setting("content", POOLING)
    contrastive_text: Literal["masked", "clean"] = setting(
        "masked", "the text that VTC and VTM see; masked = released"
    )
    contrastive_video: Literal["masked", "clean"] = setting(
        "masked", "the tubes that VTC and VTM see; clean = all; masked = released"
    )
    mlm_video: Literal["visible", "none"] = added(
        "visible", "the tubes that MLM sees; none = text alone (a control, with MLM as sole loss)"
    )
    reuse_pair_pass: bool = setting(
        True, "VTM positives come from the MVM/MLM pass; false = released: from a second pass"
    )
    vtm_negatives: Literal["random", "hard"] = setting(
        "random", "texts of VTM's negative pairs; random = released"
    )
    vtm_directions: Literal["text", "both"] = added(
        "text",
        "text = released: VTM has a wrong clip for each text; both = also a wrong text for each "
        "clip; true pairs always count half",
    )
    learned_temperature: bool = setting(
        False, "VTC learns its temperature, from losses.temperature on; false = released"
    )
    encoders: Literal["one", "two"] = setting(
        "one", "two: video and text have weights of their own in every block; one = released"
    )
    fusion_blocks: int = setting(
        0,
        "encoders=two: the last blocks in which the two sides of a pair attend to one another; "
        "0 = all",
    )
    tube_positions: Literal["sequence", "axes"] = added(
        "sequence",
        "fixed positions of the tubes: of their running number (released), or of time, row and "
        "column apart",
    )
    token_merge_ratio: float = setting(
        0.0,
        "of the visible tubes, that share a token with a similar one while pre-training; "
        "0 = released",
    )


@dataclass(frozen=True, kw_only=True)
class MACConfig(ModelConfig):
    """Settings of MAC: a video tower and a text tower; a token is a patch of one frame."""

    method: Literal["mac"] = setting("mac", "the method: simvtp, mac")
    text_depth: int = setting(6, "blocks of the text tower")
    projection: int = setting(256, "width of the two features")
    time_attention: Literal["rank", "nearest", "all"] = setting(
        "rank", "the patches of other frames that a patch attends to where masks differ by frame"
    )
    cls_counts: Literal["per_frame", "once"] = setting(
        "per_frame", "how often CLS counts itself in attention over space; once = Frozen's"
    )
    more_frames: MoreFrames = setting(
        "zero",
        "positions in time of weights that were trained on fewer frames; zero, nearest, bilinear = "
        "Frozen's zeros, interp, bilinear; interpolate keeps the first and the last in place",
    )
    text_dim: int = added(0, "width of the text tower; 0 = dim")
    text_heads: int = added(0, "attention heads of a block of the text tower; 0 = heads")
    text_mlp_ratio: float = added(0.0, "mlp_ratio of the text tower; 0 = that of the video tower")
    text_block_dropout: float = added(
        0.0, "dropout in attention and MLP of the text tower; DistilBERT's, and Frozen's: 0.1"
    )
    text_projection: Literal["linear", "relu"] = added(
        "linear", "of the text feature; relu = Frozen's: a ReLU, then a linear layer"
    )
    time_init: Literal["zero_output", "zero_qkv"] = added(
        "zero_output",
        "attention over time starts without effect: its output projection is 0, or (Frozen's) its "
        "queries, keys and values are 0 and its output projection is all ones",
    )
    projection_init: Literal["xavier", "torch"] = added(
        "xavier", "start of the two projections; torch = Frozen's: torch's default, biases included"
    )

    @property
    def tubelet_size(self) -> int:
        return 1

    @property
    def text_width(self) -> int:
        """Width of the text tower."""
        return self.text_dim or self.dim

    @property
    def text_head_count(self) -> int:
        """Attention heads of a block of the text tower."""
        return self.text_heads or self.heads

    @property
    def text_hidden(self) -> int:
        """Width of an MLP of the text tower."""
        return round(self.text_width * (self.text_mlp_ratio or self.mlp_ratio))


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Settings of the masks of pre-training (method notes 1.2)."""

    video_ratio: float = setting(0.9, "of the tubes, that are hidden")
    video_kind: Literal["tube", "random", "frame", "per_frame", "block"] = setting(
        "tube", "positions of all time slots, tubes, time slots, positions of each slot, or boxes"
    )
    text_ratio: float = setting(0.75, "of the words, that are hidden")
    text_kind: Literal["token", "word", "span", "rare", "frequent"] = setting(
        "token",
        "word pieces, whole words, or runs of text_span whole words; rare and frequent: word "
        "pieces, those first that the training captions hold seldom, or often",
    )
    text_rule: Literal["exact", "bernoulli"] = setting(
        "exact", "exact hides round(ratio * words), at least one; bernoulli = released"
    )
    text_span: int = setting(3, "words of a run, where text_kind is span")
    video_ratio_steps: str = added("", f"video_ratio by step: {RATIO_STEPS}; empty = constant")
    text_ratio_steps: str = added("", f"text_ratio by step: {RATIO_STEPS}; empty = constant")
    text_predicted: float = added(
        1.0, "of the hidden words of a caption, that MLM is asked for (at least one)"
    )
    text_corruption: Literal["mask", "bert"] = added(
        "mask", "hidden words become [MASK]; bert = of ten, eight do, one is random, one is kept"
    )


@dataclass(frozen=True, kw_only=True)
class MACMaskConfig(MaskConfig):
    """Settings of MAC's masks: equally many patches of each frame are hidden."""

    video_kind: Literal["tube", "per_frame", "block"] = setting(
        "tube", "positions of all frames, of each frame on its own, or boxes (docs/mac.md)"
    )
    text_mask: Literal["replace", "drop"] = setting(
        "replace", "hidden words become [MASK], or are left out"
    )
    frame_schedule: str = setting(
        "",
        "frames of a clip that are seen, with the number of steps: 1:2000,2:1000; afterwards "
        "all of model.frames",
    )
