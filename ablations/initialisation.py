"""Ablation of the initial weights: random, VideoMAE's, BERT's embeddings, an image model's.

Question: how much of the result is due to the weights that the pre-training starts from?
The paper: encoder and video decoder from VideoMAE ViT-B (Kinetics-400, 1600 epochs), text
embeddings from BERT-base. Results for others are unknown.
Expected: VideoMAE above an image model above scratch; BERT's embeddings help most if captions are
few.

An image ViT fills the encoder: its patch embedding is repeated over the frames of a tube and
divided by their number; its [CLS] and its learned positions are not used. The recipes `base` and
its kin compare the checkpoints that they name. `tiny` is too small for any published checkpoint:
name files of its size with `--weights` (a pre-training of `tiny` with `losses.mlm=0 losses.vtc=0
losses.vtm=0` is a VideoMAE of its size); without them its only cell is `scratch`.

Command: `python sweeps/run.py initialisation --recipe base --data webvid.csv`, `python
sweeps/run.py initialisation --weights video=RUN/checkpoints/pretrain.safetensors` (recipe `tiny`:
two cells).
Cost: a run of the recipe for each cell and seed, and what the checkpoints cost before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ablations.design import Ablation
from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError

KINDS = ("video", "image", "text")
# Image model for recipes that start from a VideoMAE of the same size.
IMAGE_MODEL = "google/vit-base-patch16-224-in21k"


def weight_cells(weights: Mapping[str, str]) -> Cells:
    """Returns scratch, each of the weights alone, and each encoder with the text embeddings."""
    found = {"scratch": {"model.init_video": "", "model.init_text": ""}}
    for name in ("video", "image"):
        if name in weights:
            found[name] = {"model.init_video": weights[name], "model.init_text": ""}
    if "text" in weights:
        for name in list(found):
            with_text = "text" if name == "scratch" else f"{name}+text"
            found[with_text] = {**found[name], "model.init_text": weights["text"]}
    return found


def build(
    base: Experiment,
    cells: Sequence[str] | None = None,
    weights: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """Makes the ablation.

    Args:
        base: the experiment that every cell changes.
        cells: names of the cells; default: all.
        weights: `video=SOURCE`, `image=SOURCE`, `text=SOURCE`, each a file, folder or hub name;
            they replace those that the base experiment names.
        seeds: each cell is run once per seed.
        full: no effect; all cells are run by default.
    """
    return Variants(
        name="initialisation",
        title="Initial weights",
        question="How much is due to the weights that the pre-training starts from?",
        paper_says="Encoder and video decoder from VideoMAE ViT-B, text embeddings from "
        "BERT-base. No figure for others is known.",
        label="initial weights",
        cells=weight_cells(_named_by(base) | read_weights(weights)),
        short="from",
    ).build(base, cells, seeds, full)


def _named_by(base: Experiment) -> dict[str, str]:
    found = {"video": base.model.init_video, "text": base.model.init_text}
    if base.model.init_video == "MCG-NJU/videomae-base":
        found["image"] = IMAGE_MODEL
    return {name: source for name, source in found.items() if source}


def read_weights(texts: Sequence[str]) -> dict[str, str]:
    """Returns {"video": "SOURCE"} of `video=SOURCE`.

    Raises:
        ConfigError: a text has another form.
    """
    found = {}
    for text in texts:
        name, _, source = text.partition("=")
        if name not in KINDS or not source:
            forms = ", ".join(f"{kind}=SOURCE" for kind in KINDS)
            raise ConfigError(
                f"--weights {text}: write {forms}; a source is a file, a folder or a hub name."
            )
        found[name] = source
    return found
