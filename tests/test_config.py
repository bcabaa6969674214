"""Settings: one tree, clear refusals, a fingerprint that means the whole experiment."""

import dataclasses
import json
import math
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config.experiment_config import (
    METHOD_CONFIGS,
    TASK_CONFIGS,
    Experiment,
    differences,
    from_dict,
)
from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.overrides import RENAMED, override, replace_key, replace_keys
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.config.train_config import LossConfig
from simvtp.config.tree import documentation, flatten, setting_types, to_dict
from simvtp.config.validation import check
from simvtp.errors import ConfigError
from simvtp.resolve import finalise


def tiny(*assignments: str) -> Experiment:
    return override(get_recipe("tiny"), assignments)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_possible_and_survives_json(name: str) -> None:
    experiment = get_recipe(name)
    if experiment.data.dataset == "shapes":
        finalise(experiment)
    else:
        check(experiment)
    again = from_dict(json.loads(json.dumps(to_dict(experiment))))
    assert again == experiment
    assert again.fingerprint == experiment.fingerprint
    assert RECIPES[name].__doc__


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("mask.video_ratio=0.5", "did you mean 'masks.video_ratio'"),
        ("masks.vidio_ratio=0.5", "did you mean 'masks.video_ratio'"),
        ("masks=0.5", "it is a group"),
        ("masks.video_ratio", "write key=value"),
        ("masks.video_ratio=much", "must be a number"),
        ("model.depth=2.5", "must be a whole number"),
        ("masks.video_kind=checkerboard", "must be one of tube, random, frame"),
        ("runtime.compile=perhaps", "must be true or false"),
        ("losses.vtc=nan", "losses.vtc=nan: must be a finite number"),
        ("pretrain.base_lr=inf", "must be a finite number"),
        ("model=frozen", "model.method=frozen: choose from simvtp, mac"),
        ("finetune.task=cooking", "finetune.task=cooking: choose from retrieval, imagetext, qa"),
        ("finetune.task.segments=8", "it belongs to finetune.task=grounding"),
        ("model.text_depth=2", "it belongs to model.method=mac"),
        ("masks.text_mask=drop", "it belongs to model.method=mac"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")) as caught:
        tiny(assignment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["masks.video_ratio=1"], "must be in [0, 1)"),
        (["masks.video_ratio=-0.1"], "must be in [0, 1)"),
        (["masks.text_ratio=1.5"], "must be in [0, 1)"),
        (["masks.video_ratio=0.01"], "needs masked tubes"),
        (["masks.text_ratio=0"], "needs masked words"),
        (["model.frames=7"], "not divisible by model.tubelet_size"),
        (["model.image_size=60"], "not divisible by model.patch_size"),
        (["model.heads=5"], "not divisible by model.heads"),
        (
            ["losses.mvm=0", "losses.mlm=0", "losses.vtc=0", "losses.vtm=0"],
            "nothing would be learnt",
        ),
        (["losses.vtm=-1"], "must be at least 0"),
        (["pretrain.batch_size=1"], "another clip as negative"),
        (["runtime.accumulate=5"], "not divisible by runtime.accumulate"),
        (["runtime.accumulate=-1"], "must be at least 0"),
        (["seed=9223372036854775808"], "seed=9223372036854775808: must be from 0 to 2^63 - 1"),
        (["seed=-1"], "must be from 0 to 2^63 - 1"),
        (["data.fraction=0"], "must be in (0, 1]"),
        (["data.splits=0.5/0.5"], "three ratios"),
        (["data.dataset=manifest"], "needs data.manifest"),
        (["data.dataset=manifest", "data.manifest=nowhere.csv"], "no such file"),
        (["runtime.workers=-1"], "must be at least 0"),
        (["evaluate.rerank=-1"], "must be at least 0"),
        (["evaluate.rerank=16", "losses.vtm=0"], "needs the matching head, but losses.vtm=0"),
        (
            ["evaluate.dual_softmax=true", "evaluate.zero_shot=false", "finetune.task=qa"],
            "is for retrieval",
        ),
        (
            ["evaluate.rerank=16", "evaluate.zero_shot=false", "finetune.enabled=false"],
            "is for retrieval",
        ),
        (["model.decoder_keep_ratio=0"], "must be in (0, 1]"),
        (["model.token_merge_ratio=0.6"], "must be in [0, 0.5]"),
        (["masks.text_span=0"], "must be at least 1"),
        (["model.encoders=two", "model.fusion_blocks=9"], "must be from 0 (all) to model.depth"),
        (["model.fusion_blocks=1"], "is for model.encoders=two"),
        (["model.encoders=two", "finetune.task=qa"], "only retrieval goes with it"),
        (["model.encoders=two", "finetune.task.encoder=shared"], "needs one pre-trained encoder"),
        (["model.encoders=two", "model.init_video=x"], "leave it empty"),
        (["model.encoders=two", "runtime.shard=full"], "does not go with runtime.shard=full"),
        (
            ["runtime.pack_text=on", "runtime.compile=true"],
            "runtime.pack_text=on gives each step another shape",
        ),
        (["model.text_decoder_dim=32"], "set both or neither"),
        (
            ["model.text_decoder_dim=33", "model.text_decoder_depth=1"],
            "not divisible by model.decoder_heads",
        ),
        (["model.learned_temperature=true", "losses.vtc=0"], "is for the contrastive loss"),
        (["masks.video_ratio_steps=uniform:0.5"], "write uniform:A:B, linear:A:B or last:F:B"),
        (["masks.text_ratio_steps=linear:0.5:1"], "with numbers in [0, 1)"),
        (["masks.video_ratio_steps=last:0.1:0"], "needs masked tubes"),
        (["masks.text_ratio_steps=linear:0:0.5"], "needs masked words"),
        (["masks.text_ratio_steps=linear:0.1:0.5", "runtime.compile=true"], "another shape"),
        (["masks.text_predicted=0"], "must be in (0, 1]"),
        (["model=mac", "masks.text_predicted=0.5"], "leave them as they are"),
        (["model.mlm_video=none"], "MLM must be the only objective"),
    ],
)
def test_impossible_experiments_are_refused(assignments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        finalise(tiny(*assignments))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ratio_that_leaves_no_visible_slot_is_refused() -> None:
    # 4 time slots: int(0.99 * 4) = 3 leaves one; a single slot cannot be hidden and kept.
    check(tiny("masks.video_kind=frame", "masks.video_ratio=0.99"))
    with pytest.raises(ConfigError, match="needs masked tubes"):
        check(tiny("masks.video_kind=frame", "model.frames=2", "masks.video_ratio=0.9"))


EVERY = sorted(
    {
        (recipe, key)
        for recipe in RECIPES
        for key in flatten(get_recipe(recipe))
        if not key.startswith("runtime.") and key != "name"
    }
)
UNUSED = ("data.manifest", "data.manifest_digest", "data.root", "data.splits")  # by `shapes`


@given(st.sampled_from(EVERY))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_setting_that_matters_changes_the_fingerprint(of: tuple[str, str]) -> None:
    recipe, key = of
    experiment = get_recipe(recipe)
    value, hint = flatten(experiment)[key], setting_types(experiment)[key]
    if key in (*UNUSED, "data.reader", "model.method", "finetune.task.name", "plugins.files"):
        return  # see the tests below, and tests/test_plugins.py
    if key.startswith("data.shapes.") and experiment.data.dataset != "shapes":
        return
    if typing.get_origin(hint) is typing.Literal:
        # The last choice: the first of data.reader has the frames, and so the fingerprint, of fast.
        new: object = [choice for choice in typing.get_args(hint) if choice != value][-1]
    elif isinstance(value, bool):
        new = not value
    else:
        new = value + 1 if isinstance(value, (int, float)) else f"{value}x"
    changed = replace_key(experiment, key, new)
    assert changed.fingerprint != experiment.fingerprint
    of_seed = key == "seed" or key.startswith("seeds.")
    assert (changed.cell_fingerprint == experiment.cell_fingerprint) == of_seed


@pytest.mark.parametrize(
    ("recipe", "assignments", "fingerprint"),
    [
        ("tiny", [], "b8d40eabb1c33bdf0d07bce37fa92aaaa983f652330f4a37807bdbe1ab065ed9"),
        (
            "tiny",
            ["data.fraction=0.25", "seed=3", "masks.video_ratio=0.5"],
            "4f64acffb034a1beb7eb2fa3a80be8d1b25d1f7461cbef4ec2128c998703e290",
        ),
        (
            "tiny",
            ["data.dataset=manifest", "data.manifest_digest=ab"],
            "dad35ff6dea3399067f6f1e10d7028bd7f21db4336147bcdd3d932ac8327434a",
        ),
        ("tiny_pair", [], "00775bfbf6557df8e3307f3fa17ae3b3e712dc4c20249f3baa33f251e67f774a"),
        ("tiny_grounding", [], "9f070ffb031d5ce7f1a6c727cc91dfd98a0ddbc62e837f4b05b652ee05375707"),
        ("released", [], "521ae90bc99425be8cc00671966601ae1d38326c1cc6dc72909fb7de760f06f8"),
        ("tiny_mac", [], "df1f5615d59ddfb5abc0d84317c75521c41c3c57f4ab7feae0efe92560215bf6"),
    ],
)
def test_fingerprints_of_schema_2_stay_what_they_are(
    recipe: str, assignments: list[str], fingerprint: str
) -> None:
    """A finished run on somebody's disk is found again.

    If this fails, a new setting was not declared by `added`, or a default has changed: either is
    another experiment.
    """
    assert override(get_recipe(recipe), assignments).fingerprint == fingerprint


def test_settings_that_a_data_set_does_not_use_do_not_change_the_fingerprint() -> None:
    for key in UNUSED:
        assert replace_key(tiny(), key, "0.5/0.3/0.2").fingerprint == tiny().fingerprint
    listed = tiny("data.dataset=manifest", "data.manifest_digest=ab")
    for key, same in (("data.manifest", True), ("data.root", True), ("data.splits", False)):
        changed = replace_key(listed, key, "0.5/0.3/0.2")
        assert (changed.fingerprint == listed.fingerprint) == same, key
    benchmark = tiny("data.dataset=msrvtt", "data.manifest_digest=ab")
    assert benchmark.fingerprint == replace_key(benchmark, "data.splits", "1/0/0").fingerprint
    assert benchmark.fingerprint != replace_key(benchmark, "data.manifest_digest", "c").fingerprint


def test_the_reader_counts_where_it_gives_other_frames() -> None:
    prints = {
        name: tiny(f"data.reader={name}").fingerprint
        for name in ("fast", "decord", "pyav", "torchcodec")
    }
    assert prints["fast"] == prints["decord"]
    assert len(set(prints.values())) == 3


def test_numbers_count_to_twelve_digits() -> None:
    def with_ratio(ratio: float) -> str:
        return replace_key(tiny(), "masks.video_ratio", ratio).fingerprint

    assert 0.1 + 0.2 != 0.3 and with_ratio(0.1 + 0.2) == with_ratio(0.3)
    assert with_ratio(0.3) != with_ratio(0.3 + 1e-10)


def test_numbers_that_are_not_finite_are_refused_wherever_they_come_from() -> None:
    for value in (math.nan, math.inf, -math.inf):
        losses = dataclasses.replace(tiny().losses, temperature=value)
        with pytest.raises(ConfigError, match="losses.temperature=.*must be a finite number"):
            check(dataclasses.replace(tiny(), losses=losses))


# ---- components ----------------------------------------------------------------------------------


def test_a_component_is_chosen_by_name_and_keeps_what_both_have() -> None:
    start = tiny("model.depth=2", "masks.video_ratio=0.5", "losses.temperature=0.1")
    changed = override(start, ["model=mac"])
    assert changed == override(start, ["model.method=mac"])
    assert type(changed.model) is METHOD_CONFIGS["mac"].model
    assert (changed.model.depth, changed.model.image_size) == (2, 64)
    assert changed.masks.video_ratio == 0.5 and changed.losses.temperature == 0.1
    assert changed.losses.wanted == ("vtc",) and changed.model.tubelet_size == 1
    check(changed)
    back = override(changed, ["model=simvtp"])
    assert type(back.model) is type(start.model) and back.losses.wanted == start.losses.wanted


def test_the_order_of_assignments_does_not_matter_to_a_component() -> None:
    texts = ["finetune.task.segments=8", "finetune.task=grounding", "finetune.task.blind=true"]
    first, second = tiny(*texts), tiny(*reversed(texts))
    assert first == second and flatten(first)["finetune.task.segments"] == 8
    values = {"model.text_depth": 2, "model.method": "mac"}
    assert flatten(replace_keys(tiny(), values))["model.text_depth"] == 2
    assert override(first, ["finetune.task=grounding"]) == first


def test_a_task_lists_its_own_settings_only() -> None:
    listed = {
        name: {key for key in flatten(tiny(f"finetune.task={name}")) if ".task." in key}
        for name in TASK_CONFIGS
    }
    assert listed["action"] == {f"finetune.task.{name}" for name in ("name", "probe", "mixup")}
    assert "finetune.task.segments" in listed["grounding"]
    assert not any("segments" in key for key in listed["retrieval"] | listed["qa"])


@pytest.mark.parametrize("task", TASK_CONFIGS)
@pytest.mark.parametrize("method", METHOD_CONFIGS)
def test_every_setting_of_every_component_is_documented_and_survives_json(
    method: str, task: str
) -> None:
    experiment = tiny(f"model={method}", f"finetune.task={task}")
    assert [key for key, text in documentation(experiment).items() if not text] == []
    assert from_dict(json.loads(json.dumps(to_dict(experiment)))) == experiment


def test_a_name_of_an_earlier_version_is_answered_with_todays() -> None:
    for old, new in RENAMED.items():
        with pytest.raises(ConfigError) as caught:
            tiny(f"{old}=1")
        assert f"now called '{new}'" in str(caught.value) and "\n" not in str(caught.value)


def test_new_names_are_names_of_settings() -> None:
    known = {
        key
        for method in METHOD_CONFIGS
        for task in TASK_CONFIGS
        for key in flatten(tiny(f"model={method}", f"finetune.task={task}"))
    }
    assert set(RENAMED.values()) <= known and not set(RENAMED) & known


def test_where_things_lie_does_not_change_the_fingerprint() -> None:
    experiment = get_recipe("tiny")
    hints = setting_types(experiment.runtime)
    for key, value in flatten(experiment.runtime).items():
        new: object = f"{value}x"
        if key in ("micro_batch", "workers"):
            new = 3
        elif choices := typing.get_args(hints[key]):
            new = choices[-1]
        elif isinstance(value, (bool, int, float)):
            new = not value if isinstance(value, bool) else value + 1
        assert replace_key(experiment, f"runtime.{key}", new).fingerprint == experiment.fingerprint
    assert dataclasses.replace(experiment, name="other").fingerprint == experiment.fingerprint


def test_a_run_of_a_version_with_other_runtime_settings_is_still_read() -> None:
    experiment = override(get_recipe("tiny"), ["runtime.workers=7"])
    stored = to_dict(experiment)
    del stored["runtime"]["micro_batch"]
    stored["runtime"]["of_the_future"] = 1
    assert from_dict(stored) == experiment


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "pretrain.precision=fp16",
            "pretrain.precision=fp16 does not go with runtime.shard=full .*bf16",
        ),
        (
            "runtime.compile=true",
            "runtime.compile=true does not go with runtime.shard=full",
        ),
    ],
)
def test_what_does_not_work_on_shards_is_refused(setting: str, message: str) -> None:
    check(override(get_recipe("tiny"), [setting]))
    with pytest.raises(ConfigError, match=message):
        check(override(get_recipe("tiny"), [setting, "runtime.shard=full"]))


