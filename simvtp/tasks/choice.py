"""Video-text multiple choice: which of n captions belongs to the clip.

The pair encoder scores each; the head, ours, starts as the VTM head. The wrong captions are those
of other clips of the same split: in training drawn for each sample, in scoring picked once by a
hash of the clip's name. `prior` is 100 / n, as each caption is right as often as it is wrong; a
blind model sees captions alone. A benchmark of multiple choice is tested on its published choices
(published_choice.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from simvtp.config.finetune_config import ChoiceTask
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.train_config import TrainConfig
from simvtp.config.tree import narrow
from simvtp.data.clips import Clip
from simvtp.data.datasets import require_captions
from simvtp.data.loading.sample_order import uniforms
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.manifest import hash_unit
from simvtp.data.text.tokenizer import TokenBatch
from simvtp.errors import DataError
from simvtp.evaluation.answers import accuracy, answer_ranks, chance_accuracy
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.examples.predictions import Candidates, CandidateScores, Queries
from simvtp.evaluation.metrics import TIES
from simvtp.models.downstream.cross_encoder import PairModel
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Result
from simvtp.tasks.pair_scoring import score_texts
from simvtp.tasks.published_choice import published_choices, require_training_captions
from simvtp.tasks.qa import padded, shaped
from simvtp.tasks.task import Context
from simvtp.tasks.task_objectives import Classification
from simvtp.training.objectives import Objective


class CaptionChoice:
    """Choice among captions.

    The right caption is always the first; candidates are scored one by one, so no model can make
    use of that.
    """

    selection = "val/accuracy"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.clips = context.dataset.splits
        self.settings = narrow(context.experiment.finetune.task, ChoiceTask)
        self.count = self.settings.candidates
        self.published = published_choices(context)
        if self.published:
            require_training_captions(context)
        require_captions(context.dataset, "a choice among captions")
        for split, clips in self.clips.items():
            if split not in self.published and len(clips) < self.count:
                raise DataError(
                    f"the {split} split has {len(clips)} clips: too few for a choice among "
                    f"{self.count} captions."
                )
        self.samples = len(self.clips["train"])
        self.negatives: str = ""

    def build(self, unified: SimVTP) -> nn.Module:
        experiment = self.context.experiment
        return PairModel.from_unified(
            unified,
            narrow(experiment.model, SimVTPConfig),
            1,
            experiment.seed_of("finetune"),
            kind="match",
            drop_path=experiment.finetune.drop_path,
            blind=self.context.blind,
            drop_tubes=self.settings.drop_tubes,
        )

    def objective(self) -> Objective:
        return Classification()

    def loader(self, settings: TrainConfig, stage: str) -> TrainLoader:
        clips = self.clips["train"]
        seed = self.context.experiment.seed_of("finetune")

        def annotate(numbers: Sequence[int], chosen: Sequence[int]) -> tuple[TokenBatch, Tensor]:
            texts: list[str] = []
            for number, clip in zip(numbers, chosen, strict=True):
                draws = uniforms(seed, f"choice {stage}", number, 2 * self.count)
                others = distinct_numbers(draws[: self.count - 1].tolist(), clip, len(clips))
                chosen_clips = zip((clip, *others), draws[self.count :].tolist(), strict=True)
                texts += [_draw_caption(clips[one], draw) for one, draw in chosen_clips]
            return self._shaped(texts), torch.zeros(len(chosen), dtype=torch.int64)

        return self.context.train_loader(clips, settings, stage, annotate)

    def _shaped(self, texts: Sequence[str]) -> TokenBatch:
        tokens = self.context.tokenizer.encode(texts, self.context.experiment.model.text_length)
        return shaped(tokens, torch.ones(len(texts) // self.count, self.count, dtype=torch.bool))

    def score(self, model: nn.Module, split: str, setting: str, checkpoint: str) -> list[Scored]:
        assert isinstance(model, PairModel)
        if split in self.published:
            return [self._score_published(model, split, setting, checkpoint)]
        clips, texts = self.clips[split], []
        for number, clip in enumerate(clips):
            draws = [hash_unit(f"wrong caption {i}", clip.id) for i in range(self.count - 1)]
            others = distinct_numbers(draws, number, len(clips))
            texts += [clips[one].captions[0] for one in (number, *others)]
        logits = score_texts(
            self.context,
            model,
            model.score,
            clips,
            self._shaped(texts),
            range(len(clips)),
            classifies=True,
        )
        right = torch.zeros(len(clips), dtype=torch.int64)
        ranks, guessed = answer_ranks(logits, right), chance_accuracy(right, self.count)
        result = Result(
            self.context.protocol(
                "choice",
                split,
                setting,
                checkpoint,
                ties=TIES,
                variant=f"{self.count} captions",
                classifies=True,
            ),
            accuracy(ranks),
            guessed,
            queries=len(clips),
            gallery=self.count,
            ranks=tuple(ranks.tolist()),
            baselines={"prior": guessed},
        )
        names = [clip.id for clip in clips]
        choices = [texts[first : first + self.count] for first in range(0, len(texts), self.count)]
        queries = Queries(names, names, [""] * len(names))
        return [Scored(result, CandidateScores(queries, Candidates(choices, right), logits))]

    def _score_published(
        self, model: PairModel, split: str, setting: str, checkpoint: str
    ) -> Scored:
        choices = self.published[split]
        sentences = [
            text for several in choices.sentences for text in padded(several, choices.most)
        ]
        tokens = self.context.tokenizer.encode(sentences, self.context.experiment.model.text_length)
        logits = score_texts(
            self.context,
            model,
            model.score,
            choices.clips,
            shaped(tokens, choices.present),
            choices.owners,
            classifies=True,
        )
        protocol = self.context.protocol(
            "choice",
            split,
            setting,
            checkpoint,
            ties=TIES,
            variant=f"{choices.most} captions",
            classifies=True,
        )
        return choices.scored(protocol, logits)

    def select(self, results: Sequence[Result]) -> dict[str, float]:
        return {self.selection: results[0].metrics["accuracy"]}


def distinct_numbers(draws: Sequence[float], own: int, count: int) -> list[int]:
    """Returns distinct numbers below `count`, none of them `own`.

    Args:
        draws: uniform numbers in [0, 1), one for each number.
    """
    taken = [own]
    for draw in draws:
        drawn = int(draw * (count - len(taken)))
        for number in sorted(taken):  # of the numbers that are not taken
            drawn += number <= drawn
        taken.append(drawn)
    return taken[1:]


def _draw_caption(clip: Clip, draw: float) -> str:
    return clip.captions[int(draw * len(clip.captions))]
