"""Example pages: what a model got right and wrong, one HTML file for each task that a run was
scored on, which loads nothing.

The pages are drawn from the cards of `Items` (cards.py) and from the clips, without the model.
Which items are shown is a rule, not a choice: half of them right, half wrong, each in the order of
a hash of their names; the page says so. A task shows its cards in its own way (RENDERERS): a
function makes a view of a card, a macro of the same name in templates/gallery.html draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from simvtp.config.schema import Experiment
from simvtp.data.clips import Clip
from simvtp.data.datasets import Dataset
from simvtp.data.progress import LogFn
from simvtp.evaluation.examples.clip_previews import Footage, make_footage
from simvtp.evaluation.examples.example_cards import GOOD_OVERLAP, example_order
from simvtp.evaluation.items import STAGES, Items, find_items, items_path, read_items
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.metric_names import LOWER_IS_BETTER
from simvtp.runs.results import Result

PAGE_BYTES = 2_000_000  # of the pictures of a page
TEMPLATES = Path(__file__).parent / "templates"

Card = Mapping[str, Any]
View = dict[str, Any]  # what a macro draws; "kind" is its name

TITLES = {
    "retrieval": "Retrieval",
    "image_text": "Image-text retrieval",
    "qa": "Question answering",
    "choice": "Multiple choice",
    "action": "Action recognition",
    "grounding": "Temporal grounding",
}
DIRECTIONS = {
    "t2v": "From a caption to its clip",
    "v2t": "From a clip to its caption",
    "t2i": "From a caption to its picture",
    "i2t": "From a picture to its caption",
}
NOTES = {  # kind of a card -> what counts as right, and what its numbers are
    "found_clips": "Right: the right one came first. Below each: its rank and its similarity with the caption (cosine).",
    "candidates": "Right: the right one came first. The numbers beside the candidates are {}.",
    "count": "Right: the rounded number is the true one.",
    "timeline": f"Right: the first prediction overlaps by {GOOD_OVERLAP:g} or more with the true span (IoU).",
}


# ---- one card ------------------------------------------------------------------------------------


def _retrieved(card: Card, baseline: Card | None, footage: Footage) -> View:
    """A caption with the clips that were found, or a clip with captions."""
    if card["video"]:
        return _answered(card, baseline, footage)
    found = [
        {**choice, "picture": footage.clips[choice["video"]], "rank": n}
        for n, choice in enumerate(card["choices"], start=1)
    ]
    answer = card.get("answer")
    return {
        "kind": "found_clips",
        "text": card["text"],
        "clips": found,
        "answer": answer and {**answer, "picture": footage.clips[answer["video"]]},
        "rank": right_rank(card),
    }


def _answered(card: Card, baseline: Card | None, footage: Footage) -> View:
    """A clip with a question or without, and the candidates that were thought most likely."""
    about = {"picture": footage.clips[card["video"]], "video": card["video"], "text": card["text"]}
    if "truth" in card:
        return about | {
            "kind": "count",
            "truth": card["truth"],
            "predicted": card["predicted"],
            "baseline": baseline,
        }
    return about | {
        "kind": "candidates",
        "choices": card["choices"],
        "shares": card["score"] == "probability",
        "answer": card.get("answer"),
        "rank": right_rank(card),
        "baseline": baseline and baseline["choices"][0],
    }


def _grounded(card: Card, baseline: Card | None, footage: Footage) -> View:
    """A sentence, frames of the video, and spans on a line of time."""
    length = card["length_s"]
    rows = [_span("truth", "true span", card["truth"], length)]
    rows += [
        _span("first" if n == 1 else "other", f"prediction {n}", span, length, overlap)
        for n, (span, overlap) in enumerate(
            zip(card["spans"], card["overlaps"], strict=True), start=1
        )
    ]
    if baseline is not None:
        rows.append(
            _span(
                "blind", "without the video", baseline["spans"][0], length, baseline["overlaps"][0]
            )
        )
    ticks = [length * share for share in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "kind": "timeline",
        "picture": footage.strips[card["video"]],
        "video": card["video"],
        "text": card["text"],
        "rows": rows,
        "ticks": ticks,
        "overlap": card["overlaps"][0],
    }


def _span(
    kind: str, label: str, span: Sequence[float], length: float, overlap: float | None = None
) -> View:
    """A row of the timeline; its bar in per cent of the video, cut at its end."""
    start, end = (min(max(bound / length, 0.0), 1.0) for bound in span)
    return {
        "kind": kind,
        "label": label,
        "start_s": span[0],
        "end_s": span[1],
        "overlap": overlap,
        "left": 100 * start,
        "width": 100 * (end - start),
    }


def right_rank(card: Card) -> int | None:
    """Rank of the right candidate; None if it is not among the candidates at all."""
    places = [number for number, choice in enumerate(card["choices"], start=1) if choice["right"]]
    return places[0] if places else card["answer"]["rank"]


RENDERERS: dict[str, Callable[[Card, Card | None, Footage], View]] = {
    "retrieval": _retrieved,
    "image_text": _retrieved,
    "qa": _answered,
    "choice": _answered,
    "action": _answered,
    "grounding": _grounded,
}


def clips_of(card: Card) -> Iterator[str]:
    """Names of the clips that a card shows moving, as often as it does."""
    shown = [*card.get("choices", ()), *([card["answer"]] if card.get("answer") else ())]
    names = [] if "spans" in card else [card["video"]]
    yield from filter(None, [*names, *(choice["video"] for choice in shown)])


def strips_of(card: Card) -> Iterator[str]:
    if "spans" in card:
        yield card["video"]


# ---- one page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """One figure of a page: its result, its items, those of its trained baseline (if any), and the
    items shown.
    """

    result: Result
    items: Items
    baseline: Items | None
    shown: tuple[str, ...]

    def cards(self) -> list[Card]:
        return [self.items.cards[name] for name in self.shown]


def shown_items(items: Items, samples: int) -> tuple[str, ...]:
    """The first `samples`/2 right and as many wrong items in the order of their hashes; of one kind
    more, where the other has too few.
    """
    ordered = sorted(items.cards, key=example_order)
    right, wrong = (
        [name for name in ordered if items.cards[name]["hit"] is side] for side in (True, False)
    )
    share = max(samples - samples // 2, samples - len(wrong))
    right = right[:share]
    return (*right, *wrong[: samples - len(right)])


def sections(
    results: Sequence[Result], items: Sequence[Items], samples: int
) -> dict[str, list[Section]]:
    """Task -> what its page shows. Figures without cards (of other versions, or re-scored ones) are
    left out.
    """
    found: dict[str, list[Section]] = {}
    for result in results:
        mine = find_items(items, result.protocol)
        if mine is None or not mine.cards or result.protocol.task not in RENDERERS:
            continue
        baseline = next((one for one in items if one.baseline and _same_figure(one, mine)), None)
        section = Section(result, mine, baseline, shown_items(mine, samples))
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
    """Write `run_dir`/figures/examples_<stage>_<task>.html for each task among the results; returns
    the paths.

    Args:
        results, items: of the stage; items without cards give no page.
        samples: items on each page, for each of its figures; 0: no page.
        guard: see `journal.write_atomically`.
    """
    paths = []
    for task, made in sections(results, items, samples).items() if samples else ():
        split = made[0].result.protocol.split
        clips = {
            clip.id: clip
            for name in sorted(dataset.splits, key=split.__eq__)
            for clip in dataset.splits[name]
        }  # the scored split last
        path = run_dir / "figures" / f"examples_{stage}_{task}.html"
        write_atomically(
            path,
            example_page(
                made,
                footage_of(made, experiment, clips),
                f"{run_dir.name}, recipe {experiment.name}",
            ),
            guard,
        )
        paths.append(path)
    return paths


def redraw_examples(
    run_dir: Path, experiment: Experiment, dataset: Dataset, samples: int, say: LogFn
) -> list[Path]:
    """The pages of a run that was scored, with so many items; what was scored by a version that
    kept no items is said.
    """
    paths = []
    for stage in STAGES:
        scored, kept = run_dir / "stages" / f"{stage}.json", items_path(run_dir, stage)
        if scored.exists() and not kept.exists():
            say(f"{scored} was written by a version that kept no items: no example page of it.")
        if scored.exists() and kept.exists():
            results = [Result.from_dict(values) for values in read_json(scored)["results"]]
            paths += draw_examples(
                run_dir, stage, results, read_items(kept), dataset, experiment, samples
            )
    return paths


def footage_of(
    made: Sequence[Section], experiment: Experiment, clips: Mapping[str, Clip]
) -> Footage:
    """The pictures that a page needs."""
    cards = [card for section in made for card in section.cards()]
    moving = [name for card in cards for name in clips_of(card)]
    return make_footage(
        experiment, clips, moving, (name for card in cards for name in strips_of(card)), PAGE_BYTES
    )


def example_page(made: Sequence[Section], footage: Footage, run: str) -> str:
    """The HTML of the figures of one task of a run of that name."""
    protocol = made[0].result.protocol
    return (
        _environment()
        .get_template("gallery.html")
        .render(
            title=TITLES[protocol.task],
            protocol=protocol,
            run=run,
            noun="picture" if protocol.task == "image_text" else "clip",
            sections=[_section_view(section, footage) for section in made],
        )
    )


def _section_view(section: Section, footage: Footage) -> View:
    result, items, render = section.result, section.items, RENDERERS[section.result.protocol.task]
    blind = section.baseline.cards if section.baseline else {}
    hits, total = _hits(items), len(items.ids)
    groups: list[dict[str, Any]] = [
        {
            "hit": side,
            "of": hits if side else total - hits,
            "cards": [
                {"item": name, **render(items.cards[name], blind.get(name), footage)}
                for name in section.shown
                if items.cards[name]["hit"] is side
            ],
        }
        for side in (True, False)
    ]
    first = next((card for group in groups for card in group["cards"]), None)
    return {
        "heading": DIRECTIONS.get(result.protocol.direction, ""),
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
    """How many items were right, by the rule that the cards go by."""
    if "rank" in items.values:
        return sum(rank == 1 for rank in items.values["rank"])
    if "IoU-top1" in items.values:
        return sum(value >= GOOD_OVERLAP for value in items.values["IoU-top1"])
    return sum(value > 0 for value in items.values["accuracy"])


def figures_table(result: Result) -> dict[str, Any]:
    """Names of the metrics, and a row each for the model, its baselines and chance; None where a
    figure is not known.
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
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["per_cent"] = lambda share: (
        "—" if share is None else f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
    )
    environment.filters["number"] = lambda value, digits=1: (
        "—" if value is None else f"{value:.{digits}f}"
    )
    return environment
