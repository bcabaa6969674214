"""Fills in the settings that depend on files, and checks the whole experiment."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from simvtp.config.data_config import MANIFEST_DATASETS, OWN_DATASETS, DataConfig
from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import INITIAL
from simvtp.config.validation import check
from simvtp.errors import ConfigError


def finalise(experiment: Experiment) -> Experiment:
    """Fill in what depends on files (the digest of a manifest or of a benchmark's annotations),
    check everything, return the result.
    """
    data = experiment.data
    if data.dataset in MANIFEST_DATASETS:
        if not data.manifest:
            raise ConfigError(
                f"data.dataset={data.dataset} needs data.manifest=PATH: a CSV or Parquet file with videoid, path, caption, or a folder of shards."
            )
        path = Path(data.manifest).expanduser()
        if path.is_dir():
            path = (
                path / "summary.json"
            )  # of a folder of shards: holds the digests of all that is in it
            if not path.is_file():
                raise ConfigError(
                    f"data.manifest={data.manifest}: the folder holds no finished shards; `python -m simvtp data shard` makes them."
                )
        if not path.is_file():
            raise ConfigError(f"data.manifest={data.manifest}: there is no such file.")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        data = dataclasses.replace(data, manifest=str(path.resolve()), manifest_digest=digest)
    elif data.dataset not in OWN_DATASETS:
        data = _with_annotations(data)
    tuning = experiment.finetune
    if tuning.init and tuning.init != INITIAL:
        weights = init_weights(tuning.init)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        tuning = dataclasses.replace(
            tuning, init=str(Path(tuning.init).expanduser().resolve()), init_digest=digest
        )
    experiment = dataclasses.replace(experiment, data=data, finetune=tuning)
    check(experiment)
    return experiment


def _with_annotations(data: DataConfig) -> DataConfig:
    """Protocol, absolute root and digest of a benchmark; an unknown name is left to `open_dataset`,
    which lists those that there are.
    """
    from simvtp.data.benchmarks import BENCHMARKS, annotation_digest, resolve_protocol

    if data.dataset not in BENCHMARKS:
        return data
    protocol = resolve_protocol(data.dataset, data.protocol)
    if not data.root:
        raise ConfigError(
            f"data.dataset={data.dataset} needs data.root=DIR, the folder with its annotation files and videos."
        )
    needed = BENCHMARKS[data.dataset].needs_reader
    if needed and data.reader != needed:
        raise ConfigError(
            f"data.dataset={data.dataset} has images or GIFs, which data.reader={data.reader} does not open: set data.reader={needed}."
        )
    root = str(Path(data.root).expanduser().resolve())
    digest = annotation_digest(data.dataset, root, protocol)
    return dataclasses.replace(data, root=root, protocol=protocol, manifest_digest=digest)


def init_weights(init: str) -> Path:
    """The weights that `finetune.init` names: those at the end of a run's pre-training, a file, or
    those in a folder that was exported.
    """
    path = Path(init).expanduser()
    places = (
        [path]
        if path.is_file()
        else [path / "checkpoints" / "pretrain.safetensors", path / "model.safetensors"]
    )
    for place in places:
        if place.is_file():
            return place
    hint = (
        "its pre-training has not ended"
        if (path / "experiment.json").is_file()
        else "there is no such file, run or exported model"
    )
    raise ConfigError(f"finetune.init={init}: {hint}; looked for {' and '.join(map(str, places))}.")
