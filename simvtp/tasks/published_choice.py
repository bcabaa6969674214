"""Published multiple choice (MSR-VTT MC, LSMDC MC): five sentences a clip, one describes it.

Training uses captions (the data set's `clips`); the published choices are the test. They are scored
in two ways: by the similarity of a retrieval model, as the field does (`SimilarityChoice`, here),
and by the pair encoder of `finetune.task=choice`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from simvtp.data.annotations import open_annotations
from simvtp.data.benchmarks import BENCHMARKS
from simvtp.data.benchmarks.records import Question
from simvtp.data.clips import Clip
from simvtp.errors import ConfigError, DataError
from simvtp.evaluation.answers import choice_result
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.examples.predictions import Candidates, CandidateScores, Queries
from simvtp.evaluation.metrics import TIES, own_cosines, unit_features
from simvtp.runs.results import Protocol
from simvtp.tasks.pair_scoring import asked_clips
from simvtp.tasks.retrieval import Retrieval, embed_over_ranks
from simvtp.tasks.task import Context
from simvtp.tasks.twostage import Matcher


@dataclass(frozen=True)
class Choices:
    """Published choices of a split.

    Attributes:
        ids: names of the choices.
        clips: each video once; choice i is about clip number owners[i].
        owners: number of the clip of each choice.
        sentences: those of each choice.
        right: int64 [Q], number of the right one.
    """

    ids: Sequence[str]
    clips: Sequence[Clip]
    owners: Sequence[int]
    sentences: Sequence[Sequence[str]]
    right: Tensor

    @property
    def most(self) -> int:
        """Number of sentences of the choice that has most."""
        return max(map(len, self.sentences))

    @property
    def present(self) -> Tensor:
        """Mask bool [Q, most], False where a choice has fewer sentences."""
        lengths = torch.tensor([len(several) for several in self.sentences])
        return torch.arange(self.most) < lengths[:, None]

    def scored(self, protocol: Protocol, scores: Tensor, temperature: float = 1.0) -> Scored:
        """Returns the accuracy of scores [Q, most], with their predictions.

        Args:
            temperature: turns the scores into logits for the examples.
        """
        result = choice_result(protocol, scores, self.right, candidates=self.present)
        videos = [self.clips[owner].id for owner in self.owners]
        queries = Queries(self.ids, videos, [""] * len(self.ids))
        candidates = Candidates(self.sentences, self.right)
        return Scored(result, CandidateScores(queries, candidates, scores / temperature))


def is_published(dataset: str) -> bool:
    """Returns True if the data set is a benchmark of multiple choice."""
    return dataset in BENCHMARKS and BENCHMARKS[dataset].task == "choice"


def published_choices(context: Context) -> dict[str, Choices]:
    """Returns the published choices of each split that has some.

    There are none if the data set is no benchmark of multiple choice.
    """
    experiment = context.experiment
    if not is_published(experiment.data.dataset):
        return {}
    records = open_annotations(experiment.data, experiment.runtime, "choice")
    splits = {
        split: [q for q in records.questions if q.split == split] for split in ("val", "test")
    }
    return {
        split: _choices(questions, records.videos, split)
        for split, questions in splits.items()
        if questions
    }


def _choices(questions: Sequence[Question], videos: Mapping[str, Path], split: str) -> Choices:
    clips, owners = asked_clips(questions, videos, split)
    right = torch.tensor([q.candidates.index(q.answer) for q in questions])
    return Choices(
        [q.id for q in questions], clips, owners, [q.candidates for q in questions], right
    )


def require_training_captions(context: Context) -> None:
    """Checks that a benchmark has captions to train on.

    Raises:
        DataError: it came without.
    """
    name = context.dataset.name
    for split in ("train", "val"):
        if any(clip.captions for clip in context.dataset.splits[split]):
            continue
        why = "; ".join(context.dataset.notes) or "its files name none"
        raise DataError(
            f"{name} has no captions to train on ({why}): only evaluate.zero_shot with "
            "finetune.enabled=false is possible."
        )


class SimilarityChoice(Retrieval):
    """Published choices by cosine.

    It trains as retrieval on captions and selects by retrieval on `val`; its figures are those of
    the published choices.
    """

    def __init__(self, context: Context, trains: bool = True) -> None:
        experiment = context.experiment
        if experiment.evaluate.rerank or experiment.evaluate.dual_softmax:
            raise ConfigError(
                f"evaluate.rerank and evaluate.dual_softmax are for galleries, but "
                f"{context.dataset.name} has a few sentences for each clip: leave them out."
            )
        if trains:
            require_training_captions(context)
            if experiment.finetune.selection == "test":
                raise ConfigError(
                    f"finetune.selection=test: the test clips of {context.dataset.name} have "
                    "choices and no captions; choose val."
                )
        self.choices = published_choices(context)
        if experiment.evaluate.split not in self.choices:
            raise DataError(
                f"the {experiment.evaluate.split} split of {context.dataset.name} has no "
                "published choice; choose test."
            )
        super().__init__(context, captioned=False)

    def report(
        self, model: nn.Module, split: str, setting: str, checkpoint: str, matcher: Matcher | None
    ) -> list[Scored]:
        """Returns the choices of the split: the sentence with the largest cosine is taken."""
        context, choices = self.context, self.choices[split]
        experiment = context.experiment
        rows = [
            (owner, text)
            for owner, several in zip(choices.owners, choices.sentences, strict=True)
            for text in several
        ]
        owners, asked = [owner for owner, _ in rows], [text for _, text in rows]
        embedded = embed_over_ranks(context, model, choices.clips, asked, owners)
        unit_texts = unit_features(embedded.texts, "caption")
        unit_videos = unit_features(embedded.videos, "video")
        scores = torch.full(choices.present.shape, -torch.inf)
        scores[choices.present] = own_cosines(unit_texts, unit_videos, embedded.owners)
        variant = f"{choices.most} captions, by similarity"
        protocol = context.protocol(
            "choice", split, setting, checkpoint, ties=TIES, variant=variant
        )
        return [choices.scored(protocol, scores, experiment.finetune.ranking.temperature)]
