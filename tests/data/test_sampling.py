"""Frame indices: inside the clip, in order, evenly spaced."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data.loading.sampling import STILL, eval_indices, train_indices, window_length

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
