"""Ablation of the input of the aligning objectives: masked text and video, or clean ones.

Question: should VTC and VTM compare what is masked, or what will be compared at the test?
The paper: the released implementation masks the text in place, so all four objectives see the
masked text and the visible tubes alone; whether that was meant is unknown, and so are results for
anything else.
Expected: clean text above masked text, most of all in short pre-training (with 75 % of the words
hidden, little is left to align); clean video above masked video, at several times the cost.

Reconstruction sees the masked input in every cell. With a clean half the pass of MVM and MLM cannot
serve as VTM's positive, so a further pass is made.

Command: `python sweeps/run.py contrastive_view` (four cells, called `text+video`).
Cost: clean video puts all tubes through the encoder, at ratio 0.9 ten times as many; on `tiny` the
pre-training then takes 2.6 times as long (over 12 steps: 20.1 against 7.8 CPU seconds).
"""

from __future__ import annotations

from ablations.variants import Variants, two_settings

VIEWS = ("masked", "clean")

STUDY = Variants(
    name="contrastive_view",
    title="Input of VTC and VTM",
    question="Should contrast and matching see the masked or the clean text and video?",
    paper_says="In the released implementation they see the masked text and the visible tubes. "
    "No figure for other views is known.",
    label="view of VTC and VTM",
    cells=two_settings(
        ("model.contrastive_text", "model.contrastive_video"),
        [(text, video) for video in VIEWS for text in VIEWS],
        lambda text, video: f"{text} text+{video} video",
    ),
    short="view",
)
build = STUDY.build
