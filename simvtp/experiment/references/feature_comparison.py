"""Compares the features of a video and a text encoder with those of a reference file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch.nn.functional as F
from torch import Tensor

from simvtp.experiment.references.reference_file import Deviation, Reference, compare
from simvtp.training.losses import contrastive_loss


def compare_features(reference: Reference, outputs: Mapping[str, Tensor]) -> Iterator[Deviation]:
    """Yields the deviations of features, similarity and loss, after the loss's backward pass."""
    video, text = outputs["video_feature"], outputs["text_feature"]
    loss = contrastive_loss(video, text, reference.size("temperature"))
    loss.backward()
    ours = {
        "out/video_embedding": video,
        "out/text_embedding": text,
        "out/similarity": F.normalize(text, dim=-1) @ F.normalize(video, dim=-1).T,
    }
    for name, value in ours.items():
        yield compare(name, value, reference.tensor(name))
    yield compare("loss", loss, reference.tensor("out/loss").squeeze())
