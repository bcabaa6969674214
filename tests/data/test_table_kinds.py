"""Tables as spreadsheets and data frames write them: the right rows, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.data.benchmarks import annotation_files
from simvtp.data.datasets import open_dataset
from simvtp.data.manifest import assign_splits, read_manifest
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.write_shards import write_shards
from simvtp.errors import DataError
from tests.data.helpers import make_clips

HEADER = "videoid,path,caption\n"
ROWS = [f"v{i},talk{i}.mp4,a dog number {i}\n" for i in range(1, 7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for clip, row in zip(make_clips(tmp_path, 6), ROWS, strict=True):
        clip.path.rename(tmp_path / row.split(",")[1])
    return tmp_path


def write(folder: Path, text: str | bytes, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


REFUSED = {
    "a trailing comma": (
        HEADER + "".join(row.rstrip() + ",\n" for row in ROWS),
        "line 2: 4 fields where the header has 3",
    ),
    "a comma in the first caption": (
        HEADER + ROWS[0].rstrip() + ", running\n" + "".join(ROWS[1:]),
        "line 2: 4 fields",
    ),
    "a comma in the last caption": (
        HEADER + "".join(ROWS[:5]) + ROWS[5].rstrip() + ", running",
        "line 7: 4 fields",
    ),
    "a field too few": (HEADER + ROWS[0] + "v2,talk2.mp4\n", "line 3: 2 fields"),
    "a quote that is never closed": (
        HEADER + ROWS[0] + 'v2,talk2.mp4,"a cat\n' + "".join(ROWS[2:]),
        "line 3: a quote is opened and never closed",
    ),
    "a quote that swallows rows to the next one": (
        HEADER
        + 'v1,talk1.mp4,"a dog\n'
        + "".join(ROWS[1:3])
        + 'v4,talk4.mp4,says "moo\n'
        + ROWS[4],
        "lines 2 to 5: not well-formed",
    ),
    "a quote that swallows rows and ends well": (
        HEADER + 'v1,talk1.mp4,"a dog\n' + "".join(ROWS[1:3]) + 'v4,talk4.mp4,a hen"\n' + ROWS[4],
        "line 2: a quote that is opened here swallows line 3",
    ),
    "text of another encoding": (
        (HEADER + "v1,talk1.mp4,caf").encode() + b"\xe9\n",
        "line 2: not UTF-8 text",
    ),
    "NUL bytes in place of rows": (
        HEADER + ROWS[0] + "v2,talk2.mp4,a d" + "\0" * 30 + "g number 4\n" + ROWS[4],
        "line 3: NUL bytes where text belongs",
    ),
    "NUL bytes at the end": (HEADER + "".join(ROWS) + "\0" * 512, "line 8: NUL bytes"),
    "UTF-16 without a byte order mark": (
        (HEADER + "".join(ROWS)).encode("utf-16-le"),
        "line 1: NUL bytes",
    ),
    "a table of JSON": ('{"videoid": "v1", "path": "talk1.mp4"}\n', "is JSON, not a table"),
    "two columns of one name": ("videoid,path,caption,path\n", "two columns path"),
    "shifted columns": (
        "path,videoid,caption\n" + "".join(ROWS),
        r"no video of its column `path` exists; the first is .*v1 \(line 2\)",
    ),
    "no file at all": (
        HEADER + "a,nowhere.mp4,a dog\n",
        r"no video of its column `path` exists.*nowhere.mp4 \(line 2\)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_does_not_add_up_is_refused_with_its_line(kind: str, folder: Path) -> None:
    text, message = REFUSED[kind]
    path = write(folder, text)
    for read in (
        read_manifest,
        lambda path: check_manifest(path, workers=0, say=lambda line: None),
        lambda path: write_shards(path, folder / "out", workers=0, say=lambda line: None),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


READ = {
    "a byte order mark": b"\xef\xbb\xbf" + (HEADER + "".join(ROWS)).encode(),
    "UTF-16": (HEADER + "".join(ROWS)).encode("utf-16"),
    "semicolons": (HEADER + "".join(ROWS)).replace(",", ";").encode(),
    "tabs": (HEADER + "".join(ROWS)).replace(",", "\t").encode(),
    "lines of Windows": (HEADER + "".join(ROWS)).replace("\n", "\r\n").encode(),
    "empty rows": (HEADER + "\n" + "".join(ROWS) + ",,\n\n").encode(),
    "quoted fields": b'"videoid","path","caption"\n'
    + b"".join(b'"%s"\n' % row.strip().replace(",", '","').encode() for row in ROWS),
}


@pytest.mark.parametrize("kind", READ)
def test_habits_of_spreadsheets_are_read(kind: str, folder: Path) -> None:
    manifest = read_manifest(write(folder, READ[kind]))
    assert [clip.captions for clip in manifest.clips] == [
        (row.strip().split(",")[2],) for row in ROWS
    ]


def test_captions_may_hold_quotes_commas_and_lines(folder: Path) -> None:
    caption = 'He says "one, two,\nthree, four" and\n\ngoes, slowly'
    quoted = caption.replace('"', '""')
    path = write(folder, HEADER + f'v1,talk1.mp4,"{quoted}"\nv2,talk2.mp4,a 5" disk\n')
    first, second = read_manifest(path).clips
    assert first.captions == (caption,) and second.captions == ('a 5" disk',)


def test_files_of_benchmarks_are_read_as_strictly(tmp_path: Path) -> None:
    for text, message in (
        ('video_id,sentence\nv1,"a dog\nv2,a cat\nv3,a hen"\n', "swallows line 3"),
        ('video_id,sentence\nv1,"a dog\nv2,a cat\n', "line 2: a quote is opened and never closed"),
        ("video_id,sentence\nv1,a dog, running\n", "3 columns in line 2"),
    ):
        path = write(tmp_path, text)
        with pytest.raises(DataError, match=message):
            annotation_files.read_table(path, ["video_id", "sentence"])


def test_the_check_counts_rows_read_used_and_left_out(folder: Path) -> None:
    said: list[str] = []
    path = write(folder, HEADER + "".join(ROWS) + "v1,talk1.mp4,\nv2,talk2.mp4,nan\n" + ROWS[0] * 9)
    report = check_manifest(path, workers=0, say=said.append)
    assert "17 rows read, 15 used, 2 left out" in said
    assert "captions that say nothing: 'nan' 1" in said and not report.ok
    assert said[-1].endswith("1 rows without a caption, 1 captions that say nothing")


SILENT = (
    *("nan", "NaN", "None", "N/A", "null", "...", "🙂", "NaT", "NA", "<NA>", "NaN.", "'nan'"),
    *("[nan]", "nan nan", "(None)", "ｎａｎ", "nan\u200b", "\u200b\u200b", "\u3164"),
    *("#REF!", "#NAME?", "#DIV/0!", "#N/A"),
)


@pytest.mark.parametrize("text", SILENT)
def test_captions_that_say_nothing_are_left_out_and_many_are_refused(
    text: str, folder: Path
) -> None:
    path = write(folder, HEADER + "".join(ROWS) + f"v1,talk1.mp4,{text}\n")
    with pytest.raises(DataError, match=r"1 of 7 captions say nothing \(.* 1; the first in line 8"):
        read_manifest(path)
    manifest = read_manifest(path, max_placeholder_ratio=0.2)
    assert manifest.rows is not None and manifest.rows.placeholders == {text: 1}
    assert manifest.clips[0].captions == ("a dog number 1",)
    data = DataConfig(
        dataset="manifest",
        manifest=str(path),
        splits="0.4/0.3/0.3",
        max_placeholder_ratio=0.2,
    )
    said: list[str] = []
    open_dataset(data, RuntimeConfig(), say=said.append)
    assert "and 1 whose caption says nothing left out" in said[0]


@pytest.mark.parametrize(
    "text",
    ["a", "no", "7", "nan is a bread", "none of them", "a missing dog", "banana", "null, dog"],
)
def test_short_captions_are_kept(text: str, folder: Path) -> None:
    path = write(folder, HEADER + "".join(ROWS) + f'v1,talk1.mp4,"{text}"\n')
    assert text in read_manifest(path).clips[0].captions


def test_parquet_columns_that_are_no_text_are_refused(folder: Path) -> None:
    table = pd.DataFrame({"videoid": [1], "path": ["talk1.mp4"], "caption": [["one", "two"]]})
    table.to_parquet(folder / "clips.parquet")
    with pytest.raises(DataError, match="its column caption holds list"):
        read_manifest(folder / "clips.parquet")


def test_ids_in_two_unicode_forms_are_one_id(folder: Path) -> None:
    text = HEADER + "caf\u00e9,talk1.mp4,one\ncafe\u0301,talk1.mp4,two\n"
    assert [clip.captions for clip in read_manifest(write(folder, text)).clips] == [("one", "two")]


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "elsewhere").mkdir()
    path = write(folder / "elsewhere", HEADER + "a,~/talk1.mp4,one\n")
    assert read_manifest(path).clips[0].path == folder / "talk1.mp4"


# ---- one file, one split -------------------------------------------------------------------------


def test_parts_of_one_film_and_one_film_under_many_ids_are_in_one_split(folder: Path) -> None:
    header = "videoid,path,caption,start_s,end_s\n"
    parts = "".join(
        f"p{i}_{k},talk{i}.mp4,part {k},{k / 10},{k / 10 + 1}\n"
        for i in range(1, 7)
        for k in range(10)
    )
    others = "".join(f"q{k},./elsewhere/../talk1.mp4,the same,,\n" for k in range(20))
    (folder / "elsewhere").mkdir()
    clips = assign_splits(
        read_manifest(write(folder, header + parts + others)).clips, (0.4, 0.3, 0.3)
    )
    splits: dict[str, set[str]] = {}
    for clip in clips:
        splits.setdefault(clip.path.name, set()).add(clip.split)
    assert all(len(found) == 1 for found in splits.values())
    assert len({clip.split for clip in clips}) > 1


def test_files_in_several_official_splits_are_named_by_check_and_run(folder: Path) -> None:
    (folder / "copy.mp4").write_bytes((folder / "talk3.mp4").read_bytes())
    text = "videoid,path,caption,split\na,talk1.mp4,one,train\nb,talk1.mp4,two,test\n"
    text += "c,talk2.mp4,three,val\nd,talk3.mp4,four,train\ne,copy.mp4,five,val\n"
    path = write(folder, text)
    report = check_manifest(path, workers=0, say=lambda line: None)
    one, other = report.shared
    assert one == f"{folder}/talk1.mp4 (train, test)"
    assert other == f"{folder}/talk3.mp4 = {folder}/copy.mp4 (train, val)" and not report.ok
    assert report.same_content == (f"{folder}/talk3.mp4 = {folder}/copy.mp4",)
    data = DataConfig(dataset="manifest", manifest=str(path))
    (note,) = open_dataset(data, RuntimeConfig()).notes
    assert note == f"1 files are in several splits, the first is {folder}/talk1.mp4 (train, test)"
