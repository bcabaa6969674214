"""Conversion of a foreign state dict into the names and shapes of a model.

Shapes are compared one by one; nothing is loaded before everything is explained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from simvtp.errors import CheckpointError
from simvtp.models.weights.architecture_checks import check_finite

UNUSED = ""  # a rule's target for keys that are known and not loaded


@dataclass(frozen=True)
class Rule:
    """Foreign keys that match `pattern` completely become `target`.

    Attributes:
        pattern: regular expression.
        target: its template; UNUSED for keys that are not loaded.
        change: conv = Conv3d kernel to matrix; inflate = Conv2d kernel to the matrix of a tube;
            vector = drop leading axes of size 1; q, k, v = a third of the fused qkv; q_bias = a
            fused bias of q, k and v; cut = a position table that may be longer than needed.
        why: reason for an unused key.
    """

    pattern: str
    target: str
    change: str = ""
    why: str = ""


@dataclass(frozen=True)
class Naming:
    """One kind of checkpoint.

    Attributes:
        kind: its name, for messages.
        rules: for its keys.
        required: prefixes of our parameters that it must have.
        optional: prefixes of our parameters that it may have, completely or not at all.
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
        unused: foreign key -> reason why it was not loaded.
        kept: our parameters that the file does not have and that keep their values.
        notes: changes on the way, in words.
    """

    kind: str
    values: dict[str, Tensor]
    names: dict[str, str]
    unused: dict[str, str]
    kept: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """Returns what was loaded, what was not, and why: one line each."""
        lines = [f"{self.kind}: {len(self.names)} keys loaded"]
        for why in dict.fromkeys(self.unused.values()):
            keys = [key for key, reason in self.unused.items() if reason == why]
            lines.append(f"  {len(keys)} keys not loaded ({why}): {_some(keys)}")
        if self.kept:
            kept = list(self.kept)
            lines.append(f"  {len(kept)} parameters keep their values: {_some(kept)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def convert(
    state: Mapping[str, Tensor], model: nn.Module, naming: Naming, where: str
) -> ConversionReport:
    """Returns `state` in the names and shapes of `model`; nothing is loaded yet.

    Keys of a module that the model does not have, because its objective is off, are listed as
    unused.

    Raises:
        CheckpointError: a key has no rule, a required parameter is missing, a shape differs, or a
            value is no number.
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
            if rule.change == "q_bias":
                # the fused bias of q, k and v; that of k shifts all scores of a query alike
                values[target.replace("q_bias", "v_bias")] = value[2 * (len(value) // 3) :]
    values |= {
        target: torch.cat([part[c] for c in "qkv"])
        for target, part in thirds.items()
        if len(part) == 3
    }
    if unknown:
        raise CheckpointError(
            f"{where}: {len(unknown)} keys that this model does not have ({naming.kind}): "
            f"{_some(unknown)}; is it of the same depth and kind as the model?"
        )
    kept = _missing(wanted, values, naming, where)
    for target, value in values.items():
        if value.shape != wanted[target]:
            raise _shape_error(target, value, wanted[target], where)
    check_finite(values, where)
    return ConversionReport(naming.kind, values, names, unused, tuple(kept), tuple(notes))


def load(model: nn.Module, conversion: ConversionReport) -> None:
    """Copies the converted values into the model's parameters."""
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
    if change == "inflate" and value.dim() == 4:
        # [D, 3, p, p] -> [D, (t, h, w, c)], divided over the frames of a tube
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
    """Returns the parameters that keep their values.

    Raises:
        CheckpointError: a required parameter is missing, or an optional part is incomplete.
    """
    lacking = [name for name in wanted if name not in values]
    brought = {
        prefix for prefix in naming.optional if any(name.startswith(prefix) for name in values)
    }
    needed = (*naming.required, *brought)
    missing = [name for name in lacking if name.startswith(needed)]
    if missing:
        raise CheckpointError(
            f"{where}: {len(missing)} parameters of the model are not in this checkpoint "
            f"({naming.kind}): {_some(missing)}; is it of the same depth and kind as the model?"
        )
    return lacking


def _shape_error(name: str, value: Tensor, shape: torch.Size, where: str) -> CheckpointError:
    found, expected = list(value.shape), list(shape)
    hints = {
        ".word.weight": "model.vocab_size must be that of the checkpoint: use its tokenizer "
        "(data.tokenizer)",
        ".position.weight": "set model.max_text_positions to at most the positions of the "
        "checkpoint",
        ".token_type.weight": "BERT has two token types, RoBERTa one: use BERT",
        "text_decoder.head.": "the released text decoder is a linear head: "
        "model.text_decoder_depth must be 0, and the vocabulary the same",
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
