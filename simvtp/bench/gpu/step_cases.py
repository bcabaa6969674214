"""Configurations whose training step is checked: each wiring, kind of mask, precision and task.

They serve `bench gpu` (small, with real values, on a CPU and on a GPU) and tests/gpu_fake (wide,
without values, on a GPU that is not there).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simvtp.batch import Batch
from simvtp.bench.step.sizes import MASK_ID, random_batch
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import MACConfig, ModelConfig, SimVTPConfig
from simvtp.config.recipes import get_recipe
from simvtp.config.train_config import LossConfig, TrainConfig
from simvtp.config.tree import narrow
from simvtp.methods import build_model, method_of
from simvtp.models.downstream.action_model import Probe, VideoClassifier
from simvtp.models.downstream.cross_encoder import PairModel
from simvtp.models.downstream.grounding_model import GroundingModel
from simvtp.models.downstream.retrieval_encoders import Sides, retrieval_encoder
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.tasks.grounding import SpanLoss
from simvtp.tasks.task_objectives import Classification, Regression
from simvtp.training.objectives import Objective, PretrainObjective, RetrievalObjective
from simvtp.training.stage import Draw, Stage

VOCABULARY = 30522  # BERT's
CLASSES = 400  # of an action, as Kinetics has them
CANDIDATES = 5  # texts of a question
SEGMENTS, SEGMENT_FRAMES = 16, 2  # of grounding
DROP_PATH = 0.1  # of fine-tuning, published


@dataclass(frozen=True)
class StepCase:
    """One configuration of the training step.

    Attributes:
        name: of the case.
        experiment: its settings.
        task: what is fine-tuned; empty for pre-training.
        carrying: settings of `Stage` that only carry the step, such as `accumulate`.
    """

    name: str
    experiment: Experiment
    task: str = ""
    carrying: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class StepParts:
    """The parts of a step.

    Attributes:
        model: on the CPU, with initial weights by seed 0.
        objective: its loss.
        draw: draws the masks; None without masks.
        train: settings of the optimization.
        batch: on the CPU.
    """

    model: nn.Module
    objective: Objective
    draw: Draw | None
    train: TrainConfig
    batch: Batch


# ---- the cases -----------------------------------------------------------------------------------


def step_cases() -> list[StepCase]:
    """Returns all cases, at the sizes of the recipes."""
    return [*_pretraining_cases(), *_mask_cases(), *_mac_cases(), *_task_cases()]


def _recipe(name: str) -> Experiment:
    """Returns a recipe that needs no files."""
    experiment = get_recipe(name)
    model = replace(experiment.model, vocab_size=VOCABULARY, init_video="", init_text="")
    return replace(experiment, model=model)


def _with_model(experiment: Experiment, **changes: Any) -> Experiment:
    return replace(experiment, model=replace(experiment.model, **changes))


def _with_masks(experiment: Experiment, **changes: Any) -> Experiment:
    return replace(experiment, masks=replace(experiment.masks, **changes))


def _with_training(experiment: Experiment, **changes: Any) -> Experiment:
    return replace(experiment, pretrain=replace(experiment.pretrain, **changes))


def _pretraining_cases() -> Iterator[StepCase]:
    """Yields what carries a step of `base`, its precisions and its wirings."""
    base = _recipe("base")
    yield StepCase("base", base)
    for name, setting in (
        ("merge_passes", ("merge_passes", True)),
        ("pack_text", ("pack_text", True)),
        ("gradient_checkpointing", ("gradient_checkpointing", True)),
        ("accumulate=4", ("accumulate", 4)),
    ):
        yield StepCase(f"base {name}", base, carrying=(setting,))
    yield StepCase("base ema", _with_training(base, ema_decay=0.999))
    for precision in ("fp16", "fp32"):
        yield StepCase(f"base {precision}", _with_training(base, precision=precision))
    for recipe in ("released", "large"):
        yield StepCase(recipe, _recipe(recipe))
    wirings: dict[str, dict[str, Any]] = {
        "clean text, hard negatives": {"contrastive_text": "clean", "vtm_negatives": "hard"},
        "clean video": {"contrastive_video": "clean", "contrastive_text": "clean"},
        "wrong texts": {"vtm_directions": "both"},
        "learned temperature": {"learned_temperature": True},
        "half of the tubes decoded": {"decoder_keep_ratio": 0.5},
        "decoded cells turned": {"decoder_keep_ratio": 0.5, "decoder_cells": "turned"},
        "tokens merged": {"token_merge_ratio": 0.25},
        "two encoders": {"encoders": "two", "fusion_blocks": 4},
        "text decoder": {"text_decoder_depth": 2},
        "drop_path": {"drop_path": DROP_PATH},
        "pooling cls": {"pooling": "cls"},
        "positions by axes": {"tube_positions": "axes"},
    }
    for name, changes in wirings.items():
        yield StepCase(name, _with_model(base, **changes))
    losses = replace(narrow(base.losses, LossConfig), mvm_target="raw")
    yield StepCase("raw target", replace(base, losses=losses))


def _mask_cases() -> Iterator[StepCase]:
    """Yields each kind of mask that `base` does not have."""
    base = _recipe("base")
    for kind in ("random", "frame", "per_frame", "block"):
        yield StepCase(f"mask {kind}", _with_masks(base, video_kind=kind))
    for kind in ("word", "span"):
        yield StepCase(f"words {kind}", _with_masks(base, text_kind=kind))
    yield StepCase("words bernoulli", _with_masks(base, text_rule="bernoulli"))
    corrupted = _with_masks(base, text_corruption="bert", text_predicted=0.5)
    yield StepCase("words as BERT", corrupted)


def _mac_cases() -> Iterator[StepCase]:
    mac = _recipe("mac")
    yield StepCase("mac", mac)
    for kind in ("nearest", "all"):
        yield StepCase(f"mac {kind}", _with_model(mac, time_attention=kind))
    yield StepCase("mac drops words", _with_masks(mac, text_mask="drop"))
    yield StepCase("mac blocks", _with_masks(mac, video_kind="block"))
    yield StepCase("mac one frame first", _with_masks(mac, frame_schedule="1:2000,2:1000"))
    yield StepCase("frozen", _recipe("frozen"))


def _task_cases() -> Iterator[StepCase]:
    base = _recipe("base")
    for task in (
        *("retrieval dual", "retrieval shared", "retrieval masks"),
        *("action", "action linear", "action attentive", "action mixup"),
        *("qa open", "qa choice", "qa count", "choice", "choice drop_tubes", "grounding"),
    ):
        yield StepCase(f"task {task}", base, task=task)


# ---- sizes ---------------------------------------------------------------------------------------


def shallow(case: StepCase) -> StepCase:
    """Returns the case with two blocks of each kind: the same operations, fewer of them."""
    model = case.experiment.model
    changes: dict[str, Any] = {"depth": 2}
    if isinstance(model, SimVTPConfig):
        changes |= {"decoder_depth": 1, "fusion_blocks": min(1, model.fusion_blocks)}
    if isinstance(model, MACConfig):
        changes |= {"text_depth": 2}
    return replace(case, experiment=_with_model(case.experiment, **changes))


def small(case: StepCase) -> StepCase:
    """Returns the case shallow and narrow, for steps with real values in tenths of a second."""
    case = shallow(case)
    changes: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 8,
        "frames": 4,
        "dim": 64,
        "heads": 2,
        "vocab_size": 97,
        "text_length": 12,
        "max_text_positions": 16,
    }
    if isinstance(case.experiment.model, SimVTPConfig):
        changes |= {"decoder_dim": 32, "decoder_heads": 1}
    if isinstance(case.experiment.model, MACConfig):
        changes |= {"projection": 32}
    return replace(case, experiment=_with_model(case.experiment, **changes))


# ---- parts of a step -----------------------------------------------------------------------------


def pretraining_masks(experiment: Experiment) -> Draw:
    """Returns how a pre-training step of the experiment draws the masks of its batch."""

    def draw(batch: Batch, step: int, first: int) -> Any:
        return method_of(experiment.model).draw(
            batch,
            experiment.model,
            experiment.masks,
            mask_id=MASK_ID,
            seed=0,
            step=step,
            first_sample=first,
        )

    return draw


def build_parts(case: StepCase, samples: int, classes: int = CLASSES) -> StepParts:
    """Returns model, objective, masks, settings and a batch of a case."""
    experiment = case.experiment
    config, losses = experiment.model, experiment.losses
    model = build_model(config, losses.wanted, seed=0)
    draw = pretraining_masks(experiment)
    if not case.task:
        objective: Objective = PretrainObjective(losses)
        batch = random_batch(config, samples)
        return StepParts(model, objective, draw, experiment.pretrain, batch)
    train = replace(experiment.finetune.train, precision=experiment.pretrain.precision)
    tuned, objective = _tuned(case.task, model, narrow(config, SimVTPConfig), classes)
    masks = draw if case.task == "retrieval masks" else None
    return StepParts(
        tuned, objective, masks, train, task_batch(case.task, config, samples, classes)
    )


def _tuned(
    task: str, model: nn.Module, config: SimVTPConfig, classes: int
) -> tuple[nn.Module, Objective]:
    assert isinstance(model, SimVTP)
    kind, _, variant = task.partition(" ")
    if kind == "retrieval":
        sides: Sides = "shared" if variant == "shared" else "dual"
        built = retrieval_encoder(
            model, config, drop_path=DROP_PATH, pooling="content", encoder=sides
        )
        return built, RetrievalObjective()
    if kind == "action":
        probes: dict[str, Probe] = {"linear": "linear", "attentive": "attentive"}
        probe = probes.get(variant, "none")
        drop_path = DROP_PATH if probe == "none" else 0.0
        return VideoClassifier.from_unified(
            model, config, classes, 0, probe=probe, drop_path=drop_path
        ), Classification()
    if kind in ("qa", "choice"):
        pair = PairModel.from_unified(
            model,
            config,
            classes if variant == "open" else 1,
            0,
            kind="match" if kind == "choice" else "answer",
            drop_path=DROP_PATH,
            drop_tubes=0.75 if variant == "drop_tubes" else 0.0,
        )
        return pair, Regression() if variant == "count" else Classification()
    if kind == "grounding":
        grounded = GroundingModel.from_unified(
            model, config, SEGMENTS, SEGMENT_FRAMES, 0, drop_path=DROP_PATH
        )
        return grounded, SpanLoss()
    raise KeyError(task)


def task_batch(task: str, config: ModelConfig, samples: int, classes: int) -> Batch:
    """Returns a batch as the loader of a task makes it."""
    if task.startswith("retrieval"):
        return random_batch(config, samples)
    if task == "grounding":
        batch = random_batch(replace(config, frames=SEGMENTS * SEGMENT_FRAMES), samples)
        starts = torch.arange(samples) / (2 * samples)
        return replace(batch, targets=torch.stack([starts, starts + 0.4], dim=1))
    batch = random_batch(config, samples)
    numbers = torch.arange(samples)
    if task == "qa choice" or task.startswith("choice"):
        texts = [batch.input_ids, batch.attention_mask, batch.word_ids]
        ids, mask, words = (
            torch.stack([text.roll(n, 0) for n in range(CANDIDATES)], dim=1) for text in texts
        )
        batch = replace(batch, input_ids=ids, attention_mask=mask, word_ids=words)
        return replace(batch, targets=numbers % CANDIDATES)
    if task == "qa count":
        return replace(batch, targets=numbers.float())
    targets = numbers % classes
    if task == "action mixup":
        one_hot = nn.functional.one_hot(targets, classes).float()
        return replace(batch, targets=0.7 * one_hot + 0.3 * one_hot.roll(1, 0))
    return replace(batch, targets=targets)


def case_stage(case: StepCase, train: TrainConfig, device: str, directory: Path) -> Stage:
    """Returns the stage of a case for ten steps on one rank."""
    return Stage(
        name="finetune" if case.task else "pretrain",
        train=train,
        total_steps=10,
        seed=0,
        directory=directory,
        fingerprint="0" * 64,
        device=device,
        **dict(case.carrying),
    )
