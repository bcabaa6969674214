"""Search space: the settings that a search varies, and the notation `key=low:high[:log]`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ablations.base_recipe import own_weights
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.overrides import replace_key
from simvtp.config.tree import flatten
from simvtp.errors import ConfigError

# Significant digits of a proposed number: names stay short, and 0.8312345 is the experiment 0.831.
DIGITS = 3
WEIGHTS = ("mvm", "mlm", "vtc", "vtm")


@dataclass(frozen=True)
class SearchParameter:
    """One setting that is searched.

    Attributes:
        low, high: range of a number, both ends possible.
        log: the range is searched on a logarithmic scale.
        choices: of the kind "choice".
        short: name in progress lines.
    """

    key: str
    label: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    short: str = ""

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if not self.choices:
                raise ConfigError(
                    f"{self.key} has no choice: give at least one, such as {self.key}=2,4."
                )
        elif not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ConfigError(
                f"{self.key}={self.low:g}:{self.high:g}: "
                "a range goes from a lower to a higher number."
            )
        elif self.log and self.low <= 0:
            raise ConfigError(
                f"{self.key}={self.low:g}:{self.high:g}:log: "
                "a range with a logarithmic scale must begin above 0."
            )

    @property
    def name(self) -> str:
        """Name in progress lines."""
        return self.short or self.label

    @property
    def words(self) -> str:
        """The range in words: `0.3 to 0.95`, `32, 64 or 128`."""
        if self.kind == "choice":
            first, last = ", ".join(map(str, self.choices[:-1])), str(self.choices[-1])
            return f"{first} or {last}" if first else last
        return f"{self.low:g} to {self.high:g}{' (log scale)' if self.log else ''}"

    def rounded(self, value: Any) -> Any:
        """Returns the nearest value that is proposed.

        That is a float of few digits inside the range, an integer, or one of the choices.
        """
        if self.kind == "choice":
            return value
        if self.kind == "int":
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Returns True if the value may be proposed."""
        if self.kind == "choice":
            return value in self.choices
        return bool(self.low <= value <= self.high)

    def plan(self) -> dict[str, Any]:
        """Returns the entry of the parameter in plan.json."""
        words = ("key", "label", "kind", "low", "high", "log")
        return {word: getattr(self, word) for word in words} | {"choices": list(self.choices)}


def default_space(base: Experiment) -> tuple[SearchParameter, ...]:
    """Returns the default space: ranges around the base.

    Learning rate 1/10 to 3 times, decoder half to twice, weights around; leaving an objective out
    is the question of the ablation `losses`. Settings that the base does not use are not searched:
    the weight of an objective that is off, a mask that hides nothing, the decoder without MVM.
    """
    lr, own = base.pretrain.base_lr, own_weights(base)
    found = [
        SearchParameter("masks.video_ratio", "video mask ratio", "float", 0.3, 0.95, short="video"),
        SearchParameter("masks.text_ratio", "text mask ratio", "float", 0.1, 0.9, short="text"),
        *(
            SearchParameter(
                f"losses.{name}",
                f"{name.upper()} weight",
                "float",
                _digits(0.1 * own[name]),
                _digits(4 * own[name]),
                log=True,
                short=name,
            )
            for name in WEIGHTS
        ),
        SearchParameter(
            "pretrain.base_lr",
            "learning rate",
            "float",
            _digits(lr / 10),
            _digits(lr * 3),
            log=True,
            short="lr",
        ),
    ]
    if isinstance(base.model, SimVTPConfig) and "mvm" in base.losses.wanted:
        found += _decoder_space(base.model)
    known = flatten(base)
    return tuple(parameter for parameter in found if known.get(parameter.key))


def _decoder_space(model: SimVTPConfig) -> list[SearchParameter]:
    """Returns half to twice the decoder's depth and width.

    The heads must divide a width, and sine-cosine positions need pairs.
    """
    depth, width, step = model.decoder_depth, model.decoder_dim, 2 * model.decoder_heads
    near = (max(step, round(width * factor / step) * step) for factor in (0.5, 1, 2))
    widths = tuple(dict.fromkeys(near))
    return [
        SearchParameter("model.decoder_depth", "decoder depth", "int", 1, 2 * depth, short="depth"),
        SearchParameter(
            "model.decoder_dim", "decoder width", "choice", choices=widths, short="width"
        ),
    ]


def read_space(
    texts: Sequence[str] | str, space: Sequence[SearchParameter], base: Experiment
) -> tuple[SearchParameter, ...]:
    """Returns `space` changed by the user's texts.

    Args:
        texts: `key=low:high[:log]`, `key=a,b,c` (choices) or `key=value` (fixed, not searched),
            with commas between.
        space: the space to change; keys that are not in it are added.
        base: the experiment, which knows the type of each setting.

    Raises:
        ConfigError: an unknown setting, or another notation.
    """
    found = {parameter.key: parameter for parameter in space}
    known = flatten(base)
    for key, values in _assignments(joined(texts)).items():
        if key not in known:
            replace_key(base, key, "")  # raises, with the setting that may have been meant
        before = found.get(key, SearchParameter(key, key, "choice", choices=(known[key],)))
        found[key] = _parameter(before, values, base)
    return tuple(found.values())


def _assignments(text: str) -> dict[str, list[str]]:
    """Returns {"a": ["1:2"], "b": ["x", "y"]} of `a=1:2,b=x,y`."""
    found: dict[str, list[str]] = {}
    key = ""
    for part in (part.strip() for part in text.split(",") if part.strip()):
        name, sign, value = part.partition("=")
        if sign:
            key = name.strip()
            found[key] = []
        if not key or not (value if sign else part).strip():
            raise ConfigError(f"--space {part}: write key=low:high, key=low:high:log or key=a,b,c.")
        found[key].append((value if sign else part).strip())
    return found


def _parameter(before: SearchParameter, values: list[str], base: Experiment) -> SearchParameter:
    key, label, short = before.key, before.label, before.short
    low, sign, rest = values[0].partition(":")
    if len(values) > 1 or not sign:
        typed = tuple(
            dict.fromkeys(flatten(replace_key(base, key, value))[key] for value in values)
        )
        return SearchParameter(key, label, "choice", choices=typed, short=short)
    high, _, scale = rest.partition(":")
    try:
        numbers = float(low), float(high)
    except ValueError:
        numbers = math.nan, math.nan
    whole = isinstance(flatten(base)[key], int)
    if (
        any(math.isnan(number) for number in numbers)
        or scale not in ("", "log")
        or not isinstance(flatten(base)[key], int | float)
    ):
        raise ConfigError(
            f"--space {key}={values[0]}: "
            f"write {key}=low:high or {key}=low:high:log with two numbers."
        )
    return SearchParameter(
        key,
        label,
        "int" if whole else "float",
        numbers[0],
        numbers[1],
        log=scale == "log",
        short=short,
    )


def joined(texts: Sequence[str] | str) -> str:
    """Returns several texts as one, with commas between."""
    return texts if isinstance(texts, str) else ",".join(texts)


def _digits(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
