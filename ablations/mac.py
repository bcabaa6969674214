"""Ablation of MAC, one change at a time: mask ratios, kind of mask, frames, data.

Question: which of MAC's unpublished choices matter: video ratio, text ratio, kind of mask, [MASK]
or dropping, frames, data, masks while fine-tuning?
The paper: masks "a high ratio" of patches, each frame separately, and replaces words by [MASK];
ratios, and masks at fine-tuning, are not known. It claims 60 % fewer operations, pre-training three
times as fast and 4 % better retrieval than without masks. Results of cells are unknown; the one
published row is MSR-VTT 1k-A, 38.9 / 63.1 / 73.9, MdR 3.
Expected: a ratio near 0.6 at or above 0, falling at 0.9; per-frame at or above tube; masks that
stay on while fine-tuning below the full view.

Cells are changes of the first one, `as recipe` (video 0.6 per frame, text 0.15 by [MASK], all
frames): `video 0.75`, `text 0.5`, `video 0.9 text 0.5` (of the joint grid), `tube`, `block`, `words
dropped`, `2 frames`, `1 then all frames`, `data 0.1`, `masks while tuning`, `no mask` (recipe
`mac_unmasked`), `time rank|nearest|all` (which patches attend to each other over time). The base
may be a recipe of MAC or of SimVTP; the latter is turned into MAC of the same width, with a frame
for each tube.

Command: `python sweeps/run.py mac --recipe tiny_mac --seeds 0,1,2` (ten cells), `--full-grid`
(all), `--cells "tube,block"`; the joint grid at its finest is `python sweeps/mask_ratio.py --recipe
tiny_mac`.
Cost: a run of the recipe for each cell and seed; cells that hide less cost more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ablations.base_recipe import SMALL_GRID_RECIPES
from ablations.design import Ablation
from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import MACConfig
from simvtp.config.recipes import mac as published
from simvtp.config.recipes import mac_unmasked
from simvtp.config.train_config import TrainConfig
from simvtp.config.tree import narrow

VIDEO = (0.0, 0.3, 0.5, 0.75, 0.9)
TEXT = (0.0, 0.3, 0.5, 0.75)
RECIPE = "as recipe"
SMALL = (
    RECIPE,
    "no mask",
    "video 0.75",
    "video 0.9",
    "text 0",
    "text 0.5",
    "tube",
    "block",
    "words dropped",
    "masks while tuning",
)


def as_mac(base: Experiment) -> dict[str, Any]:
    """Returns the settings that turn `base` into MAC with the masks of the recipe.

    A frame for each time slot, the same window, the contrastive loss alone.
    """
    recipe = published()
    model, masks, mac = base.model, recipe.masks, narrow(recipe.model, MACConfig)
    settings: dict[str, Any] = {
        "masks.video_ratio": masks.video_ratio,
        "masks.video_kind": masks.video_kind,
        "masks.text_ratio": masks.text_ratio,
        "masks.text_kind": "token",
        "masks.text_rule": "exact",
        "losses.vtc": 1.0,
    }
    if model.method == "mac":
        return settings
    settings |= {
        "model.method": "mac",
        "model.frames": model.grid[0],
        "data.stride": base.data.stride * model.tubelet_size,
        "model.text_depth": min(model.depth, mac.text_depth),
        "model.projection": min(model.dim, mac.projection),
        "model.init_video": recipe.model.init_video if model.init_video else "",
        "model.init_text": recipe.model.init_text if model.init_text else "",
    }
    return settings


def without_masks() -> dict[str, Any]:
    """Returns the settings of MAC's own baseline: recipe `mac_unmasked`, not Frozen as published.

    Nothing but the masks differs from MAC, so that an effect is theirs.
    """
    masks = mac_unmasked().masks
    return {"masks.video_ratio": masks.video_ratio, "masks.text_ratio": masks.text_ratio}


def frame_stages(base: Experiment, frames: int) -> str:
    """Returns a schedule of one frame for the first half of the pre-training, then all frames."""
    return f"1:{max(1, pretraining_steps(base) // 2)}" if frames > 1 else ""


def pretraining_steps(base: Experiment) -> int:
    """Returns the steps of the pre-training; an unknown data set counts as the embedded one."""
    train: TrainConfig = base.pretrain
    return train.max_steps or round(train.epochs * (base.data.shapes.train // train.batch_size))


def cells(base: Experiment) -> Cells:
    """Returns the base as MAC, then each change of it."""
    start = as_mac(base)
    frames = start.get("model.frames", base.model.frames)
    stride = start.get("data.stride", base.data.stride)
    changes: dict[str, dict[str, Any]] = {
        RECIPE: {},
        "no mask": without_masks(),
    }
    changes |= {f"video {ratio:g}": {"masks.video_ratio": ratio} for ratio in VIDEO}
    changes |= {f"text {ratio:g}": {"masks.text_ratio": ratio} for ratio in TEXT}
    changes |= {
        f"video {video:g} text {text:g}": {"masks.video_ratio": video, "masks.text_ratio": text}
        for video in VIDEO[2:]
        for text in TEXT[2:]
    }
    changes |= {kind: {"masks.video_kind": kind} for kind in ("tube", "block")}
    changes["words dropped"] = {"masks.text_mask": "drop"}
    changes |= {
        f"{count} frame{'s' * (count > 1)}": {
            "model.frames": count,
            "data.stride": stride * frames // count,
        }
        for count in (1, 2, 4, 8)
        if count != frames and count <= 2 * frames
    }
    if frames > 1:
        changes["1 then all frames"] = {"masks.frame_schedule": frame_stages(base, frames)}
    changes |= {f"data {ratio:g}": {"data.fraction": ratio} for ratio in (0.1, 0.3)}
    changes["masks while tuning"] = {"finetune.task.masks": True}
    changes |= {f"time {kind}": {"model.time_attention": kind} for kind in ("nearest", "all")}
    return {name: {**start, **change} for name, change in changes.items()}


STUDY = Variants(
    name="mac",
    title="MAC: what is hidden, how, and when",
    question="Which of MAC's choices matter: ratios, kind of mask, [MASK] or dropping, frames, "
    "data, masks while fine-tuning?",
    paper_says="Patches of each frame are hidden on their own, words are replaced by [MASK]; "
    "ratios are not known. 60 % fewer operations, 3 x faster, +4 % retrieval.",
    label="change of the recipe",
    cells=cells,
    small=SMALL,
    short="mac",
    retrieval_only=True,
)


def build(
    base: Experiment,
    cells: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """Makes the ablation, see `Variants.build`; `tiny_mac` has the small choice as well."""
    small = not full and base.name in (*SMALL_GRID_RECIPES, "tiny_mac")
    return replace(STUDY, small=None).build(
        base, cells or (SMALL if small else None), seeds, full=True
    )
