"""Example pages take right and wrong items by the hash of their names."""

from __future__ import annotations

import numpy as np
import pytest

from simvtp.evaluation.examples.example_cards import (
    HITS,
    choose_examples,
    example_order,
    items_of_scored,
)
from simvtp.evaluation.examples.gallery import (
    shown_items,
)
from simvtp.evaluation.items import Items
from tests.evaluation import examples
from tests.evaluation.examples import (
    PROTOCOL,
)


def test_the_rule_takes_right_and_wrong_items_by_their_hash() -> None:
    names = [f"item {number}" for number in range(500)]
    hits = np.random.default_rng(0).uniform(size=500) < 0.1
    numbers = choose_examples(names, hits, ())
    assert sum(hits[numbers]) == HITS and len(numbers) == 2 * HITS
    for side in (True, False):
        mine = [names[number] for number in numbers if bool(hits[number]) is side]
        assert (
            mine
            == sorted(
                (name for name, hit in zip(names, hits, strict=True) if bool(hit) is side),
                key=example_order,
            )[:HITS]
        )
    assert [names[number] for number in choose_examples(names, hits, {"item 7", "item 3"})] == [
        "item 3",
        "item 7",
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [(20, 20, (4, 4)), (1, 20, (1, 7)), (20, 2, (6, 2)), (0, 3, (0, 3)), (2, 1, (2, 1))],
)
def test_where_one_kind_is_rare_the_other_fills_the_page(
    right: int, wrong: int, expected: tuple[int, int]
) -> None:
    cards = {f"r{n}": {"hit": True} for n in range(right)} | {
        f"w{n}": {"hit": False} for n in range(wrong)
    }
    shown = shown_items(Items(PROTOCOL, tuple(cards), {}, cards=cards), 8)
    letters = [name[0] for name in shown]
    assert (letters.count("r"), letters.count("w")) == expected


def test_the_same_items_are_shown_of_another_run_where_it_was_as_right() -> None:
    first, second = (items_of_scored(examples.answered(seed))[0] for seed in (0, 1))
    for side in (True, False):
        both = [n for n in first.ids if first.cards[n]["hit"] is second.cards[n]["hit"] is side]
        orders = [
            [name for name in shown_items(one, 48) if name in both] for one in (first, second)
        ]
        assert orders[0] == orders[1] and both
