"""Columns of a manifest are what a plain reader gives, whole on disk, and small in memory."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data.clips import Clip, ClipView, Manifest, SharedInts
from simvtp.data.manifest import (
    assign_splits,
    by_split,
    content_digest,
    files_in_several_splits,
    manifest_reader,
    take_fraction,
)
from simvtp.data.manifest.build_columns import BuildOptions
from simvtp.data.manifest.equal_keys import first_equal
from simvtp.data.manifest.manifest_reader import columns_in_cache, columns_in_memory, read_manifest
from simvtp.errors import DataError, UserError
from tests.reference.plain_manifest import read_plainly

COLUMNS = ("videoid", "path", "caption", "split", "start_s", "end_s")
# Few of each, so that rows repeat and contradict one another; é in two forms.
IDS = ("a", "b", "c", "\u00e9", "e\u0301", "d" * 70, "")
PATHS = ("a.mp4", "./a.mp4", "x/../b.mp4", "b.mp4", "x//c.mp4", "~/a.mp4", "/none/d.mp4", "")
CAPTIONS = ("a dog", 'says "moo", twice', "two\nlines", "", "nan", "...", "\u202bשלום", "🙂 x")
SPLITS = ("train", "val", "test", "dev")
SECONDS = ("", "0", "1.5", "3", "-1", "nan", "inf", "soon")


def picked(values: Sequence[str], rare: int) -> st.SearchStrategy[str]:
    """Draws one of the values, of which the last `rare` are faults and drawn seldom."""
    common = st.sampled_from(values[: len(values) - rare])
    return st.integers(0, 40).flatmap(lambda n: st.sampled_from(values) if n == 0 else common)


ROWS = st.lists(
    st.tuples(
        picked(IDS, 1),
        picked(PATHS, 1),
        st.sampled_from(CAPTIONS),
        picked(SPLITS, 1),
        picked(SECONDS[:3] + SECONDS[3:], 4),
        picked(SECONDS, 4),
    ),
    max_size=25,
)


def write_table(path: Path, rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([row[: len(columns)] for row in rows])
    path.write_text(text.getvalue(), encoding="utf-8")


def outcome(read: Callable[[], Manifest]) -> object:
    """Returns a manifest with its clips as a tuple, or what was refused and why."""
    try:
        manifest = read()
    except DataError as error:
        return str(error)
    return replace(manifest, clips=tuple(manifest.clips), shared=None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the videos of most paths; home and cache are in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    for place in ("a.mp4", "b.mp4", "x/c.mp4", "home/a.mp4"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    return tmp_path


@given(
    rows=ROWS,
    width=st.sampled_from((3, 4, 6)),
    same_place=st.booleans(),
    collect=st.booleans(),
    ratio=st.sampled_from((0.1, 1.0)),
    block=st.sampled_from((1, 3, 4096)),
    hashes=st.sampled_from((1, 2, 2**61)),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_columns_hold_what_a_plain_reader_gives(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, ...]],
    width: int,
    same_place: bool,
    collect: bool,
    ratio: float,
    block: int,
    hashes: int,
) -> None:
    """Any number of rows in a block; hashes that are all equal, or often, or never by chance."""
    folder = tmp_path_factory.getbasetemp() / "plain"
    (folder / "x").mkdir(parents=True, exist_ok=True)
    for place in ("a.mp4", "b.mp4", "x/c.mp4"):
        (folder / place).touch()
    if same_place:  # else most ids contradict themselves
        rows = [(row[0], PATHS[IDS.index(row[0]) % 3], row[2], "val", "1", "3") for row in rows]
    path = folder / "clips.csv"
    write_table(path, rows, COLUMNS[:width])
    options = BuildOptions(hash_text=lambda text: hash(text) % hashes, block_rows=block)

    def by_columns() -> Manifest:
        clips, facts = columns_in_memory(path, options)
        facts.judge(f"manifest {path}", clips, collect, ratio)
        assert facts.shared == () or facts.shared_files == len(files_in_several_splits(clips))
        counted = facts.table_rows
        manifest = Manifest(path, clips, facts.has_splits, facts.empty, facts.uncaptioned)
        return replace(manifest, conflicts=facts.conflicts, rows=counted)

    expected = outcome(lambda: read_plainly(path, collect, ratio))
    assert outcome(by_columns) == expected
    assert outcome(lambda: read_manifest(path, collect, ratio)) == expected
    if isinstance(expected, Manifest) and not expected.has_splits:
        check_splits(read_manifest(path, collect, ratio).clips, list(expected.clips))


def check_splits(view: Sequence[Clip], plain: list[Clip]) -> None:
    """Compares splits, fractions and slices of a view with those of a list of the same clips."""
    assert isinstance(view, ClipView)
    for ratios in ((0.8, 0.1, 0.1), (0.2, 0.5, 0.3)):
        assigned, expected = assign_splits(view, ratios), assign_splits(plain, ratios)
        assert isinstance(assigned, ClipView) and assigned == expected
        parts, wanted = by_split(assigned), by_split(expected)
        assert list(parts) == list(wanted) == ["train", "val", "test"]
        for name, part in parts.items():
            assert part == wanted[name]
            assert take_fraction(part, 0.4) == take_fraction(wanted[name], 0.4)
            assert take_fraction(part, 0.4, 7) == take_fraction(wanted[name], 0.4, 7)
    assert view[::-2] == plain[::-2] and view[1:3][:1] == plain[1:3][:1]
    assert view[-1] == plain[-1] and [*view.ids()] == [clip.id for clip in plain]
    others = np.roll(np.arange(len(plain)), 1)
    swapped = view.with_captions_of(others)[1:]
    assert [clip.captions for clip in swapped] == [plain[i].captions for i in others[1:]]
    assert [clip.path for clip in swapped] == [clip.path for clip in plain[1:]]
    with pytest.raises(IndexError):
        view[len(plain)]


@given(texts=st.lists(st.text(max_size=3)), hashes=st.sampled_from((1, 2, 5, 2**61)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equal_texts_are_found_whatever_their_hashes(texts: list[str], hashes: int) -> None:
    keys = np.array([hash(text) % hashes for text in texts], np.int64)
    first = first_equal(keys, texts.__getitem__)
    expected = [texts.index(text) for text in texts]
    assert (list(range(len(texts))) if first is None else first.tolist()) == expected


def large(folder: Path, rows: int = 300, captions: int = 2) -> Path:
    """A manifest that counts as large."""
    path = folder / "clips.csv"
    lines = [
        (f"v{n}", "a.mp4" if n % 7 else f"x/{n}.mp4", f"caption {n} {k}")
        for k in range(captions)
        for n in range(rows)
    ]
    write_table(path, lines, COLUMNS[:3])
    return path


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every table count as large."""
    monkeypatch.setattr(manifest_reader, "SMALL_BYTES", 0)


