"""Attention at the shapes of the model: which kernel torch takes, and the time of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from simvtp.bench.gpu.check_worker import Recorder
from simvtp.compat.attention_choice import attention_kernel


@dataclass(frozen=True)
class AttentionShape:
    """Shape of the attention in one pass of the model at ViT-B.

    Attributes:
        name: of the pass.
        heads: of 64 values each.
        tokens: in a sequence.
        masked: the last 32 tokens are a caption, whose padding is masked.
        gradient: the pass is trained.
    """

    name: str
    heads: int
    tokens: int
    masked: bool
    gradient: bool = True


ATTENTION_SHAPES = (
    AttentionShape("visible tubes", 12, 160, False),
    AttentionShape("caption", 12, 32, True),
    AttentionShape("pair", 12, 192, True),
    AttentionShape("decoder", 6, 1568, False),
    AttentionShape("whole clip, scored", 12, 1568, False, gradient=False),
)


def attention_inputs(
    shape: AttentionShape, samples: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Returns queries, keys, values [B, heads, S, 64] and the mask bool [B, 1, 1, S] of a pass."""
    size = (samples, shape.heads, shape.tokens, 64)
    q, k, v = (
        torch.randn(size, device=device, dtype=dtype, requires_grad=shape.gradient)
        for _ in range(3)
    )
    if not shape.masked:
        return q, k, v, None
    words = 8 + torch.arange(samples, device=device) % 24
    position = torch.arange(shape.tokens, device=device) - (shape.tokens - 32)
    return q, k, v, (position < words[:, None])[:, None, None, :]


def report_kernels(recorder: Recorder) -> None:
    """Reports the kernel that torch takes for each shape, and gates on fused ones."""
    device = recorder.device
    for shape in ATTENTION_SHAPES:
        q, k, v, mask = attention_inputs(shape, 2, device, torch.bfloat16)
        kernel = attention_kernel(q, k, v, mask)
        recorder.row(
            "kernels of attention in bf16",
            attention=shape.name,
            tokens=shape.tokens,
            masked=shape.masked,
            kernel=kernel.name,
        )
        if device.type == "cuda":
            fast = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)
            wanted = (*fast, SDPBackend.EFFICIENT_ATTENTION) if shape.masked else fast
            named = "a fused kernel" if shape.masked else "flash or cuDNN"
            recorder.gate(f"attention over {shape.name} takes {named}", kernel in wanted)


def measure_attention(recorder: Recorder) -> None:
    """Reports the time of each shape of attention by each kernel, forward and backward."""
    device = recorder.device
    samples = 1 if recorder.tiny else 64
    dtype = torch.float32 if recorder.tiny else torch.bfloat16
    for shape in ATTENTION_SHAPES:
        inputs = attention_inputs(shape, samples, device, dtype)
        for name, backend in _BACKENDS.items():
            if device.type == "cpu" and backend is not None:
                continue
            needed = 0.0 if recorder.tiny else 1.0
            attempt = recorder.attempt(f"{shape.name} by {name}", needed, optional=True)
            with attempt, _only(backend):
                _report_attention(recorder, shape, name, inputs, _plain)
        if device.type == "cuda":
            with recorder.attempt(f"{shape.name} by varlen", needed=1, optional=True):
                _report_attention(recorder, shape, "varlen, packed", inputs, _packed(inputs[3]))
            with recorder.attempt(f"{shape.name} by flex", needed=8, optional=True):
                _report_attention(recorder, shape, "flex", inputs, _flex(shape, inputs[3]))


_BACKENDS: dict[str, SDPBackend | None] = {
    "torch's choice": None,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@contextmanager
def _only(backend: SDPBackend | None) -> Iterator[None]:
    if backend is None:
        yield
        return
    with sdpa_kernel(backend):
        yield


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _flex(shape: AttentionShape, mask: Tensor | None) -> Attend:
    """Returns torch's flex attention, compiled, which takes padding as a block mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    blocks = None
    if mask is not None:
        seen = mask[:, 0, 0]
        blocks = create_block_mask(
            lambda b, h, q, kv: seen[b, kv],
            len(mask),
            None,
            shape.tokens,
            shape.tokens,
            device=str(mask.device),
        )

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return compiled(q, k, v, block_mask=blocks)

    return attend


def _packed(mask: Tensor | None) -> Attend:
    """Returns torch's attention over sequences without padding, in a row; packing is timed too."""
    from torch.nn.attention.varlen import varlen_attn

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        samples, heads, tokens, width = q.shape
        rows = [part.transpose(1, 2).reshape(samples * tokens, heads, width) for part in (q, k, v)]
        if places is not None:
            rows = [part.index_select(0, places) for part in rows]
        start = starts if starts is not None else _even_starts(samples, tokens, q.device)
        queries, keys, values = rows
        mixed = varlen_attn(queries, keys, values, start, start, tokens, tokens)
        assert isinstance(mixed, Tensor)
        return mixed

    places = starts = None
    if mask is not None:
        seen = mask[:, 0, 0]
        places = seen.flatten().nonzero()[:, 0]
        starts = F.pad(seen.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32)
    return attend


def _even_starts(samples: int, tokens: int, device: torch.device) -> Tensor:
    return torch.arange(samples + 1, device=device, dtype=torch.int32) * tokens


def _report_attention(
    recorder: Recorder,
    shape: AttentionShape,
    name: str,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor | None],
    attend: Attend,
) -> None:
    q, k, v, mask = inputs

    def call() -> None:
        mixed = attend(q, k, v, mask)
        if shape.gradient:
            torch.autograd.grad(mixed.float().sum(), (q, k, v))

    seconds = recorder.time(call, 0.1)
    passes = 3.5 if shape.gradient else 1  # the backward pass has five products to two
    flops = passes * 4 * len(q) * shape.heads * shape.tokens**2 * 64
    recorder.row(
        f"attention, {len(q)} samples, {str(q.dtype)[6:]}",
        attention=shape.name,
        kernel=name,
        ms=1000 * seconds,
        TFLOP_per_s=flops / seconds / 1e12,
    )
