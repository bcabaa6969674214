"""Where the weights begin: at random, as VideoMAE's, as BERT's embeddings, as an image model's.

Question: how much of the result is due to the weights that the pre-training starts from? The paper:
encoder and video decoder from VideoMAE ViT-B (Kinetics-400, 1600 epochs), text embeddings from
BERT-base. Figures for others: unknown. Direction to expect: VideoMAE above an image model above
scratch; BERT's embeddings help most where captions are few.

An image ViT fills the encoder: its patch embedding is repeated over the frames of a tube and
divided by their number, its [CLS] and its learned positions have no place here. The recipes `base`
and its kin compare the checkpoints that they name. `tiny` is too small for any published
checkpoint: name files of its size with `--weights` (a pre-training of `tiny` with `losses.mlm=0
losses.vtc=0 losses.vtm=0` is a VideoMAE of its size); without them its only cell is `scratch`.

Command: `python sweeps/run.py initialisation --recipe base --data webvid.csv`, `python
         sweeps/run.py initialisation --weights video=RUN/checkpoints/pretrain.safetensors` (recipe
         `tiny`: two cells).
Cost: a run of the recipe for each cell and seed, and what the checkpoints cost before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ablations.design import Ablation
from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError

KINDS = ("video", "image", "text")
IMAGE_MODEL = (
    "google/vit-base-patch16-224-in21k"  # for recipes that start from a VideoMAE of the same size
)


def cells(base: Experiment, weights: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    """Scratch, each of the weights alone, and each encoder together with the text embeddings."""
    found = {"scratch": {"model.init_video": "", "model.init_text": ""}}
    for name in ("video", "image"):
        if name in weights:
            found[name] = {"model.init_video": weights[name], "model.init_text": ""}
    if "text" in weights:
        for name in list(found):
            found["text" if name == "scratch" else f"{name}+text"] = {
                **found[name],
                "model.init_text": weights["text"],
            }
    return found


def build(
    base: Experiment,
    cells: Sequence[str] | None = None,
    weights: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """`weights`: `video=PLACE`, `image=PLACE`, `text=PLACE`, each a file, folder or hub name; over
    those that the base experiment names.
    """
    return _study(partial(_cells, weights={**_named_by(base), **read_weights(weights)})).build(
        base, cells, seeds, full
    )


_cells = cells


def _named_by(base: Experiment) -> dict[str, str]:
    found = {"video": base.model.init_video, "text": base.model.init_text}
    if base.model.init_video == "MCG-NJU/videomae-base":
        found["image"] = IMAGE_MODEL
    return {name: place for name, place in found.items() if place}


def read_weights(texts: Sequence[str]) -> dict[str, str]:
    """`video=PLACE` as {"video": "PLACE"}."""
    found = {}
    for text in texts:
        name, _, place = text.partition("=")
        if name not in KINDS or not place:
            raise ConfigError(
                f"--weights {text}: write {', '.join(f'{kind}=PLACE' for kind in KINDS)}; a place is a file, a folder or a hub name."
            )
        found[name] = place
    return found


def _study(made: Any) -> Variants:
    return Variants(
        name="initialisation",
        title="Initial weights",
        question="How much is due to the weights that the pre-training starts from?",
        paper_says="Encoder and video decoder from VideoMAE ViT-B, text embeddings from BERT-base. No figure for others is known.",
        label="initial weights",
        cells=made,
        short="from",
    )