def test_a_manifest_is_known_by_its_content(tmp_path) -> None:
    prints = []
    for name, text in (
        ("a.csv", "videoid,path,caption\n1,1.mp4,x\n"),
        ("b.csv", "videoid,path,caption\n1,1.mp4,x\n"),
        ("c.csv", "other"),
    ):
        (tmp_path / name).write_text(text)
        prints.append(
            finalise(tiny("data.dataset=manifest", f"data.manifest={tmp_path / name}")).fingerprint
        )
    assert prints[0] == prints[1] != prints[2]


def test_whole_floats_and_integers_are_the_same_setting() -> None:
    assert (
        tiny("losses.vtm=1").fingerprint
        == dataclasses.replace(tiny(), losses=LossConfig(vtm=1)).fingerprint
    )


def test_a_stored_experiment_of_schema_1_is_refused() -> None:
    stored = to_dict(get_recipe("tiny"))
    stored["finetune"]["task"] = "retrieval"
    with pytest.raises(ConfigError, match="written by another version of simvtp"):
        from_dict(stored)


def test_a_stored_experiment_of_another_version_is_refused() -> None:
    stored = to_dict(get_recipe("tiny"))
    stored["masks"]["new_key"] = 1
    del stored["masks"]["text_rule"]
    with pytest.raises(ConfigError, match=r"new_key.*text_rule"):
        from_dict(stored)


def test_differences_name_the_fields() -> None:
    assert differences(tiny(), tiny("model.depth=2", "runtime.workers=5")) == {
        "model.depth": (3, 2)
    }


def test_published_mask_count() -> None:
    released = get_recipe("released")
    assert (released.model.tubes, hidden_per_slot(released.model, released.masks)) == (1568, 176)
