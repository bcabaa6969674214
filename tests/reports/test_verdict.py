"""The sentences say what the table shows, and no more."""

from typing import Any

from reports.analysis.verdict import sentences
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

LOW, MID, OTHER, OPTIMUM = (0.5, 0.15), (0.5, 0.75), (0.9, 0.15), (0.9, 0.75)


def said(values: dict[tuple[float, float], float | list[float]], **plan: Any) -> str:
    def value(cell: dict[str, Any], seed: int) -> float | None:
        found = values.get((cell[VIDEO], cell[TEXT]))
        return found[seed] if isinstance(found, list) else found

    return " ".join(sentences(made_up.sweep_results(made_up.plan(**plan), value)))


def test_one_seed_against_the_published_optimum() -> None:
    text = said({LOW: 14.3, MID: 11.0, OTHER: 10.0, OPTIMUM: 12.0})
    assert text.startswith(
        "Best here: video mask ratio 0.5, text mask ratio 0.15, R@1 14.3 % (one seed)."
    )
    assert (
        "That is 2.3 points better than the published optimum, "
        "video mask ratio 0.9, text mask ratio 0.75" in text
    )
    assert "One seed: differences of this size may be noise." in text
    assert (
        "256 test queries alone gives a standard error of about 2.2 points" in text
    )  # sqrt(0.143 * 0.857 / 256) = 2.19 %
    assert "Guessing would give 0.40 %; the cells reach 25.0 to 35.8 times that." in text


def test_the_published_optimum_may_be_best() -> None:
    text = said({LOW: 10.0, MID: 11.0, OTHER: 10.0, OPTIMUM: 12.0})
    assert (
        "That is the published optimum. It is 1.0 points better than the second best "
        "(video mask ratio 0.5, text mask ratio 0.75)." in text
    )


def test_a_tie_is_called_a_tie() -> None:
    text = said({LOW: 12.04, MID: 11.0, OTHER: 10.0, OPTIMUM: 11.96})
    assert text.startswith("2 cells share the best figure (12.0): ")
    assert "The published optimum is among them." in text


def test_several_seeds_give_an_interval() -> None:
    apart = said(
        {
            LOW: [20.0, 20.5, 21.0],
            MID: [5.0, 5.0, 5.1],
            OTHER: [5.0, 5.0, 5.2],
            OPTIMUM: [10.0, 10.2, 10.4],
        },
        seeds=(0, 1, 2),
    )
    assert "it does not contain 0" in apart and "One seed" not in apart and "any two cells" in apart
    close = said(
        {
            LOW: [20.0, 10.0, 15.0],
            MID: [5.0, 5.0, 5.1],
            OTHER: [5.0, 5.0, 5.2],
            OPTIMUM: [14.0, 10.2, 18.4],
        },
        seeds=(0, 1, 2),
    )
    assert "cannot be distinguished" in close


def test_missing_cells_are_counted() -> None:
    assert said({}) == "No run of this sweep has finished yet, so there is nothing to say."
    text = said({LOW: 10.0})
    assert (
        text.startswith("Only one cell has a figure so far")
        and "3 of 4 planned cells have no figure yet" in text
    )
    text = said({LOW: 10.0, MID: 12.0, OTHER: 11.0})
    assert (
        "The published optimum (video mask ratio 0.9, text mask ratio 0.75) has no figure yet."
        in text
    )
    assert "1 of 4 planned cells has no figure yet" in text


def test_figures_near_chance_are_called_so() -> None:
    assert "None is clearly above chance, so the comparison says nothing." in said(
        {LOW: 0.4, MID: 0.5, OTHER: 0.6, OPTIMUM: 0.7}
    )
    assert "1 of 4 cells is hardly above chance." in said(
        {LOW: 0.4, MID: 5.0, OTHER: 6.0, OPTIMUM: 7.0}
    )


def test_fewer_ranks_are_better() -> None:
    text = said(
        {LOW: 20.0, MID: 10.0, OTHER: 5.0, OPTIMUM: 10.0},
        metric="test/finetuned/t2v/MdR",
        metric_label="MdR",
    )
    assert (
        "Best here: video mask ratio 0.5, text mask ratio 0.15, MdR 5.0 (one seed)." in text
    )  # MdR = 100 / R@1 in these runs
    assert "That is 5.0 ranks better than the published optimum" in text


def test_an_interval_of_ranks_has_its_lower_end_first() -> None:
    close = {
        LOW: [20.0, 10.0, 15.0],
        MID: [5.0, 5.0, 5.1],
        OTHER: [5.0, 5.0, 5.2],
        OPTIMUM: [14.0, 10.2, 18.4],
    }
    text = said(close, metric="test/finetuned/t2v/MdR", metric_label="MdR", seeds=(0, 1, 2))
    low, high = (
        float(end.replace("−", "-"))
        for end in text.partition("of this difference: [")[2].partition("]")[0].split(", ")
    )
    assert low < 0 < high and "it contains 0, so the two cannot be distinguished" in text
