"""Frame indices: inside the clip, in order, evenly spaced."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data.loading.sampling import (
    STILL,
    Window,
    eval_indices,
    middle_indices,
    part_indices,
    train_indices,
    window_length,
)

sizes = {"n": st.integers(1, 300), "frames": st.integers(1, 32), "stride": st.integers(1, 8)}
many = settings(max_examples=150, deadline=None, derandomize=True)


@given(**sizes, uniform=st.floats(0, 1, exclude_max=True))
@many
def test_train_windows_lie_inside_and_keep_the_stride(
    n: int, frames: int, stride: int, uniform: float
) -> None:
    indices = train_indices(n, frames, stride, uniform)
    assert indices.dtype == np.int64 and len(indices) == frames
    assert indices.min() >= 0 and indices.max() < n
    if n >= window_length(frames, stride):
        assert (np.diff(indices) == stride).all()
    else:
        assert (
            (np.diff(indices) >= 0).all()
            and indices[0] == 0
            and (frames == 1 or indices[-1] == n - 1)
        )
    assert np.array_equal(indices, train_indices(n, frames, stride, uniform))


@given(**sizes, segments=st.integers(1, 5))
@many
def test_eval_windows_are_evenly_placed_and_reach_both_ends(
    n: int, frames: int, stride: int, segments: int
) -> None:
    windows = np.stack([eval_indices(n, frames, stride, s, segments) for s in range(segments)])
    assert windows.min() >= 0 and windows.max() < n
    room = n - window_length(frames, stride)
    if room >= 0 and segments > 1:
        assert windows[0, 0] == 0 and windows[-1, -1] == n - 1
        assert np.ptp(np.diff(windows[:, 0])) <= 1
    elif room >= 0:
        left, right = windows[0, 0], n - 1 - windows[0, -1]
        assert right - left in (0, 1)


def test_every_start_is_as_likely() -> None:
    starts = [train_indices(20, 4, 4, u)[0] for u in (np.arange(8000) + 0.5) / 8000]
    assert np.bincount(starts).tolist() == [1000] * 8


def test_short_clips_are_stretched_and_a_single_frame_repeats() -> None:
    assert train_indices(4, 8, 4, 0.7).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert eval_indices(1, 4, 2, 1, 3).tolist() == [0, 0, 0, 0]


def test_a_still_is_the_middle_frame_whatever_the_window() -> None:
    for n, middle in ((1, 0), (2, 0), (9, 4), (16, 7)):
        for uniform in (0.0, 0.99):
            assert train_indices(n, 2, STILL, uniform).tolist() == [middle, middle]
        for segment in range(3):
            assert eval_indices(n, 2, STILL, segment, 3).tolist() == [middle, middle]


# ---- windows as released -------------------------------------------------------------------------


WINDOWS: tuple[Window, ...] = ("tight", "whole", "spread")


def videomae_window(n_frames: int, start: int, frames: int = 16, window: int = 64) -> list[int]:
    """The lines of VideoMAE's fine-tuning data set for one window."""
    end = start + window
    index = np.linspace(start, end, num=frames)
    return np.clip(index, start, end - 1).astype(np.int64).tolist()


@pytest.mark.parametrize("n", [64, 65, 100, 301])
def test_windows_of_released_have_64_frames(n: int) -> None:
    uniforms = (np.arange(20 * n) + 0.5) / (20 * n)
    pretraining = {tuple(train_indices(n, 16, 4, u, "whole").tolist()) for u in uniforms}
    assert pretraining == {tuple(range(start, start + 64, 4)) for start in range(n - 64 + 1)}
    finetuning = {tuple(train_indices(n, 16, 4, u, "spread").tolist()) for u in uniforms}
    assert finetuning == {tuple(videomae_window(n, start)) for start in range(n - 64 + 1)}
    assert train_indices(64, 16, 4, 0.5, "spread").tolist()[:5] == [0, 4, 8, 12, 17]


def test_clips_shorter_than_the_window_are_stretched_in_every_kind() -> None:
    for n in (1, 15, 60):
        rows = [train_indices(n, 16, 4, 0.3, window).tolist() for window in WINDOWS]
        assert rows[0] == rows[1] == rows[2] and max(rows[0]) == n - 1
    assert train_indices(62, 16, 4, 0.99).tolist() == list(range(1, 62, 4))
    assert train_indices(62, 16, 4, 0.99, "whole").tolist()[-1] == 61, "62 frames hold no window"


# ---- equal parts, as Frozen-in-Time --------------------------------------------------------------


def published_parts(n_frames: int, frames: int) -> list[tuple[int, int]]:
    """First and last frame of each part, by Frozen's rule."""
    borders = [int(n_frames * i / frames) for i in range(frames + 1)]
    return [(first, after - 1) for first, after in itertools.pairwise(borders)]


@pytest.mark.parametrize("frames", [1, 4, 7])
@pytest.mark.parametrize("n", [14, 64, 101])
def test_each_part_gives_one_frame_and_all_of_its_frames_equally_often(n: int, frames: int) -> None:
    parts = published_parts(n, frames)
    draws = np.random.default_rng(0).random((1500, frames))
    chosen = np.stack([part_indices(n, row) for row in draws])
    for column, (first, last) in zip(chosen.T, parts, strict=True):
        allowed = list(range(first, last))  # never the last one, as published
        values, counts = np.unique(column, return_counts=True)
        assert values.tolist() == allowed
        expected = 1500 / len(allowed)
        assert float(((counts - expected) ** 2 / expected).sum()) < 2 * len(allowed) + 30
    middle = [(first + last) // 2 for first, last in parts]
    assert middle_indices(n, frames, 0, 1).tolist() == middle


@pytest.mark.parametrize("n", range(1, 12))
def test_parts_of_short_clips_stay_inside(n: int) -> None:
    for frames in (1, 3, 8):
        rows = [part_indices(n, np.full(frames, u)) for u in (0.0, 0.5, 0.999)]
        rows += [middle_indices(n, frames, segment, 3) for segment in range(3)]
        for row in rows:
            assert len(row) == frames and row.min() >= 0 and row.max() < n
            assert (np.diff(row) >= 0).all()
