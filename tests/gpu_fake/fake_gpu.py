"""A GPU that is not there: shapes, dtypes and devices of tensors on it are real, values are not.

torch's FakeTensorMode does that for forward passes. It raises where operands lie on different
devices and where a value is read. What it lacks is added here: the backward pass, because the
engine of autograd refuses CUDA tensors where there is no GPU, and some methods that copy between
devices. `DeviceWatch` counts what the device would be asked to do.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
# operations after which the host waits for a value or for a size
WAITING = frozenset(
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"),
        *("is_nonzero", "bincount", "repeat_interleave"),
    )
)
# operations that launch nothing: views, and memory without values
FREE = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "slice"),
        *("select", "unsqueeze", "squeeze", "split", "unbind", "alias", "detach", "as_strided"),
        *("unfold", "split_with_sizes", "_reshape_alias", "diagonal", "lift_fresh", "empty"),
        *("empty_like", "empty_strided", "new_empty", "new_empty_strided", "is_pinned"),
        *("_pin_memory", "set_", "resize_", "device", "slice_backward_", "view_as", "conj"),
    )
)
COPIES = ("_to_copy", "copy_", "lift_fresh", "_copy_from")
# torch cuts lists of tensors into launches of so many
FOREACH, FUSED_ADAM = 60, 30


def place() -> str:
    """Returns the file of the project in which the innermost frame of the stack is."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/simvtp/" in name:
            return name.rpartition("/")[2]
        frame = frame.f_back
    return "outside"


def _clips() -> bool:
    """Returns whether gradients are being clipped."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "clip_gradients":
        frame = frame.f_back
    return frame is not None


class DeviceWatch(TorchDispatchMode):
    """Counts launches, waits and copies between devices, by the place in the project.

    Attributes:
        launches: by operation.
        waits: by operation and place.
        copies: `cpu->cuda dtype blocking: place` and how often.
        attention: by kernel and whether there is a mask.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Forgets what was counted."""
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.attention: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()  # of a launch, of lists of tensors

    def total(self) -> int:
        """Returns the number of launches."""
        return sum(self.launches.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        short = name.split("::")[1]
        if name in WAITING:
            self.waits[f"{short}: {place()}"] += 1
        result = func(*args, **kwargs)
        inputs = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        outputs = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        copied = short in COPIES and self._note_copy(short, inputs, outputs, kwargs)
        on_device = [one for one in inputs + outputs if one.device.type == DEVICE.type]
        if on_device and not copied and short not in FREE:
            self._note_launch(short, inputs, args)
        return result

    def _note_copy(self, short: str, inputs: list[Any], outputs: list[Any], options: Any) -> bool:
        """Counts a copy between devices; returns whether it was one."""
        source = (inputs[1] if short == "copy_" else inputs[0]) if inputs else None
        target = outputs[0] if outputs else None
        if source is None or target is None or source.device.type == target.device.type:
            return False
        how = "" if options.get("non_blocking") else " BLOCKING"
        way = f"{source.device.type}->{target.device.type}"
        self.copies[f"{way} {str(source.dtype)[6:]}{how}: {place()}"] += 1
        return True

    def _note_launch(self, short: str, inputs: list[Any], args: Any) -> None:
        if short.startswith("_foreach"):
            self.launches[short] += max(1, len(inputs) // FOREACH)
        elif short.startswith("_fused_adam"):
            self.launches[short] += max(1, len(args[0]) // FUSED_ADAM)
        elif short in ("linalg_vector_norm", "mul_") and _clips():
            # torch refuses lists of fake tensors here; on a GPU they are one launch for many
            self._parts[short] += 1
            self.launches[short] = -(-self._parts[short] // FOREACH)
        else:
            self.launches[short] += 1


# ---- what torch cannot do without a GPU ----------------------------------------------------------


def move(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Stands for `nn.Module.to`, which swaps tensors in a way that fake ones do not know."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    for module in self.modules():
        for name, held in list(module._parameters.items()):
            if held is not None and _differs(held, device, dtype):
                moved = torch.empty(held.shape, dtype=dtype or held.dtype, device=device)
                module._parameters[name] = nn.Parameter(moved, requires_grad=held.requires_grad)
        for name, held in list(module._buffers.items()):
            if held is not None and _differs(held, device, None):
                module._buffers[name] = torch.empty(held.shape, dtype=held.dtype, device=device)
    return self


def _differs(held: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> bool:
    other = device is not None and held.device.type != device.type
    return other or (dtype is not None and held.dtype != dtype)


def attention_of(watch: DeviceWatch) -> Callable[..., Tensor]:
    """Returns a stand-in for scaled_dot_product_attention that takes the kernel a GPU would take.

    torch's default order on an A100 or H100: flash for half precision without a mask, else the
    memory-efficient kernel.
    """

    def attend(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
    ) -> Tensor:
        if torch.is_autocast_enabled("cuda") and q.device.type == "cuda":
            dtype = torch.get_autocast_dtype("cuda")
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        half = q.dtype in (torch.float16, torch.bfloat16)
        if attn_mask is None and half and q.shape[-1] % 8 == 0:
            watch.attention["flash"] += 1
            flash = aten._scaled_dot_product_flash_attention
            return flash(q, k, v, dropout_p, is_causal)[0]
        watch.attention["efficient, masked" if attn_mask is not None else "efficient"] += 1
        bias = None if attn_mask is None else _bias(attn_mask, q, k)
        grad = torch.is_grad_enabled() and any(one.requires_grad for one in (q, k, v))
        efficient = aten._scaled_dot_product_efficient_attention
        return efficient(q, k, v, bias, grad, dropout_p, is_causal)[0]

    return attend


def _bias(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Returns a boolean mask as the kernel takes it, padded to a multiple of 16 keys."""
    bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    if bias.shape[-1] % 16:
        bias = F.pad(bias, (0, 16 - bias.shape[-1] % 16))[..., : bias.shape[-1]]
    return bias.expand(*q.shape[:3], k.shape[2])


