"""Temporal grounding.

The loss and the scores against brute force, which frames a segment sees, what is learnt, lengths of
videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simvtp.batch import Batch
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import replace_key
from simvtp.config.validation import check
from simvtp.data.annotations import open_annotations
from simvtp.data.benchmarks.records import Span
from simvtp.errors import ConfigError, DataError
from simvtp.evaluation.temporal_spans import AP_DEPTH, grounding_metrics, overlap
from simvtp.methods import build_model
from simvtp.models.common.forward_options import BatchSlice, ForwardOptions
from simvtp.models.downstream.grounding_model import END, INSIDE, START, GroundingModel
from simvtp.tasks import open_task
from simvtp.tasks.grounding import Grounding, SpanLoss, _lengths, candidates, predict
from tests.small import small_experiment
from tests.tasks.task_helpers import MODEL, context_of

SEGMENTS = 4


def model_of(**changes: object) -> GroundingModel:
    return GroundingModel.from_unified(
        build_model(MODEL, seed=1), MODEL, SEGMENTS, 2, seed=2, **changes
    )  # type: ignore[arg-type]


def batch_of(size: int, seed: int = 0) -> Batch:
    """Noise, in which the frames of a span of whole segments are bright."""
    generator = torch.Generator().manual_seed(seed)
    bounds = (
        torch.rand(size, SEGMENTS + 1, generator=generator).argsort(dim=1)[:, :2].sort(dim=1).values
    )
    clips = torch.randint(
        0, 128, (size, 2 * SEGMENTS, 16, 16, 3), generator=generator, dtype=torch.uint8
    )
    segment = torch.arange(2 * SEGMENTS) // 2
    clips[(segment >= bounds[:, :1]) & (segment < bounds[:, 1:])] += 100
    ids = torch.randint(4, 40, (size, 8), generator=generator)
    return Batch(
        clips,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        ids,
        tuple(map(str, range(size))),
        bounds / SEGMENTS,
    )


def loss_of(logits: torch.Tensor, span: Sequence[float] | np.ndarray) -> float:
    losses, _ = SpanLoss()({"logits": logits[None], "targets": torch.tensor(np.array([span]))})
    return float(sum(losses.values()))


def test_the_loss_of_a_span_between_segments() -> None:
    logits = torch.randn(SEGMENTS, 3, generator=torch.Generator().manual_seed(0))
    covered = torch.tensor([0.0, 0.6, 1.0, 0.2])  # 1.4 to 3.2 of 4
    start, end = (logits[:, part].log_softmax(dim=0) for part in (START, END))
    expected = F.binary_cross_entropy_with_logits(logits[:, INSIDE], covered) - start[1] - end[2]
    assert loss_of(logits, (1.4 / 4, 3.2 / 4)) == pytest.approx(float(expected), rel=1e-5)
    for short, segment in (
        ((0.26, 0.3), 1),
        ((0.99, 1.0), 3),
    ):  # less than half a segment: the one it is in or next to
        losses, _ = SpanLoss()({"logits": logits[None], "targets": torch.tensor([short])})
        assert float(losses["bounds"]) == pytest.approx(
            float(-start[segment] - end[segment]), rel=1e-5
        )


def test_scores_are_the_overlaps_that_the_losses_let_one_expect() -> None:
    logits = 2 * torch.randn(
        3, SEGMENTS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    spans, probabilities = candidates(logits)
    scores = probabilities @ overlap(spans, spans)
    assert sorted(map(tuple, spans.tolist())) == [
        (i / 4, j / 4) for i in range(4) for j in range(i + 1, 5)
    ]
    for row, found in zip(logits, scores, strict=True):
        likely = np.exp([-loss_of(row, span) for span in spans])
        expected = [
            float((likely / likely.sum() * overlap(spans, span[None])[:, 0]).sum())
            for span in spans
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_certain_is_predicted_in_seconds_and_alternatives_differ() -> None:
    logits = torch.full((1, SEGMENTS, 3), -20.0, dtype=torch.float64)
    logits[0, 1:3, INSIDE] = logits[0, 1, START] = logits[0, 2, END] = 20.0
    [(spans, scores)] = predict(logits, np.array([10.0]))
    assert (
        spans[0].tolist() == [2.5, 7.5]
        and scores[0] == pytest.approx(1)
        and scores.tolist() == sorted(scores, reverse=True)
    )
    overlaps = overlap(spans, spans) - np.eye(len(spans))
    assert 1 < len(spans) <= AP_DEPTH and overlaps.max() <= 0.5


def test_with_coverage_each_span_completes_those_before_it() -> None:
    """Against brute force over all candidates.

    The first span is the same as with suppression, and none comes twice.
    """
    logits = 2 * torch.randn(
        6, SEGMENTS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    logits[
        0
    ] = (
        -50.0
    )  # one candidate alone is possible: what follows adds nothing, and is given all the same
    logits[0, 1:3, INSIDE] = logits[0, 1, START] = logits[0, 2, END] = 50.0
    shares, probabilities = candidates(logits)
    lengths = np.full(6, 10.0)
    plain = predict(logits, lengths)
    for row, (spans, scores), (first, _) in zip(
        probabilities, predict(logits, lengths, "coverage"), plain, strict=True
    ):
        assert (
            spans[0].tolist() == first[0].tolist()
            and len({tuple(span) for span in spans.tolist()}) == len(spans) == AP_DEPTH
        )
        assert (np.diff(scores) < 1e-9).all()
        for count in range(1, 5):
            best = overlap(spans[:count] / 10, shares).max(axis=0)
            gains = [
                float((np.maximum(best, overlap(shares[n : n + 1], shares)[0]) - best) @ row)
                for n in range(len(shares))
            ]
            assert scores[count] == pytest.approx(max(gains), abs=1e-9)


def test_a_segment_sees_its_own_frames_only() -> None:
    model, batch = model_of().eval(), batch_of(3)
    seen: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    changed = batch.clips.clone()
    changed[1, 4:6] = 0  # the third segment of the second clip
    model.score(batch.clips, batch.input_ids, batch.attention_mask)
    model.score(changed, batch.input_ids, batch.attention_mask)
    differs = (seen[0] - seen[1]).abs().amax(dim=-1) > 1e-4
    assert differs.nonzero().tolist() == [[1, 2]]


def test_a_blind_model_sees_the_sentence_only() -> None:
    batch = batch_of(2)
    for blind in (True, False):
        model = model_of(blind=blind).eval()
        one, other, unmasked = (
            model.score(clips, ids, batch.attention_mask)
            for clips, ids in (
                (batch.clips, batch.input_ids),
                (255 - batch.clips, batch.input_ids),
                (batch.clips, batch.input_ids.flip(1)),
            )
        )
        assert torch.equal(one, other) == blind and not torch.allclose(one, unmasked)


def test_what_a_sample_draws_does_not_depend_on_how_the_batch_is_cut() -> None:
    model, batch = model_of(drop_tubes=0.5, drop_path=0.5).train(), batch_of(4)

    def outputs(first: int, count: int, seed: int = 3) -> torch.Tensor:
        options = ForwardOptions(batch_slice=BatchSlice(first, count, 4))
        torch.manual_seed(seed)
        return model(batch.part(first, first + count), None, options)["logits"]

    whole = outputs(0, 4)
    torch.testing.assert_close(
        torch.cat([outputs(0, 1), outputs(1, 3)]), whole, rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(outputs(0, 4, seed=4), whole)  # there is something to draw


def test_bright_spans_are_learnt() -> None:
    model, loss = model_of().train(), SpanLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        losses, _ = loss(model(batch_of(16, seed=step)))
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
    batch = batch_of(64, seed=1000)
    assert batch.targets is not None
    with torch.no_grad():
        logits = model.eval()(batch)["logits"].double()
    metrics, _ = grounding_metrics(predict(logits, np.ones(64)), batch.targets.double().numpy())
    assert metrics["mIoU"] > 90


# ---- on the embedded data set --------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Experiment:
    return small_experiment(
        tmp_path_factory.mktemp("small"),
        shapes_cache,
        "finetune.task=grounding",
        "finetune.task.segments=4",
    )


def test_sentences_spans_and_frames_belong_together(small: Experiment) -> None:
    task = open_task(context_of(small))
    assert isinstance(task, Grounding) and task.samples == len(task.learnt) > 0
    batch = next(task.loader(small.finetune.train, "finetune").batches(0))
    assert batch.targets is not None and batch.clips.shape[1] == 8
    decode = task.context.tokenizer.decode
    known = {
        (m.video, decode(ids)): m
        for m, ids in zip(task.learnt, task._texts(task.learnt).input_ids, strict=True)
    }
    for ids, name, target in zip(
        batch.input_ids, batch.sample_ids, batch.targets.tolist(), strict=True
    ):
        moment = known[name, decode(ids)]
        assert moment.split == "train" and moment.duration_s == 1.0  # 8 frames, 8 a second
        assert target == pytest.approx([moment.span.start_s, moment.span.end_s])


def test_lengths_come_from_the_files_where_the_annotations_do_not_say_them(
    small: Experiment,
) -> None:
    records = open_annotations(small.data, small.runtime, "grounding")
    silent = [replace(m, duration_s=None) for m in records.moments[:5]]
    assert _lengths(silent, records, context_of(small)) == {
        m.id: m.duration_s for m in records.moments[:5]
    }
    video = silent[0].video
    gone = replace(
        records, videos={**records.videos, video: records.videos[video].with_name("gone.mp4")}
    )
    with pytest.raises(DataError, match="gone.mp4 does not decode"):
        _lengths(silent, gone, context_of(small))


def test_moments_after_the_end_of_their_video_are_counted_and_missed(
    small: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where only the file knows how long the video is: of each split, the first moment lies after
    # the end, the second reaches beyond.
    said: list[str] = []
    context = context_of(small, say=said.append)
    records = open_annotations(small.data, small.runtime, "grounding")
    first = {
        split: next(n for n, m in enumerate(records.moments) if m.split == split)
        for split in ("train", "val", "test")
    }
    moments = [replace(m, duration_s=None) for m in records.moments]
    for place in first.values():
        moments[place] = replace(moments[place], span=Span(5.0, 6.0))
        moments[place + 1] = replace(moments[place + 1], span=Span(0.5, 6.0))
    monkeypatch.setattr(
        "simvtp.tasks.grounding.open_annotations",
        lambda *rest: replace(records, moments=tuple(moments)),
    )
    task = Grounding(context)
    assert (
        moments[first["train"]] not in task.learnt
        and task.samples == len(task.moments["train"]) - 1
    )
    for split, fate in (("train", "left out"), ("test", "they count as misses")):
        assert any(
            line.startswith(f"{split}: 1 of {len(task.moments[split])} sentences are about")
            and line.endswith(fate)
            for line in said
        )
    model = task.build(build_model(task.context.experiment.model, seed=0))
    [scored] = task.score(model, "test", "finetuned", "")
    result = scored.result
    assert (
        result.queries == len(result.scores) == len(task.moments["test"]) and result.scores[0] == 0
    )
    assert task._truth(task.moments["test"])[0][:2].tolist() == [[5.0, 6.0], [0.5, 1.0]]


@pytest.mark.parametrize(
    ("key", "value"),
    [("segments", 1), ("segments", 65), ("segment_frames", 3), ("segment_frames", 0)],
)
def test_settings_that_cannot_be(small: Experiment, key: str, value: int) -> None:
    wrong = replace_key(small, f"finetune.task.{key}", value)
    with pytest.raises(ConfigError, match=f"finetune.task.{key}={value}: must be"):
        check(wrong)
