"""Predictions as records, and the check that a task gets what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from simvtp.console import printable
from simvtp.errors import DataError, UserError

Measure = Literal["probability", "cosine", "expected overlap", "gain", "count"]


@dataclass(frozen=True)
class Answer:
    """One answer about a film.

    Attributes:
        text: an answer, a class, a choice, or a whole number; empty for a span.
        score: what `Prediction.measure` names.
        span_s: start and end of a span in seconds; None where the answer is a text.
    """

    text: str
    score: float
    span_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Prediction:
    """Answers about one film, best first.

    Attributes:
        video: path of the film, or `clip <number>` of an array.
        question: question or sentence; empty where the task has none.
        measure: what a score is: `probability` of an answer (softmax over the answers or choices);
            `cosine` of film and choice; `expected overlap` of a span with the true one, 0 to 1
            (`gain` with finetune.task.spans=coverage); `count` before it is rounded.
        answers: at most as many as were asked for.
    """

    video: str
    question: str
    measure: Measure
    answers: tuple[Answer, ...]


class Predictor(Protocol):
    """Model that answers about films: see `load_predictor`."""

    def predict(
        self,
        videos: Sequence[Any],
        question: str | Sequence[str] = "",
        choices: Sequence[str] = (),
        k: int = 5,
    ) -> list[Prediction]:
        """Returns the best k answers about each film."""
        ...


@dataclass(frozen=True)
class Needs:
    """Texts that a task must be asked with.

    Attributes:
        does: what its model does, as the predicate of a sentence.
        question: word for the text that it needs; empty: it takes none.
        choices: it chooses among texts that are given.
    """

    does: str
    question: str = ""
    choices: bool = False

    def check(
        self,
        source: str,
        videos: Sequence[object],
        question: str | Sequence[str],
        choices: Sequence[str],
        k: int,
    ) -> list[str]:
        """Returns the question about each film; all are empty where the task takes none.

        Raises:
            UserError: something is missing or does not belong to the task.
            DataError: there is no film, or not one question for each.
        """
        if isinstance(videos, str | bytes) or not len(videos):
            raise DataError("give a list of one film or more.")
        if k < 1:
            raise UserError(f"k={k}: ask for 1 answer or more.")
        if isinstance(choices, str):
            raise DataError("choices: give a list of texts.")
        about = f"{source} {self.does}"
        if self.question and not question:
            raise UserError(
                f"{about}: give it a {self.question} by question=... (--question TEXT)."
            )
        if question and not self.question:
            raise UserError(f"{about} and takes no question: leave it out.")
        if self.choices and len(choices) < 2:
            raise UserError(
                f"{about}: give it two choices or more by choices=[...] (--choice TEXT, once for "
                "each)."
            )
        if choices and not self.choices:
            raise UserError(f"{about} and takes no choices: leave them out.")
        questions = [question] * len(videos) if isinstance(question, str) else list(question)
        if self.question and len(questions) != len(videos):
            raise DataError(
                f"{len(questions)} questions for {len(videos)} films: give one for all or one for "
                "each."
            )
        return questions if self.question else [""] * len(videos)


NEEDS = {
    "retrieval": Needs("compares films with texts", choices=True),
    "open": Needs("answers questions", "question"),
    "choice": Needs("answers questions by a choice among answers", "question", True),
    "count": Needs("answers how many", "question"),
    "captions": Needs("chooses the caption of a film", choices=True),
    "action": Needs("names the action in a film"),
    "grounding": Needs("finds the span that a sentence describes", "sentence"),
}


def ranked(names: Sequence[str], scores: Tensor) -> tuple[Answer, ...]:
    """Returns the answers, best first; of equal scores the one that is named first."""
    order = scores.argsort(descending=True, stable=True).tolist()
    return tuple(Answer(names[number], float(scores[number])) for number in order)


def prediction_lines(predictions: Sequence[Prediction]) -> list[str]:
    """Returns a table for a terminal: film, rank, score, answer."""
    lines = [f"{'rank':>4}  {predictions[0].measure:>11}  answer"] if predictions else []
    for prediction in predictions:
        asked = f"  {prediction.question}" if prediction.question else ""
        lines.append(printable(f"{prediction.video}{asked}"))
        for rank, answer in enumerate(prediction.answers, start=1):
            text = answer.text
            if answer.span_s is not None:
                text = f"{answer.span_s[0]:.2f} s to {answer.span_s[1]:.2f} s"
            lines.append(printable(f"{rank:>4}  {answer.score:>11.3f}  {text}"))
    return lines
