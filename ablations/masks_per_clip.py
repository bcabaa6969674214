"""Ablation of repeated augmentation: several masks for each decoded clip (`data.repeat`).

Question: may a clip be decoded once for several training samples, each with a mask, a crop and a
caption of its own?
The paper: unknown; the released implementation decodes a clip for each sample. Masked autoencoders
of video call this repeated augmentation and use it to save decoding.
Expected: at or slightly below one mask, most in short trainings, because the same number of steps
sees fewer different clips.

It is no free speed, because the statistics of the objective change. With r masks, r batches in a
row hold the same B clips (never twice in one batch, so no clip is its own negative): the mean
gradient of these steps is that of B clips and not of rB, negatives repeat for r steps, and one pass
over the data takes r epochs. The number of steps and of samples is the same in every cell, so with
r masks a schedule of E epochs shows each clip E / r times. The setting applies to fine-tuning as
well, which masks nothing: there the r samples differ in crop, flip and caption alone.

Command: `python sweeps/run.py masks_per_clip --seeds 0,1,2` (1, 2 and 4 masks).
Cost: a run of the recipe for each cell and seed, less what decoding saves; nothing if frames are
cached, as in recipe `tiny`.
"""

from __future__ import annotations

from ablations.variants import Variants, one_setting

STUDY = Variants(
    name="masks_per_clip",
    title="Masks for each decoded clip",
    question="May a clip be decoded once for several samples in a row, "
    "each with its own mask, crop and caption, at no loss?",
    paper_says="Unknown. The released implementation decodes a clip for each sample.",
    label="masks for each decoded clip",
    cells=one_setting("data.repeat", {"1 mask": 1, "2 masks": 2, "4 masks": 4}),
    short="masks",
)
build = STUDY.build
