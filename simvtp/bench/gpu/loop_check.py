"""The training loop on a store of raw frames: kill and resume, moves between devices, precisions.

What must hold is that a run that was stopped continues bit by bit, on a GPU in torch's
deterministic mode.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from simvtp.batch import Batch
from simvtp.bench.data_path.raw_clips import raw_folder, write_raw_clips
from simvtp.bench.gpu.check_worker import Recorder
from simvtp.bench.gpu.step_cases import small, step_cases
from simvtp.bench.step.sizes import SIZES
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.config.train_config import LossConfig, TrainConfig
from simvtp.config.tree import narrow
from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import BUILTIN, Tokenizer, load_tokenizer
from simvtp.errors import DeviceMemoryExhausted
from simvtp.methods import build_model, method_of
from simvtp.runs.journal import Journal, read_journal
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.loop import train
from simvtp.training.objectives import PretrainObjective
from simvtp.training.stage import Stage, StageOutcome

CLIPS = 64
MEMORY_FRACTION = 0.01  # of the device, that a step may take where it shall not fit


@dataclass(frozen=True)
class LoopSetup:
    """Data, sizes and folders of the runs.

    Attributes:
        folder: of the runs; each has one of its own.
        clips: of the raw store.
        model: sizes.
        steps: of the long run.
        samples: of a step.
        workers: of the loader.
    """

    folder: Path
    clips: list[Clip]
    model: SimVTPConfig
    steps: int
    samples: int
    workers: int


@dataclass(frozen=True)
class LoopOutcome:
    """Outcome of a run: how it ended, and its losses by step."""

    stage: StageOutcome
    losses: dict[int, float]

    @property
    def finite(self) -> bool:
        """True if there are losses, and all are finite."""
        return bool(self.losses) and all(math.isfinite(loss) for loss in self.losses.values())


def check_loop(recorder: Recorder) -> None:
    """Runs the loop with its loader: stopped and continued, moved, in fp16, averaged, too large."""
    with tempfile.TemporaryDirectory(dir=raw_folder()) as temporary:
        setup = _setup(Path(temporary), recorder.tiny)
        half = "fp32" if recorder.tiny else "bf16"
        with recorder.attempt("stop and continue", needed=2):
            _check_resume(recorder, setup, half)
        with recorder.attempt("fp16 and average", needed=2):
            settings: dict[str, Any] = {"precision": "fp16", "ema_decay": 0.9}
            outcome = _run(setup, "fp16", recorder.device, setup.steps // 4, **settings)
            recorder.gate(
                "losses in fp16 with an average of the weights are finite", outcome.finite
            )
        if recorder.device.type == "cuda":
            with recorder.attempt("moves between devices", needed=4):
                _check_moves(recorder, setup, half)
            with recorder.attempt("a step that is too large", needed=2):
                _check_memory(recorder, setup)


def _setup(folder: Path, tiny: bool) -> LoopSetup:
    case = small(step_cases()[0])
    sizes = narrow(case.experiment.model, SimVTPConfig) if tiny else SIZES["tiny"]
    model = replace(
        sizes,
        vocab_size=load_tokenizer(BUILTIN).vocab_size,
        text_length=16,
        max_text_positions=16,
    )
    clips = write_raw_clips(folder / "clips.tar", CLIPS, 2 * model.frames, model.image_size + 8)
    return LoopSetup(folder, clips, model, 8 if tiny else 60, 8 if tiny else 32, 0 if tiny else 2)


def _loader(setup: LoopSetup, tokenizer: Tokenizer, device: torch.device) -> TrainLoader:
    return TrainLoader(
        setup.clips,
        tokenizer,
        data=DataConfig(stride=1, train_crop="multiscale"),
        model=setup.model,
        runtime=RuntimeConfig(workers=setup.workers, device=str(device)),
        batch_size=setup.samples,
        seed=0,
        stage="pretrain",
    )


def _run(
    setup: LoopSetup,
    name: str,
    device: torch.device,
    steps: int,
    stop_at: int = 0,
    **settings: Any,
) -> LoopOutcome:
    """Runs (or continues) a pre-training in the folder `name`, up to `stop_at` if it is above 0."""
    model, stop = setup.model, StopFlag()
    tokenizer = load_tokenizer(BUILTIN)
    loader = _loader(setup, tokenizer, device)

    def draw(batch: Batch, step: int, first: int) -> Any:
        return method_of(model).draw(
            batch,
            model,
            MaskConfig(),
            mask_id=tokenizer.mask_id,
            seed=0,
            step=step,
            first_sample=first,
        )

    def on_log(line: dict[str, Any]) -> None:
        if line["step"] == stop_at:
            stop.set("the check stops it here")

    folder = setup.folder / name
    stage = Stage(
        name="pretrain",
        train=TrainConfig(batch_size=setup.samples, base_lr=4e-3, clip_norm=1.0, **settings),
        total_steps=steps,
        seed=0,
        directory=folder,
        fingerprint="0" * 64,
        device=str(device),
        log_every=1,
        checkpoint_every=max(1, steps // 6),
    )
    journal = Journal(folder / "journal.jsonl")
    with contextlib.closing(journal):
        outcome = train(
            stage,
            build_model(model, seed=0),
            PretrainObjective(LossConfig()),
            loader.batches,
            draw,
            journal,
            on_log=on_log,
            stop=stop,
        )
    return LoopOutcome(outcome, _losses(folder))


def _losses(folder: Path) -> dict[int, float]:
    lines = (line for _, line in read_journal(folder / "journal.jsonl"))
    return {
        line["step"]: line["metrics"]["loss/total"] for line in lines if line["kind"] == "metrics"
    }


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Makes torch take deterministic kernels, and raise where there is none."""
    if device.type == "cpu":  # they are so already
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _check_resume(recorder: Recorder, setup: LoopSetup, precision: str) -> None:
    device, steps = recorder.device, setup.steps
    with _deterministic(device):
        whole = _run(setup, "whole", device, steps, precision=precision)
        stopped = _run(setup, "stopped", device, steps, stop_at=steps // 2, precision=precision)
        resumed = _run(setup, "stopped", device, steps, precision=precision)
    apart = [step for step, loss in whole.losses.items() if resumed.losses.get(step) != loss]
    recorder.row(
        "stop and continue",
        steps=steps,
        stopped_after=stopped.stage.step,
        first_loss=whole.losses[1],
        last_loss=whole.losses[steps],
        first_step_apart=min(apart, default=None),
        same_weights=whole.stage.sha256 == resumed.stage.sha256,
    )
    recorder.gate("the loss falls", whole.losses[steps] < whole.losses[1])
    recorder.gate("the run stopped where it was asked to", 0 < stopped.stage.step < steps)
    same = not apart and whole.stage.sha256 == resumed.stage.sha256
    recorder.gate("the continued run has the curve and the weights of the other, bit by bit", same)


def _check_moves(recorder: Recorder, setup: LoopSetup, precision: str) -> None:
    """Continues a run of the GPU on the CPU, and that again on the GPU."""
    cpu, steps = torch.device("cpu"), 12
    first = _run(setup, "moves", recorder.device, steps, stop_at=4, precision=precision)
    then = _run(setup, "moves", cpu, steps, stop_at=first.stage.step + 3, precision=precision)
    last = _run(setup, "moves", recorder.device, steps, precision=precision)
    ascending = first.stage.step < then.stage.step < last.stage.step == steps
    recorder.gate("a run continues on the CPU, and again on the GPU", ascending and last.finite)


def _check_memory(recorder: Recorder, setup: LoopSetup) -> None:
    """Makes a step too large for the memory, which must end in a sentence with advice."""
    large = replace(setup, samples=CLIPS, model=replace(setup.model, image_size=128, dim=768))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(MEMORY_FRACTION, recorder.device)
    try:
        _run(large, "large", recorder.device, 2)
        advice = ""
    except DeviceMemoryExhausted as error:
        advice = str(error)
    except torch.OutOfMemoryError as error:  # outside of a step
        advice = f"bare: {str(error).splitlines()[0]}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, recorder.device)
    recorder.row("a step that is too large", error=advice or "it did fit")
    recorder.gate("a lack of memory ends in a sentence with advice", "micro_batch" in advice)
