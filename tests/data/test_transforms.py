"""Crops: inside the frame, of the promised shapes; resizing keeps uint8."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data.video.transforms import (
    CROP_UNIFORMS,
    SCALES,
    center_box,
    crop_and_resize,
    eval_box,
    flip,
    multiscale_box,
    random_resized_box,
    read_side,
    resize,
    train_box,
)
from simvtp.errors import ConfigError

many = settings(max_examples=150, deadline=None, derandomize=True)


@given(
    height=st.integers(8, 400),
    width=st.integers(8, 400),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["multiscale", "center", "random_resized"]),
)
@many
def test_train_boxes_lie_inside(height: int, width: int, seed: int, kind: str) -> None:
    uniform = np.random.default_rng(seed).random(CROP_UNIFORMS)
    top, left, h, w = train_box(kind, height, width, uniform)
    assert top >= 0 and top + h <= height and left >= 0 and left + w <= width and h > 0 and w > 0
    assert train_box(kind, height, width, uniform.copy()) == (top, left, h, w)


@given(height=st.integers(8, 400), width=st.integers(8, 400), crops=st.integers(1, 5))
@many
def test_eval_boxes_cover_the_longer_side(height: int, width: int, crops: int) -> None:
    boxes = [eval_box(height, width, i, crops) for i in range(crops)]
    side = min(height, width)
    assert all(
        h == w == side and 0 <= top <= height - side and 0 <= left <= width - side
        for top, left, h, w in boxes
    )
    if crops > 1:
        assert boxes[0][:2] == (0, 0) and boxes[-1][:2] == (height - side, width - side)
    else:
        assert boxes == [center_box(height, width)]


def test_multiscale_takes_neighbouring_scales_equally_often() -> None:
    rng = np.random.default_rng(0)
    boxes = [multiscale_box(100, 160, rng.random(2)) for _ in range(5000)]
    sides = {round(100 * s) for s in SCALES}
    counts: dict[tuple[int, int], int] = {}
    for _, _, h, w in boxes:
        assert h in sides and w in sides
        counts[h, w] = counts.get((h, w), 0) + 1
    assert (
        len(counts) == 10
        and (100, 75) not in counts
        and max(counts.values()) < 1.35 * min(counts.values())
    )
    assert len({box[:2] for box in boxes if box[2:] == (66, 66)}) == 13


def test_random_resized_has_the_published_area_and_aspect() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_box(240, 320, rng.random(CROP_UNIFORMS)) for _ in range(2000)])
    area, aspect = boxes[:, 2] * boxes[:, 3] / (240 * 320), boxes[:, 3] / boxes[:, 2]
    assert area.min() > 0.07 and area.max() <= 1 and 0.35 < area.mean() < 0.6
    assert aspect.min() > 0.73 and aspect.max() < 1.36


@pytest.mark.parametrize("smallest", [0.5, 0.2, 1.0])
def test_random_resized_keeps_to_its_smallest_area(smallest: float) -> None:
    """Square frames, as torchvision's RandomResizedCrop(scale=(smallest, 1)) draws them."""
    uniform = np.random.default_rng(1).random((4000, CROP_UNIFORMS))
    boxes = np.array([train_box("random_resized", 400, 400, row, smallest) for row in uniform])
    area = boxes[:, 2] * boxes[:, 3] / 400**2
    assert area.min() >= smallest - 0.005 and area.max() <= 1
    expected = [u for row in uniform for u in area_of_first_fit(row, smallest)]
    assert area.mean() == pytest.approx(np.mean(expected), abs=0.003)


def area_of_first_fit(uniform: np.ndarray, smallest: float) -> list[float]:
    """The area that is drawn first with an aspect that fits into a square; 1 without any."""
    for u_area, u_aspect in uniform[2:22].reshape(-1, 2):
        area, aspect = smallest + (1 - smallest) * u_area, 0.75 * (16 / 9) ** u_aspect
        if area * max(aspect, 1 / aspect) <= 1:
            return [area]
    return [1.0]


def test_resizing_keeps_the_mean_and_flipping_twice_changes_nothing() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    small = resize(clip, 20, 30)
    assert small.dtype == np.uint8 and small.shape == (3, 20, 30, 3)
    assert abs(small.mean() - clip.mean()) < 1 and small.std() < clip.std()
    assert resize(clip, 40, 60) is clip
    assert np.array_equal(flip(flip(clip)), clip) and not np.array_equal(flip(clip), clip)
    assert np.array_equal(crop_and_resize(clip, (2, 3, 16, 16), 16), clip[:, 2:18, 3:19])


def test_read_side_and_unknown_crop() -> None:
    assert (read_side(224, "multiscale"), read_side(224, "center")) == (256, 224)
    with pytest.raises(ConfigError, match="train_crop=zoom"):
        train_box("zoom", 10, 10, np.zeros(CROP_UNIFORMS))
