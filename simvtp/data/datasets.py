"""Data sets by name: each gives clips for train, val and test."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simvtp.config.data_config import DataConfig, split_ratios
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.data.benchmarks import BENCHMARKS, open_benchmark
from simvtp.data.benchmarks.records import Action, Benchmark, Moment, Question
from simvtp.data.clips import Clip, Manifest
from simvtp.data.manifest import (
    assign_splits,
    by_split,
    default_cache,
    files_in_several_splits,
    read_manifest,
    shared_note,
)
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, throttled_progress
from simvtp.data.shards import index_foreign_shards, is_foreign, read_shards
from simvtp.errors import ConfigError, DataError
from simvtp.plugins import extensions
from simvtp.runs.process_identity import cores_of_rank

log = logging.getLogger(__name__)

CAPTIONED = ("pretraining", "retrieval", "image_text")  # tasks of the benchmarks that have captions
FEWEST_WORKERS = 2
OTHER_CORES = 2  # of a rank, for its training thread and its writers
COMPARED = 1_000_000  # clips whose files are compared between splits when a run starts


@dataclass(frozen=True)
class Dataset:
    """Clips of each split, all of them: `data.fraction` is taken by the pre-training.

    Attributes:
        variant: protocol of a benchmark that has several.
        notes: for readers of its metrics.
    """

    name: str
    splits: Mapping[str, Sequence[Clip]]
    variant: str = ""
    notes: tuple[str, ...] = ()


def cache_dir(runtime: RuntimeConfig) -> Path:
    """Returns the folder of generated and decoded data.

    It is `runtime.cache`, else $SIMVTP_CACHE, else the user's cache folder.
    """
    return Path(runtime.cache).expanduser() if runtime.cache else default_cache()


def worker_count(runtime: RuntimeConfig) -> int:
    """Returns the number of processes that decode clips, see `runtime.workers`.

    A CPU that trains has no cores to spare.
    """
    if runtime.workers != "auto":
        return runtime.workers
    import torch  # late: commands that only read tables do without

    on_gpu = runtime.device != "cpu" and torch.cuda.is_available()
    return max(FEWEST_WORKERS, cores_of_rank() - OTHER_CORES) if on_gpu else FEWEST_WORKERS


def _shapes(
    data: DataConfig, runtime: RuntimeConfig, say: LogFn | None, check: CancelCheck
) -> tuple[str, Manifest]:
    from simvtp.data.shapes.generate import ensure_shapes

    report = throttled_progress(say or log.info, check)
    path = ensure_shapes(
        data.shapes,
        cache_dir(runtime),
        workers=worker_count(runtime),
        say=say,
        progress=lambda done, total: report("embedded data set", done, total),
        check=check,
    )
    return "shapes", read_manifest(path)


def _manifest(
    data: DataConfig, runtime: RuntimeConfig, say: LogFn | None, check: CancelCheck
) -> tuple[str, Manifest]:
    if not data.manifest:
        raise ConfigError(
            "data.dataset=manifest needs data.manifest=PATH, a CSV or Parquet file with videoid, "
            "path, caption."
        )
    manifest = read_manifest(
        data.manifest,
        max_placeholder_ratio=data.max_placeholder_ratio,
        cache=cache_dir(runtime),
        say=say,
        check=check,
    )
    return Path(data.manifest).stem, manifest


def _shards(
    data: DataConfig, runtime: RuntimeConfig, say: LogFn | None, check: CancelCheck
) -> tuple[str, Manifest]:
    if not data.manifest:
        raise ConfigError(
            "data.dataset=shards needs data.manifest=FOLDER, made by "
            "`python -m simvtp data shard MANIFEST FOLDER`."
        )
    folder = Path(data.manifest).expanduser()
    if is_foreign(folder):
        index_foreign_shards(folder, say, check)
    manifest = read_shards(folder)
    return manifest.path.name, manifest


DATASETS: dict[
    str, Callable[[DataConfig, RuntimeConfig, LogFn | None, CancelCheck], tuple[str, Manifest]]
] = {
    "shapes": _shapes,
    "manifest": _manifest,
    "shards": _shards,
}


def open_dataset(
    data: DataConfig,
    runtime: RuntimeConfig,
    say: LogFn | None = None,
    check: CancelCheck = never_cancelled,
) -> Dataset:
    """Returns the clips of `data.dataset`, by split; makes the embedded data set if necessary.

    Splits are the manifest's own `split` column, else by hash with the ratios `data.splits`. A
    benchmark has its own splits; `data.protocol` chooses among their variants.

    Args:
        data: settings of the data.
        runtime: settings of this machine.
        say: takes progress and notes.
        check: called now and then while that takes long; may raise to end it.

    Raises:
        ConfigError: no such data set.
        DataError: the manifest or an annotation file cannot be used, or a split is empty.
    """
    if data.dataset in BENCHMARKS:
        return _open_benchmark(data, say)
    if data.dataset not in DATASETS and data.dataset in extensions("DATASETS"):
        return _open_own(data, runtime)
    if data.dataset not in DATASETS:
        known = ", ".join((*DATASETS, *BENCHMARKS, *extensions("DATASETS")))
        raise ConfigError(
            f"data.dataset={data.dataset}: there is no such data set; choose one of {known}."
        )
    name, manifest = DATASETS[data.dataset](data, runtime, say, check)
    _log_left_out(manifest, say)
    clips = (
        manifest.clips if manifest.has_splits else assign_splits(manifest.clips, split_ratios(data))
    )
    splits = by_split(clips)
    for split, members in splits.items():
        if not members:
            remedy = (
                "its column `split` names no such row"
                if manifest.has_splits
                else f"data.splits={data.splits} gave it none of {len(clips)} videos; "
                "change the ratios, add videos, or add a column `split`"
            )
            raise DataError(f"the {split} split of {manifest.path} is empty: {remedy}.")
    shared: tuple[str, ...] = ()
    if manifest.has_splits:
        shared = _shared_files(clips) if manifest.shared is None else manifest.shared
    if say:
        for note in shared:
            say(f"{manifest.path}: {note}")
    if manifest.source is not None:  # its metrics are the benchmark's
        notes = (
            *manifest.source.notes,
            f"read from shards ({name}), whose clips were encoded again",
            *shared,
        )
        return Dataset(manifest.source.name, splits, manifest.source.protocol, notes)
    return Dataset(name, splits, notes=shared)


def own_clips(data: DataConfig, runtime: RuntimeConfig) -> Sequence[Clip]:
    """Returns the clips of a plugin's data set, with splits by hash where it gives none.

    Raises:
        DataError: it gives no clip, the same id twice, or splits for some clips only.
    """
    clips = tuple(extensions("DATASETS")[data.dataset](data, runtime))
    ids = Counter(clip.id for clip in clips)
    if not clips or max(ids.values()) > 1:
        what = f"the id '{max(ids, key=lambda name: ids[name])}' twice" if clips else "no clip"
        raise DataError(f"the data set {data.dataset} of a plugin gives {what}.")
    given = sum(bool(clip.split) for clip in clips)
    if given not in (0, len(clips)):
        raise DataError(f"the data set {data.dataset} gives a split to {given} of {len(clips)}.")
    return clips if given else assign_splits(clips, split_ratios(data))


def clips_digest(clips: Sequence[Clip]) -> str:
    """Returns the sha256 of names, captions, splits and parts of clips, in their order.

    Of a path only the name of the file counts, so that the same data are the same elsewhere.
    """
    digest = hashlib.sha256()
    for clip in clips:
        row = (clip.id, clip.path.name, clip.captions, clip.split, clip.start_s, clip.end_s)
        digest.update(f"{row!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _open_own(data: DataConfig, runtime: RuntimeConfig) -> Dataset:
    clips = own_clips(data, runtime)
    if data.manifest_digest and data.manifest_digest != clips_digest(clips):
        raise DataError(
            f"the clips of {data.dataset} are not those that the experiment was started with."
        )
    splits = by_split(clips)
    empty = [split for split, members in splits.items() if not members]
    if empty:
        raise DataError(f"the {empty[0]} split of the data set {data.dataset} is empty.")
    return Dataset(data.dataset, splits, notes=_shared_files(clips))


def _log_left_out(manifest: Manifest, say: LogFn | None) -> None:
    silent = manifest.rows.placeholders if manifest.rows else {}
    if not say or not (manifest.empty_captions or silent):
        return
    says_nothing = f" and {sum(silent.values())} whose caption says nothing" if silent else ""
    say(
        f"{manifest.path}: {manifest.empty_captions} rows without a caption{says_nothing} "
        f"left out, and {len(manifest.uncaptioned)} videos with them"
    )


def _shared_files(clips: Sequence[Clip]) -> tuple[str, ...]:
    """Returns a note if the splits of a data set share files: its test videos are trained on."""
    if len(clips) > COMPARED:
        return ()
    shared = files_in_several_splits(clips)
    if not shared:
        return ()
    file, splits = next(iter(shared.items()))
    return (shared_note(len(shared), f"{file} ({', '.join(splits)})"),)


def _open_benchmark(data: DataConfig, say: LogFn | None) -> Dataset:
    """Returns a benchmark as a data set.

    The videos of one that is not annotated with captions are clips without any (see
    `require_captions`).
    """
    if not data.root:
        raise ConfigError(
            f"data.dataset={data.dataset} needs data.root=DIR, the folder with its annotation "
            "files and videos."
        )
    benchmark = open_benchmark(data.dataset, data.root, data.protocol)
    if data.manifest_digest and data.manifest_digest != benchmark.digest:
        raise DataError(
            f"the annotations of {data.dataset} below {data.root} are not those that the "
            "experiment was started with."
        )
    clips = (*benchmark.clips, *_uncaptioned(benchmark))
    splits = by_split(clips)
    empty = [split for split, members in splits.items() if not members]
    if empty and benchmark.clips:  # whether a task has what it needs is seen by the task
        raise DataError(f"the {empty[0]} split of {data.dataset} below {data.root} is empty.")
    notes = (*benchmark.notes, *_shared_files(clips))
    if say:
        for note in notes:
            say(f"{data.dataset} {benchmark.protocol}: {note}")
    several = len(BENCHMARKS[data.dataset].protocols) > 1
    return Dataset(data.dataset, splits, benchmark.protocol if several else "", notes)


def _uncaptioned(benchmark: Benchmark) -> tuple[Clip, ...]:
    """Returns the videos without captions, in the split of their questions, moments or classes."""
    records: tuple[Question | Moment | Action, ...] = (
        *benchmark.questions,
        *benchmark.moments,
        *benchmark.actions,
    )
    captioned = {clip.id for clip in benchmark.clips}
    found = {(record.video, record.split) for record in records if record.video not in captioned}
    return tuple(Clip(video, benchmark.videos[video], (), split) for video, split in sorted(found))


def require_captions(dataset: Dataset, why: str) -> None:
    """Raises DataError if no clip has a caption, which `why` (pre-training, retrieval) needs."""
    if any(clip.captions for clips in dataset.splits.values() for clip in clips):
        return
    task = BENCHMARKS[dataset.name].task if dataset.name in BENCHMARKS else "other things"
    captioned = [name for name, reader in BENCHMARKS.items() if reader.task in CAPTIONED]
    raise DataError(
        f"{dataset.name} is annotated for {task}, not with captions for {why}; give pre-trained "
        f"weights with finetune.init, or choose one of {', '.join(captioned)}."
    )
