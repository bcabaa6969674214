"""A model that was fine-tuned to answer about films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import GroundingTask
from simvtp.config.tree import narrow
from simvtp.data.clips import Clip
from simvtp.data.datasets import Dataset
from simvtp.data.text.tokenizer import TokenBatch, Tokenizer
from simvtp.data.video.readers import get_reader, probe
from simvtp.errors import DataError
from simvtp.evaluation.answers import round_counts
from simvtp.library.array_reader import ArrayReader, as_clip
from simvtp.library.export.export_model import ExportableModel
from simvtp.library.export.exported_folder import ExportedSettings
from simvtp.library.prediction.predicted_answers import NEEDS, Answer, Measure, Prediction, ranked
from simvtp.library.prediction.task_outputs import TaskOutputs
from simvtp.tasks.grounding import WHOLE_VIDEO, predict
from simvtp.tasks.pair_scoring import needed_length, score_texts
from simvtp.tasks.qa import shaped, worded_choices
from simvtp.tasks.task import Context


@dataclass(frozen=True)
class Asked:
    """One film and what is asked about it."""

    number: int
    path: Path
    question: str


@dataclass(frozen=True, eq=False)
class TaskModel(ExportableModel):
    """A model of question answering, choice, action recognition or grounding.

    `simvtp.load_predictor` opens one. Films are seen as in the run's test: the same frames, crops
    and views, merged in the same way.

    Attributes:
        source: what was opened.
        module: the network, on its device, in evaluation mode.
        experiment: its settings.
        tokenizer: of its texts.
        device: where it computes.
        outputs: what the outputs of the network stand for.
    """

    source: Path
    module: nn.Module = field(repr=False)
    experiment: Experiment = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    device: torch.device
    outputs: TaskOutputs

    def predict(
        self,
        videos: Sequence[Any],
        question: str | Sequence[str] = "",
        choices: Sequence[str] = (),
        k: int = 5,
    ) -> list[Prediction]:
        """Returns the best k answers about each film, in the order of the films.

        Args:
            videos: as `VideoTextModel.encode_video` takes them; for grounding films only, because
                an array has no seconds.
            question: the question, or the sentence to find; one for all films, or one for each.
            choices: answers or captions to choose from, where the task has none of its own.
            k: at most so many answers.

        Raises:
            UserError: something is missing that the task needs, or it does not take what was given.
            DataError: a film does not decode.

        Examples:
            >>> model = simvtp.load_predictor(qa_run)
            >>> found = model.predict(films[:2], "what color is the ring ?", k=3)
            >>> [len(one.answers) for one in found], found[0].measure
            ([3, 3], 'probability')
        """
        needs = NEEDS[self.outputs.kind]
        questions = needs.check(str(self.source), videos, question, choices, k)
        films, memory = [], []
        arrays: dict[Path, np.ndarray] = {}
        for number, (video, text) in enumerate(zip(videos, questions, strict=True)):
            if isinstance(video, str | Path):
                films.append(Asked(number, Path(video).expanduser(), text))
            else:
                asked = Asked(number, Path(f"clip {number}"), text)
                arrays[asked.path] = as_clip(video, number)
                memory.append(asked)
        found: dict[int, Prediction] = {}
        for group, reader in ((films, None), (memory, ArrayReader(arrays))):
            if group:
                answers = self._answers(group, tuple(choices), self._context(reader))
                for asked, (measure, row) in zip(group, answers, strict=True):
                    found[asked.number] = Prediction(
                        str(asked.path), asked.question, measure, row[:k]
                    )
        return [found[number] for number in range(len(videos))]

    def export_settings(self) -> ExportedSettings:
        """Returns what is known of the model apart from its weights."""
        return ExportedSettings("finetune", self.experiment, self.outputs)

    def _context(self, reader: ArrayReader | None) -> Context:
        """Returns the way to load films, or arrays by the paths that stand for them."""
        experiment = self.experiment
        workers = experiment.runtime.workers if reader is None else 0
        experiment = replace(
            experiment,
            data=replace(experiment.data, on_corrupt="raise"),
            runtime=replace(experiment.runtime, decoded_cache=False, workers=workers),
        )
        return Context(
            experiment,
            Dataset(experiment.data.dataset, {}),
            self.tokenizer,
            self.device,
            reader=reader,
        )

    def _answers(
        self, group: Sequence[Asked], choices: tuple[str, ...], context: Context
    ) -> list[tuple[Measure, tuple[Answer, ...]]]:
        """Returns all answers about each film, best first, and what their scores are."""
        kind = self.outputs.kind
        if kind == "grounding":
            return self._spans(group, context)
        scores = self._scores(group, choices, context)
        if self.outputs.limits is not None:
            counts = round_counts(scores[:, 0], self.outputs.limits).tolist()
            return [
                ("count", (Answer(str(count), score),))
                for count, score in zip(counts, scores[:, 0].tolist(), strict=True)
            ]
        names = self.outputs.labels or choices
        return [("probability", ranked(names, row)) for row in scores.softmax(dim=1)]

    def _scores(self, group: Sequence[Asked], choices: tuple[str, ...], context: Context) -> Tensor:
        """Returns the outputs of each film, float64 [n, outputs or choices]."""
        kind = self.outputs.kind
        module: Any = self.module
        clips = [Clip(str(asked.path), asked.path, ()) for asked in group]
        if kind == "action":
            nothing = self.tokenizer.encode([""] * len(group), 2)
            return score_texts(
                context,
                module,
                lambda views, ids, mask: module.classify(views),
                clips,
                nothing,
                range(len(group)),
                classifies=True,
            )
        tokens = self._texts(group, choices)
        return score_texts(
            context,
            module,
            module.score,
            clips,
            tokens,
            range(len(group)),
            classifies=kind != "count",
        )

    def _texts(self, group: Sequence[Asked], choices: tuple[str, ...]) -> TokenBatch:
        """Returns [n, L], or [n, C, L] with a text for each choice."""
        if not choices:
            return self._encoded([asked.question for asked in group])
        texts = [
            text
            for asked in group
            for text in (worded_choices(asked.question, choices) if asked.question else choices)
        ]
        present = torch.ones(len(group), len(choices), dtype=torch.bool)
        return shaped(self._encoded(texts), present)

    def _encoded(self, texts: Sequence[str]) -> TokenBatch:
        length = needed_length(self.tokenizer, texts, self.experiment.model.text_length)
        return self.tokenizer.encode(texts, length)

    def _spans(
        self, group: Sequence[Asked], context: Context
    ) -> list[tuple[Measure, tuple[Answer, ...]]]:
        settings = narrow(self.experiment.finetune.task, GroundingTask)
        lengths = np.array([_seconds(asked.path, context) for asked in group])
        context = context.resampled(settings.segments * settings.segment_frames, WHOLE_VIDEO)
        clips = [Clip(str(asked.path), asked.path, ()) for asked in group]
        tokens = self._encoded([asked.question for asked in group])
        module: Any = self.module
        logits = score_texts(context, module, module.score, clips, tokens, range(len(group)))
        measure: Measure = "gain" if settings.spans == "coverage" else "expected overlap"
        return [
            (
                measure,
                tuple(
                    Answer("", float(score), (float(start), float(end)))
                    for (start, end), score in zip(spans, scores, strict=True)
                ),
            )
            for spans, scores in predict(logits, lengths, settings.spans)
        ]


def _seconds(path: Path, context: Context) -> float:
    """Returns the length of a film."""
    info = probe(path, context.reader or get_reader(context.experiment.data.reader))
    if info.fps <= 0:
        raise DataError(
            f"{path} does not say its frames per second: a span in seconds needs a film that does."
        )
    return info.frames / info.fps
