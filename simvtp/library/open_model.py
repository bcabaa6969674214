"""Opens the model of a run, or an exported one, for search."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from torch import nn

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import ImageTextTask, RankingTask
from simvtp.data.loading.sampling import STILL
from simvtp.data.text.tokenizer import Tokenizer, load_tokenizer
from simvtp.errors import CheckpointError, UserError
from simvtp.library.export.exported_folder import has_settings, read_folder
from simvtp.library.video_text_model import VideoTextModel
from simvtp.methods.exported_model import from_pretrained, is_own, local_folder
from simvtp.methods.model_kinds import settings_of
from simvtp.methods.run_weights import FOLDER, run_of
from simvtp.runs.run_records import RunState, read_status
from simvtp.runs.rundir import load_experiment
from simvtp.training.parallel.distributed import choose_device

log = logging.getLogger(__name__)

RUNS = Path("runs")  # where the name of a run is looked for
TOKENIZERS = ("builtin", "bert-base-uncased")  # tried for exports, in this order


def load(
    source: str | Path,
    *,
    training: str = "",
    device: str = "auto",
    tokenizer: str = "",
    revision: str = "",
) -> VideoTextModel:
    """Returns the model of a run or of an exported folder, ready to embed videos and texts.

    Of a run that was fine-tuned for retrieval these are the fine-tuned encoders, of any other run
    the pre-trained one; the model's `training` and its text say which.

    Args:
        source: a run directory; the name of one in `runs/`, or the beginning of its name; the final
            weights of a training in one; a folder that `export` wrote; one that
            `simvtp.save_pretrained` wrote, whose clips are taken with the default settings of data
            and evaluation; or `user/name` on the hub.
        training: of a run: `pretrain` or `finetune`; empty: see above.
        device: auto, cpu, cuda or cuda:N.
        tokenizer: of a folder without tokenizer: builtin, a folder, or a name on the hub; empty:
            the known one that has as many word pieces as the model.
        revision: of a name on the hub: branch, tag or commit.

    Raises:
        CheckpointError: there is no such run, folder or repository, or its weights are damaged.
        UserError: the run is not finished and no training was named; the model gives no features;
            no tokenizer is known.

    Examples:
        >>> model = simvtp.load("runs/demo")
        >>> model.training, model.dimension
        ('finetune', 32)
    """
    path = found_source(source, revision)
    run = run_of(path)
    if run is not None:
        run_dir, named = run
        return _of_run(run_dir, training or named, device)
    if has_settings(path):
        return _of_export(path, training, tokenizer, device)
    module = from_pretrained(path)
    _require_features(module, f"{path}, a {type(module).__name__},")
    config = replace(settings_of(module), init_video="", init_text="")
    words = _tokenizer_of(config.vocab_size, tokenizer, path)
    experiment = Experiment(model=config)
    experiment = replace(experiment, data=replace(experiment.data, tokenizer=words.name))
    log.info("%s has no settings of data: clips are taken with the defaults", path)
    return _ready(path, training, module, experiment, words, device)


def found_source(source: str | Path, revision: str = "") -> Path:
    """Returns the path of a source; see `load`.

    Raises:
        CheckpointError: there is no run or exported model of that name, or more than one.
    """
    path = Path(source).expanduser()
    if not path.exists() and len(path.parts) == 1:
        named = [found for found in sorted(RUNS.glob(f"{path}*")) if run_of(found)]
        if len(named) > 1:
            names = ", ".join(found.name for found in named)
            raise CheckpointError(f"'{source}' may be any of the runs {names}: write more of it.")
        if named:
            return named[0]
    path = local_folder(source, revision)
    if not path.exists():
        raise CheckpointError(
            f"there is no run or exported model '{source}': give the path of a run directory, or "
            f"the name of one in {RUNS.absolute()}, or user/name on the hub."
        )
    if not is_own(path):
        raise CheckpointError(
            f"'{source}' is neither a run directory nor an exported model: make one of foreign "
            "weights with `python -m simvtp convert`."
        )
    return path


def _of_export(path: Path, training: str, tokenizer: str, device: str) -> VideoTextModel:
    settings, words = read_folder(path)
    if settings.outputs is not None:
        raise UserError(
            f"{path} answers about films and gives no features of videos and texts apart: open it "
            "with simvtp.load_predictor."
        )
    if training not in ("", settings.training):
        raise UserError(f"{path} has the weights of '{settings.training}', not of '{training}'.")
    if tokenizer:
        raise UserError(f"tokenizer={tokenizer}: {path} has a tokenizer of its own, leave it out.")
    module = from_pretrained(path)
    _require_features(module, f"{path}, a {type(module).__name__},")
    return _ready(path, settings.training, module, settings.experiment, words, device)


def _of_run(run_dir: Path, training: str, device: str) -> VideoTextModel:
    experiment = load_experiment(run_dir)
    ranks = isinstance(experiment.finetune.task, RankingTask)
    if training not in ("", "pretrain") and not (ranks and training == "finetune"):
        raise UserError(
            f"{run_dir}: the weights of '{training}' (finetune.task="
            f"{experiment.finetune.task.name}) give no features of videos and texts apart; open "
            "the pre-trained encoder with training='pretrain', or ask the model about films with "
            "simvtp.load_predictor."
        )
    if not training:
        require_finished(run_dir)
        tuned = ranks and (run_dir / FOLDER / "finetune.safetensors").is_file()
        training = "finetune" if tuned else "pretrain"
    module = from_pretrained(run_dir, training)
    _require_features(module, f"the model of {run_dir}")
    if training == "finetune" and isinstance(experiment.finetune.task, ImageTextTask):
        experiment = replace(
            experiment,
            model=replace(experiment.model, frames=experiment.model.tubelet_size),
            data=replace(experiment.data, stride=STILL),
            evaluate=replace(experiment.evaluate, segments=1),
        )
    words = load_tokenizer(experiment.data.tokenizer)
    return _ready(run_dir, training, module, experiment, words, device)


def require_finished(run_dir: Path) -> None:
    """Raises UserError if a run has not finished."""
    status = read_status(run_dir)
    if status is not None and status.state == RunState.FINISHED:
        return
    ended = sorted(path.stem for path in (run_dir / FOLDER).glob("*.safetensors"))
    state = "its state is not known" if status is None else f"it is {status.state}"
    remedy = f", or open what has ended with training='{ended[-1]}'" if ended else ""
    raise UserError(
        f"{run_dir} is not finished ({state}): finish it with `python -m simvtp evaluate "
        f"{run_dir}`{remedy}."
    )


def _require_features(module: nn.Module, name: str) -> None:
    if not (hasattr(module, "embed_video") and hasattr(module, "embed_text")):
        raise UserError(f"{name} gives no features of videos and texts apart: it cannot search.")


def _tokenizer_of(size: int, name: str, path: Path) -> Tokenizer:
    for known in (name,) if name else TOKENIZERS:
        if not name and known != "builtin" and size != 30522:
            continue
        words = load_tokenizer(known)
        if words.vocab_size == size:
            return words
    raise UserError(
        f"{path} has {size} word pieces, and no tokenizer of that size is known: name the one that "
        "it was trained with by tokenizer=."
    )


def _ready(
    source: Path,
    training: str,
    module: nn.Module,
    experiment: Experiment,
    words: Tokenizer,
    device: str,
) -> VideoTextModel:
    chosen = choose_device(device)
    model = VideoTextModel(source, training, module.to(chosen).eval(), experiment, words, chosen)
    log.info("opened %r", model)
    return model
