"""Example pages: what a model got right and wrong, one HTML file for each task of a run.

A page loads nothing from elsewhere. It is drawn from the cards of `Items` (example_cards.py) and
from the clips, without the model. Which items are shown is a rule, not a choice: half of them
right, half wrong, each in the order of a hash of their names; the page says so. Each task shows its
cards differently (card_views.RENDERERS): a function makes a view of a card, a macro of the same
name in templates/cards.html draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from simvtp.config.experiment_config import Experiment
from simvtp.data.clips import Clip
from simvtp.data.datasets import Dataset
from simvtp.data.progress import LogFn
from simvtp.evaluation.examples.card_views import NOTES, RENDERERS, Card, View, clips_of, strips_of
from simvtp.evaluation.examples.clip_previews import Previews, make_previews
from simvtp.evaluation.examples.example_cards import GOOD_OVERLAP, example_order
from simvtp.evaluation.items import STAGES, Items, find_items, items_path, read_items
from simvtp.evaluation.temporal_spans import reaches
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.metric_names import LOWER_IS_BETTER
from simvtp.runs.results import Result, direction_name
from simvtp.runs.rundir import load_stage_results

PAGE_BYTES = 2_000_000  # of the pictures of a page
TEMPLATES = Path(__file__).parent / "templates"

TITLES = {
    "retrieval": "Retrieval",
    "image_text": "Image-text retrieval",
    "qa": "Question answering",
    "choice": "Multiple choice",
    "action": "Action recognition",
    "grounding": "Temporal grounding",
}


@dataclass(frozen=True)
class ExampleSection:
    """One figure of a page.

    Attributes:
        baseline: items of its trained baseline, if any.
        shown: names of the items that are shown.
    """

    result: Result
    items: Items
    baseline: Items | None
    shown: tuple[str, ...]

    def cards(self) -> list[Card]:
        """Returns the cards of the items shown."""
        return [self.items.cards[name] for name in self.shown]


def shown_items(items: Items, samples: int) -> tuple[str, ...]:
    """Returns the first `samples`/2 right and as many wrong items, in the order of their hashes.

    There are more of one kind where the other has too few.
    """
    ordered = sorted(items.cards, key=example_order)
    right = [name for name in ordered if items.cards[name]["hit"]]
    wrong = [name for name in ordered if not items.cards[name]["hit"]]
    right = right[: max(samples - samples // 2, samples - len(wrong))]
    return (*right, *wrong[: samples - len(right)])


def sections(
    results: Sequence[Result], items: Sequence[Items], samples: int
) -> dict[str, list[ExampleSection]]:
    """Returns the contents of the page of each task.

    Figures without cards (of other versions, or re-scored ones) are left out.
    """
    found: dict[str, list[ExampleSection]] = {}
    for result in results:
        mine = find_items(items, result.protocol)
        if mine is None or not mine.cards or result.protocol.task not in RENDERERS:
            continue
        baseline = next((one for one in items if one.baseline and _same_figure(one, mine)), None)
        section = ExampleSection(result, mine, baseline, shown_items(mine, samples))
        found.setdefault(result.protocol.task, []).append(section)
    return found


def _same_figure(one: Items, other: Items) -> bool:
    return (one.protocol.task, one.protocol.direction, one.ids) == (
        other.protocol.task,
        other.protocol.direction,
        other.ids,
    )


def draw_examples(
    run_dir: Path,
    stage: str,
    results: Sequence[Result],
    items: Sequence[Items],
    dataset: Dataset,
    experiment: Experiment,
    samples: int,
    guard: Callable[[], None] | None = None,
) -> list[Path]:
    """Writes `run_dir`/figures/examples_<stage>_<task>.html for each task among the results.

    Args:
        results: of the stage.
        items: of the stage; items without cards give no page.
        samples: items on each page, for each of its figures; 0: no page.
        guard: see `journal.write_atomically`.

    Returns:
        The paths of the pages.
    """
    paths = []
    for task, made in sections(results, items, samples).items() if samples else ():
        scored_last = sorted(dataset.splits, key=made[0].result.protocol.split.__eq__)
        clips = {clip.id: clip for name in scored_last for clip in dataset.splits[name]}
        path = run_dir / "figures" / f"examples_{stage}_{task}.html"
        previews = previews_of(made, experiment, clips)
        page = example_page(made, previews, f"{run_dir.name}, recipe {experiment.name}")
        write_atomically(path, page, guard)
        paths.append(path)
    return paths


def redraw_examples(
    run_dir: Path, experiment: Experiment, dataset: Dataset, samples: int, say: LogFn
) -> list[Path]:
    """Draws the pages of a scored run again, with so many items.

    Args:
        samples: see `draw_examples`.
        say: gets a warning about a stage that was scored by a version that kept no items.
    """
    paths = []
    for stage in STAGES:
        scored, stored = run_dir / "stages" / f"{stage}.json", items_path(run_dir, stage)
        if scored.exists() and not stored.exists():
            say(f"{scored} was written by a version that kept no items: no example page of it.")
        if scored.exists() and stored.exists():
            results = load_stage_results(scored)
            items = read_items(stored)
            paths += draw_examples(run_dir, stage, results, items, dataset, experiment, samples)
    return paths


def previews_of(
    made: Sequence[ExampleSection], experiment: Experiment, clips: Mapping[str, Clip]
) -> Previews:
    """Returns the pictures that a page needs."""
    cards = [card for section in made for card in section.cards()]
    moving = [name for card in cards for name in clips_of(card)]
    strips = [name for card in cards for name in strips_of(card)]
    return make_previews(experiment, clips, moving, strips, PAGE_BYTES)


def example_page(made: Sequence[ExampleSection], previews: Previews, run: str) -> str:
    """Returns the HTML of the figures of one task of a run of that name."""
    protocol = made[0].result.protocol
    return (
        page_environment()
        .get_template("gallery.html")
        .render(
            title=TITLES[protocol.task],
            protocol=protocol,
            run=run,
            noun="picture" if protocol.task == "image_text" else "clip",
            sections=[_section_view(section, previews) for section in made],
        )
    )


def _section_view(section: ExampleSection, previews: Previews) -> View:
    result, items, render = section.result, section.items, RENDERERS[section.result.protocol.task]
    blind = section.baseline.cards if section.baseline else {}
    hits, total = _hits(items), len(items.ids)
    groups: list[dict[str, Any]] = []
    for hit in (True, False):
        cards = [
            {"item": name, **render(items.cards[name], blind.get(name), previews)}
            for name in section.shown
            if items.cards[name]["hit"] is hit
        ]
        groups.append({"hit": hit, "of": hits if hit else total - hits, "cards": cards})
    first = next((card for group in groups for card in group["cards"]), None)
    return {
        "heading": direction_name(result.protocol.direction).capitalize(),
        "key": result.key,
        "queries": total,
        "gallery": result.gallery,
        "note": first
        and NOTES[first["kind"]].format(
            "probabilities" if first.get("shares") else "similarities (cosine)"
        ),
        "groups": groups,
        "figures": figures_table(result),
    }


def _hits(items: Items) -> int:
    """Returns how many items were right, by the rule of the cards."""
    if "rank" in items.values:
        return sum(rank == 1 for rank in items.values["rank"])
    if "IoU-top1" in items.values:
        return int(reaches(np.array(items.values["IoU-top1"]), GOOD_OVERLAP).sum())
    return sum(value > 0 for value in items.values["accuracy"])


def figures_table(result: Result) -> dict[str, Any]:
    """Returns the names of the metrics, and a row each for the model, its baselines and chance.

    A figure that is not known is None.
    """
    names = [name for name in result.metrics if not name.startswith("accuracy-")]
    rows = [("this model", result.metrics), *result.baselines.items(), ("chance", result.chance)]
    return {
        "names": names,
        "lower": [name for name in names if name in LOWER_IS_BETTER],
        "rows": [
            (label, [metrics.get(name) for name in names]) for label, metrics in rows if metrics
        ],
    }


@cache
def page_environment() -> Environment:
    """Returns the environment of the templates of this package."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["per_cent"] = _per_cent
    environment.filters["number"] = _number
    return environment


def _per_cent(fraction: float | None) -> str:
    if fraction is None:
        return "—"
    return f"{100 * fraction:.0f} %" if fraction >= 0.01 else "< 1 %"


def _number(value: float | None, digits: int = 1) -> str:
    return "—" if value is None else f"{value:.{digits}f}"
