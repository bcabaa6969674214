"""Films whose container names another rate than their frames have, or that decord cannot open."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvtp.data.clips import Clip
from simvtp.data.video.readers import get_reader, probe, read_frames
from tests.data.compared_readers import READERS
from tests.data.numbered_films import FRAMES, film, numbers, with_empty_chunks
from tests.data.test_film_kinds import ALL, BFRAMES, loaded, sharded


def test_an_avi_that_names_another_rate_keeps_its_time(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4", "mpeg4", options=BFRAMES)
    path = with_empty_chunks(whole, tmp_path / "film.avi")
    for reader in READERS:
        info = probe(path, get_reader(reader))
        assert (info.frames, round(info.fps, 1)) == (FRAMES, 25.0), reader
    assert numbers(loaded(Clip("a", path, ("x",), start_s=0.4, end_s=0.8))) == list(range(10, 20))
    (tmp_path / "clips.csv").write_text("videoid,path,caption\na,film.avi,a film\n")
    (stored,) = sharded(tmp_path / "clips.csv", tmp_path / "out")
    assert numbers(stored) == ALL


def test_decord_has_a_stand_in_for_codecs_that_it_does_not_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "film.mp4", "libsvtav1", options={"preset": "12", "crf": "20"})
    with caplog.at_level("INFO"):
        info = probe(path, get_reader("decord"))
    assert numbers(read_frames(path, range(info.frames), get_reader("decord"))) == ALL
    assert "the default reader stands in" in caplog.text
