"""Image-text retrieval: a caption to its picture and back.

It works like text-video retrieval; the treatment of pictures is ours. A picture is a clip of one
frame, which is repeated as often as one tube is long: a model of video sees it in its first time
slot and nothing after it. Of a data set of videos the picture is the middle frame of each clip.
Every caption is a query (five of each picture of Flickr30k and COCO); in the direction i2t the rank
of a picture is that of the best of its captions, as is usual.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from simvtp.data.benchmarks import BENCHMARKS
from simvtp.data.loading.sampling import STILL
from simvtp.evaluation.retrieval_evaluation import Embedded
from simvtp.methods import method_of
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Protocol
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.task import Context


def holds_images(dataset: str) -> bool:
    """Returns True if the data set is a benchmark of captioned images."""
    return dataset in BENCHMARKS and BENCHMARKS[dataset].task == "image_text"


class ImageText(Retrieval):
    """Retrieval of pictures and captions, zero-shot and fine-tuned."""

    kind = "image_text"

    def __init__(self, context: Context) -> None:
        super().__init__(context.resampled(context.experiment.model.tubelet_size, STILL))
        # The matching head of the pre-trained model re-ranks; it takes clips of the length that it
        # was trained with.
        self.second_stage = context.resampled(context.experiment.model.frames, STILL)

    def _protocol(self, split: str, setting: str, checkpoint: str) -> Protocol:
        return replace(super()._protocol(split, setting, checkpoint), frames=1)

    def _embed(self, model: nn.Module, split: str) -> Embedded:
        config = self.context.experiment.model
        # The pre-trained model is built for longer clips; one of MAC takes shorter ones, too.
        if isinstance(model, SimVTP):
            pooling = model.config.pooling
            plain = method_of(config).retrieval(
                model, config, drop_path=0.0, pooling=pooling, encoder="shared"
            )
            return super()._embed(plain.eval(), split)
        return super()._embed(model, split)
