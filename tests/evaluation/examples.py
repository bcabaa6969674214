"""Made-up figures of every kind with their items and clips, for tests of the example pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from simvtp.evaluation.answers import answer_ranks
from simvtp.evaluation.examples.card_views import clips_of, strips_of
from simvtp.evaluation.examples.clip_previews import Frames, Previews, animation, strip
from simvtp.evaluation.examples.example_cards import Scored, add_baseline, items_of_scored
from simvtp.evaluation.examples.gallery import sections
from simvtp.evaluation.examples.predictions import (
    Candidates,
    CandidateScores,
    Captions,
    CountPredictions,
    Queries,
    SpanPredictions,
    with_retrieval_predictions,
)
from simvtp.evaluation.items import Items
from simvtp.evaluation.retrieval_evaluation import Embedded, score
from simvtp.evaluation.span_guessing import grounding_result
from simvtp.runs.results import Protocol, Result

PROTOCOL = Protocol(
    "retrieval", "shapes", "test", "finetuned", "t2v", 8, 1, 1, "pessimistic", 0, "ab" * 32
)
CLIPS = [f"clip {number:02}" for number in range(24)]
HOSTILE = [
    '<script>document.title="bad"</script> & "quoted" <b>bold</b>',
    "a dog \U0001f415 and \U0001f469\U0001f3fd‍\U0001f680",
    "כלב רץ אחרי <i>כדור</i> אדום",
    "a" * 400,
    "word " * 300,
]


def captions() -> list[str]:
    return [*HOSTILE, *(f"caption of {name}" for name in CLIPS[len(HOSTILE) :])]


def frames_of(name: str, count: int = 6, size: int = 32) -> Frames:
    """A clip of its own colour, in which a white bar moves from left to right."""
    colour = np.random.default_rng(CLIPS.index(name)).integers(0, 200, 3)
    frames = np.tile(colour.astype(np.uint8), (count, size, size, 1))
    for number in range(count):
        frames[number, :, 4 * number : 4 * number + 4] = 255
    return frames


def retrieved(seed: int = 0) -> list[Scored]:
    """Both directions, one caption a clip; some are right, some are far off."""
    generator = torch.Generator().manual_seed(seed)
    videos = torch.randn(len(CLIPS), 16, generator=generator, dtype=torch.float64)
    noise = torch.linspace(0.1, 3, len(CLIPS))[torch.randperm(len(CLIPS), generator=generator)][
        :, None
    ]
    texts = (videos + noise * torch.randn(len(CLIPS), 16, generator=generator)).float()
    embedded = Embedded(texts, videos, torch.arange(len(CLIPS)), 0.0, 0.0)
    shown = Captions(CLIPS, captions())
    return with_retrieval_predictions(score(embedded, PROTOCOL), embedded, shown)


def answered(seed: int = 0, task: str = "qa") -> list[Scored]:
    """Open-ended answers with a text-only baseline.

    The answer of the last question is none of the vocabulary.
    """
    generator = torch.Generator().manual_seed(seed)
    answers = [*HOSTILE, *(f"answer {number}" for number in range(15))]
    right = torch.randint(0, len(answers), (len(CLIPS),), generator=generator)
    right[-1] = -1
    truths = [answers[number] for number in right[:-1].tolist()] + ["unheard of"]
    queries = Queries(
        [f"q{n}" for n in range(len(CLIPS))],
        CLIPS,
        [f"{text} ?" for text in captions()],
        ["what", "who"] * 12,
    )
    made = []
    for strength in (2.0, 0.5):
        scores = torch.randn(len(CLIPS), len(answers), generator=generator).double()
        scores[torch.arange(len(CLIPS)), right.clamp(min=0)] += strength
        ranks = answer_ranks(scores, right)
        metrics = {"accuracy": float(100 * (ranks == 1).double().mean())}
        result = Result(
            replace(PROTOCOL, task=task, direction=""),
            metrics,
            {"accuracy": 5.0},
            len(ranks),
            len(answers),
            tuple(ranks.tolist()),
            baselines={"prior": {"accuracy": 9.0}},
        )
        candidates = Candidates([answers] * len(CLIPS), right, truths)
        made.append(Scored(result, CandidateScores(queries, candidates, scores)))
    return [add_baseline(made[0], made[1], "video hidden")]


def counted() -> list[Scored]:
    truth = torch.arange(len(CLIPS)) % 5
    predicted = truth + torch.linspace(-1.2, 1.2, len(CLIPS)).double()
    queries = Queries([f"q{n}" for n in range(len(CLIPS))], CLIPS, captions())
    result = Result(
        replace(PROTOCOL, task="qa", direction="", variant="count"),
        {"MSE": 0.4, "accuracy": 40.0},
        {"MSE": 3.0},
        len(CLIPS),
        0,
        scores=tuple(predicted.tolist()),
    )
    rounded = predicted.round().long()
    return [Scored(result, CountPredictions(queries, predicted, truth, rounded))]


def grounded() -> list[Scored]:
    random = np.random.default_rng(0)
    truths = np.stack(
        [np.linspace(0, 4, len(CLIPS)), np.linspace(5, 12, len(CLIPS))], axis=1
    )  # the last one ends behind its video
    lengths = np.full(len(CLIPS), 10.0)
    protocol = replace(PROTOCOL, task="grounding", direction="", variant="NMS 0.5")
    queries = Queries([f"m{n}" for n in range(len(CLIPS))], CLIPS, captions())
    made = []
    for spread in (2.0, 4.0):
        starts = np.clip(truths[:, :1] + random.normal(0, spread, (len(CLIPS), 5)), 0, 8)
        lasting = (truths[:, 1] - truths[:, 0])[:, None]
        found = [
            (np.stack([row, row + length], axis=1), random.uniform(size=5))
            for row, length in zip(starts, lasting, strict=True)
        ]
        result = grounding_result(protocol, found, truths, lengths, truths, lengths)
        made.append(Scored(result, SpanPredictions(queries, found, truths, lengths)))
    return [add_baseline(made[0], made[1], "video hidden")]


def results_and_items(scored: list[Scored]) -> tuple[list[Result], list[Items]]:
    """Both records of the figures, as they are written."""
    return [one.result for one in scored], items_of_scored(scored)


KINDS = {
    "retrieval": retrieved,
    "qa": answered,
    "choice": lambda: answered(1, "choice"),
    "count": counted,
    "grounding": grounded,
}


def previews_for(results: list[Result], items: list[Items], samples: int) -> Previews:
    cards = [
        card
        for made in sections(results, items, samples).values()
        for section in made
        for card in section.cards()
    ]
    return Previews(
        {name: animation(frames_of(name), 10**9) for card in cards for name in clips_of(card)},
        {name: strip(frames_of(name), 10**9) for card in cards for name in strips_of(card)},
    )