@pytest.mark.usefixtures("small_limit")
def test_columns_are_built_once_and_again_after_a_change(folder: Path) -> None:
    path = large(folder)
    first = read_manifest(path)
    assert first.clips == read_plainly(path).clips
    (columns,) = (folder / "cache" / "manifests").glob("*.arrow")
    built = columns.stat().st_mtime_ns
    assert read_manifest(path).clips == first.clips
    assert columns.stat().st_mtime_ns == built, "opened, not built"
    text = path.read_text().replace("caption 5 0", "caption X 0")  # as many bytes, and at once
    path.write_text(text)
    again = read_manifest(path)
    assert again.clips == read_plainly(path).clips and again.clips != first.clips
    assert first.clips[5].captions == ("caption 5 0", "caption 5 1"), "whoever has it keeps it"
    assert sorted(file.suffix for file in columns.parent.iterdir() if file.name[0] == ".") == []


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("damage", ["flip", "cut", "note", "no note", "longer", "empty"])
def test_damaged_columns_are_built_again(folder: Path, damage: str) -> None:
    path = large(folder)
    expected = read_plainly(path).clips
    read_manifest(path)
    (columns,) = (folder / "cache" / "manifests").glob("*.arrow")
    note, whole = columns.with_suffix(".json"), columns.read_bytes()
    middle = len(whole) // 2
    if damage == "flip":
        columns.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage in ("cut", "longer", "empty"):
        columns.write_bytes({"cut": whole[:-9], "longer": whole + b"\0", "empty": b""}[damage])
    elif damage == "note":
        note.write_text(note.read_text().replace('\\"rows\\": 300', '\\"rows\\": 299', 1))
    else:
        note.unlink()
    assert read_manifest(path).clips == expected
    assert columns.read_bytes() == whole


