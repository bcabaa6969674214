"""Small loaders, as the tests of training batches and of evaluation views make them."""

from __future__ import annotations

from typing import Any

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.text.tokenizer import Tokenizer

MODEL = SimVTPConfig(image_size=32, frames=4, patch_size=8, text_length=12)
DATA = DataConfig(stride=2, max_corrupt_ratio=0.5)
HERE = RuntimeConfig(workers=0, device="cpu")


def train_loader(clips: list[Clip], tokenizer: Tokenizer, **changes: Any) -> TrainLoader:
    values: dict[str, Any] = {
        "data": DATA,
        "model": MODEL,
        "runtime": HERE,
        "batch_size": 4,
        "seed": 5,
        "flip": 0.5,
    }
    return TrainLoader(clips, tokenizer, **{**values, **changes})


def view_loader(clips: list[Clip], **changes: Any) -> ViewLoader:
    values: dict[str, Any] = {
        "data": DATA,
        "model": MODEL,
        "runtime": HERE,
        "segments": 2,
        "crops": 3,
        "batch_size": 8,
    }
    return ViewLoader(clips, **{**values, **changes})
