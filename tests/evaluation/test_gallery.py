"""Example pages show what was measured.

The frame is around the right clip, the images are those of the clips, and markup in a caption stays
text.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from simvtp.data.datasets import open_dataset
from simvtp.evaluation.examples.card_views import RENDERERS, clips_of
from simvtp.evaluation.examples.clip_previews import SIDE, Previews, animation, make_previews, strip
from simvtp.evaluation.examples.example_cards import (
    items_of_scored,
)
from simvtp.evaluation.examples.gallery import (
    TITLES,
    example_page,
    redraw_examples,
    sections,
    shown_items,
)
from simvtp.evaluation.items import Items, items_path, read_items, write_items
from simvtp.tasks import TASKS
from tests.evaluation import examples
from tests.evaluation.examples import (
    CLIPS,
    HOSTILE,
    KINDS,
    captions,
    frames_of,
    previews_for,
    results_and_items,
)
from tests.small import small_experiment

SAMPLES = 8
VOID = {"img", "input", "meta"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, **wanted: str) -> list[Node]:
        """Descendants of that tag with those attributes, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                fits = child.tag == tag and all(
                    child.attributes.get(name.replace("_", "-")) == value
                    for name, value in wanted.items()
                )
                found += [child] * fits + child.all(tag, **wanted)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class PageParser(HTMLParser):
    """The page as a tree; fails on a tag that is not closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open = [Node("", {})]
        self.feed(page)
        assert len(self.open) == 1, f"never closed: {[node.tag for node in self.open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def page_of(kind: str) -> tuple[Node, str, list[Items]]:
    results, items = results_and_items(KINDS[kind]())
    [made] = sections(results, items, SAMPLES).values()
    page = example_page(made, previews_for(results, items, SAMPLES), "0123456789ab, recipe tiny")
    return PageParser(page).open[0], page, items


@pytest.fixture(scope="module", params=list(KINDS))
def drawn(request: pytest.FixtureRequest) -> tuple[Node, str, list[Items]]:
    return page_of(request.param)


def test_every_task_has_a_page_of_its_own() -> None:
    names = {
        getattr(task, "kind", name) for name, task in TASKS.items()
    }  # as a result's protocol has it
    assert names <= set(RENDERERS) and set(RENDERERS) == set(TITLES)


def test_the_page_is_whole_loads_nothing_and_every_picture_has_words(
    drawn: tuple[Node, str, list[Items]],
) -> None:
    tree, page, _ = drawn
    assert (
        not tree.all("script")
        and not tree.all("link")
        and "http" not in page
        and "url(" not in page
    )
    pictures = tree.all("img")
    assert pictures and all(image.attributes["src"].startswith("data:image/") for image in pictures)
    assert all(
        image.attributes["alt"].strip() and image.attributes["width"] and image.attributes["height"]
        for image in pictures
    )
    assert [node.text for node in tree.all("label", **{"for": "hold"})] == ["Hold the clips still"]


def test_what_is_shown_and_how_much_there_is_of_it(drawn: tuple[Node, str, list[Items]]) -> None:
    tree, _, items = drawn
    figures = [one for one in items if not one.baseline]
    for section, one in zip(tree.all("section"), figures, strict=True):
        articles = section.all("article")
        assert tuple(article.attributes["data-item"] for article in articles) == shown_items(
            one, SAMPLES
        )
        assert [article.attributes["data-hit"] for article in articles] == ["true"] * 4 + [
            "false"
        ] * 4
        hits = sum(card["hit"] for card in one.cards.values())  # so few items that all have a card
        assert len(one.cards) == len(one.ids)
        assert [heading.text for heading in section.all("h3")] == [
            f"Right: 4 of {hits}",
            f"Wrong: 4 of {len(one.ids) - hits}",
        ]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_frame_is_around_the_right_clip_and_its_rank_is_the_one_measured(seed: int) -> None:
    results, items = results_and_items(examples.retrieved(seed))
    [made] = sections(results, items, SAMPLES).values()
    tree = PageParser(example_page(made, previews_for(results, items, SAMPLES), "run")).open[0]
    ranks = dict(zip(items[0].ids, items[0].values["rank"], strict=True))
    apart = 0
    for article in tree.all("section")[0].all("article"):
        name = article.attributes["data-item"]
        framed = article.all("figure", **{"class": "right"})
        assert [figure.attributes["data-video"] for figure in framed] == [name.rpartition("#")[0]]
        assert framed == article.all("figure", data_right="true") and "right clip" in framed[0].text
        assert int(framed[0].attributes["data-rank"]) == ranks[name]
        listed = [int(figure.attributes["data-rank"]) for figure in article.all("figure")]
        assert listed == [1, 2, 3, 4, 5, *([ranks[name]] if ranks[name] > 5 else [])]
        assert len(article.all("li", **{"class": "apart"})) == (ranks[name] > 5)
        apart += ranks[name] > 5
        similarities = [
            float(figure.all("figcaption")[0].text.rpartition("·")[2])
            for figure in article.all("figure")
        ]
        assert similarities == sorted(similarities, reverse=True)
    assert apart, "the test has no query whose right clip is outside the first five"


def test_gifs_hold_the_frames_of_the_clip_that_is_named() -> None:
    tree, _, _ = page_of("retrieval")
    figures = tree.all("figure")
    assert len({figure.attributes["data-video"] for figure in figures}) > 10
    for figure in figures:
        expected = frames_of(figure.attributes["data-video"])
        [moving] = figure.all("img", **{"class": "moving"})
        frames = decoded(moving.attributes["src"], "gif")
        assert frames.shape == expected.shape
        assert np.abs(frames.astype(int) - expected).max() <= 4, (
            "another clip, another order, or too few colours"
        )
        [still] = figure.all("img", **{"class": "still"})
        assert (
            np.abs(
                decoded(still.attributes["src"], "png")[0].astype(int)
                - expected[len(expected) // 2]
            ).max()
            <= 4
        )


def decoded(uri: str, kind: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert image.format == kind.upper()
    return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def test_captions_with_markup_emoji_and_hebrew_stay_the_text_that_they_are() -> None:
    results, items = results_and_items(examples.retrieved())
    hostile = [f"{CLIPS[number]}#0" for number in range(len(HOSTILE))]
    [made] = sections(results, items, 2 * len(CLIPS)).values()  # all of them
    page = example_page(made, previews_for(results, items, 2 * len(CLIPS)), "run")
    tree = PageParser(page).open[0]
    shown = {
        article.attributes["data-item"]: article.all("h4")[0]
        for article in tree.all("section")[0].all("article")
    }
    for name, text in zip(hostile, HOSTILE, strict=True):
        assert shown[name].text == text
        assert shown[name].all("span", dir="auto"), "the direction of the text is its own"
    assert not tree.all("b") and not tree.all("i") and not tree.all("script")


def test_answers_have_their_probability_the_truth_and_the_prediction_without_the_video() -> None:
    tree, _, items = page_of("qa")
    [mine, blind] = items
    assert blind.baseline == "video hidden" and set(blind.cards) == set(mine.cards)
    for article in tree.all("article"):
        name = article.attributes["data-item"]
        card = mine.cards[name]
        listed = article.all("li")
        assert article.attributes["data-hit"] == listed[0].attributes["data-right"]
        assert [row.attributes["data-predicted"] for row in listed[:5]] == ["true"] + ["false"] * 4
        right = article.all("li", data_right="true")
        assert len(right) == 1 and "✓ right" in right[0].text
        if "answer" in card:
            assert (
                right[0].attributes["class"] == "right apart"
                and card["answer"]["text"] in right[0].text
            )
        shares = [choice["score"] for choice in card["choices"]]
        assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
        [other] = article.all("p", **{"class": "blind"})
        assert blind.cards[name]["choices"][0]["text"] in other.text
        assert other.attributes["data-right"] == str(blind.cards[name]["hit"]).lower()


def test_an_answer_that_training_lacks_is_named_and_has_no_rank() -> None:
    results, items = results_and_items(examples.answered())
    card = items[0].cards["q23"]
    assert not card["hit"] and card["answer"] == {
        "text": "unheard of",
        "video": "",
        "right": True,
        "score": None,
        "rank": None,
    }
    [made] = sections(results, items, 48).values()
    page = example_page(made, previews_for(results, items, 48), "run")
    [article] = PageParser(page).open[0].all("article", data_item="q23")
    assert "unheard of" in article.text and "is no answer of training" in article.text


def test_bars_on_the_line_of_time_are_where_the_spans_are() -> None:
    tree, _, items = page_of("grounding")
    for article in tree.all("article"):
        card = items[0].cards[article.attributes["data-item"]]
        rows = (
            article.all("li", data_kind="truth")
            + article.all("li", data_kind="first")
            + article.all("li", data_kind="other")
        )
        spans = [card["truth"], *card["spans"]]
        assert len(rows) == len(spans) == 6 and len(article.all("li", data_kind="blind")) == 1
        for row, (start, end) in zip(rows, spans, strict=True):
            [bar] = row.all("span", **{"class": "bar"})
            style = dict(part.split(":") for part in bar.attributes["style"].split(";"))
            left, width = (float(value.strip(" %")) for value in style.values())
            assert left == pytest.approx(100 * start / card["length_s"], abs=0.01)
            assert left + width == pytest.approx(
                min(100.0, 100 * end / card["length_s"]), abs=0.02
            ), "a bar ends with its video"
        assert f"IoU {card['overlaps'][0]:.2f}" in article.all("li", data_kind="first")[0].text
        assert (card["overlaps"][0] >= 0.5) == (article.attributes["data-hit"] == "true")


def test_counts_say_truth_and_prediction() -> None:
    tree, _, items = page_of("count")
    for article in tree.all("article"):
        card = items[0].cards[article.attributes["data-item"]]
        truth, predicted = (node.text for node in article.all("dd"))
        assert (int(truth), float(predicted)) == (
            card["truth"],
            pytest.approx(card["predicted"], abs=0.005),
        )


# ---- pictures ------------------------------------------------------------------------------------


def test_pictures_keep_to_their_budget_and_a_picture_that_does_not_move_is_no_gif() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3)).astype(np.uint8)
    sizes = []
    for budget in (10**9, 40_000, 15_000):
        made = animation(noise, budget)
        sizes.append(len(made.moving) + len(made.still))
        assert sizes[-1] <= budget and len(decoded(made.moving, "gif")) == 8
        assert (made.width, made.height) == (SIDE, SIDE)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]
    still = animation(noise[:1].repeat(4, axis=0), 10**9)
    assert not still.moving and len(decoded(still.still, "png")) == 1
    row = strip(frames_of(CLIPS[0]), 10**9)
    assert decoded(row.still, "jpeg").shape[1:3] == (32, 6 * 32)


def test_clips_come_from_the_data_set_and_one_that_is_away_is_grey(
    tmp_path: Path, shapes_cache: Path
) -> None:
    experiment = small_experiment(tmp_path, shapes_cache)
    dataset = open_dataset(experiment.data, experiment.runtime, say=lambda line: None)
    clips = {clip.id: clip for clip in dataset.splits["test"]}
    first = next(iter(clips))
    previews = make_previews(experiment, clips, [first, "gone"], [first], 10**6)
    assert (
        previews.clips[first].decoded
        and previews.strips[first].decoded
        and not previews.clips["gone"].decoded
    )
    assert len(decoded(previews.clips[first].moving, "gif")) == experiment.model.frames
    assert (decoded(previews.clips["gone"].still, "png") == 128).all()


def test_an_old_run_has_no_page_and_one_with_items_is_drawn_again(
    tmp_path: Path, shapes_cache: Path
) -> None:
    experiment = small_experiment(tmp_path, shapes_cache)
    dataset = open_dataset(experiment.data, experiment.runtime, say=lambda line: None)
    results, items = results_and_items(examples.retrieved())
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "evaluate.json").write_text(
        json.dumps({"results": [one.to_dict() for one in results]})
    )
    said: list[str] = []
    assert (
        redraw_examples(tmp_path, experiment, dataset, SAMPLES, said.append) == []
        and "kept no items" in said[0]
    )
    write_items(items_path(tmp_path, "evaluate"), items)
    [path] = redraw_examples(tmp_path, experiment, dataset, SAMPLES, said.append)
    assert path == tmp_path / "figures" / "examples_evaluate_retrieval.html" and len(said) == 1
    shown = shown_items(read_items(items_path(tmp_path, "evaluate"))[0], SAMPLES)
    assert [
        article.attributes["data-item"]
        for article in PageParser(path.read_text()).open[0].all("section")[0].all("article")
    ] == list(shown)
    assert redraw_examples(tmp_path, experiment, dataset, 0, said.append) == [], (
        "no samples, no page"
    )


def test_captions_reach_the_cards_whole() -> None:
    items = items_of_scored(examples.retrieved())[0]
    assert [items.cards[f"{name}#0"]["text"] for name in CLIPS] == captions()


def test_pictures_are_called_pictures_and_do_not_move() -> None:
    videos, items = results_and_items(examples.retrieved())
    results = [
        replace(one, protocol=replace(one.protocol, task="image_text", direction=direction))
        for one, direction in zip(videos, ("t2i", "i2t"), strict=True)
    ]
    items = [
        replace(one, protocol=result.protocol) for one, result in zip(items, results, strict=True)
    ]
    [made] = sections(results, items, SAMPLES).values()
    names = {name for section in made for card in section.cards() for name in clips_of(card)}
    previews = Previews(
        {name: animation(frames_of(name, 1).repeat(2, axis=0), 10**9) for name in names}, {}
    )
    tree = PageParser(example_page(made, previews, "run")).open[0]
    assert [heading.text for heading in tree.all("h2")] == [
        "Text to image",
        "Image to text",
    ]
    assert "right picture" in tree.text and "right clip" not in tree.text
    assert tree.all("img") and not tree.all("img", **{"class": "moving"})
