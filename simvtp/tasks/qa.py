"""Question answering: open-ended, multiple choice, counting.

The papers' heads are not known: all of this is ours. open: the pair encoder sees clip and question,
a classifier chooses among the answers of the training split (the most frequent ones, if
`finetune.task.answers` limits them); an answer that is not among them is never right. choice: each
candidate is put before the question, and the pair encoder scores every such text with the clip.
count: one number is predicted with the squared error.

Each figure comes with `chance`, and `prior` = the most frequent answer of the question's category.
`finetune.task.blind=true` trains on the question alone, `finetune.task.baseline=true` trains that
as a baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from simvtp.config.finetune_config import QATask
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.train_config import TrainConfig
from simvtp.config.tree import narrow
from simvtp.data.annotations import open_annotations, order_of
from simvtp.data.benchmarks.records import Question, QuestionKind
from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import TokenBatch
from simvtp.errors import DataError
from simvtp.evaluation.answers import (
    TGIF_COUNT_LIMITS,
    UNKNOWN,
    accuracy,
    answer_ranks,
    chance_accuracy,
    chance_count,
    count_metrics,
    prior_accuracy,
    prior_choice,
    prior_count,
    round_counts,
)
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.examples.predictions import (
    Candidates,
    CandidateScores,
    CountPredictions,
    Queries,
)
from simvtp.evaluation.metrics import TIES
from simvtp.models.downstream.cross_encoder import AnswerHead, PairModel
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Protocol, Result
from simvtp.tasks.pair_scoring import asked_clips, needed_length, score_texts
from simvtp.tasks.task import Context
from simvtp.tasks.task_objectives import Classification, Regression
from simvtp.training.objectives import Objective

VARIANTS = {"open": "open-ended", "choice": "multiple-choice", "count": "count"}
SPLITS = ("train", "val", "test")
CLOSENESS = "minus-MSE"  # of the counts as predicted: larger is better


class QuestionAnswering:
    """Question answering about clips, with questions of one kind."""

    def __init__(self, context: Context) -> None:
        self.context = context
        experiment, tuning = context.experiment, context.experiment.finetune
        self.settings = narrow(context.experiment.finetune.task, QATask)
        records = open_annotations(
            experiment.data, experiment.runtime, "qa", self.settings.questions
        )
        self.videos = records.videos
        self.kind: QuestionKind = only_kind(records.questions)
        # Counts are trained on the error; a rounded mean is right less often than it is near.
        self.selection = f"val/{CLOSENESS}" if self.kind == "count" else "val/accuracy"
        self.questions = {
            split: [q for q in records.questions if q.split == split] for split in SPLITS
        }
        for split in ("train", tuning.selection, experiment.evaluate.split):
            if not self.questions[split]:
                raise DataError(
                    f"the {split} split of {context.dataset.name} has no question of kind "
                    f"{self.kind}."
                )
        self.answers = answer_vocabulary(self.questions["train"], self.settings.answers)
        self.number = {answer: number for number, answer in enumerate(self.answers)}
        learnt = self.questions["train"]
        if self.kind == "open":  # what is not in the vocabulary cannot be learnt
            learnt = [q for q in learnt if q.answer in self.number]
        self.learnt = learnt
        self.candidates = max((len(q.candidates) for q in records.questions), default=0)
        asked = (
            text for split in SPLITS for q in self.questions[split] for text in self._worded(q)
        )
        self.text_length = needed_length(context.tokenizer, asked, experiment.model.text_length)
        self.samples = len(learnt)
        self.negatives: str = ""

    # ---- training --------------------------------------------------------------------------------

    def build(self, unified: SimVTP) -> nn.Module:
        experiment, tuning = self.context.experiment, self.context.experiment.finetune
        outputs = len(self.answers) if self.kind == "open" else 1
        model = PairModel.from_unified(
            unified,
            narrow(experiment.model, SimVTPConfig),
            outputs,
            experiment.seed_of("finetune"),
            drop_path=tuning.drop_path,
            blind=self.context.blind,
            drop_tubes=self.settings.drop_tubes,
        )
        if self.kind == "count":
            assert isinstance(model.head, AnswerHead)
            mean = sum(float(q.answer) for q in self.learnt) / len(self.learnt)
            nn.init.constant_(model.head.out.bias, mean)
        return model

    def objective(self) -> Objective:
        return Regression() if self.kind == "count" else Classification()

    def loader(self, settings: TrainConfig, stage: str) -> TrainLoader:
        clips = [Clip(q.video, self.videos[q.video], (q.text,), "train") for q in self.learnt]

        def annotate(numbers: Sequence[int], chosen: Sequence[int]) -> tuple[TokenBatch, Tensor]:
            asked = [self.learnt[number] for number in chosen]
            return self._texts(asked), self._targets(asked)

        return self.context.train_loader(clips, settings, stage, annotate)

    def _texts(self, questions: Sequence[Question]) -> TokenBatch:
        """Returns [b, L], or [b, C, L] with a text for each candidate of a question."""
        tokens = self.context.tokenizer.encode(
            [text for q in questions for text in self._worded(q)], self.text_length
        )
        if self.kind != "choice":
            return tokens
        return shaped(tokens, self._present(questions))

    def _present(self, questions: Sequence[Question]) -> Tensor:
        """Returns bool [b, C], False where a question has fewer candidates."""
        lengths = torch.tensor([len(q.candidates) for q in questions])
        return torch.arange(self.candidates) < lengths[:, None]

    def _worded(self, question: Question) -> list[str]:
        """Returns the texts that are scored for a question.

        That is the question itself, or one text for each candidate (those that it lacks included).
        """
        if self.kind != "choice":
            return [question.text]
        return worded_choices(question.text, padded(question.candidates, self.candidates))

    def _targets(self, questions: Sequence[Question]) -> Tensor:
        """Returns float [b] for counts, else int64 [b]."""
        if self.kind == "count":
            return torch.tensor([float(q.answer) for q in questions])
        if self.kind == "choice":
            return torch.tensor([q.candidates.index(q.answer) for q in questions])
        return torch.tensor([self.number.get(q.answer, UNKNOWN) for q in questions])

    # ---- scoring ---------------------------------------------------------------------------------

    def score(self, model: nn.Module, split: str, setting: str, checkpoint: str) -> list[Scored]:
        assert isinstance(model, PairModel)
        questions = self.questions[split]
        clips, owners = asked_clips(questions, self.videos, split)
        logits = score_texts(
            self.context,
            model,
            model.score,
            clips,
            self._texts(questions),
            owners,
            classifies=self.kind != "count",
        )
        protocol = self.context.protocol(
            "qa",
            split,
            setting,
            checkpoint,
            ties=TIES,
            variant=VARIANTS[self.kind],
            classifies=self.kind != "count",
        )
        if self.kind == "count":
            return [self._counts(protocol, logits[:, 0], questions)]
        metrics, chance, prior, ranks = self._choices(logits, questions)
        gallery = len(self.answers) if self.kind == "open" else self.candidates
        result = Result(
            protocol,
            metrics,
            chance,
            len(questions),
            gallery,
            tuple(ranks.tolist()),
            baselines={"prior": prior},
        )

        names = [self.answers if self.kind == "open" else q.candidates for q in questions]
        candidates = Candidates(names, self._targets(questions), [q.answer for q in questions])
        return [Scored(result, CandidateScores(_queries(questions), candidates, logits))]

    def _choices(
        self, logits: Tensor, questions: Sequence[Question]
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float], Tensor]:
        """Returns (metrics, chance, prior, ranks) of open-ended or multiple-choice questions."""
        right, categories = self._targets(questions), [q.category for q in questions]
        trained, sorts = self.questions["train"], [q.category for q in self.questions["train"]]
        if self.kind == "open":
            ranks = answer_ranks(logits, right)
            chance = chance_accuracy(right, len(self.answers), categories)
            prior = prior_accuracy(
                self._targets(trained), right, len(self.answers), categories, sorts
            )
            return accuracy(ranks, categories), chance, prior, ranks
        present = self._present(questions)
        ranks = answer_ranks(logits, right, present)
        often = Counter((q.category, q.answer) for q in trained)
        counts = []
        for q in questions:
            texts = padded(q.candidates, self.candidates)
            counts.append([often[q.category, text] for text in texts])
        prior = prior_choice(torch.tensor(counts), right, present, categories)
        chance = chance_accuracy(right, present.sum(dim=1), categories)
        return accuracy(ranks, categories), chance, prior, ranks

    def _counts(
        self, protocol: Protocol, predicted: Tensor, questions: Sequence[Question]
    ) -> Scored:
        """Returns the figures of counts.

        The prior is that of each category, averaged over the questions.
        """
        trained = self.questions["train"]
        known = [round(float(q.answer)) for q in trained]
        limits = count_limits(self.context.dataset.name, trained)
        truth = torch.tensor([round(float(q.answer)) for q in questions])
        prior: dict[str, float] = {}
        for category, asked in Counter(q.category for q in questions).items():
            of_it = [
                number for number, q in zip(known, trained, strict=True) if q.category == category
            ] or known
            mine = torch.tensor([q.category == category for q in questions])
            for name, value in prior_count(torch.tensor(of_it), truth[mine], limits).items():
                prior[name] = prior.get(name, 0.0) + value * asked / len(questions)
        result = Result(
            protocol,
            count_metrics(predicted, truth, limits),
            chance_count(truth, limits),
            queries=len(questions),
            gallery=0,
            scores=tuple(predicted.tolist()),
            baselines={"prior": prior},
        )
        rounded = round_counts(predicted, limits)
        return Scored(result, CountPredictions(_queries(questions), predicted, truth, rounded))

    def select(self, results: Sequence[Result]) -> dict[str, float]:
        metrics = results[0].metrics
        found = {
            f"val/{name}": value
            for name, value in metrics.items()
            if not name.startswith("accuracy-")
        }
        return {**found, self.selection: -metrics["MSE-raw"]} if self.kind == "count" else found


def _queries(questions: Sequence[Question]) -> Queries:
    return Queries(
        [q.id for q in questions],
        [q.video for q in questions],
        [q.text for q in questions],
        [q.category for q in questions],
    )


def answer_vocabulary(trained: Sequence[Question], size: int) -> tuple[str, ...]:
    """Returns the answers that open-ended questions have in training, the most frequent first.

    Args:
        trained: questions of the training split.
        size: at most so many; 0: all.
    """
    return order_of(Counter(q.answer for q in trained))[: size or None]


def count_limits(dataset: str, trained: Sequence[Question]) -> tuple[int, int]:
    """Returns the smallest and the largest count that is answered.

    They are TGIF-QA's own, else those of the training split.
    """
    if dataset.startswith("tgif"):
        return TGIF_COUNT_LIMITS
    known = [round(float(q.answer)) for q in trained]
    return min(known), max(known)


def worded_choices(question: str, candidates: Sequence[str]) -> list[str]:
    """Returns the text that is scored for each candidate.

    The candidate comes first: a long question is truncated at its end, and then the candidates must
    not become alike.
    """
    return [f"{candidate} : {question}" for candidate in candidates]


def padded(candidates: Sequence[str], count: int) -> list[str]:
    """Returns the candidates, then empty texts up to `count`."""
    return [*candidates, *[""] * (count - len(candidates))]


def shaped(tokens: TokenBatch, present: Tensor) -> TokenBatch:
    """Returns rows of b x C texts as [b, C, L].

    Args:
        present: bool [b, C]; a text that is not present has no piece at all.
    """
    size = *present.shape, -1
    mask = tokens.attention_mask.view(size) & present[..., None]
    return TokenBatch(
        tokens.input_ids.view(size) * mask, mask, tokens.word_ids.view(size).masked_fill(~mask, -1)
    )


def only_kind(questions: Sequence[Question]) -> QuestionKind:
    """Returns the kind of all questions; raises DataError if there are several, or none."""
    kinds = sorted({q.kind for q in questions})
    if len(kinds) != 1:
        raise DataError(
            f"the questions are of {len(kinds)} kinds ({', '.join(kinds) or 'there are none'}): "
            "choose a protocol with one kind."
        )
    return kinds[0]