def backward(self: Tensor, gradient: Tensor | None = None, **options: Any) -> None:
    """Stands for `Tensor.backward`: walks the graph in Python and calls each node of it.

    Devices, shapes and dtypes of gradients are compared as autograd's engine does.
    """
    root: Any = self.grad_fn
    needs = _uses(root)
    buffers: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    buffers[root][0] = torch.ones_like(self) if gradient is None else gradient
    ready = [root]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            found = buffers.pop(node, {})
            if type(node).__name__ == "AccumulateGrad":
                _accumulate(node.variable, found.get(0))
                continue
            for (following, slot), one in zip(
                node.next_functions, _gradients_of(node, found), strict=False
            ):
                if following is None:
                    continue
                if one is not None:
                    one = _fitted(one, following, slot, node)
                    held = buffers[following].get(slot)
                    buffers[following][slot] = one if held is None else held + one
                needs[following] -= 1
                if needs[following] == 0:
                    ready.append(following)


def _uses(root: Any) -> Counter[Any]:
    """Returns how often each node of the graph is used."""
    needs: Counter[Any] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                needs[following] += 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    return needs


def _gradients_of(node: Any, found: dict[int, Tensor]) -> tuple[Any, ...]:
    """Returns the gradients of a node's inputs."""
    metadata = node._input_metadata
    gradients: list[Any] = [found.get(slot) for slot in range(len(metadata))]
    if all(one is None for one in gradients):
        return (None,) * len(node.next_functions)
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        for slot, meta in enumerate(metadata):
            if gradients[slot] is None:
                gradients[slot] = torch.zeros(meta.shape, dtype=meta.dtype, device=meta.device)
        result = node.apply(*gradients)
    else:
        result = node(*gradients)
    return result if isinstance(result, tuple) else (result,)


def _fitted(gradient: Tensor, node: Any, slot: int, origin: Any) -> Tensor:
    """Returns the gradient in the shape and dtype of what it belongs to."""
    meta = node._input_metadata[slot]
    assert gradient.device == meta.device, f"{origin}: {gradient.device}, {node}: {meta.device}"
    if tuple(gradient.shape) != tuple(meta.shape):
        gradient = gradient.sum_to_size(tuple(meta.shape))
    return gradient if gradient.dtype == meta.dtype else gradient.to(meta.dtype)


def _accumulate(parameter: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    assert gradient.device == parameter.device and gradient.shape == parameter.shape
    held = parameter.grad
    gradient = gradient.to(parameter.dtype)
    parameter.grad = gradient if held is None else held + gradient


def _without_values(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stands for functions that fill a tensor, some of which read values of it."""
    return tensor


@contextlib.contextmanager
def fake_gpu(watch: DeviceWatch) -> Iterator[Counter[str]]:
    """Puts the GPU in place; yields how often memory was pinned inside a step, by place."""
    pinned: Counter[str] = Counter()
    mode = FakeTensorMode()

    def pin(self: Any) -> Any:
        pinned[place()] += 1
        return self

    def copied(module: Any, memo: Any = None) -> Any:
        return copy.deepcopy(module, {id(mode): mode, **(memo or {})})  # a copy stays in this mode

    weights = "simvtp.models.common.initial_weights"
    replaced: dict[str, Any] = {
        "torch.nn.Module.to": move,
        "torch.Tensor.backward": backward,
        "torch.nn.functional.scaled_dot_product_attention": attention_of(watch),
        "torch.nn.init.trunc_normal_": _without_values,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda *args, **options: True,
        # gradient checkpointing asks for it: one walk is one task
        "torch._C._current_graph_task_id": lambda: 1,
        f"{weights}._initial_values": lambda module, name, shape, generator: torch.empty(shape),
        "simvtp.training.parallel.distributed.choose_device": lambda *args, **options: DEVICE,
        "simvtp.training.parallel.micro_batch.free_memory": lambda device: None,
        "simvtp.training.parallel.parallel_model.copy": mock.Mock(deepcopy=copied),
        "simvtp.training.stage_run.weightless": lambda model: None,
        "simvtp.training.stage_run.shapes_of": lambda *args, **options: None,
        "simvtp.batch.Batch.pin_memory": pin,
    }
    with mode, contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch(name, value))
        yield pinned
