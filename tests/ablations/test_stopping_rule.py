"""The rule that decides comparisons while seeds are added."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ablations.evidence.sequential_simulation import MARGIN, Scenario, scenarios, simulate
from ablations.evidence.stopping_rule import (
    Decision,
    SeedOutcome,
    StoppingRule,
    Verdict,
    adjusted_p_value,
    judge,
    make_rule,
    seeds_of_rule,
)
from simvtp.errors import ConfigError

RULE = make_rule(2.0, range(12), 3, 1, 3, {"a": 1})
PENDING = SeedOutcome()


def runs(values: np.ndarray | list[float], total: int = 12) -> list[SeedOutcome]:
    """Makes the outcomes of finished runs, then of runs that are not finished."""
    made = [SeedOutcome(float(value)) for value in values]
    return made + [PENDING] * (total - len(made))


def random_pair(seed: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shared = random.normal(20, 3, 12)
    return shared + random.normal(effect, 1, 12), shared + random.normal(0, 1, 12)


@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0, -8.0])
def test_later_runs_change_no_decision_and_earlier_ones_suffice(effect: float) -> None:
    for seed in range(8):
        cell, baseline = random_pair(seed, effect)
        whole = judge(RULE, runs(cell), runs(baseline))
        for count in range(13):
            found = judge(RULE, runs(cell[:count]), runs(baseline[:count]))
            if count >= whole.seeds:
                assert found == whole
            else:
                assert found.verdict is Verdict.UNDECIDED and found.is_open
                assert found.wanted == min(max(3, count + 1), 12)
                assert found.seeds == (count if count >= 3 else 0)


def test_a_verdict_is_that_of_the_interval() -> None:
    for seed in range(10):
        for effect in (0.0, 2.0, 6.0):
            cell, baseline = random_pair(seed, effect)
            found = judge(RULE, runs(cell), runs(baseline))
            number = RULE.looks.index(found.seeds)
            theirs = stats.ttest_rel(cell[: found.seeds], baseline[: found.seeds])
            low, high = theirs.confidence_interval(1 - RULE.levels[number])
            assert found.interval == pytest.approx((low, high))
            expected = Verdict.UNDECIDED
            if low > 0 or high < 0:
                expected = Verdict.BETTER if low > 0 else Verdict.WORSE
            elif low > -2 and high < 2:
                expected = Verdict.EQUIVALENT
            assert found.verdict is expected
            assert bool(found.reason) == (expected is Verdict.UNDECIDED)


def test_exchanged_cells_and_metrics_to_be_lowered_turn_the_verdict() -> None:
    cell, baseline = random_pair(1, 6.0)
    assert judge(RULE, runs(cell), runs(baseline)).verdict is Verdict.BETTER
    assert judge(RULE, runs(baseline), runs(cell)).verdict is Verdict.WORSE
    assert judge(RULE, runs(cell), runs(baseline), False).verdict is Verdict.WORSE


def test_runs_that_failed_for_good_end_a_comparison_with_the_reason() -> None:
    cell, baseline = random_pair(2, 0.5)
    failed = runs(cell[:5])
    failed[3] = SeedOutcome(failure="the loss became NaN")
    found = judge(RULE, failed, runs(baseline))
    assert found.verdict is Verdict.UNDECIDED and not found.is_open
    assert (found.seeds, found.wanted, found.reason) == (3, 4, "the loss became NaN")
    assert judge(RULE, runs(cell), failed).reason == "the loss became NaN", "also the baseline's"
    late = runs(np.full(12, 50.0) + cell)
    late[9] = SeedOutcome(failure="never needed")
    assert judge(RULE, late, runs(baseline)).verdict is Verdict.BETTER


def test_identical_runs_are_recognised_by_all_their_results() -> None:
    same = [SeedOutcome(float(seed), results=(seed, 2 * seed)) for seed in range(12)]
    other = [SeedOutcome(float(seed), results=(seed, 3 * seed)) for seed in range(12)]
    found = judge(RULE, same, list(same))
    assert found == Decision(Verdict.IDENTICAL, 3, 0.0, None, 3)
    chance = judge(RULE, same, other)  # equal in this metric alone
    assert chance.verdict is Verdict.UNDECIDED and chance.interval is None


def test_the_p_value_agrees_with_the_verdict() -> None:
    for seed in range(12):
        for effect in (0.0, 1.5, 5.0):
            cell, baseline = random_pair(seed, effect)
            found = judge(RULE, runs(cell), runs(baseline))
            p_value = adjusted_p_value(RULE, cell[: found.seeds], baseline[: found.seeds])
            assert p_value is not None
            different = found.verdict in (Verdict.BETTER, Verdict.WORSE)
            assert different == (p_value <= 0.05) or p_value == pytest.approx(0.05, rel=0.01)
    assert adjusted_p_value(RULE, [1.0, 2.0], [0.0, 0.0]) is None


def test_the_record_gives_the_same_rule() -> None:
    again = StoppingRule.from_dict(json.loads(json.dumps(RULE.to_dict())))
    assert again == RULE and again.critical_values == RULE.critical_values
    with pytest.raises(ValueError, match="a level for each look"):
        replace(RULE, levels=RULE.levels[:-1])


def test_seeds_and_looks() -> None:
    assert seeds_of_rule((0,), 5) == (0, 1, 2, 3, 4)
    assert seeds_of_rule((7, 2, 7), 4) == (7, 2, 8, 9)
    for most in (2, 201):
        with pytest.raises(ConfigError, match=f"--max-seeds {most}"):
            seeds_of_rule((0,), most)
    with pytest.raises(ConfigError, match="give 5"):
        seeds_of_rule(range(5), 4)
    assert make_rule(1, range(10), 1, 3, 1, {}).looks == (3, 6, 9, 10)
    assert make_rule(1, range(4), 4, 1, 1, {}).looks == (4,)


@pytest.mark.parametrize(
    "scenario", [scenarios()[n] for n in (1, 3, 4, 7)], ids=lambda scenario: scenario.name
)
def test_false_verdicts_stay_below_the_error_rate(scenario: Scenario) -> None:
    """Fewer repetitions of the committed table: 5 %, within three standard errors."""
    sweeps = 150
    rates = simulate(scenario, sweeps, seed=5)
    assert rates.false_different <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / sweeps)
    assert rates.unadjusted > 0.1, "a test after every seed without the rule does not hold it"


def test_differences_of_the_margin_are_seldom_called_equivalent() -> None:
    margin = Scenario("", (4.0, -4.0, 4.0), most=14, margin=4.0)
    rates = simulate(margin, 200, seed=6)
    assert rates.false_equivalent <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert rates.wrong_direction == 0


def test_large_differences_and_equal_cells_save_seeds() -> None:
    rates = simulate(Scenario("", (0.0, 8.0), margin=2 * MARGIN), 100, seed=7)
    (none, equivalent), (different, _) = rates.verdicts
    assert different > 0.99 and equivalent > 0.9 and none <= 0.05
    assert rates.seeds[1] < 8 < rates.seeds[0] < 16 and rates.runs < 0.8
