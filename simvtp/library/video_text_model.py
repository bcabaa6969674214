"""A trained model that gives videos and texts features in one space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from simvtp.config.experiment_config import Experiment
from simvtp.data.clips import Clip
from simvtp.data.loading.view_loader import ViewLoader, text_batches
from simvtp.data.progress import LogFn
from simvtp.data.text.tokenizer import Tokenizer
from simvtp.errors import DataError
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.metrics import unit_features
from simvtp.evaluation.retrieval_evaluation import text_features, video_features
from simvtp.library.array_reader import ArrayReader, as_clip
from simvtp.library.build_index import Readable, build_index
from simvtp.library.export.export_model import ExportableModel
from simvtp.library.export.exported_folder import ExportedSettings, short_name
from simvtp.library.prediction.predicted_answers import NEEDS, Prediction, ranked
from simvtp.library.video_index import SearchHit, VideoIndex, load_index

Video = str | Path | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class VideoTextModel(ExportableModel):
    """A model for search; `simvtp.load` opens one.

    A feature of a video is that of the run's test: the mean over `evaluate.segments` x
    `evaluate.crops` views, divided by its length. The scalar product of two features is their
    cosine.

    Attributes:
        source: what was opened.
        training: the training whose weights these are: finetune, pretrain; empty: not known.
        module: the network, on its device, in evaluation mode.
        experiment: its settings of data, model and evaluation.
        tokenizer: of its texts.
        device: where it computes.
    """

    source: Path
    training: str
    module: nn.Module = field(repr=False)
    experiment: Experiment = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    device: torch.device

    def __repr__(self) -> str:
        model, views = self.experiment.model, self.experiment.evaluate
        return (
            f"VideoTextModel({self.source}: {self.training or 'exported'} weights, "
            f"{type(self.module).__name__}, {model.frames} frames of {model.image_size} px, "
            f"{views.segments} x {views.crops} views, {self.device})"
        )

    @cached_property
    def dimension(self) -> int:
        """Length D of a feature."""
        return self.encode_text([""]).shape[1]

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights and of the settings that a feature of a video depends on."""
        data, views = self.experiment.data, self.experiment.evaluate
        model = self.experiment.model
        settings = [
            *(data.reader, data.stride, data.frame_window, short_name(self.tokenizer.name)),
            *(model.frames, model.image_size, views.segments, views.crops),
        ]
        found = hashlib.sha256(json.dumps(settings).encode())
        for name, value in sorted(self.module.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return found.hexdigest()

    def encode_video(self, videos: Sequence[Video]) -> Tensor:
        """Returns the feature of each video, float32 [n, D], unit length, on the CPU.

        For the films of the run's test split, in its order, they are bit for bit those that its
        test has ranked, but for the division by the length; in other batches they may differ in the
        last bits of float32.

        Args:
            videos: paths of films (also folders of frames and members of shards), or uint8 arrays
                and tensors [T, H, W, 3] of any length and size. Frames of an array are taken as
                those of a film are; where they must shrink, they are resized by another library
                than a film's, so pixels differ by rounding.

        Raises:
            DataError: a film does not decode, or an array is no uint8 [T, H, W, 3].

        Examples:
            >>> model = simvtp.load("runs/demo")
            >>> clip = numpy.zeros((20, 48, 64, 3), dtype="uint8")
            >>> model.encode_video([films[0], films[1], clip]).shape
            torch.Size([3, 32])
        """
        _require_list(videos, "videos")
        if not videos:
            return torch.zeros(0, self.dimension)
        arrays = {
            Path(f"clip {number}"): as_clip(video, number)
            for number, video in enumerate(videos)
            if not isinstance(video, str | Path)
        }
        films = [Path(video).expanduser() for video in videos if isinstance(video, str | Path)]
        found = iter(self._decoded(self._loader(films))) if films else iter(())
        held = iter(self._decoded(self._loader(list(arrays), arrays))) if arrays else iter(())
        return torch.stack(
            [next(found if isinstance(video, str | Path) else held) for video in videos]
        )

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Returns the feature of each text, float32 [n, D], unit length, on the CPU.

        With `model.text_padding=longest`, the released behaviour, the feature of a text depends on
        the longest text of its batch.

        Args:
            texts: words beyond the model's longest text are cut off.

        Examples:
            >>> simvtp.load("runs/demo").encode_text(["a red star rises"]).shape
            torch.Size([1, 32])
        """
        _require_list(texts, "texts")
        if not texts:
            return torch.zeros(0, self.dimension)
        experiment = self.experiment
        batches = text_batches(
            texts, self.tokenizer, experiment.model, experiment.evaluate.batch_size
        )
        with evaluating(self.module):
            features = text_features(self.module, batches, self.device)
        return unit_features(features, "text").float()

    def encode_readable(self, films: Sequence[Path]) -> Readable:
        """Returns the features of the films that decode, and why the others do not."""
        features, unreadable = self._features(self._loader(films))
        numbers = tuple(number for number in range(len(films)) if number not in unreadable)
        return Readable(features[list(numbers)], numbers, unreadable)

    def index(
        self,
        films: str | Path | Sequence[str | Path],
        save: str | Path | None = None,
        say: LogFn = print,
    ) -> VideoIndex:
        """Returns an index of films, and keeps it in a file.

        Films that do not decode are left out, reported and counted. With `save`, the work is kept
        every few films: the same call after a kill goes on there. A film whose path, size and time
        of change are in the file already is not decoded again.

        Args:
            films: paths, or a folder, which is searched with its subfolders.
            save: the file.
            say: gets a line of progress now and then.

        Raises:
            DataError: there is no film, or none decodes.
            UserError: the file cannot be written.

        Examples:
            >>> index = simvtp.load("runs/demo").index("videos", save="videos.idx", say=str)
            >>> len(index), index.unreadable
            (8, {})
        """
        return build_index(self, films, None if save is None else Path(save), say)

    def search(self, text: str, index: VideoIndex | str | Path, k: int = 5) -> list[SearchHit]:
        """Returns the k films of an index whose features are closest to a text's, best first.

        All films are compared.

        Args:
            text: the query.
            index: of `index`, or its file.
            k: at most so many; an index of fewer films gives all.

        Raises:
            UserError: the index was made by another model, or k is below 1.
            DamagedFile: the file is not what `index` wrote.

        Examples:
            >>> model = simvtp.load("runs/demo")
            >>> hits = model.search("a red star rises", model.index("videos", say=str), k=3)
            >>> [hit.rank for hit in hits]
            [1, 2, 3]
        """
        opened = index if isinstance(index, VideoIndex) else load_index(index)
        opened.require_model(self.digest, str(self.source))
        return opened.nearest(self.encode_text([text])[0], k)

    def predict(
        self,
        videos: Sequence[Video],
        question: str | Sequence[str] = "",
        choices: Sequence[str] = (),
        k: int = 5,
    ) -> list[Prediction]:
        """Returns for each film the k texts that are closest to it, with their cosines.

        Args:
            videos: as `encode_video` takes them.
            question: must be empty: see `simvtp.load_predictor` for models that answer questions.
            choices: texts to choose from, two or more.
            k: at most so many.

        Raises:
            UserError: there are no choices, or there is a question.
            DataError: a film does not decode.

        Examples:
            >>> texts = ["a red star rises", "a blue ring falls"]
            >>> [found] = simvtp.load("runs/demo").predict(films[:1], choices=texts)
            >>> len(found.answers), found.measure
            (2, 'cosine')
        """
        NEEDS["retrieval"].check(str(self.source), videos, question, choices, k)
        cosines = self.encode_video(videos) @ self.encode_text(choices).T
        names = [
            str(video) if isinstance(video, str | Path) else f"clip {number}"
            for number, video in enumerate(videos)
        ]
        return [
            Prediction(name, "", "cosine", ranked(choices, row)[:k])
            for name, row in zip(names, cosines, strict=True)
        ]

    def export_settings(self) -> ExportedSettings:
        """Returns what is known of the model apart from its weights."""
        return ExportedSettings(self.training, self.experiment)

    def _loader(
        self,
        films: Sequence[Path],
        arrays: dict[Path, np.ndarray] | None = None,
    ) -> ViewLoader:
        """Returns the views of films, or of arrays by the paths that stand for them.

        They are those of the run's test; a film that does not decode is noted, its views are grey.
        """
        experiment, views = self.experiment, self.experiment.evaluate
        data = replace(experiment.data, on_corrupt="replace", max_corrupt_ratio=1.0)
        workers = 0 if arrays is not None else experiment.runtime.workers
        runtime = replace(experiment.runtime, decoded_cache=False, workers=workers)
        return ViewLoader(
            [Clip(str(film), film, ()) for film in films],
            data=data,
            model=experiment.model,
            runtime=runtime,
            segments=views.segments,
            crops=views.crops,
            batch_size=views.batch_size,
            reader=None if arrays is None else ArrayReader(arrays),
        )

    def _decoded(self, loader: ViewLoader) -> Tensor:
        """Returns the features of clips that must all decode; else raises DataError."""
        features, unreadable = self._features(loader)
        if unreadable:
            raise DataError(
                f"{len(unreadable)} of {len(loader)} videos do not decode; the first: "
                f"{next(iter(unreadable.values()))}"
            )
        return features

    def _features(self, loader: ViewLoader) -> tuple[Tensor, dict[int, str]]:
        """Returns the feature of each clip, float32 [n, D], and why clips do not decode."""
        with evaluating(self.module):
            features = video_features(self.module, loader.batches(), len(loader), (), self.device)
        return unit_features(features, "video").float(), dict(loader.unreadable)


def _require_list(values: object, what: str) -> None:
    if isinstance(values, str | Path | np.ndarray | Tensor):
        raise DataError(f"{what}: give a list of {what}, also of a single one: [{what[:-1]}].")
