"""Settings: one tree, clear refusals, a fingerprint that means the whole experiment."""

import dataclasses
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config import overrides as S
from simvtp.config import schema as C
from simvtp.config import validation
from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.errors import ConfigError
from simvtp.resolve import finalise


def tiny(*assignments: str) -> C.Experiment:
    return S.override(get_recipe("tiny"), assignments)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_possible_and_survives_json(name: str) -> None:
    experiment = get_recipe(name)
    if experiment.data.dataset == "shapes":
        finalise(experiment)
    else:
        validation.check(experiment)
    again = C.from_dict(json.loads(json.dumps(C.to_dict(experiment))))
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
        ("pretrain.compile=perhaps", "must be true or false"),
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
        (["pretrain.accumulate=5"], "not divisible by pretrain.accumulate"),
        (["data.fraction=0"], "must be in (0, 1]"),
        (["data.splits=0.5/0.5"], "three shares"),
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
        (["model.decoded_share=0"], "must be in (0, 1]"),
        (["model.merged_share=0.6"], "must be in [0, 0.5]"),
        (["masks.text_span=0"], "must be at least 1"),
        (["model.encoders=two", "model.fusion_blocks=9"], "must be from 0 (all) to model.depth"),
        (["model.fusion_blocks=1"], "is for model.encoders=two"),
        (["model.encoders=two", "finetune.task=qa"], "only retrieval goes with it"),
        (["model.encoders=two", "finetune.encoder=shared"], "needs one pre-trained encoder"),
        (["model.encoders=two", "model.init_video=x"], "leave it empty"),
        (["model.encoders=two", "runtime.shard=full"], "does not go with runtime.shard=full"),
        (
            ["runtime.pack_text=on", "pretrain.compile=true"],
            "runtime.pack_text=on gives each step another shape",
        ),
        (["model.text_decoder_dim=32"], "set both or neither"),
        (
            ["model.text_decoder_dim=33", "model.text_decoder_depth=1"],
            "not divisible by model.decoder_heads",
        ),
        (["model.learned_temperature=true", "losses.vtc=0"], "is for the contrastive loss"),
    ],
)
def test_impossible_experiments_are_refused(assignments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        finalise(tiny(*assignments))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ratio_that_leaves_no_visible_slot_is_refused() -> None:
    # 4 time slots: int(0.99 * 4) = 3 leaves one; a single slot cannot be hidden and kept.
    validation.check(tiny("masks.video_kind=frame", "masks.video_ratio=0.99"))
    with pytest.raises(ConfigError, match="needs masked tubes"):
        validation.check(tiny("masks.video_kind=frame", "model.frames=2", "masks.video_ratio=0.9"))


@given(
    st.sampled_from(
        [k for k in C.flatten(C.Experiment()) if not k.startswith("runtime.") and k != "name"]
    )
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_setting_that_matters_changes_the_fingerprint(key: str) -> None:
    experiment = get_recipe("tiny")
    value = C.flatten(experiment)[key]
    hint = validation._types()[key]
    if key in ("data.manifest", "data.root"):
        return  # their content counts, not their path: see the tests below
    if typing.get_origin(hint) is typing.Literal:
        # The last choice: the first of data.reader has the frames, and so the fingerprint, of fast.
        new: object = [choice for choice in typing.get_args(hint) if choice != value][-1]
    elif isinstance(value, bool):
        new = not value
    else:
        new = value + 1 if isinstance(value, (int, float)) else f"{value}x"
    changed = S.replace_key(experiment, key, new)
    assert changed.fingerprint != experiment.fingerprint
    assert (changed.cell_fingerprint == experiment.cell_fingerprint) == (key == "seed")


@pytest.mark.parametrize(
    ("recipe", "assignments", "fingerprint"),
    [
        ("tiny", [], "5c8bd963e02f5039628031e0430200cbcd5b82aa2c338f848abbbd22d51dc558"),
        (
            "tiny",
            ["data.fraction=0.25", "seed=3", "masks.video_ratio=0.5"],
            "399da51d37c22582730be32dfb1774223a6c4e12eb162717f3242444a2796a97",
        ),
        (
            "tiny",
            ["data.dataset=manifest", "data.manifest_digest=ab"],
            "dffa84c972288d925657ed409f8b2a492f850c6c4331e59f9c7d895eb3f639bd",
        ),
        (
            "released",
            ["finetune.rand_augment=0", "finetune.random_erasing=0"],
            "70511a12e50935e760fd72b64dc9a3c8367aa92e2e298244c073ed490abe53d3",
        ),
    ],
)
def test_new_settings_leave_the_fingerprints_of_older_experiments_alone(
    recipe: str, assignments: list[str], fingerprint: str
) -> None:
    """Taken before there were benchmarks, tasks and augmentation: a finished run on somebody's disk
    is found again.
    """
    assert S.override(get_recipe(recipe), assignments).fingerprint == fingerprint


def test_an_experiment_stored_before_a_setting_was_added_is_still_read() -> None:
    stored = C.to_dict(get_recipe("tiny"))
    for section, key in (("data", "root"), ("data", "protocol")):
        del stored[section][key]
    assert C.from_dict(stored) == get_recipe("tiny")


def test_where_things_lie_does_not_change_the_fingerprint() -> None:
    experiment = get_recipe("tiny")
    for key, value in C.flatten(experiment.runtime).items():
        new = (
            (not value)
            if isinstance(value, bool)
            else value + 1
            if isinstance(value, (int, float))
            else f"{value}x"
        )
        new = {"shard": "full", "pack_text": "off"}.get(key, new)
        assert (
            S.replace_key(experiment, f"runtime.{key}", new).fingerprint == experiment.fingerprint
        )
    assert dataclasses.replace(experiment, name="other").fingerprint == experiment.fingerprint


def test_a_run_of_a_version_with_other_runtime_settings_is_still_read() -> None:
    experiment = S.override(get_recipe("tiny"), ["runtime.workers=7"])
    stored = C.to_dict(experiment)
    del stored["runtime"]["micro_batch"]
    stored["runtime"]["of_the_future"] = 1
    assert C.from_dict(stored) == experiment


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "pretrain.precision=fp16",
            "pretrain.precision=fp16 does not go with runtime.shard=full .*bf16",
        ),
        (
            "finetune.train.compile=true",
            "finetune.train.compile=true does not go with runtime.shard=full",
        ),
    ],
)
def test_what_does_not_work_on_shards_is_refused(setting: str, message: str) -> None:
    validation.check(S.override(get_recipe("tiny"), [setting]))
    with pytest.raises(ConfigError, match=message):
        validation.check(S.override(get_recipe("tiny"), [setting, "runtime.shard=full"]))


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
        == dataclasses.replace(tiny(), losses=C.LossConfig(vtm=1)).fingerprint
    )


def test_a_stored_experiment_of_another_version_is_refused() -> None:
    stored = C.to_dict(get_recipe("tiny"))
    stored["masks"]["new_key"] = 1
    del stored["masks"]["text_rule"]
    with pytest.raises(ConfigError, match=r"new_key.*text_rule"):
        C.from_dict(stored)


def test_differences_name_the_fields() -> None:
    assert C.differences(tiny(), tiny("model.depth=2", "runtime.workers=5")) == {
        "model.depth": (3, 2)
    }


def test_published_mask_count() -> None:
    released = get_recipe("released")
    assert released.model.tubes == 1568
    assert hidden_per_slot(released.model, released.masks) == 176
