"""Each cell against the baseline: both tests, their correction, and the words for what came out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reports.analysis.comparisons import (
    BETTER,
    EQUIVALENT,
    IDENTICAL,
    NO_TEST,
    UNDECIDED,
    WORSE,
    compare,
    comparison_tables,
    sentence,
    verdict_lines,
)
from reports.analysis.paired_bootstrap import item_values
from reports.analysis.sweep_model import baseline_of
from reports.analysis.verdict import sentences
from reports.kinds.report_writer import write_report
from reports.study.collect import gather
from reports.study.sweep_results import SweepResults
from simvtp.evaluation.items import Items, items_path, write_items
from simvtp.runs.results import Result
from tests.reports import made_up, made_up_search
from tests.reports.made_up import TEXT, VIDEO

KEY = "test/finetuned/t2v"


def ranked(share: float, seed: int, queries: int = 256) -> Result:
    """Makes a result from ranks; each query has its own difficulty, the same in all runs."""
    difficulty = np.random.default_rng(7).random(queries)
    noise = np.random.default_rng([seed, int(1000 * share)]).normal(0, 0.05, queries)
    ranks = np.where(difficulty + noise < share, 1, 9)
    made = made_up.result(10.0, seed=seed)
    metrics = made.metrics | {
        "R1": float(100 * np.mean(ranks == 1)),
        "MnR": float(ranks.mean()),
        "R50": 100.0,
    }
    return replace(made, metrics=metrics, ranks=tuple(ranks.tolist()), queries=queries)


def sweep_results(
    shares: dict[tuple[float, float], float],
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    **plan: object,
) -> SweepResults:
    made = made_up.plan(seeds=seeds, **plan)  # type: ignore[arg-type]
    runs = [
        made_up.run(p, ranked(shares[p["cell"][VIDEO], p["cell"][TEXT]], p["seed"]))
        for p in made["points"]
    ]
    return gather(made, runs)


SHARES = {(0.5, 0.15): 0.30, (0.5, 0.75): 0.42, (0.9, 0.15): 0.305, (0.9, 0.75): 0.18}


def test_better_equivalent_and_worse() -> None:
    found = compare(sweep_results(SHARES, published_optimum=None))
    assert [one.cell for one in found] == [(0.5, 0.75), (0.9, 0.15), (0.9, 0.75)]
    assert [one.outcome for one in found] == [BETTER, EQUIVALENT, WORSE]
    assert all(one.baseline == (0.5, 0.15) for one in found)
    for one in found:
        assert one.items is not None and one.items.mean == pytest.approx(
            one.seeds.mean
        )  # the same difference, by items and by seeds
        assert one.seeds.interval is not None and one.seeds.p_value is not None
        low, high = one.seeds.interval
        assert (one.seeds.p_value < 0.05) == (low > 0 or high < 0)  # one method for both


def test_the_sentence_of_a_comparison() -> None:
    made = sweep_results(SHARES, published_optimum=None)
    better, equal, worse = (sentence(made, one) for one in compare(made))
    gap = compare(made)[0].seeds
    low, high = gap.interval or (0.0, 0.0)
    assert (
        better == f"text mask ratio 0.75 beats 0.15 by {gap.mean:.1f} R@1, "
        f"95 % CI [{low:.1f}, {high:.1f}], 5 seeds."
    )
    assert equal.startswith("video mask ratio 0.9 and 0.5 are equivalent within ±2.0 R@1: ")
    assert equal.endswith("5 seeds.")
    assert worse.startswith(
        "video mask ratio 0.9, text mask ratio 0.75 loses to "
        "video mask ratio 0.5, text mask ratio 0.15 by "
    )
    assert "[−" not in worse  # turned with its difference
    assert better[1:] in " ".join(sentences(made))


def test_a_lower_rank_is_better() -> None:
    made = sweep_results(SHARES, published_optimum=None, metric=f"{KEY}/MnR", metric_label="MnR")
    assert [one.outcome for one in compare(made)] == [BETTER, UNDECIDED, WORSE]
    assert "(lower is better)" in sentence(made, compare(made)[0])


def test_the_baseline_is_the_plan_s_then_the_published_optimum_then_the_first() -> None:
    assert baseline_of(sweep_results(SHARES, baseline={VIDEO: 0.5, TEXT: 0.75})) == (0.5, 0.75)
    assert baseline_of(sweep_results(SHARES)) == (0.9, 0.75)
    assert baseline_of(sweep_results(SHARES, published_optimum=None)) == (0.5, 0.15)


def test_with_one_seed_nothing_is_decided_but_the_items_are_compared() -> None:
    made = sweep_results(SHARES, seeds=(0,))
    found = compare(made)
    assert {one.outcome for one in found} == {NO_TEST} and all(
        one.seeds.p_value is None and one.p_items is not None for one in found
    )
    assert "one seed, so nothing can be said of noise between seeds" in sentence(made, found[0])
    assert verdict_lines(made) == []
    (table,) = comparison_tables(made)
    assert any("has a single seed" in note for note in table.notes)


def noise(*parts: float) -> float:
    """Returns a standard normal number that depends on the parts alone."""
    return float(np.random.default_rng([round(1000 * part) for part in parts]).normal())


def test_a_narrow_interval_around_zero_is_equivalence() -> None:
    made = made_up.plan(seeds=tuple(range(8)), text=(0.15,), published_optimum=None)
    sweep = made_up.sweep_results(made, lambda cell, seed: 10 + 0.3 * noise(cell[VIDEO], seed))
    (found,) = compare(sweep)
    assert found.outcome == EQUIVALENT
    assert "are equivalent within ±2.0 R@1" in sentence(sweep, found)
    (table,) = comparison_tables(sweep)
    assert table.rows[1][-1].text == "equivalent within ±2.0"


def test_the_table_says_what_it_could_have_detected() -> None:
    (table,) = comparison_tables(sweep_results(SHARES, published_optimum=None))
    notes = " ".join(table.notes)
    assert re.search(r"Detectable with probability 80 %: \d+\.\d R@1\.", notes)
    assert re.search(r"\d+ seeds a cell would detect 2\.0\.", notes)
    assert "seeds as blocks, pooled error with 12 degrees of freedom" in notes


def test_identical_runs_are_counted_once() -> None:
    shares = SHARES | {(0.9, 0.15): 0.30}
    made = sweep_results(shares, published_optimum=None)
    again = replace(
        made,
        runs=tuple(
            replace(run, results=made.by_cell[0.5, 0.15][run.point.seed].results)
            if run.point.cell == (0.9, 0.15)
            else run
            for run in made.runs
        ),
    )
    found = {one.cell: one for one in compare(again)}
    copy = found[0.9, 0.15]
    assert copy.outcome == IDENTICAL and copy.same_as == (0.5, 0.15)
    three = compare(made)  # the others are two comparisons now, no longer three
    before = {one.cell: one.seeds for one in three}
    assert found[0.5, 0.75].seeds.mean == pytest.approx(before[0.5, 0.75].mean)
    (table,) = comparison_tables(again)
    assert any("identical runs to" in note and "counted once" in note for note in table.notes)


def test_a_large_table_tells_how_many_and_the_clearest() -> None:
    made = made_up.plan(video=(0.5, 0.6, 0.7), seeds=(0, 1, 2), published_optimum=None)
    values = {0.5: 10.0, 0.6: 10.1, 0.7: 20.0}
    lines = verdict_lines(
        made_up.sweep_results(
            made,
            lambda cell, seed: values[cell[VIDEO]] + 0.3 * noise(cell[TEXT], cell[VIDEO], seed),
        )
    )
    assert (
        lines[0] == "Of 5 cells against video mask ratio 0.5, text mask ratio 0.15: "
        "2 different: better, 3 equivalent."
    )
    assert "beats" in lines[1]


def test_figures_without_items_have_no_paired_test_and_the_note_says_so() -> None:
    made = made_up.sweep_results(
        made_up.plan(seeds=(0, 1)), lambda cell, seed: 10.0 + cell[VIDEO] + seed
    )  # ranks that do not give the figure
    assert all(one.items is None for one in compare(made))
    (table,) = comparison_tables(made)
    assert any("8 of 8 runs kept no value of each test item" in note for note in table.notes)
    over_items = [
        number
        for number, column in enumerate(table.columns)
        if column.group.startswith("over test items")
    ]
    assert all(row[number].text == "—" for row in table.rows[1:] for number in over_items)


def test_other_test_items_are_never_paired() -> None:
    made = made_up.plan(text=(0.15,), published_optimum=None)
    first, second = (
        replace(made_up.run(p, ranked(share, 0)), params={"data.shapes.seed": seed})
        for p, share, seed in zip(made["points"], (0.3, 0.4), "01", strict=True)
    )
    (found,) = compare(gather(made, [first, second]))
    assert found.items is None
    (found,) = compare(gather(made, [first, replace(second, params=first.params)]))
    assert found.items is not None


def test_items_of_the_run_directory_are_read_and_have_names(tmp_path: Path) -> None:
    made = made_up.plan(text=(0.15,), published_optimum=None)
    runs = []
    for point, share in zip(made["points"], (0.3, 0.4), strict=True):
        result, folder = ranked(share, 0), tmp_path / point["fingerprint"][:12]
        (folder / "stages").mkdir(parents=True)
        items = Items(
            result.protocol,
            tuple(f"clip{n}#0" for n in range(256)),
            {"rank": tuple(map(float, result.ranks))},
        )
        write_items(items_path(folder, "evaluate"), [items])
        runs.append(made_up.run(point, replace(result, ranks=()), run_dir=str(folder)))
    found = gather(made, runs)
    items_of = item_values(found.runs[0], KEY, "R1")
    assert items_of is not None and items_of.ids[:2] == ("clip0#0", "clip1#0")
    assert items_of.values.mean() == pytest.approx(found.runs[0].results[KEY].metrics["R1"])
    assert (
        item_values(found.runs[0], KEY, "R5") is None
    )  # these ranks do not average to that figure
    (one,) = compare(found)
    assert one.items is not None


def test_items_are_found_after_the_folder_of_the_runs_was_moved(tmp_path: Path) -> None:
    made = made_up.plan(text=(0.15,), published_optimum=None)
    old, new = tmp_path / "runs", tmp_path / "new"
    runs = []
    for point, share in zip(made["points"], (0.3, 0.4), strict=True):
        result, folder = ranked(share, 0), old / point["fingerprint"][:12]
        (folder / "stages").mkdir(parents=True)
        (folder / "experiment.json").write_text("{}")
        items = Items(
            result.protocol,
            tuple(f"clip{n}#0" for n in range(256)),
            {"rank": tuple(map(float, result.ranks))},
        )
        write_items(items_path(folder, "evaluate"), [items])
        runs.append(made_up.run(point, replace(result, ranks=()), run_dir=str(folder)))
    old.rename(new)
    (away,) = compare(gather(made, runs))
    assert away.items is None
    found = gather(made, runs, root=new)
    (here,) = compare(found)
    assert here.items is not None
    assert all(Path(run.run_dir).parent == new for run in found.runs)
    assert not old.exists()


def test_a_damaged_file_of_items_is_named_and_the_tracked_ranks_stand_in(tmp_path: Path) -> None:
    made = made_up.plan(text=(0.15,), published_optimum=None)
    (tmp_path / "stages").mkdir()
    items_path(tmp_path, "evaluate").write_bytes(b"not really items")
    runs = [
        made_up.run(point, ranked(share, 0), run_dir=str(tmp_path))
        for point, share in zip(made["points"], (0.3, 0.4), strict=True)
    ]
    with pytest.warns(UserWarning, match=r"damaged: .*items_evaluate.* tracked ranks"):
        (one,) = compare(gather(made, runs))
    assert one.items is not None


def test_a_search_compares_nothing() -> None:
    made = made_up_search.search_results(
        made_up_search.search_plan(made_up_search.search_cells(6)), made_up_search.bumpy
    )
    assert compare(made) == ()


def test_the_report_has_the_comparisons_in_all_its_forms(tmp_path: Path) -> None:
    made = sweep_results(SHARES, published_optimum=None)
    write_report(made, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "Differences to the baseline" in page and "beats 0.15 by" in page
    assert "equivalent within" in (tmp_path / "comparisons.md").read_text()
    assert r"\begin{tabular}" in (tmp_path / "comparisons.tex").read_text()
    assert len((tmp_path / "comparisons.csv").read_text().splitlines()) == 4
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["baseline"] == {VIDEO: 0.5, TEXT: 0.15} and [
        one["outcome"] for one in record["comparisons"]
    ] == [BETTER, EQUIVALENT, WORSE]
    low, high = record["cells"][0]["interval"]
    assert low < record["cells"][0]["mean"] < high
