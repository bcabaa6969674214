"""The interval for another training on other items: coverage by simulation, and special cases."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from reports.analysis.comparisons import compare, comparison_tables
from reports.analysis.crossed_items import SeedError, crossed_difference
from reports.analysis.seed_statistics import paired_bootstrap, t_interval
from reports.study.collect import gather
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import Result
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO


def draw(
    random: np.random.Generator,
    seeds: int,
    clips: int,
    captions: int,
    spread: tuple[float, float, float],
) -> tuple[np.ndarray, list[str]]:
    """Returns gaps [seeds, items] of mean 0 and the clip of each item.

    Args:
        random: the generator.
        seeds, clips, captions: their numbers.
        spread: deviations of the seed, the clip and of both together.
    """
    of_seed, of_clip, of_both = spread
    shared = random.normal(0, of_clip, clips)[None] + random.normal(0, of_both, (seeds, clips))
    gaps = random.normal(0, of_seed, (seeds, 1)) + np.repeat(shared, captions, axis=1)
    gaps = gaps + random.normal(0, 1, gaps.shape)
    return gaps, [f"clip{number // captions}" for number in range(clips * captions)]


@pytest.mark.parametrize(
    ("seeds", "clips", "captions", "spread"),
    [
        (3, 60, 1, (0.3, 2.0, 2.0)),
        (3, 100, 5, (0.2, 2.0, 2.0)),
        (5, 80, 1, (0.0, 3.0, 1.0)),
        (3, 50, 1, (1.0, 1.0, 1.0)),
        (10, 40, 4, (0.5, 2.0, 0.5)),
    ],
)
@pytest.mark.parametrize("pooled", [0, 8], ids=["own error", "pooled error"])
def test_the_interval_covers_the_true_difference(
    seeds: int, clips: int, captions: int, spread: tuple[float, float, float], pooled: int
) -> None:
    """95 %, within three standard errors of 300 draws."""
    random, draws, covered = np.random.default_rng([seeds, clips]), 300, 0
    of_seed, _, of_both = spread
    variance = (of_seed**2 + (of_both**2 + 1 / captions) / clips) / seeds
    for _ in range(draws):
        gaps, names = draw(random, seeds, clips, captions, spread)
        error = SeedError(variance * random.chisquare(pooled) / pooled, pooled) if pooled else None
        found = crossed_difference(gaps, names, error)
        assert found is not None and found.interval is not None
        covered += found.interval[0] <= 0 <= found.interval[1]
    assert covered / draws >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / draws)


def test_each_of_the_two_other_intervals_misses_too_often() -> None:
    """Seeds alone ignore the items, items alone the training; so the crossed one is needed."""
    random, draws, missed = np.random.default_rng(1), 200, np.zeros(2)
    for _ in range(draws):
        gaps, names = draw(random, 5, 50, 1, (2.0, 9.0, 1.0))
        by_seed = t_interval(gaps.mean(axis=1))
        by_item = paired_bootstrap(gaps, np.zeros_like(gaps), names, draws=400).interval
        assert by_item is not None
        missed += [not low <= 0 <= high for low, high in (by_seed, by_item)]
    assert (missed / draws > 0.1).all()


def test_without_an_effect_of_clips_it_is_students_interval_over_seeds() -> None:
    gaps = np.tile(np.array([[1.0], [2.0], [4.0], [5.0]]), (1, 30))
    found = crossed_difference(gaps, [str(n) for n in range(30)])
    assert found is not None and found.interval == pytest.approx(t_interval([1.0, 2.0, 4.0, 5.0]))
    theirs = stats.ttest_1samp([1.0, 2.0, 4.0, 5.0], 0.0).pvalue
    assert found.p_value == pytest.approx(theirs)


def test_captions_of_one_clip_count_as_one_and_their_number_may_differ() -> None:
    random = np.random.default_rng(2)
    once, names = draw(random, 4, 30, 1, (0.3, 2.0, 1.0))
    repeated = crossed_difference(np.repeat(once, 7, axis=1), list(np.repeat(names, 7)))
    first = crossed_difference(once, names)
    assert first is not None and repeated is not None and repeated.interval is not None
    assert repeated.interval == pytest.approx(first.interval)
    sizes = random.integers(1, 6, 30)
    uneven = np.repeat(once, sizes, axis=1)
    found = crossed_difference(uneven, list(np.repeat(names, sizes)))
    assert found is not None and found.mean == pytest.approx(uneven.mean())


def test_one_seed_or_one_clip_or_equal_gaps_give_no_interval() -> None:
    assert crossed_difference(np.ones((1, 5)), list("abcde")) is None
    assert crossed_difference(np.ones((3, 5)), ["a"] * 5) is None
    found = crossed_difference(np.ones((3, 5)), list("abcde"))
    assert found is not None and found.interval is None


# ---- in the report -------------------------------------------------------------------------------


def ranked(share: float, seed: int) -> Result:
    difficulty = np.random.default_rng(7).random(256)
    noise = np.random.default_rng([seed, int(1000 * share)]).normal(0, 0.05, 256)
    ranks = np.where(difficulty + noise < share, 1, 9)
    made = made_up.result(10.0, seed=seed)
    metrics = made.metrics | {"R1": float(100 * np.mean(ranks == 1))}
    return replace(made, metrics=metrics, ranks=tuple(ranks.tolist()), queries=256)


def results(seeds: tuple[int, ...]) -> SweepResults:
    shares = {(0.5, 0.15): 0.2, (0.5, 0.75): 0.27, (0.9, 0.15): 0.35, (0.9, 0.75): 0.3}
    made = made_up.plan(seeds=seeds)
    runs = [
        made_up.run(p, ranked(shares[p["cell"][VIDEO], p["cell"][TEXT]], p["seed"]))
        for p in made["points"]
    ]
    return gather(made, runs)


def test_the_table_has_it_next_to_the_other_two() -> None:
    sweep = results((0, 1, 2, 3))
    (table,) = comparison_tables(sweep)
    column = next(n for n, c in enumerate(table.columns) if c.group == "over both")
    for row, one in zip(table.rows[1:], compare(sweep), strict=True):
        assert one.crossed is not None and one.crossed.interval is not None
        assert one.crossed.mean == pytest.approx(one.seeds.mean)
        low, high = one.crossed.interval
        assert row[column].text == f"[{low:.1f}, {high:.1f}]".replace("-", "−")
        assert one.items is not None and one.items.interval is not None
        assert high - low > 0.9 * (one.items.interval[1] - one.items.interval[0])
    assert any("another training on other test items" in note for note in table.notes)


def test_one_seed_has_none() -> None:
    assert all(one.crossed is None for one in compare(results((0,))))
