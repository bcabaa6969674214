"""Frozen-in-Time by its published definition, in plain torch and float64, and files of its results.

Written from the paper (arXiv 2104.00650) and the published names of its parameters, without any
part of ours: every attention is a whole matrix of scores with the set of those that a token sees.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEMPERATURE = 0.05
State = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model, and of one batch; named as in the metadata of a reference file."""

    image_size: int = 32
    patch_size: int = 8
    num_frames: int = 4
    frames_given: int = 4
    embed_dim: int = 24
    depth: int = 2
    heads: int = 3
    hidden_dim: int = 40
    vocab_size: int = 31
    text_dim: int = 20
    text_depth: int = 2
    text_heads: int = 2
    text_hidden_dim: int = 28
    max_text_positions: int = 11
    projection_dim: int = 7
    temperature: float = TEMPERATURE
    batch: int = 3
    text_length: int = 8
    load_temporal_fix: str = "zeros"


def random_state(sizes: Sizes, trained_frames: int, seed: int = 0) -> State:
    """Random weights in the published naming, unlike any initialisation, in float32."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def add(name: str, *shape: int) -> None:
        state[name] = 0.3 * torch.randn(shape, generator=generator)
        if "norm" in name.lower() and name.endswith("weight"):
            state[name] += 1

    def linear(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    def norm(name: str, width: int) -> None:
        add(f"{name}.weight", width)
        add(f"{name}.bias", width)

    d, side = sizes.embed_dim, sizes.patch_size
    add("video_model.cls_token", 1, 1, d)
    add("video_model.pos_embed", 1, (sizes.image_size // side) ** 2 + 1, d)
    add("video_model.temporal_embed", 1, trained_frames, d)
    add("video_model.patch_embed.proj.weight", d, 3, side, side)
    add("video_model.patch_embed.proj.bias", d)
    for block in (f"video_model.blocks.{i}" for i in range(sizes.depth)):
        for attention in (f"{block}.attn", f"{block}.timeattn"):
            linear(f"{attention}.qkv", d, 3 * d)
            linear(f"{attention}.proj", d, d)
        for number in (1, 2, 3):
            norm(f"{block}.norm{number}", d)
        linear(f"{block}.mlp.fc1", d, sizes.hidden_dim)
        linear(f"{block}.mlp.fc2", sizes.hidden_dim, d)
    norm("video_model.norm", d)
    w = sizes.text_dim
    add("text_model.embeddings.word_embeddings.weight", sizes.vocab_size, w)
    add("text_model.embeddings.position_embeddings.weight", sizes.max_text_positions, w)
    norm("text_model.embeddings.LayerNorm", w)
    for layer in (f"text_model.transformer.layer.{i}" for i in range(sizes.text_depth)):
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            linear(f"{layer}.attention.{name}", w, w)
        norm(f"{layer}.sa_layer_norm", w)
        linear(f"{layer}.ffn.lin1", w, sizes.text_hidden_dim)
        linear(f"{layer}.ffn.lin2", sizes.text_hidden_dim, w)
        norm(f"{layer}.output_layer_norm", w)
    linear("vid_proj.0", d, sizes.projection_dim)
    linear("txt_proj.1", w, sizes.projection_dim)
    return state


def with_frames(state: State, sizes: Sizes) -> State:
    """The weights after Frozen's loader, in float64: positions in time for `num_frames`."""
    table = state["video_model.temporal_embed"].double()[0]
    had, wanted = len(table), sizes.num_frames
    if wanted <= had:
        table = table[:wanted]
    elif sizes.load_temporal_fix == "zeros":
        table = torch.cat([table, torch.zeros(wanted - had, table.shape[1]).double()])
    else:
        rows = []
        for i in range(wanted):
            if sizes.load_temporal_fix == "interp":
                rows.append(table[i * had // wanted])
                continue
            place = min(max((i + 0.5) * had / wanted - 0.5, 0.0), had - 1.0)
            low = int(place)
            high = min(low + 1, had - 1)
            rows.append(table[low] + (place - low) * (table[high] - table[low]))
        table = torch.stack(rows)
    ready = {name: value.double() for name, value in state.items()}
    return ready | {"video_model.temporal_embed": table[None]}


def attention(tokens: Tensor, state: State, names: tuple[str, ...], seen: Tensor, heads: int):
    """Softmax attention of tokens [B, S, D] over those they see, bool [B or 1, 1, S, S]."""
    parts = [apply(state, name, tokens).unflatten(-1, (heads, -1)) for name in names]
    q, k, v = (part.transpose(1, 2) for part in parts)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2)


def apply(state: State, name: str, x: Tensor) -> Tensor:
    """A linear layer; `name#i` is the i-th of the three of a fused one."""
    name, _, third = name.partition("#")
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    if third:
        weight, bias = weight.chunk(3)[int(third)], bias.chunk(3)[int(third)]
    return x @ weight.T + bias


def normed(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def video_embedding(state: State, sizes: Sizes, clips: Tensor) -> Tensor:
    """[B, projection] of uint8 clips [B, T, 3, H, W]."""
    frames, side = clips.shape[1], sizes.patch_size
    pixels = (clips.double() / 255 - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(
        STD
    ).double()[:, None, None]
    patches = pixels.unfold(3, side, side).unfold(4, side, side)  # [B, T, 3, h, w, p, p]
    kernel = state["video_model.patch_embed.proj.weight"]
    tokens = torch.einsum("btchwyx,dcyx->bthwd", patches, kernel).flatten(2, 3)
    tokens = tokens + state["video_model.patch_embed.proj.bias"]
    places = state["video_model.pos_embed"][0]
    times = state["video_model.temporal_embed"][0, :frames]
    tokens = tokens + places[1:] + times[:, None]
    count = tokens.shape[2]
    cls = (state["video_model.cls_token"][0] + places[:1]).expand(len(clips), 1, -1)
    x = torch.cat([cls, tokens.flatten(1, 2)], dim=1)
    frame = torch.arange(frames).repeat_interleave(count)
    place = torch.arange(count).repeat(frames)
    same_frame, same_place = (torch.ones(1 + len(frame), 1 + len(frame)).bool() for _ in range(2))
    same_frame[1:, 1:] = frame[:, None] == frame
    same_place[1:, 1:] = place[:, None] == place

    def attend(name: str, y: Tensor, seen: Tensor) -> Tensor:
        thirds = tuple(f"{name}.qkv#{i}" for i in range(3))
        mixed = attention(y, state, thirds, seen[None, None], sizes.heads)
        return apply(state, f"{name}.proj", mixed)

    for block in (f"video_model.blocks.{i}" for i in range(sizes.depth)):
        timed = x + attend(
            f"{block}.timeattn", normed(state, f"{block}.norm3", x, 1e-6), same_place
        )
        x = x + attend(f"{block}.attn", normed(state, f"{block}.norm1", timed, 1e-6), same_frame)
        hidden = F.gelu(apply(state, f"{block}.mlp.fc1", normed(state, f"{block}.norm2", x, 1e-6)))
        x = x + apply(state, f"{block}.mlp.fc2", hidden)
    return apply(state, "vid_proj.0", normed(state, "video_model.norm", x, 1e-6)[:, 0])


def text_embedding(state: State, sizes: Sizes, ids: Tensor, mask: Tensor) -> Tensor:
    """[B, projection] of word pieces [B, L]; `mask` is 0 at padding."""
    words = state["text_model.embeddings.word_embeddings.weight"][ids]
    places = state["text_model.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = normed(state, "text_model.embeddings.LayerNorm", words + places, 1e-12)
    for layer in (f"text_model.transformer.layer.{i}" for i in range(sizes.text_depth)):
        names = tuple(f"{layer}.attention.{name}_lin" for name in "qkv")
        mixed = attention(x, state, names, mask.bool()[:, None, None], sizes.text_heads)
        x = x + apply(state, f"{layer}.attention.out_lin", mixed)
        x = normed(state, f"{layer}.sa_layer_norm", x, 1e-12)
        hidden = F.gelu(apply(state, f"{layer}.ffn.lin1", x))
        x = x + apply(state, f"{layer}.ffn.lin2", hidden)
        x = normed(state, f"{layer}.output_layer_norm", x, 1e-12)
    return apply(state, "txt_proj.1", x[:, 0].clamp(min=0))


def results(state: State, sizes: Sizes, clips: Tensor, ids: Tensor, mask: Tensor) -> State:
    """Embeddings, cosines, loss, and the gradients of all weights of `with_frames`."""
    own = {name: value.clone().requires_grad_() for name, value in state.items()}
    text = text_embedding(own, sizes, ids, mask)
    video = video_embedding(own, sizes, clips)
    cosines = (text / text.norm(dim=1, keepdim=True)) @ (video / video.norm(dim=1, keepdim=True)).T
    pairs = torch.arange(len(ids))
    loss = -sum(
        (scores / sizes.temperature).log_softmax(1)[pairs, pairs].mean()
        for scores in (cosines, cosines.T)
    )
    loss.backward()
    out = {"text_embedding": text, "video_embedding": video, "similarity": cosines}
    found = {f"out/{name}": value.detach() for name, value in (out | {"loss": loss[None]}).items()}
    for name, value in own.items():
        gradient = torch.zeros_like(value) if value.grad is None else value.grad
        found |= {f"grad/{name}": gradient, f"grad_norm/{name}": gradient.norm()[None]}
    return found


def random_inputs(sizes: Sizes, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Clips [B, T, 3, H, W], captions of different lengths [B, L] and their mask."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sizes.batch, sizes.frames_given, 3, sizes.image_size, sizes.image_size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    shape = (sizes.batch, sizes.text_length)
    ids = torch.randint(3, sizes.vocab_size, shape, generator=generator)
    lengths = sizes.text_length - torch.arange(sizes.batch) % (sizes.text_length - 2)
    mask = (torch.arange(sizes.text_length) < lengths[:, None]).long()
    return clips, ids * mask, mask


def write_file(path: Path, sizes: Sizes, trained_frames: int = 0, prefix: str = "module.") -> Path:
    """Writes a reference file of a random model; 0 stands for as many frames as it has."""
    state = random_state(sizes, trained_frames or sizes.num_frames)
    clips, ids, mask = random_inputs(sizes)
    tensors = {f"state/{prefix}{name}": value for name, value in state.items()}
    tensors |= {"in/pixels_uint8": clips, "in/input_ids": ids, "in/attention_mask": mask}
    tensors |= results(with_frames(state, sizes), sizes, clips, ids, mask)
    metadata = {"config": json.dumps(asdict(sizes))}
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in tensors.items()}, path, metadata
    )
    return path


def other(**changes: int | float | str) -> Sizes:
    """Sizes with some changed."""
    return replace(Sizes(), **changes)  # type: ignore[arg-type]
