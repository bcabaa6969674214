"""Ablation of the use of the masked view: masked then aligned, or masked then predicted.

Question: with the same data, is it better to align masked views (MAC) or to reconstruct what is
masked (SimVTP without, and with, contrast)?
The paper: MAC claims that masked-then-alignment is enough and cheaper than masked-then-prediction;
no result of that comparison is known.
Expected: alignment at or above prediction for the same samples, and clearly above for the same
operations. Retrieval is itself an alignment, which favours arms that were pre-trained to align; the
same fine-tuning follows in each arm.

Like for like, on one encoder (SimVTP's) with the same masks, frames, view of the text, batches and
number of samples, so that the objective is all that differs: `align only: VTC`, `align only:
VTC+VTM`, `prediction, same samples` (MVM+MLM), `both: MVM+MLM+VTC+VTM`. What MAC's encoder, masks
and frames add shows against them. `none, MAC` and `none, SimVTP` are not pre-trained at all.

Arms: `alignment` (MAC), `no mask` (recipe `mac_unmasked`: alignment without masks), `prediction`
(SimVTP: MVM + MLM), `prediction + contrast` (with VTC). Each of the last three twice: `same
samples` takes the steps and batches of `alignment`; `same compute` as many steps as cost the
forward operations of `alignment` (simvtp/models/flops; a backward pass costs each arm about twice
its forward pass, so the ratio holds for training). Arms of SimVTP are as in recipe `tiny`: tubes of
two frames, as many time slots and tokens as MAC has frames and patches, 90 % and 75 % hidden.

Command: `python sweeps/run.py prediction_vs_alignment --recipe tiny_mac --seeds 0,1,2` (twelve
cells).
Cost: at most a run of the recipe for each cell and seed; `no mask` costs about twice that in its
pre-training.
"""

from __future__ import annotations

from typing import Any

from ablations.base_recipe import own_weights
from ablations.design import null_arm
from ablations.mac import as_mac, without_masks
from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import INITIAL
from simvtp.config.model_config import ModelConfig, SimVTPConfig
from simvtp.config.overrides import replace_key, replace_keys
from simvtp.config.recipes import base, huge, large
from simvtp.config.tiny_recipes import tiny
from simvtp.config.tree import narrow

ALIGNMENT = "alignment"
OBJECTIVES = ("mvm", "mlm", "vtc", "vtm")
SIZES = (tiny, base, large, huge)
VOCABULARY = 30522  # of BERT's tokenizer, which is not loaded here


def as_simvtp(base: Experiment, *objectives: str) -> dict[str, Any]:
    """Returns the settings that turn `base` into SimVTP with the published masks.

    A tube of two frames for each time slot, the same window.

    Args:
        base: of MAC or of SimVTP.
        objectives: those that are on, with the recipe's weights: mvm, mlm, vtc, vtm.
    """
    model, own = base.model, own_weights(base)
    settings: dict[str, Any] = {
        "masks.video_ratio": 0.9,
        "masks.video_kind": "tube",
        "masks.text_ratio": 0.75,
        "masks.text_kind": "token",
        "masks.text_rule": "exact",
        **{f"losses.{name}": own[name] * (name in objectives) for name in OBJECTIVES},
    }
    if model.method != "mac":
        return settings
    settings |= {
        "model.method": "simvtp",
        "model.frames": 2 * model.frames,
        "model.tubelet_size": 2,
        "data.stride": max(1, base.data.stride // 2),
        "model.contrastive_text": "clean",
        "model.init_video": "",
        "model.init_text": "",
    }
    return settings | decoder_sizes(model)


def decoder_sizes(model: ModelConfig) -> dict[str, Any]:
    """Returns the decoder of the SimVTP recipe of that width; of other widths, half of it."""
    known = {found.dim: found for found in (narrow(r().model, SimVTPConfig) for r in SIZES)}
    like = known.get(model.dim)
    if like is None:
        width, depth, heads = model.dim // 2, SimVTPConfig.decoder_depth, max(1, model.heads // 2)
    else:
        width, depth, heads = like.decoder_dim, like.decoder_depth, like.decoder_heads
    return {
        "model.decoder_dim": width,
        "model.decoder_depth": depth,
        "model.decoder_heads": heads,
    }


def operations(experiment: Experiment) -> int:
    """Returns the forward operations of a sample of the pre-training."""
    # Late: torch would slow down every command that lists the ablations.
    from simvtp.data.text.tokenizer import load_tokenizer
    from simvtp.models.flops.simvtp_flops import forward_flops

    tokenizer = experiment.data.tokenizer
    size = experiment.model.vocab_size or (
        load_tokenizer(tokenizer).vocab_size if tokenizer == "builtin" else VOCABULARY
    )
    sized = replace_key(experiment, "model.vocab_size", size)
    return sum(forward_flops(sized.model, sized.masks, sized.losses.wanted).values())


def cells(base: Experiment) -> Cells:
    """Returns alignment, then each other arm for the same samples and for the same compute."""
    start = as_mac(base)
    arms = {
        "no mask": {**start, **without_masks()},
        "prediction": as_simvtp(base, "mvm", "mlm"),
        "prediction + contrast": as_simvtp(base, "mvm", "mlm", "vtc"),
    }
    budget = operations(replace_keys(base, start))
    found: dict[str, dict[str, Any]] = {ALIGNMENT: start}
    for name, settings in arms.items():
        factor = budget / operations(replace_keys(base, settings))
        steps = base.pretrain.max_steps
        length = (
            {"pretrain.max_steps": max(1, round(steps * factor))}
            if steps
            else {"pretrain.epochs": round(base.pretrain.epochs * factor, 4)}
        )
        found[f"{name}, same samples"] = settings
        found[f"{name}, same compute"] = {**settings, **length}
    return {**found, **like_for_like(base), **no_pretraining(base)}


def like_for_like(base: Experiment) -> Cells:
    """Returns the arms on SimVTP's encoder that differ in their objectives alone.

    The one that only predicts is `prediction, same samples`.
    """
    return {
        "align only: VTC": as_simvtp(base, "vtc"),
        "align only: VTC+VTM": as_simvtp(base, "vtc", "vtm"),
        "both: MVM+MLM+VTC+VTM": as_simvtp(base, *OBJECTIVES),
    }


def no_pretraining(base: Experiment) -> Cells:
    """Returns the initial weights of either method, fine-tuned as every arm is."""
    if not null_arm(base):
        return {}
    start = {"finetune.init": INITIAL}
    return {
        "none, MAC": {**as_mac(base), **start},
        "none, SimVTP": {**as_simvtp(base, *OBJECTIVES), **start},
    }


STUDY = Variants(
    name="prediction_vs_alignment",
    title="Masked then aligned, or masked then predicted",
    question="Is it better to align masked views, or to reconstruct what is masked, "
    "for the same samples and for the same compute?",
    paper_says="Masked-then-alignment is enough, and cheaper than masked-then-prediction. "
    "No figure of the comparison is known.",
    label="arm and budget",
    cells=cells,
    short="arm",
    retrieval_only=True,
)
build = STUDY.build
