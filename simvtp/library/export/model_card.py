"""The model card of an export: data, protocol, figures with intervals, cost, provenance."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simvtp import __version__
from simvtp.config.experiment_config import Experiment
from simvtp.errors import DataError
from simvtp.evaluation.items import Items, find_items, run_items
from simvtp.library.export.exported_folder import ExportedSettings, short_name
from simvtp.runs.atomic_files import read_json_or_none
from simvtp.runs.provenance import RECORD
from simvtp.runs.results import USE, Result
from simvtp.runs.run_records import RunStatus, read_status
from simvtp.runs.rundir import IDENTITY_FILE, RESULTS_FILE, load_results

UNKNOWN = "—"
RESAMPLES = 1000
LEVEL = (2.5, 97.5)  # per cent of the resamples between which the interval lies


@dataclass(frozen=True)
class RunFacts:
    """Record of what a run directory says about its model; empty where it says nothing."""

    results: Sequence[Result] = ()
    items: Sequence[Items] = ()
    status: RunStatus | None = None
    fingerprint: str = ""
    provenance: dict[str, Any] | None = None

    @staticmethod
    def of(run_dir: Path) -> RunFacts:
        """Reads the facts of a run directory, or of any other folder."""
        return RunFacts(
            load_results(run_dir) if (run_dir / RESULTS_FILE).is_file() else (),
            run_items(run_dir),
            read_status(run_dir),
            (read_json_or_none(run_dir / IDENTITY_FILE, dict) or {}).get("fingerprint", ""),
            read_json_or_none(run_dir / RECORD, dict),
        )


def model_card(settings: ExportedSettings, kind: str, parameters: int, facts: RunFacts) -> str:
    """Returns the text of README.md.

    Args:
        settings: of the export.
        kind: class of the network.
        parameters: its number of parameters.
        facts: of the run; what they lack is printed as —.
    """
    experiment = settings.experiment
    task = experiment.finetune.task.name if settings.training == "finetune" else "features"
    use = [
        *("```python", "import simvtp", ""),
        *_example(task),
        "```",
    ]
    parts = [
        *("---", "library_name: simvtp", f"tags: [video-text, {experiment.model.method}, {task}]"),
        *("---", "", f"# {experiment.name}: {experiment.model.method}, {task}", ""),
        f"A `{kind}` with {parameters:,} parameters; its weights are those at the end of the "
        f"training `{settings.training or UNKNOWN}`.",
        *("", "## Use", "", *use),
        *("", "## Data and training", "", *_table(_training(experiment))),
        *("", "## Figures", "", *_figures(settings, facts)),
        *("", "## Cost", "", *_table(_cost(facts))),
        *("", "## Provenance", "", *_table(_provenance(facts))),
    ]
    return "\n".join(parts) + "\n"


def _example(task: str) -> list[str]:
    if task in ("features", "retrieval", "imagetext"):
        return [
            'model = simvtp.load("PATH OR user/name")',
            'index = model.index("videos", save="videos.idx")',
            'model.search("a red star rises", index, k=5)',
        ]
    asked = {
        "qa": ', "what color is the ring ?"',
        "choice": ', choices=["a red star rises", "a blue ring falls"]',
        "grounding": ', "the star rises"',
    }
    return [
        'model = simvtp.load_predictor("PATH OR user/name")',
        f'model.predict(["a.mp4"]{asked.get(task, "")})',
    ]


def _table(rows: Sequence[tuple[str, object]]) -> list[str]:
    known = [(name, UNKNOWN if value in (None, "") else value) for name, value in rows]
    return ["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in known)]


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _training(experiment: Experiment) -> list[tuple[str, object]]:
    data, model, masks = experiment.data, experiment.model, experiment.masks
    pretrain, tuning, views = experiment.pretrain, experiment.finetune, experiment.evaluate
    shapes = data.shapes
    sizes = (
        f"{shapes.train} / {shapes.val} / {shapes.test} (train / val / test)"
        if data.dataset == "shapes"
        else None
    )
    return [
        ("data set", f"{data.dataset} {data.protocol}".strip()),
        ("digest of its manifest", data.manifest_digest),
        ("videos", sizes),
        ("part that pre-training sees", f"{data.fraction:g}"),
        ("mask ratios", f"video {masks.video_ratio:g}, text {masks.text_ratio:g}"),
        ("weights that fine-tuning begins with", short_name(tuning.init) or "its pre-training"),
        ("batch, epochs, steps of pre-training", None if tuning.init else _length(pretrain)),
        ("batch, epochs, steps of fine-tuning", _length(tuning.train) if tuning.enabled else None),
        ("best epoch is chosen on", tuning.selection if tuning.enabled else None),
        ("seed", experiment.seed),
        ("input", f"{model.frames} frames, stride {data.stride}, {model.image_size} px"),
        ("views of a test", f"{views.segments} x {views.crops} (time x space)"),
        ("tokenizer", Path(data.tokenizer).name),
        ("licence of the weights", None),
    ]


def _length(train: Any) -> str:
    steps = train.max_steps or UNKNOWN
    return f"{train.batch_size}, {train.epochs or UNKNOWN}, {steps} (at most)"


def _figures(settings: ExportedSettings, facts: RunFacts) -> list[str]:
    """Returns a table of the figures of these weights, with intervals over the test items."""
    shown = [
        result
        for result in facts.results
        if result.protocol.task != USE
        and ("finetuned" in result.protocol.setting) == (settings.training == "finetune")
    ]
    if not shown:
        return [f"{UNKNOWN} (the run has measured none of these weights)"]
    lines = [
        f"Intervals hold 95 % of {RESAMPLES:,} resamples of the test clips: they say how sure the "
        "figure is for this model, and nothing about another training.",
        "",
        "| figure | value | interval | chance | test items | protocol |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in shown:
        protocol = result.protocol
        where = ", ".join(
            str(part)
            for part in (
                *(protocol.dataset, protocol.split, protocol.setting, protocol.variant),
                f"{protocol.frames} frames, {protocol.segments} x {protocol.crops} views",
                f"ties {protocol.ties}",
            )
            if part
        )
        items = find_items(facts.items, protocol)
        name = " ".join(part for part in (protocol.task, protocol.direction) if part)
        for metric, value in result.metrics.items():
            ends = result.intervals.get(metric) or interval(items, metric)
            span = UNKNOWN if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"
            chance = result.chance.get(metric)
            cells = (
                f"{name} {metric}",
                f"{value:.4g}",
                span,
                UNKNOWN if chance is None else f"{chance:.4g}",
                result.queries,
                where,
            )
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return lines


def interval(items: Items | None, metric: str) -> tuple[float, float] | None:
    """Returns the 95 % bootstrap interval of a figure over the test clips; None if not known.

    Captions, questions and moments of one clip are drawn together.
    """
    if items is None or not items.ids:
        return None
    of_clip: dict[str, list[int]] = {}
    for number, name in enumerate(items.ids):
        of_clip.setdefault(name.rpartition("#")[0] or name, []).append(number)
    clips, generator = list(of_clip.values()), np.random.default_rng(0)
    try:
        with warnings.catch_warnings():
            # a resample may hold no clip of a category: its figure is left out
            warnings.simplefilter("ignore", RuntimeWarning)
            figures = [
                items.figure(metric, np.concatenate([clips[number] for number in drawn]))
                for drawn in generator.integers(0, len(clips), (RESAMPLES, len(clips)))
            ]
    except DataError:
        return None
    low, high = np.nanpercentile(figures, LEVEL)
    return float(low), float(high)


def _cost(facts: RunFacts) -> list[tuple[str, object]]:
    status = facts.status
    if status is None:
        return [(name, None) for name in ("CPU-hours", "GPU-hours", "FLOPs of a forward pass")]
    return [
        ("CPU-hours of the whole run", f"{status.cpu_hours:.3g}"),
        ("GPU-hours of the whole run", f"{status.gpu_hours:.3g}"),
        ("parameters of the pre-trained model", status.parameters),
        ("FLOPs of its forward pass, per sample", status.forward_flops),
    ]


def _provenance(facts: RunFacts) -> list[tuple[str, object]]:
    known = facts.provenance or {}
    when = known.get("time")
    commit = known.get("commit") or ""
    return [
        ("fingerprint of the experiment", facts.fingerprint),
        ("commit of the code", f"{commit} (changed)" if commit and known.get("dirty") else commit),
        ("date", time.strftime("%Y-%m-%d", time.gmtime(when)) if when else None),
        ("Python, torch", ", ".join(known.get(k) or UNKNOWN for k in ("python", "torch"))),
        ("processor", known.get("cpu")),
        ("GPUs", ", ".join(known.get("gpus") or ()) or None),
        ("version that exported it", __version__),
    ]
