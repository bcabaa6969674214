"""Settings of fine-tuning: what all tasks have, and one class a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from simvtp.config.data_config import Crop
from simvtp.config.model_config import POOLING, Pooling
from simvtp.config.train_config import NEGATIVES, Negatives, TrainConfig
from simvtp.config.tree import added, setting

INITIAL = "initial"  # finetune.init: no pre-training at all
TASK_NAMES = "the task: retrieval, imagetext, qa, choice, action, grounding"


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Base class of the tasks' settings."""

    name: str = setting("", TASK_NAMES)


@dataclass(frozen=True, kw_only=True)
class RankingTask(TaskConfig):
    """Base class of the tasks that rank a gallery. Defaults: as published (method notes 1.8)."""

    temperature: float = setting(0.05, "of the contrastive loss")
    vtc_negatives: Negatives = setting("global", NEGATIVES)
    pooling: Pooling = setting("content", POOLING)
    encoder: Literal["dual", "shared"] = setting(
        "dual", "two copies of the encoder as published, or one for both sides"
    )
    masks: bool = setting(
        False, "the masks of pre-training stay on while fine-tuning; tests see everything"
    )
    select_by: Literal["mean_recall", "R1"] = added(
        "mean_recall",
        "chooses the best epoch: mean of R@1, R@5 and R@10 of videos by captions; R1 = released",
    )


@dataclass(frozen=True, kw_only=True)
class RetrievalTask(RankingTask):
    """Settings of text-video retrieval."""

    name: Literal["retrieval"] = setting("retrieval", TASK_NAMES)


@dataclass(frozen=True, kw_only=True)
class ImageTextTask(RankingTask):
    """Settings of image-text retrieval."""

    name: Literal["imagetext"] = setting("imagetext", TASK_NAMES)


@dataclass(frozen=True, kw_only=True)
class PairTask(TaskConfig):
    """Base class of the tasks that fine-tune the pair encoder."""

    drop_tubes: float = setting(
        0.0, "of the tubes, left out of a training sample; scoring sees all"
    )
    blind: bool = setting(False, "the video is hidden: what the text alone gives")
    baseline: bool = setting(False, "train a second, blind model and report it with the other")


@dataclass(frozen=True, kw_only=True)
class QATask(PairTask):
    """Settings of question answering."""

    name: Literal["qa"] = setting("qa", TASK_NAMES)
    questions: Literal["open", "choice", "count"] = setting(
        "open", "form of the embedded data set's questions; a benchmark has its own"
    )
    answers: int = setting(
        0, "size of the answer vocabulary, the most frequent of training; 0 = all answers"
    )


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(PairTask):
    """Settings of the choice among captions."""

    name: Literal["choice"] = setting("choice", TASK_NAMES)
    candidates: int = setting(5, "captions to choose from where the data set gives none")


@dataclass(frozen=True, kw_only=True)
class GroundingTask(PairTask):
    """Settings of temporal grounding."""

    name: Literal["grounding"] = setting("grounding", TASK_NAMES)
    segments: int = setting(16, "equal parts of a video, 2 to 64; a span is as fine as they are")
    segment_frames: int = setting(2, "frames that are seen of each segment")
    spans: Literal["nms", "coverage"] = setting(
        "nms", "from the second span on: by suppression, or what the others miss"
    )


@dataclass(frozen=True, kw_only=True)
class ActionTask(TaskConfig):
    """Settings of action recognition."""

    name: Literal["action"] = setting("action", TASK_NAMES)
    probe: Literal["none", "linear", "attentive"] = setting(
        "none", "none trains all; else a head of this kind on the frozen encoder"
    )
    mixup: float = setting(0.0, "alpha of the mixtures of two clips, up to 1; 0 = off")


def _published_train() -> TrainConfig:
    """Returns the settings of MSR-VTT retrieval fine-tuning (method notes 1.8)."""
    return TrainConfig(
        epochs=100, batch_size=64, base_lr=3e-4, base_min_lr=1e-6, warmup_ratio=0.05, beta2=0.999
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of fine-tuning on a task (`simvtp.tasks`)."""

    enabled: bool = setting(True, "fine-tune and test; false = pre-training (and zero-shot) only")
    task: TaskConfig = field(default_factory=RetrievalTask)
    train: TrainConfig = field(default_factory=_published_train)
    init: str = setting(
        "",
        "empty = this experiment's pre-training; else none is done here: initial "
        "(model.init_*), a run directory, or weights",
    )
    init_digest: str = setting(
        "", "filled in: sha256 of the weights of `init`; their content is the identity"
    )
    selection: Literal["val", "test"] = setting(
        "val", "split on which the best epoch is chosen; test = released protocol"
    )
    evaluations: int = setting(
        5, "how often, evenly spread, the selection split is scored; 0 = released: every epoch"
    )
    drop_path: float = setting(0.1, "stochastic depth of the last block; linear from 0")
    train_crop: Crop = setting("random_resized", "of fine-tuning")
    crop_area: float = added(0.08, "as data.crop_area, of fine-tuning")
    flip: float = setting(0.5, "probability of a mirrored clip")
    rand_augment: int = setting(
        0,
        "RandAugment: operations drawn for a clip, each applied with probability 0.5; 0 = off, "
        "released: 4",
    )
    rand_magnitude: float = setting(7.0, "mean strength of these operations, 0 to 10")
    rand_spread: float = setting(0.5, "standard deviation of that strength")
    random_erasing: float = setting(
        0.0, "probability that a box of the clip is filled with noise; 0 = off, released: 0.25"
    )

    @property
    def ranking(self) -> RankingTask:
        """Settings of the task if it ranks a gallery, else the defaults of retrieval."""
        return self.task if isinstance(self.task, RankingTask) else RetrievalTask()

    @property
    def ranks(self) -> bool:
        """True if there is a fine-tuning that ranks a gallery."""
        return self.enabled and isinstance(self.task, RankingTask)

    @property
    def blind(self) -> bool:
        """True if the video is hidden from the fine-tuned model."""
        return isinstance(self.task, PairTask) and self.task.blind

    @property
    def baseline(self) -> bool:
        """True if a second, blind model is trained."""
        return isinstance(self.task, PairTask) and self.task.baseline