@pytest.mark.usefixtures("small_limit")
def test_a_flipped_bit_that_nobody_noticed_is_no_other_caption(folder: Path) -> None:
    """The disk changed under a file that was proven: noticed when the block is looked at."""
    path = large(folder)
    read_manifest(path)
    (columns,) = (folder / "cache" / "manifests").glob("*.arrow")
    note = json.loads(columns.with_suffix(".json").read_text())
    content = columns.read_bytes()
    place = content.index(b"caption 7 1")
    columns.write_bytes(content[:place] + b"C" + content[place + 1 :])
    stat = columns.stat()
    changed = json.loads(note["content"])
    changed["state"] |= {"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
    text = json.dumps(changed)
    sha = hashlib.sha256(text.encode()).hexdigest()
    columns.with_suffix(".json").write_text(json.dumps({"sha256": sha, "content": text}))
    with pytest.raises(DataError, match=r"\.arrow is damaged .*run the command again"):
        list(read_manifest(path).clips)


@pytest.mark.usefixtures("small_limit")
def test_two_that_build_at_once_do_no_harm(folder: Path) -> None:
    path = large(folder)
    found: list[Manifest] = []
    threads = [threading.Thread(target=lambda: found.append(read_manifest(path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = read_plainly(path).clips
    assert len(found) == 3 and all(manifest.clips == expected for manifest in found)


@pytest.mark.usefixtures("small_limit")
def test_a_table_that_is_refused_leaves_nothing_and_a_folder_in_the_way_is_named(
    folder: Path,
) -> None:
    path = large(folder)
    path.write_text(path.read_text() + "v1,a.mp4,one,too many\n")
    with pytest.raises(DataError, match="line 602: 4 fields where the header has 3"):
        read_manifest(path)
    cache = folder / "cache" / "manifests"
    assert all(file.suffix == ".lock" for file in cache.iterdir())
    (folder / "file").touch()
    with pytest.raises(UserError, match="cannot keep the columns of a manifest in .*/file/man"):
        read_manifest(large(folder), cache=folder / "file")


def test_the_digest_of_a_large_file_is_remembered_until_it_changes(folder: Path) -> None:
    path = folder / "big.csv"
    path.write_bytes(bytes(range(256)) * 20_000)
    old = path.stat().st_mtime - 100
    os.utime(path, (old, old))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert content_digest(path) == content_digest(path) == expected
    content = b"x" + path.read_bytes()[1:]
    path.write_bytes(content)
    os.utime(path, (old, old))  # the same size and time as before
    assert content_digest(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        content_digest(folder / "none.csv")


def test_a_pickled_view_of_a_file_holds_none_of_its_rows(folder: Path) -> None:
    path = large(folder, 4000)
    clips, _ = columns_in_cache(path, folder / "cache", BuildOptions())
    content = pickle.dumps(clips)
    assert len(content) < 1000
    assert pickle.loads(content) == clips


def test_rows_take_four_bytes_each_in_shared_memory() -> None:
    numbers = SharedInts(np.arange(5, 0, -1))
    assert numbers.array.tolist() == [5, 4, 3, 2, 1] and numbers.array.itemsize == 4
    assert SharedInts(np.array([2**31])).array.itemsize == 8
    assert len(SharedInts(np.empty(0, np.int64))) == 0


def test_a_process_keeps_nothing_of_the_blocks_that_it_has_read(folder: Path) -> None:
    """Of 800 blocks the open columns would be some hundred KB."""
    path = large(folder, 1600)
    clips, _ = columns_in_cache(path, folder / "cache", BuildOptions(block_rows=2))
    expected = [clip.id for clip in clips[:40]]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(len(clips)):
        clips.path(number)
        clips.part(number)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 50_000
    assert [clip.id for clip in clips[:40]] == expected
