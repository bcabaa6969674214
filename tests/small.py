"""The smallest experiment that has all parts; seconds on one core."""

from pathlib import Path

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe

SETTINGS = (
    *("model.image_size=32", "model.patch_size=8", "model.frames=4", "model.dim=32"),
    *("model.depth=1", "model.heads=2", "model.text_length=24"),
    *("masks.video_ratio=0.5", "masks.text_ratio=0.5"),
    *("data.shapes.train=24", "data.shapes.val=8", "data.shapes.test=8"),
    *("data.shapes.image_size=32", "data.shapes.frames=8"),
    *("pretrain.batch_size=8", "pretrain.max_steps=6"),
    *("finetune.train.batch_size=8", "finetune.train.max_steps=4", "evaluate.batch_size=8"),
    *("runtime.workers=0", "runtime.log_every=2", "runtime.checkpoint_every=2"),
    *("runtime.threads=1", "runtime.tracking_uri=off"),
)
DECODER = ("model.decoder_dim=16", "model.decoder_depth=1", "model.decoder_heads=2")


def small_settings(root: Path, cache: Path, *more: str) -> list[str]:
    """Returns overrides of recipe `tiny`."""
    return [*DECODER, *small_mac_settings(root, cache, *more)]


def small_mac_settings(root: Path, cache: Path, *more: str) -> list[str]:
    """Returns overrides of recipe `tiny_mac`, which has no decoder."""
    return [*SETTINGS, f"runtime.root={root}", f"runtime.cache={cache}", *more]


def small_experiment(root: Path, cache: Path, *more: str) -> Experiment:
    return override(get_recipe("tiny"), small_settings(root, cache, *more))
