"""The kernel that torch's scaled_dot_product_attention takes for given inputs.

torch decides by shapes, dtype, mask and device, and says nowhere public what it chose; a silent
fall-back to the plain matrix products costs several times the time and memory.

Remove when torch has a public function that names the kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> SDPBackend:
    """Returns the kernel for queries, keys and values [B, heads, S, D / heads] with a mask."""
    return SDPBackend(torch._fused_sdp_choice(q, k, v, attn_mask=mask))
