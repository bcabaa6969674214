"""Fills in the settings that depend on files, and checks the whole experiment."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from simvtp.config.data_config import MANIFEST_DATASETS, OWN_DATASETS, DataConfig
from simvtp.config.experiment_config import Experiment, PluginConfig, RuntimeConfig
from simvtp.config.finetune_config import INITIAL, FinetuneConfig
from simvtp.config.validation import check
from simvtp.errors import CheckpointError, ConfigError
from simvtp.plugins import extensions, providers
from simvtp.runs.atomic_files import read_json_or_none


def finalise(experiment: Experiment) -> Experiment:
    """Returns the experiment with what depends on files filled in, and checked.

    Filled in are the digests of a manifest, of a benchmark's annotations and of the weights of
    `finetune.init`, absolute paths, and a benchmark's protocol.

    Raises:
        ConfigError: a file is missing, or settings are impossible.
    """
    data = experiment.data
    if data.dataset in MANIFEST_DATASETS:
        data = _with_manifest(data, experiment.runtime)
    elif data.dataset not in OWN_DATASETS:
        data = _with_annotations(_with_own_clips(data, experiment.runtime))
    finetune = _with_weights(experiment.finetune)
    experiment = dataclasses.replace(
        experiment, data=data, finetune=finetune, plugins=_used_plugins(experiment)
    )
    check(experiment)
    return experiment


def _used_plugins(experiment: Experiment) -> PluginConfig:
    """Returns the plugins that give the data set, the method or the task."""
    method, task = experiment.model.method, experiment.finetune.task.name
    names = {"DATASETS": experiment.data.dataset, "METHOD_CONFIGS": method, "TASK_CONFIGS": task}
    used = sorted(providers(names), key=lambda plugin: plugin.digest)
    return PluginConfig(
        files=os.pathsep.join(str(plugin.origin) for plugin in used),
        digests=",".join(plugin.digest for plugin in used),
    )


def _with_own_clips(data: DataConfig, runtime: RuntimeConfig) -> DataConfig:
    """Returns the settings with the digest of the clips of a plugin's data set, if it is one."""
    if data.dataset not in extensions("DATASETS"):
        return data
    from simvtp.data.datasets import clips_digest, own_clips

    root = str(Path(data.root).expanduser().resolve()) if data.root else ""
    data = dataclasses.replace(data, root=root)
    return dataclasses.replace(data, manifest_digest=clips_digest(own_clips(data, runtime)))


def _with_manifest(data: DataConfig, runtime: RuntimeConfig) -> DataConfig:
    """Returns the settings with the absolute path and the digest of the manifest."""
    if not data.manifest:
        raise ConfigError(
            f"data.dataset={data.dataset} needs data.manifest=PATH: a CSV or Parquet file with "
            "videoid, path, caption, or a folder of shards."
        )
    path = Path(data.manifest).expanduser()
    if path.is_dir():
        from simvtp.data.shards import index_foreign_shards, is_foreign

        if is_foreign(path):
            index_foreign_shards(path)
        path = path / "summary.json"  # of a folder of shards: it holds the digests of all shards
        if not path.is_file():
            raise ConfigError(
                f"data.manifest={data.manifest}: the folder holds no finished shards; "
                "`python -m simvtp data shard` makes them."
            )
    if not path.is_file():
        raise ConfigError(f"data.manifest={data.manifest}: there is no such file.")
    # Late for start-up time, as above.
    from simvtp.data.manifest.content_digest import content_digest

    digest = content_digest(path, Path(runtime.cache).expanduser() if runtime.cache else None)
    return dataclasses.replace(data, manifest=str(path.resolve()), manifest_digest=digest)


def _with_annotations(data: DataConfig) -> DataConfig:
    """Returns the settings with protocol, absolute root and digest of a benchmark.

    An unknown name is left to `open_dataset`, which lists the data sets.
    """
    # Late for start-up time: the table of benchmarks imports their readers.
    from simvtp.data.benchmarks import BENCHMARKS, annotation_digest, resolve_protocol

    if data.dataset not in BENCHMARKS:
        return data
    protocol = resolve_protocol(data.dataset, data.protocol)
    if not data.root:
        raise ConfigError(
            f"data.dataset={data.dataset} needs data.root=DIR, the folder with its annotation "
            "files and videos."
        )
    needed = BENCHMARKS[data.dataset].needs_reader
    if needed and data.reader != needed:
        raise ConfigError(
            f"data.dataset={data.dataset} has images or GIFs, which data.reader={data.reader} does "
            f"not open: set data.reader={needed}."
        )
    root = str(Path(data.root).expanduser().resolve())
    digest = annotation_digest(data.dataset, root, protocol)
    return dataclasses.replace(data, root=root, protocol=protocol, manifest_digest=digest)


def _with_weights(finetune: FinetuneConfig) -> FinetuneConfig:
    """Returns the settings with the absolute path and the digest of the weights of `init`."""
    if finetune.init in ("", INITIAL):
        return finetune
    weights = init_weights(finetune.init)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    _check_recorded_digest(weights, digest)
    path = str(Path(finetune.init).expanduser().resolve())
    return dataclasses.replace(finetune, init=path, init_digest=digest)


def _check_recorded_digest(weights: Path, digest: str) -> None:
    """Raises CheckpointError if a run has recorded another digest of these weights."""
    record = read_json_or_none(weights.with_suffix(".json"), dict) or {}
    if record.get("sha256", digest) != digest:
        raise CheckpointError(
            f"damaged: {weights} does not have the sha256 that it was written with; "
            "run its experiment again, which ends this training again."
        )


def init_weights(init: str) -> Path:
    """Returns the weights that `finetune.init` names.

    They are those at the end of a run's pre-training, a file, or those of an exported model.

    Raises:
        ConfigError: there are no such weights.
    """
    path = Path(init).expanduser()
    candidates = [path / "checkpoints" / "pretrain.safetensors", path / "model.safetensors"]
    if path.is_file():
        candidates = [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    reason = (
        "its pre-training has not ended"
        if (path / "experiment.json").is_file()
        else "there is no such file, run or exported model"
    )
    looked_for = " and ".join(map(str, candidates))
    raise ConfigError(f"finetune.init={init}: {reason}; looked for {looked_for}.")
