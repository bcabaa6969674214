"""Figures of the use of a modality: gains, intervals over the clips, results with a protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.items import Items, weight_column
from simvtp.evaluation.modality.hidden_tubes import Columns
from simvtp.runs.results import Protocol, Result

PAIRS = "pairs"  # variant of the figures that need no mask
CHANCE = 50.0  # per cent, of each metric of pairs
COUNTS = ("words", "content_words", "motion_captions")
RESAMPLES, RESAMPLING_SEED = 2000, 0
# gain -> (what is better if larger, what is better if smaller): the gain is their difference
GAINS: dict[str, tuple[str, str]] = {
    **{
        f"{part}_gain_{other}": (f"{part}_loss_{other}", f"{part}_loss_own")
        for part in ("mlm", "content", "mvm")
        for other in ("other", "none")
    },
    **{
        f"{part}_acc_gain_{other}": (f"{part}_acc_own", f"{part}_acc_{other}")
        for part in ("mlm", "content")
        for other in ("other", "none")
    },
    "mvm_gain_flat": ("mvm_loss_flat", "mvm_loss_own"),
    "psnr_gain": ("psnr_model", "psnr_flat"),
    "mvm_gain_mean_colour": ("mvm_loss_mean_colour", "mvm_loss_own"),
    "psnr_gain_mean_colour": ("psnr_model", "psnr_mean_colour"),
    "mvm_gain_constant": ("mvm_loss_constant", "mvm_loss_own"),
}
# losses of the trivial answer of a target; a model has the first of them that it has at all
TRIVIAL = ("mvm_loss_mean_colour", "mvm_loss_constant", "mvm_loss_flat")

Values = NDArray[np.float64]


def with_gains(columns: Columns) -> dict[str, Values]:
    """Returns the columns as arrays [clips], with the gains that follow from them.

    Gains are positive where the model makes use of what it was shown: of losses (nat, mean squared
    error) other minus own, of accuracies (points) and PSNR (dB) own minus other.
    `mvm_gain_trivial` is the part of the loss of the trivial answer that the model takes away: of
    flat tubes for normalised targets, of the mean colour for raw ones, of a constant for others.
    """
    values = {name: column.numpy().astype(np.float64) for name, column in columns.items()}
    gains = {
        gain: values[larger] - values[smaller]
        for gain, (larger, smaller) in GAINS.items()
        if larger in values and smaller in values
    }
    trivial = next((values[name] for name in TRIVIAL if name in values), None)
    if trivial is not None and "mvm_loss_own" in values:
        # a clip of one colour leaves nothing to predict
        left = np.divide(
            values["mvm_loss_own"], trivial, out=np.ones_like(trivial), where=trivial > 0
        )
        gains["mvm_gain_trivial"] = 1 - left
    return values | gains


@dataclass(frozen=True)
class UseColumns:
    """Values of each clip behind one result.

    Attributes:
        ids: names of the clips.
        values: as `with_gains` returns them.
    """

    ids: tuple[str, ...]
    values: Mapping[str, Values]

    def items(self, result: Result, wanted: Collection[str] = ()) -> Items:
        """Returns the items, without cards."""
        columns = {name: tuple(column.tolist()) for name, column in self.values.items()}
        return Items(result.protocol, self.ids, columns)


def scored_use(columns: Columns, ids: tuple[str, ...], protocol: Protocol) -> list[Scored]:
    """Returns the result of some columns with its items; none without columns.

    Metrics that no clip has a value for (content words that were never masked) are left out.
    """
    if not columns:
        return []
    values = with_gains(columns)
    metrics, intervals, times = {}, {}, resampled(len(ids))
    for name, column in values.items():
        if name in COUNTS:
            continue
        weights = values.get(weight_column(name), np.ones_like(column))
        if weights.sum() > 0:
            metrics[name] = float((weights * column).sum() / weights.sum())
            intervals[name] = bootstrap_interval(column, weights, times)
    result = Result(
        protocol=protocol,
        metrics=metrics,
        chance=dict.fromkeys(metrics, CHANCE) if protocol.variant == PAIRS else {},
        queries=len(ids),
        gallery=0,
        intervals=intervals,
    )
    return [Scored(result, UseColumns(ids, values))]


def resampled(count: int, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """Returns how often each of `count` clips is in each sample of a bootstrap.

    Returns:
        [resamples, count]; the same for all metrics and models, so that intervals can be repeated.
    """
    generator = np.random.default_rng(RESAMPLING_SEED)
    return generator.multinomial(count, np.full(count, 1 / count), size=resamples)


def bootstrap_interval(
    values: Values, weights: Values, times: NDArray[np.int64]
) -> tuple[float, float]:
    """Returns the 95 % percentile interval of a weighted mean over clips.

    Clips are drawn with replacement, with all their words; a draw without any word is left out.

    Args:
        values: [clips].
        weights: [clips], at least one above 0.
        times: as `resampled` returns them.
    """
    totals = times @ weights
    there = totals > 0
    means = (times @ (weights * values))[there] / totals[there]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
