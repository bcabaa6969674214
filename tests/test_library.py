"""`import simvtp`: models that embed, index and search films, and experiments as a function."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import simvtp
from simvtp.__main__ import main
from simvtp.config.experiment_config import Experiment
from simvtp.data.clips import Clip
from simvtp.data.datasets import open_dataset
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.errors import CheckpointError, DamagedFile, DataError, UserError
from simvtp.evaluation.metrics import ranks_of_features
from simvtp.experiment import run
from simvtp.library.video_index import Film
from simvtp.runs.results import Result
from tests.import_graph import ROOT
from tests.small import small_experiment, small_settings

MODULES = (
    *("open_model", "run_experiment", "search_page", "search_picture", "video_index"),
    *("video_text_model", "prediction.open_predictor", "export.export_run"),
)
TEXT = "a red star rises"


@dataclass(frozen=True)
class Library:
    """A folder with a finished run (`runs/demo`) and films (`videos`)."""

    folder: Path
    experiment: Experiment
    results: list[Result]
    test: tuple[Clip, ...]

    @property
    def films(self) -> list[str]:
        return [str(clip.path) for clip in self.test]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Library:
    folder = tmp_path_factory.mktemp("library")
    experiment = small_experiment(folder / "all", shapes_cache)
    results = run(experiment, say=str)
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(experiment.run_dir)
    test = open_dataset(experiment.data, experiment.runtime).splits["test"]
    (folder / "videos").mkdir()
    for clip in test:
        shutil.copy(clip.path, folder / "videos")
    return Library(folder, experiment, results, test)


@pytest.fixture(autouse=True)
def _inside(library: Library, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(library.folder)
    yield
    for kept in ("videos.idx", "features.npz", "found.html", "found.gif"):
        Path(kept).unlink(missing_ok=True)


# ---- import --------------------------------------------------------------------------------------


def python(code: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *([str(code)] if isinstance(code, Path) else ["-c", code])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_import_is_fast_and_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time; began = time.process_time(); import simvtp; "
        "seconds = time.process_time() - began; dir(simvtp); "
        "print(seconds, [name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    seconds, loaded = python(code, tmp_path).stdout.split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.1


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(simvtp, name) is not None for name in simvtp.__all__)
    assert set(simvtp.__all__) <= set(dir(simvtp))
    assert sorted(simvtp.__all__) == sorted(set(simvtp.__all__))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = simvtp.lod


def names_in_scope(library: Library) -> dict[str, object]:
    short = ("pretrain.max_steps=1", "finetune.train.max_steps=1", "finetune.evaluations=1")
    cache = Path(library.experiment.runtime.cache)
    return {
        "simvtp": simvtp,
        "numpy": np,
        "films": library.films,
        "settings": small_settings(library.folder / "all", cache, *short),
    }


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_the_docstrings_hold(module: str, library: Library) -> None:
    scope = names_in_scope(library)
    found = doctest.DocTestFinder(exclude_empty=True).find(
        importlib.import_module(f"simvtp.library.{module}"), extraglobs=scope
    )
    examples = [test for test in found if test.examples]
    assert examples
    runner = doctest.DocTestRunner()
    for test in examples:
        said = io.StringIO()
        assert runner.run(test, out=said.write).failed == 0, said.getvalue()


def test_every_public_function_has_an_example() -> None:
    names = ("export", "load", "load_predictor", "run", "load_index", "write_search_page")
    without = [name for name in names if ">>>" not in (getattr(simvtp, name).__doc__ or "")]
    methods = ("encode_video", "encode_text", "index", "search", "predict")
    without += [m for m in methods if ">>>" not in getattr(simvtp.VideoTextModel, m).__doc__]
    assert not without


def test_the_blocks_of_the_page_run(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    scopes: list[dict[str, object]] = [{} for _ in blocks]
    for block, scope in zip(blocks, scopes, strict=True):
        exec(block, scope)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:-1]] == ["1", "2", "3"]
    assert lines[-1].startswith("cosine a ")
    assert scopes[1]["cosines"].shape == (1, 2)


# ---- features ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("training", "setting"), [("", "finetuned"), ("pretrain", "zero-shot")])
def test_features_give_the_ranks_of_the_run_s_own_test(
    library: Library, training: str, setting: str
) -> None:
    model = simvtp.load("demo", training=training)
    video = model.encode_video(library.films)
    captions = [caption for clip in library.test for caption in clip.captions]
    text = model.encode_text(captions)
    owners = torch.tensor([n for n, clip in enumerate(library.test) for _ in clip.captions])
    t2v, v2t = ranks_of_features(text, video, owners)
    measured = {
        result.protocol.direction: result.ranks
        for result in library.results
        if result.protocol.setting == setting
    }
    assert measured == {"t2v": tuple(t2v.tolist()), "v2t": tuple(v2t.tolist())}
    for features in (video, text):
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


def test_a_feature_is_the_same_however_the_clip_is_given(library: Library) -> None:
    """Bit for bit from memory; within rounding in batches of other clips."""
    model = simvtp.load("runs/demo")
    paths = library.films[:3]
    together = model.encode_video(paths)
    reader = get_reader("pyav")
    arrays = [
        read_frames(Path(path), range(probe(Path(path), reader).frames), reader) for path in paths
    ]
    assert torch.equal(model.encode_video(arrays), together)
    assert torch.equal(model.encode_video([torch.from_numpy(a) for a in arrays]), together)
    mixed = model.encode_video([paths[0], arrays[1], Path(paths[2])])
    torch.testing.assert_close(mixed, together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 17), (30, 33, 90), (9, 200, 20)])
def test_clips_of_any_length_and_size_have_a_feature(shape: tuple[int, int, int]) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    features = simvtp.load("runs/demo").encode_video([clip])
    assert features.shape == (1, 32) and bool(features.isfinite().all())


def test_an_exported_folder_gives_the_same_features(library: Library, tmp_path: Path) -> None:
    assert main(["convert", "runs/demo", str(tmp_path / "model")]) == 0
    ours, exported = simvtp.load("runs/demo"), simvtp.load(tmp_path / "model")
    assert torch.equal(ours.encode_text([TEXT]), exported.encode_text([TEXT]))
    assert len(exported.encode_video(library.films[:2])) == 2
    assert (ours.training, exported.training) == ("finetune", "")


def test_bad_input_is_refused_in_a_sentence(library: Library, tmp_path: Path) -> None:
    model = simvtp.load("runs/demo")
    assert model.encode_video([]).shape == model.encode_text([]).shape == (0, 32)
    with pytest.raises(DataError, match="give a list of texts"):
        model.encode_text(TEXT)
    with pytest.raises(DataError, match=r"uint8 \[T, H, W, 3\].*float32 \[2, 8, 8, 3\]"):
        model.encode_video([np.zeros((2, 8, 8, 3), np.float32)])
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"1 of 2 videos do not decode.*bad\.mp4"):
        model.encode_video([library.films[0], tmp_path / "bad.mp4"])
    with pytest.raises(CheckpointError, match="there is no run or exported model 'nothing'"):
        simvtp.load("nothing")
    with pytest.raises(CheckpointError, match="neither a run directory nor an exported model"):
        simvtp.load("videos")
    with pytest.raises(DataError, match="holds no film"):
        model.index("runs", say=str)


def test_a_run_without_features_or_without_an_end_is_refused(
    library: Library, shapes_cache: Path, tmp_path: Path
) -> None:
    experiment = small_experiment(
        tmp_path, shapes_cache, "finetune.task=qa", "pretrain.max_steps=1"
    )
    run(experiment, say=str, until="pretrain")
    with pytest.raises(UserError, match=r"not finished \(it is stopped\).*training='pretrain'"):
        simvtp.load(experiment.run_dir)
    with pytest.raises(UserError, match=r"task=qa\) give no features"):
        simvtp.load(experiment.run_dir, training="finetune")
    assert simvtp.load(experiment.run_dir, training="pretrain").training == "pretrain"
    with pytest.raises(CheckpointError, match="may be any of the runs"):
        (library.folder / "runs" / "demo2").symlink_to(experiment.run_dir)
        try:
            simvtp.load("dem")
        finally:
            (library.folder / "runs" / "demo2").unlink()


# ---- index and search ----------------------------------------------------------------------------


def test_a_search_compares_all_films_and_orders_ties_by_place(library: Library) -> None:
    model = simvtp.load("runs/demo")
    index = model.index("videos", say=str)
    scores = (index.features @ model.encode_text([TEXT])[0]).tolist()
    hits = model.search(TEXT, index, k=100)
    assert [hit.rank for hit in hits] == list(range(1, 9))
    expected = sorted(range(8), key=lambda n: (-scores[n], n))
    assert [hit.path for hit in hits] == [index.films[n].path for n in expected]
    assert all(Path(hit.path).is_file() for hit in hits)
    with pytest.raises(UserError, match="k=0"):
        model.search(TEXT, index, k=0)
    with pytest.raises(UserError, match="another model|not those of"):
        simvtp.load("runs/demo", training="pretrain").search(TEXT, index)


@pytest.mark.parametrize("k", [1, 3, 7, 50])
def test_the_nearest_of_many_are_those_of_a_full_sort(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    features = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    features[20:] = features[:20]  # every film has a twin
    films = tuple(Film(str(n), 0, 0) for n in range(40))
    index = simvtp.VideoIndex(films, features, "", "", "", {})
    hits = index.nearest(features[3], k)
    scores = torch.mv(features, features[3]).tolist()
    expected = sorted(range(40), key=lambda n: (-scores[n], n))[:k]
    assert [int(hit.path) for hit in hits] == expected
    assert [hit.score for hit in hits] == [scores[n] for n in expected]


def test_unreadable_films_are_counted_and_new_ones_are_added(
    library: Library, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    shutil.copytree("videos", films)
    (films / "bad.mp4").write_bytes(b"no film")
    model, lines = simvtp.load("runs/demo"), []
    index = model.index(films, save=tmp_path / "i", say=lines.append)
    assert len(index) == 8 and [Path(path).name for path in index.unreadable] == ["bad.mp4"]
    assert any("1 of 9 films cannot be read" in line for line in lines)
    again = model.index(films, save=tmp_path / "i", say=lines.append)
    assert torch.equal(again.features, index.features) and again.films == index.films
    assert "8 of 9 films are in the index already" in lines
    (films / "bad.mp4").unlink()
    one = sorted(films.iterdir())[0]
    one.rename(films / "zz.mp4")
    moved = model.index(films, save=tmp_path / "i", say=str)
    assert moved.unreadable == {} and Path(moved.films[-1].path).name == "zz.mp4"
    torch.testing.assert_close(moved.features[-1], index.features[0], rtol=0, atol=1e-6)
    kept = simvtp.load_index(tmp_path / "i")
    assert torch.equal(kept.features, moved.features) and kept.films == moved.films


def test_a_damaged_index_is_refused_and_made_again(library: Library, tmp_path: Path) -> None:
    model, file = simvtp.load("runs/demo"), tmp_path / "i"
    index = model.index("videos", save=file, say=str)
    whole = file.read_bytes()
    for place in (len(whole) - 3, whole.index(b"videos")):
        file.write_bytes(whole[:place] + b"\x07" + whole[place + 1 :])
        with pytest.raises(DamagedFile):
            model.search(TEXT, file)
        again = model.index("videos", save=file, say=str)
        assert torch.equal(again.features, index.features)
        assert simvtp.load_index(file).films == index.films


def test_an_index_goes_on_after_a_kill(library: Library, tmp_path: Path) -> None:
    """40 films are two blocks; the first is kept when SIGKILL ends the process."""
    films = sorted(library.test[0].path.parents[1].rglob("*.mp4"))
    assert len(films) == 40
    listed = tmp_path / "films.json"
    listed.write_text(json.dumps([str(film) for film in films]))
    code = f"""
