"""The unified encoder: one set of weights for [video ; text], video alone and text alone (method
notes 1.3).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from simvtp.config.schema import ModelConfig
from simvtp.models.common.layers import BLOCK_NORM_EPS, Blocks


class Encoder(nn.Module):
    """Blocks and, in the pre-training model, a final LayerNorm.

    Set `packed` (by `set_packed_text`) to leave the padding of texts out of every linear layer and
    norm. What comes back at padding is then of no meaning, so this is not done where the pooling
    averages over it, nor with random drop path, which is drawn for each sample.
    """

    def __init__(self, config: ModelConfig, final_norm: bool = True) -> None:
        super().__init__()
        self.packed = False
        self.padding_counts = config.pooling == "with_pads"
        self.drops_paths = config.drop_path > 0
        self.blocks = Blocks(
            config.dim, config.depth, config.heads, config.mlp_ratio, config.drop_path
        )
        self.norm = nn.LayerNorm(config.dim, eps=BLOCK_NORM_EPS) if final_norm else nn.Identity()

    def forward(
        self, tokens: Tensor, keys: Tensor | None = None, words_from: int | None = None
    ) -> Tensor:
        """tokens [B, S, D]; keys bool [B, S], False at padding (given only where there is text).
        Where a pair's text begins is all the same to one encoder."""
        if keys is not None and self.leaves_padding_out:
            return self.norm(self.blocks.together([(tokens, keys)], pack=True)[0])
        return self.norm(self.blocks(tokens, keys))

    @property
    def leaves_padding_out(self) -> bool:
        """Whether it does now: asked to, and nothing speaks against it."""
        return self.packed and not self.padding_counts and not (self.drops_paths and self.training)

    def together(self, sequences: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        """The same for several (tokens, keys) at once, see `Blocks.together`."""
        return [
            self.norm(tokens) for tokens in self.blocks.together(sequences, self.leaves_padding_out)
        ]


def set_packed_text(model: nn.Module, on: bool) -> None:
    """Switch whether padding is left out, in every encoder inside `model`."""
    for module in model.modules():
        if isinstance(module, Encoder):
            module.packed = on


def leaves_padding_out(model: nn.Module) -> bool:
    """Whether an encoder inside `model` does."""
    return any(
        module.leaves_padding_out for module in model.modules() if isinstance(module, Encoder)
    )


def pool(tokens: Tensor, keys: Tensor | None, pooling: str, words_from: int = 0) -> Tensor:
    """Mean over the positions of tokens [B, S, D] -> [B, D]; or one of them.

    `with_pads` averages over all positions, padding included (released behaviour); `content` over
    those where `keys` [B, S] is True (ours). Without keys there is no padding and both are the
    same. `cls` takes the text's [CLS] (ours), the first of its tokens, which begin at `words_from`;
    video has no [CLS] and keeps its mean.
    """
    if keys is not None and pooling == "cls":
        return tokens[:, words_from]
    if keys is None or pooling == "with_pads":
        return tokens.mean(dim=1)
    weight = keys.to(tokens.dtype)
    return (tokens * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)
