"""A metric with its protocol: a score without split, frames, views and direction is not a score."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from simvtp.runs.metric_names import MetricName, result_key

USE = "use"  # `Protocol.task` of what a model uses of the other modality
# Parts of a setting that say that frames of the clips were in another order
FRAME_ORDERS = ("frames shuffled", "frames reversed", "middle frame repeated")
# Parts of a setting that say which queries were asked: those that one frame of their clip cannot
# answer, and the others
NEEDS_MOTION = ("queries that need motion", "other queries")
# Directions of retrieval, by `Protocol.direction`.
DIRECTIONS = {
    "t2v": "text to video",
    "v2t": "video to text",
    "t2i": "text to image",
    "i2t": "image to text",
}


def direction_name(direction: str) -> str:
    """Returns a direction in words; an unknown one, or none, as it is."""
    return DIRECTIONS.get(direction, direction)


@dataclass(frozen=True)
class Protocol:
    """Conditions under which a score was measured.

    Two scores may share a column only if all but `seed` and `checkpoint` agree.

    Attributes:
        task: retrieval, image_text, choice, qa, grounding or action; use: what a pre-trained model
            uses of the other modality (docs/modality_use.md).
        dataset: name of the data.
        split: name of the split.
        setting: pre-trained; zero-shot; finetuned; finetuned, selected on test; after a comma what
            was done to the scores (re-ranked top 16, dual-softmax) or to the frames (frames
            shuffled), or which queries were asked (queries that need motion).
        direction: t2v or v2t, for images t2i or i2t; empty where a task has none.
        frames: frames per view.
        segments: views in time.
        crops: views in space.
        ties: pessimistic: a tied wrong candidate counts as ranked before the right one.
        seed: seed of the run.
        checkpoint: sha256 of the weights that were scored.
        variant: of the benchmark or the measure, where there are several: 1k-A, open-ended, count,
            NMS 0.5; of `use`, the evaluation masks or `pairs`.
        merging: of the views of a clip in a classification: softmax or logits; empty for one view
            and where features or spans are scored.
        precision: bf16 if the model computed in it; empty for fp32.
    """

    task: str
    dataset: str
    split: str
    setting: str
    direction: str
    frames: int
    segments: int
    crops: int
    ties: str
    seed: int
    checkpoint: str
    variant: str = ""
    merging: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Result:
    """Metrics of one protocol, with the size of the test and the chance level.

    Attributes:
        protocol: the conditions.
        metrics: retrieval: R1, R5, R10, R50 (per cent), MdR, MnR (ranks from 1); for other tasks
            see simvtp/evaluation/answers.py and spans.py. A name holds letters, digits, '_', '-'
            and '.' only, no '/'.
        chance: chance level, by the same names.
        queries: captions, videos or questions that were asked.
        gallery: candidates of each query, 0 where there is no fixed number.
        ranks: rank of each query's right candidate, for paired tests; empty where there are no
            candidates.
        scores: value of each query where there are no ranks: IoU of the first span, predicted
            count.
        baselines: metrics of predictors that see no video, or less of it, {name: metrics}: `prior`
            is the most frequent answer of the training split.
        seconds: of re-ranked results, wall-clock seconds per query: `first_stage_s`,
            `second_stage_s` (see simvtp/evaluation/rerank.py).
        intervals: 95 % intervals of metrics over the test items, {metric: (low, high)}, where they
            were computed with the result.
    """

    protocol: Protocol
    metrics: dict[str, float]
    chance: dict[str, float]
    queries: int
    gallery: int
    ranks: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `seconds` and `intervals` only where there are some.

        So records of results without them are what they were before.
        """
        values = asdict(self) | {"ranks": list(self.ranks), "scores": list(self.scores)}
        values["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        for name in ("seconds", "intervals"):
            if not values[name]:
                del values[name]
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Result:
        """Returns the result; also of records from before `variant`, `scores` and `baselines`."""
        lists = {name: tuple(values.get(name, ())) for name in ("ranks", "scores")}
        intervals = {name: tuple(ends) for name, ends in values.get("intervals", {}).items()}
        protocol = Protocol(**values["protocol"])
        return Result(**{**values, **lists, "intervals": intervals, "protocol": protocol})

    @property
    def key(self) -> str:
        """Returns the first part of the tracked metric names.

        It holds split and setting, then the direction, or else task and variant:
        `test/finetuned/t2v`, `test/zero-shot-re-ranked-top-16/t2v`, `test/finetuned/qa/open-ended`.
        A variant of retrieval is not part of its key, so that a metric has one name on all data
        sets: that two variants share no column is checked with the protocol.
        """
        protocol = self.protocol
        last = (protocol.direction,) if protocol.direction else (protocol.task, protocol.variant)
        return result_key(protocol.split, protocol.setting, *last)

    def name(self, metric: str) -> MetricName:
        """Returns the tracked name of one of the metrics."""
        return MetricName(self.key, metric)

    @property
    def line(self) -> str:
        """Returns `test/finetuned/t2v: R1 21.5  R5 53.5 ...`."""
        if self.protocol.task == USE:  # gains are small numbers, and there are many levels
            gains = {n: v for n, v in self.metrics.items() if "gain" in n or "acc_motion" in n}
            figures = "  ".join(f"{name} {value:.3g}" for name, value in gains.items())
        else:
            figures = "  ".join(f"{name} {value:.1f}" for name, value in self.metrics.items())
        return f"{self.key}: {figures}"


def rate_text(per_second: float) -> str:
    """Returns a rate for people: whole numbers from 10 on, below that two significant digits."""
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"