import json, os, signal, simvtp, simvtp.library.build_index as build
build.throttled_progress = lambda say: lambda *report: os.kill(os.getpid(), signal.SIGKILL)
films = json.load(open({str(listed)!r}))
simvtp.load("runs/demo").index(films, save={str(tmp_path / "i")!r})
"""
    done = python(code, library.folder)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "i").exists()
    model, lines = simvtp.load("runs/demo"), []
    resumed = model.index(films, save=tmp_path / "i", say=lines.append)
    assert lines[0] == "32 of 40 films are in the index already"
    assert torch.equal(resumed.features, model.index(films, say=str).features)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films.json", "i"]


# ---- commands and scripts ------------------------------------------------------------------------


def test_the_commands_embed_index_and_search(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    films = library.films[:3]
    model = ["--model", "runs/demo"]
    assert main(["embed", *films, *model, "--out", "features.npz"]) == 0
    assert main(["embed", *films, *model, "--out", "features.safetensors"]) == 0
    stored = np.load("features.npz")
    assert stored["paths"].tolist() == films
    tensors = safetensors.torch.load_file("features.safetensors")
    assert np.array_equal(stored["features"], tensors["features"].numpy())
    assert main(["embed", *films, *model, "--out", "features.csv"]) == 2
    assert main(["index", "videos", *model, "--out", "videos.idx"]) == 0
    capsys.readouterr()
    assert main(["search", TEXT, "--index", "videos.idx", "-k", "3", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    expected = simvtp.load("runs/demo").search(TEXT, "videos.idx", k=3)
    assert hits == [vars(hit) for hit in expected]
    pictures = ["--html", "found.html", "--gif", "found.gif"]
    assert main(["search", TEXT, "--index", "videos.idx", "-k", "3", *pictures]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[:3]] == [
        hit.path for hit in expected
    ]
    with Image.open("found.gif") as picture:
        assert picture.n_frames > 1 and picture.info["loop"] == 0, "the films move"
    page = Path("found.html").read_text()
    assert re.findall(r'data-video="(.*?)"', page) == [hit.path for hit in expected]
    assert page.count("data:image/gif") == 3 and not re.search(r'(src|href)="http', page)
    assert main(["search", TEXT, "--index", "absent.idx"]) == 2
    assert "there is no index 'absent.idx'" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"simvtp {simvtp.__version__}\n"


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_once(library: Library, shapes_cache: Path) -> None:
    """Training and indexing, both with worker processes."""
    settings = small_settings(library.folder / "script", shapes_cache, "runtime.workers=1")
    short = ("pretrain.max_steps=1", "finetune.train.max_steps=1", "finetune.evaluations=1")
    script = library.folder / "script.py"
    script.write_text(
        "from pathlib import Path\nimport simvtp\nprint('begins')\n"
        f"results = simvtp.run('tiny', *{[*settings, *short]!r}, say=str)\n"
        "print(type(results[-1]).__name__, len(results))\n"
        "[folder] = [path.parent for path in Path('script').glob('*/results.json')]\n"
        "print(len(simvtp.load(folder).index('videos', say=str)))\n"
    )
    done = python(script, library.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "begins\nResult 4\n8\n"
