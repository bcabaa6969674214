"""RandAugment and random erasing.

What timm does to a picture, the same in all frames, and the same whoever makes the sample.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP

from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.validation import check
from simvtp.data.loading.augment import (
    ATTEMPTS,
    BOX_UNIFORMS,
    ERASED_AREA,
    ERASED_ASPECT,
    PER_OPERATION,
    Augment,
    DrawUniforms,
    erased_box,
)
from simvtp.data.loading.frame_operations import GREY, OPERATIONS, Chosen, apply
from simvtp.data.loading.sample_order import uniforms
from simvtp.errors import ConfigError

many = settings(max_examples=60, deadline=None, derandomize=True)
PUBLISHED = Augment(operations=4, magnitude=7.0, spread=0.5, erasing=0.25)
ALWAYS = Augment(operations=4, erasing=1.0)

# Ours, timm's, and whether timm's argument has a direction
NAMES = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}
IDENTITY_AT_ZERO = set(NAMES) - {"autocontrast", "equalize", "invert", "posterize"}
DIRECTED = {
    "rotate",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth and dull, so that each operation has something to change."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 20, (height, width, 3))
    return (
        np.stack(
            [60 + 90 * y / height, 40 + 150 * x / width, 90 + 60 * (x + y) / (height + width)], -1
        )
        + noise
    ).astype(np.uint8)


def moving(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.stack([picture(height, width, seed + t) for t in range(frames)])


def drawn(number: int, seed: int = 0) -> DrawUniforms:
    return lambda count, purpose: uniforms(seed, "finetune", number, count, purpose)


# ---- operations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0.0, 1.3, 6.8, 9.9])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_an_operation_does_what_timms_does(
    name: str, magnitude: float, sign: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.9 if sign < 0 else 0.1)  # timm's sign
    frame = picture(24, 36)
    convert = LEVEL_TO_ARG[NAMES[name]]
    arguments = convert(magnitude, {}) if convert else ()
    expected = NAME_TO_OP[NAMES[name]](
        Image.fromarray(frame), *arguments, resample=Image.Resampling.BICUBIC, fillcolor=GREY
    )
    found = apply(frame[None], [Chosen(name, magnitude, sign)])
    assert np.array_equal(found[0], np.asarray(expected))


def test_all_of_timms_growing_operations_are_there() -> None:
    from timm.data import auto_augment

    assert sorted(NAMES.values()) == sorted(auto_augment._RAND_INCREASING_TRANSFORMS) and list(
        NAMES
    ) == list(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_magnitude_zero_changes_nothing_where_there_is_a_magnitude(name: str, sign: float) -> None:
    clip = moving(2, 20, 28)
    same = np.array_equal(apply(clip, [Chosen(name, 0.0, sign)]), clip)
    assert same == (name in IDENTITY_AT_ZERO)
    assert not np.array_equal(apply(clip, [Chosen(name, 7.0, sign)]), clip)


@pytest.mark.parametrize("name", sorted(DIRECTED))
def test_signs_are_different_directions(name: str) -> None:
    clip = moving(1, 20, 28)
    assert not np.array_equal(
        apply(clip, [Chosen(name, 7.0, -1.0)]), apply(clip, [Chosen(name, 7.0, 1.0)])
    )


@given(
    frames=st.integers(1, 4),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    number=st.integers(0, 10**6),
    operations=st.integers(0, 6),
    magnitude=st.floats(0, 10),
    spread=st.floats(0, 3),
    erasing=st.floats(0, 1),
)
@many
def test_shape_and_kind_stay_and_equal_frames_stay_equal(
    frames: int,
    height: int,
    width: int,
    number: int,
    operations: int,
    magnitude: float,
    spread: float,
    erasing: float,
) -> None:
    augment = Augment(operations, magnitude, spread, erasing)
    clip = np.repeat(picture(height, width, number)[None], frames, 0)
    clip.flags.writeable = False  # as in the cache of decoded frames
    for made in (augment.before_crop(clip, drawn(number)), augment.after_crop(clip, drawn(number))):
        assert made.shape == clip.shape and made.dtype == np.uint8
        assert all(np.array_equal(frame, made[0]) for frame in made)


@given(number=st.integers(0, 10**6))
@many
def test_each_frame_is_treated_as_if_it_were_alone(number: int) -> None:
    """Of a moving clip all frames get the same operations, and none sees another."""
    clip = moving(4, 24, 32, number)
    for part in (ALWAYS.before_crop, ALWAYS.after_crop):
        together = part(clip, drawn(number))
        assert np.array_equal(
            together, np.concatenate([part(frame[None], drawn(number)) for frame in clip])
        )


def test_draws_are_those_of_the_published_setting() -> None:
    chosen = [
        PUBLISHED.choose(uniforms(1, "finetune", number, 4 * PER_OPERATION, "rand_augment"))
        for number in range(4000)
    ]
    several = [operation for one in chosen for operation in one]
    assert abs(len(several) / (4 * 4000) - 0.5) < 0.02 and {len(one) for one in chosen} == {
        0,
        1,
        2,
        3,
        4,
    }
    counts = [sum(operation.name == name for operation in several) for name in OPERATIONS]
    assert max(counts) < 1.25 * min(counts)
    magnitudes = np.array([operation.magnitude for operation in several])
    assert abs(magnitudes.mean() - 7) < 0.03 and abs(magnitudes.std() - 0.5) < 0.02
    assert abs(np.mean([operation.sign for operation in several])) < 0.05
    wide = Augment(4, 9.5, 4.0).choose(uniforms(1, "", 0, 4 * PER_OPERATION))
    assert all(0 <= operation.magnitude <= 10 for operation in wide)


# ---- erasing -------------------------------------------------------------------------------------


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**31))
@many
def test_an_erased_box_lies_inside_and_has_its_area_and_aspect(
    height: int, width: int, seed: int
) -> None:
    box = erased_box(height, width, 1.0, np.random.default_rng(seed).random(BOX_UNIFORMS))
    if box is None:
        assert min(height, width) < 8 or max(height, width) > 2 * min(height, width)
        return
    top, left, h, w = box
    assert 0 <= top <= height - h and 0 <= left <= width - w and 0 < h < height and 0 < w < width
    smallest, largest = (share * height * width for share in ERASED_AREA)
    assert (h + 0.5) * (w + 0.5) >= smallest and (h - 0.5) * (w - 0.5) <= largest
    assert (h + 0.5) / (w - 0.5) >= ERASED_ASPECT[0] and (h - 0.5) / (w + 0.5) <= ERASED_ASPECT[1]


def test_erasing_happens_as_often_as_asked_and_anywhere() -> None:
    boxes = [
        erased_box(64, 64, 0.25, uniforms(0, "", number, BOX_UNIFORMS)) for number in range(4000)
    ]
    found = np.array([box for box in boxes if box is not None])
    assert abs(len(found) / 4000 - 0.25) < 0.02
    covered = np.zeros((64, 64))
    for top, left, h, w in found:
        covered[top : top + h, left : left + w] += 1
    assert (covered > 0).mean() > 0.99
    assert found[:, :2].min() == 0 and (found[:, :2] + found[:, 2:]).max() == 64
    area = found[:, 2] * found[:, 3] / 64**2
    assert abs(area.mean() - sum(ERASED_AREA) / 2) < 0.02
    assert all(
        erased_box(64, 64, 0.0, uniforms(0, "", number, BOX_UNIFORMS)) is None
        for number in range(20)
    )
    assert BOX_UNIFORMS == 3 + 2 * ATTEMPTS


def test_noise_is_in_the_box_only_and_is_normal_for_the_encoder() -> None:
    clip = np.zeros((3, 96, 96, 3), np.uint8)
    kept, changed = clip.copy(), 0
    for number in range(20):
        made = Augment(erasing=1.0).after_crop(clip, drawn(number))
        top, left, h, w = erased_box(
            96, 96, 1.0, drawn(number)(BOX_UNIFORMS, "random_erasing")
        ) or (0, 0, 0, 0)
        inside = made[:, top : top + h, left : left + w]
        changed += h * w
        assert np.count_nonzero(made) == np.count_nonzero(inside) > 0
        if h * w > 1000:
            assert (
                abs(inside.mean((0, 1, 2)) - (124, 116, 104)).max() < 8 and 45 < inside.std() < 62
            )
    assert changed and np.array_equal(clip, kept)  # the frames may belong to a cache


# ---- settings ------------------------------------------------------------------------------------


def test_only_released_augments_and_impossible_settings_are_refused() -> None:
    tuning = get_recipe("released").finetune
    assert (
        Augment(
            tuning.rand_augment, tuning.rand_magnitude, tuning.rand_spread, tuning.random_erasing
        )
        == PUBLISHED
    )
    for name in ("tiny", "base", "large", "huge"):
        assert (
            get_recipe(name).finetune.rand_augment,
            get_recipe(name).finetune.random_erasing,
        ) == (0, 0.0)
    for setting in (
        "rand_augment=-1",
        "rand_magnitude=11",
        "rand_spread=-0.1",
        "random_erasing=1.5",
        "flip=2",
    ):
        with pytest.raises(ConfigError, match=f"finetune.{setting.split('=')[0]}="):
            check(override(get_recipe("tiny"), [f"finetune.{setting}"]))
