"""Opens the model of a run that answers about films."""

from __future__ import annotations

import logging
from pathlib import Path

from simvtp.config.finetune_config import RankingTask
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.errors import UserError
from simvtp.library.export.exported_folder import has_settings, read_folder
from simvtp.library.open_model import found_source, load, require_finished
from simvtp.library.prediction.predicted_answers import Predictor
from simvtp.library.prediction.task_model import TaskModel
from simvtp.library.prediction.task_outputs import outputs_of
from simvtp.methods.exported_model import from_pretrained
from simvtp.methods.run_weights import run_of
from simvtp.runs.rundir import load_experiment
from simvtp.training.parallel.distributed import choose_device

log = logging.getLogger(__name__)


def load_predictor(source: str | Path, *, device: str = "auto", revision: str = "") -> Predictor:
    """Returns the model of a run, ready to answer about films with `predict`.

    Of a run that was fine-tuned for questions, choice, actions or grounding it is a `TaskModel`; of
    any other one, what `load` returns, which chooses among texts by their cosine.

    Args:
        source: as of `load`.
        device: auto, cpu, cuda or cuda:N.
        revision: of a name on the hub: branch, tag or commit.

    Raises:
        CheckpointError: there is no such run or folder, or its weights are damaged.
        DataError: the names of the answers are those of a data set that is not here.
        UserError: the run is not finished.

    Examples:
        >>> model = simvtp.load_predictor("runs/demo")
        >>> [found] = model.predict(films[:1], choices=["a red star", "a blue ring"], k=1)
        >>> found.answers[0].text in ("a red star", "a blue ring")
        True
    """
    path = found_source(source, revision)
    run = run_of(path)
    if run is None:
        return _of_export(path, device) if has_settings(path) else load(path, device=device)
    run_dir, named = run
    experiment = load_experiment(run_dir)
    tuning = experiment.finetune
    if named == "pretrain" or not tuning.enabled or isinstance(tuning.task, RankingTask):
        return load(path, device=device)
    if named not in ("", "finetune"):
        raise UserError(
            f"{path}: the text-only baseline sees no film: name {run_dir} to open its model."
        )
    require_finished(run_dir)
    outputs = outputs_of(experiment)
    chosen = choose_device(device)
    module = from_pretrained(run_dir, "finetune").to(chosen).eval()
    words = load_tokenizer(experiment.data.tokenizer)
    return TaskModel(run_dir, module, experiment, words, chosen, outputs)


def _of_export(path: Path, device: str) -> Predictor:
    settings, words = read_folder(path)
    if settings.outputs is None:
        return load(path, device=device)
    chosen = choose_device(device)
    module = from_pretrained(path).to(chosen).eval()
    return TaskModel(path, module, settings.experiment, words, chosen, settings.outputs)
