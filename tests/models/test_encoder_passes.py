"""The plan of encoder passes, for every combination of objectives and options."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from simvtp.models.simvtp.encoder_passes import EncoderPass, PassPlan, plan_passes
from simvtp.models.simvtp.simvtp_model import OBJECTIVES
from tests.models.small_models import small

PAIR, VIDEO, TEXT, MATCH = EncoderPass
SUBSETS = [names for count in range(1, 5) for names in itertools.combinations(OBJECTIVES, count)]
OPTIONS = [
    dict(
        zip(
            ("contrastive_text", "contrastive_video", "reuse_pair_pass", "vtm_negatives"),
            values,
            strict=True,
        )
    )
    for values in itertools.product(
        ("masked", "clean"), ("masked", "clean"), (True, False), ("random", "hard")
    )
]
CASES = [
    (objectives, options, merge, given)
    for objectives in SUBSETS
    for options in OPTIONS
    for merge, given in itertools.product((False, True), repeat=2)
]


def plan_of(
    objectives: tuple[str, ...], options: dict[str, Any], merge: bool, given: bool
) -> PassPlan:
    return plan_passes(small(**options), objectives, merge=merge, negatives_given=given)


def test_all_combinations_run_each_pass_once_and_no_other() -> None:
    assert len(CASES) == 15 * 16 * 4
    for case in CASES:
        objectives, options, _, given = case
        plan = plan_of(*case)
        same_view = options["contrastive_text"] == options["contrastive_video"] == "masked"
        shared = "vtm" in objectives and options["reuse_pair_pass"] and same_view
        hard = "vtm" in objectives and options["vtm_negatives"] == "hard" and not given
        expected = {
            PAIR: bool({"mvm", "mlm"} & set(objectives)) or shared,
            VIDEO: "vtc" in objectives or hard,
            TEXT: "vtc" in objectives or hard,
            MATCH: "vtm" in objectives,
        }
        assert sorted(plan.passes) == sorted(name for name in EncoderPass if expected[name]), case
        assert (plan.pair_gives_positives, plan.scores_negatives) == (shared, hard), case
        both = plan_of(objectives, {**options, "vtm_directions": "both"}, *case[2:])
        assert (plan.match_pairs, both.match_pairs) == ((1, 2) if shared else (2, 3)), case
        assert (both.groups, both.pair_gives_positives) == (plan.groups, shared), case


def test_hard_negatives_are_chosen_after_the_features_are_there() -> None:
    for case in CASES:
        plan = plan_of(*case)
        position = {
            name: number for number, group in enumerate(plan.groups) for name in group.passes
        }
        if plan.scores_negatives:
            assert max(position[VIDEO], position[TEXT]) < position[MATCH], case


def test_only_passes_that_no_loss_reads_run_without_gradients() -> None:
    for case in CASES:
        for group in plan_of(*case).groups:
            scores_only = "vtc" not in case[0] and group.passes[0] in (VIDEO, TEXT)
            assert group.needs_grad is not scores_only, case
            assert not scores_only or len(group.passes) == 1, case


def test_merged_plans_have_the_passes_of_separate_ones() -> None:
    for objectives, options, merge, given in CASES:
        if not merge:
            continue
        merged = plan_of(objectives, options, True, given)
        separate = plan_of(objectives, options, False, given)
        assert all(len(group.passes) == 1 for group in separate.groups)
        assert sorted(merged.passes) == sorted(separate.passes)
        assert sum(len(group.passes) > 1 for group in merged.groups) <= 1


@pytest.mark.parametrize(
    ("objectives", "options", "groups"),
    [
        (OBJECTIVES, {}, [(PAIR, VIDEO, TEXT, MATCH)]),
        (OBJECTIVES, {"vtm_negatives": "hard"}, [(PAIR, VIDEO, TEXT), (MATCH,)]),
        (("vtm",), {"vtm_negatives": "hard"}, [(TEXT,), (VIDEO,), (PAIR,), (MATCH,)]),
        (("vtm",), {"reuse_pair_pass": False}, [(MATCH,)]),
        (("mvm",), {}, [(PAIR,)]),
        (("vtc",), {}, [(VIDEO, TEXT)]),
    ],
)
def test_passes_in_one_call_are_those_that_do_not_need_each_other(
    objectives: tuple[str, ...],
    options: dict[str, Any],
    groups: list[tuple[EncoderPass, ...]],
) -> None:
    plan = plan_passes(small(**options), objectives, merge=True)
    assert [group.passes for group in plan.groups] == groups
