"""What the aligning objectives see: the masked text and video, or the clean ones.

Question: should VTC and VTM compare what is masked, or what will be compared later, at the test?
The paper: the released implementation masks the text in place, so all four objectives see the
masked text and the visible tubes alone; whether that was meant is unknown, and so are figures for
anything else. Direction to expect: clean text above masked text, most of all in short pre-training
(with 75 % of the words hidden, little is left to be aligned); clean video above masked video, at
several times the cost.

Reconstruction sees what is masked in every cell. With a clean half the pass of MVM and MLM cannot
serve as VTM's positive, so that a further pass is made.

Command: `python sweeps/run.py contrastive_view` (four cells, called `text+video`). Cost: clean
video puts all tubes through the encoder, at ratio 0.9 ten times as many; on `tiny` the pre-training
then takes 2.6 times as long (measured over 12 steps: 20.1 against 7.8 CPU seconds)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    return {
        f"{text} text+{video} video": {
            "model.contrastive_text": text,
            "model.contrastive_video": video,
        }
        for video in ("masked", "clean")
        for text in ("masked", "clean")
    }


STUDY = Variants(
    name="contrastive_view",
    title="What VTC and VTM see",
    question="Should contrast and matching see the masked or the clean text and video?",
    paper_says="In the released implementation they see the masked text and the visible tubes. No figure for other views is known.",
    label="view of VTC and VTM",
    cells=cells,
    short="view",
)
build = STUDY.build
