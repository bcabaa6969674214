"""A model leaves its run: a folder that is complete, a model card, and the hub's own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import simvtp
from simvtp.__main__ import main
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.data.datasets import open_dataset
from simvtp.data.text.tokenizer import load_saved_tokenizer, load_tokenizer
from simvtp.errors import CheckpointError, DamagedFile, UserError
from simvtp.evaluation.items import Items
from simvtp.experiment import run
from simvtp.library.export.exported_folder import ExportedSettings
from simvtp.library.export.model_card import UNKNOWN, RunFacts, interval, model_card
from simvtp.runs.results import Protocol, Result
from tests.hub_server import HubServer
from tests.import_graph import ROOT
from tests.small import small_experiment

TEXTS = ["a red star rises", "a blue ring falls"]
FILES = {"README.md", "config.json", "model.safetensors", "preprocessing.json", "vocab.txt"}
NAME = "someone/small-model"


@dataclass(frozen=True)
class Exported:
    """A finished run of retrieval, its results, the films of its test, and its export."""

    run_dir: Path
    results: list[Result]
    films: list[str]
    folder: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Exported:
    root = tmp_path_factory.mktemp("export")
    experiment = small_experiment(root / "runs", shapes_cache, "finetune.evaluations=1")
    results = run(experiment, say=str)
    test = open_dataset(experiment.data, experiment.runtime).splits["test"]
    folder = simvtp.export(experiment.run_dir, root / "model")
    return Exported(experiment.run_dir, results, [str(clip.path) for clip in test], folder)


def texts_in(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors"
    }


# ---- the folder ----------------------------------------------------------------------------------


def test_the_folder_gives_the_features_of_the_run(exported: Exported, tmp_path: Path) -> None:
    """A copy elsewhere, bit for bit: also frames and views, which are not the defaults."""
    moved = Path(shutil.copytree(exported.folder, tmp_path / "moved"))
    ours, theirs = simvtp.load(exported.run_dir), simvtp.load(moved)
    assert torch.equal(ours.encode_text(TEXTS), theirs.encode_text(TEXTS))
    films = exported.films[:3]
    assert torch.equal(ours.encode_video(films), theirs.encode_video(films))
    assert (theirs.training, theirs.experiment.data.stride) == (
        "finetune",
        ours.experiment.data.stride,
    )
    index = ours.index(films, say=str)
    assert theirs.search(TEXTS[0], index, k=3) == ours.search(TEXTS[0], index, k=3)
    assert set(texts_in(moved)) | {"model.safetensors"} >= FILES


def test_nothing_of_this_machine_is_in_the_folder(exported: Exported) -> None:
    for name, text in texts_in(exported.folder).items():
        assert "/tmp" not in text and str(Path.home()) + "/" not in text, name
        assert str(exported.run_dir.parent) not in text, name


def test_transformers_reads_the_tokenizer(exported: Exported) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(exported.folder, local_files_only=True)
    ours = simvtp.load(exported.folder).tokenizer
    for text in (*TEXTS, "Don't, stop: ünïcode 12"):
        ids = ours.encode([text], 24)
        assert theirs(text)["input_ids"] == ids.input_ids[ids.attention_mask].tolist()


def test_the_card_has_the_figures_of_the_run(exported: Exported) -> None:
    card = (exported.folder / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in card.splitlines()
        if line.startswith("| retrieval")
    ]
    expected = [r for r in exported.results if r.protocol.setting == "finetuned"]
    assert len(rows) == sum(len(result.metrics) for result in expected)
    found = {row[0]: row for row in rows}
    for result in expected:
        for metric, value in result.metrics.items():
            row = found[f"retrieval {result.protocol.direction} {metric}"]
            assert (row[1], row[3]) == (f"{value:.4g}", f"{result.chance[metric]:.4g}")
            low, high = map(float, row[2].split(" to "))
            assert low <= value <= high
            assert "test, finetuned" in row[5] and "4 frames" in row[5]
    record = json.loads((exported.run_dir / "experiment.json").read_text())
    assert record["fingerprint"] in card
    assert f"| licence of the weights | {UNKNOWN} |" in card
    assert f"| GPUs | {UNKNOWN} |" in card or "NVIDIA" in card


def test_a_card_of_a_model_that_was_not_scored_says_so(exported: Exported, tmp_path: Path) -> None:
    shutil.copytree(exported.run_dir, tmp_path / "run")
    for name in ("results.json", "provenance.json"):
        (tmp_path / "run" / name).unlink()
    folder = simvtp.export(tmp_path / "run", tmp_path / "model", training="pretrain")
    card = (folder / "README.md").read_text()
    assert f"{UNKNOWN} (the run has measured none of these weights)" in card
    for name in ("commit of the code", "date", "processor"):
        assert f"| {name} | {UNKNOWN} |" in card
    ours, theirs = simvtp.load(exported.run_dir, training="pretrain"), simvtp.load(folder)
    assert theirs.training == "pretrain"
    assert torch.equal(ours.encode_text(TEXTS), theirs.encode_text(TEXTS))
    assert simvtp.from_pretrained(folder).objectives == ours.module.objectives


@pytest.mark.parametrize("recipe", ["tiny", "tiny_mac", "tiny_frozen"])
def test_a_card_of_settings_alone_names_what_is_known(recipe: str) -> None:
    experiment = override(get_recipe(recipe), ["finetune.init=/secret/run", "data.dataset=msvd"])
    card = model_card(ExportedSettings("finetune", experiment), "MAC", 1234, RunFacts())
    assert "/secret" not in card and "| weights that fine-tuning begins with | run |" in card
    unknown = ("videos", "batch, epochs, steps of pre-training", "CPU-hours", "date", "processor")
    for name in unknown:
        assert f"| {name} | {UNKNOWN} |" in card
    assert "| data set | msvd |" in card and "1,234 parameters" in card


def test_a_tokenizer_of_transformers_is_saved_and_read(exported: Exported, tmp_path: Path) -> None:
    theirs = load_tokenizer(str(exported.folder))  # by transformers
    folder = tmp_path / "saved"
    shutil.copytree(exported.folder, folder)
    theirs.save(folder)
    found = load_saved_tokenizer(folder, "a-name")
    assert found.name == "a-name" and found.vocab_size == theirs.vocab_size
    assert torch.equal(theirs.encode(TEXTS, 24).input_ids, found.encode(TEXTS, 24).input_ids)


@pytest.mark.parametrize(("clips", "captions"), [(40, 1), (40, 5), (12, 20)])
def test_the_interval_draws_clips_not_captions(clips: int, captions: int) -> None:
    """Of captions that share their clip's outcome the interval is that of the clips alone."""
    right = np.random.default_rng(clips).random(clips) < 0.5
    ids = tuple(f"c{clip}#{n}" for clip in range(clips) for n in range(captions))
    ranks = tuple(1.0 if right[clip] else 9.0 for clip in range(clips) for _ in range(captions))
    protocol = Protocol("retrieval", "d", "test", "finetuned", "t2v", 4, 1, 1, "pessimistic", 0, "")
    low, high = interval(Items(protocol, ids, {"rank": ranks}), "R1")
    assert (high - low) / 3.92 == pytest.approx(100 * right.std() / clips**0.5, rel=0.25)
    assert interval(None, "R1") is None
    assert interval(Items(protocol, ids, {"rank": ranks}), "mIoU") is None


def test_an_export_is_exported_again_with_its_card(exported: Exported, tmp_path: Path) -> None:
    again = simvtp.export(exported.folder, tmp_path / "again")
    assert texts_in(again) == texts_in(exported.folder)
    assert (again / "model.safetensors").read_bytes() == (
        exported.folder / "model.safetensors"
    ).read_bytes()


def test_what_cannot_be_is_refused_in_a_sentence(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="is a run directory: choose another folder"):
        simvtp.export(exported.run_dir, exported.run_dir)
    with pytest.raises(UserError, match="has the weights of 'finetune', not of 'pretrain'"):
        simvtp.load(exported.folder, training="pretrain")
    with pytest.raises(UserError, match="has a tokenizer of its own"):
        simvtp.load(exported.folder, tokenizer="builtin")
    with pytest.raises(UserError, match="revision=main is for names of the hub"):
        simvtp.load(exported.folder, revision="main")
    with pytest.raises(UserError, match="holds no exported model"):
        simvtp.push_to_hub(tmp_path, NAME)
    copy = Path(shutil.copytree(exported.folder, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(CheckpointError, match="damaged.*export the model again"):
        simvtp.load(copy)
    record = json.loads((copy / "preprocessing.json").read_text())
    (copy / "preprocessing.json").write_text(json.dumps({**record, "schema": 1}))
    with pytest.raises(CheckpointError, match="another version"):
        simvtp.load(copy)
    del record["experiment"]
    (copy / "preprocessing.json").write_text(json.dumps(record))
    with pytest.raises(DamagedFile, match="no settings of a model"):
        simvtp.load(copy)
    assert main(["export", str(exported.run_dir), str(tmp_path / "m"), "--private"]) == 2
    assert "--private is for --push" in capsys.readouterr().err


# ---- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.hub.tokens.add("hf_secret")
        yield server


def with_hub(
    address: str, home: Path, *words: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program whose hub is at `address`; huggingface_hub reads that when it is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {
        **kept,
        **{"HF_ENDPOINT": address, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
        **{"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more},
    }
    return subprocess.run(
        [sys.executable, *words],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


LOAD = """
import sys, simvtp
model = simvtp.load(sys.argv[1], revision=sys.argv[2])
print(model.encode_text(["a red star rises"]).sum().item(), model.source.name)
"""


@pytest.mark.slow
def test_a_model_goes_to_the_hub_and_comes_back(
    exported: Exported, hub: HubServer, tmp_path: Path
) -> None:
    """The client is huggingface_hub; afterwards the copy in its cache needs no hub."""
    home = tmp_path / "home"
    home.mkdir()
    export = ["-m", "simvtp", "export", str(exported.run_dir), str(tmp_path / "m"), "--push", NAME]
    done = with_hub(hub.address, home, *export)
    assert done.returncode == 2
    assert "nobody is logged in to the hub" in done.stderr and done.stderr.count("error:") == 1
    done = with_hub(hub.address, home, *export, "--private", HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.address}/{NAME}/commit/" in done.stdout
    [(first, files)] = hub.hub.repositories[NAME]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    assert hub.hub.private[NAME]
    hub.hub.commit(NAME, {"README.md": b"changed"})

    expected = simvtp.load(exported.run_dir).encode_text(["a red star rises"]).sum().item()
    newest = with_hub(hub.address, home, "-c", LOAD, NAME, "")
    assert newest.returncode == 0, newest.stderr
    total, commit = newest.stdout.split()
    assert float(total) == expected and commit == hub.hub.repositories[NAME][-1][0]
    older = with_hub(hub.address, home, "-c", LOAD, NAME, first)
    assert older.stdout.split() == [total, first]
    offline = with_hub("http://127.0.0.1:9", home, "-c", LOAD, NAME, "", HF_HUB_OFFLINE="1")
    assert offline.stdout == newest.stdout, offline.stderr


@pytest.mark.slow
def test_without_a_network_one_sentence_says_so(exported: Exported, tmp_path: Path) -> None:
    index = ["-m", "simvtp", "predict", NAME, exported.films[0]]
    done = with_hub("http://127.0.0.1:9", tmp_path, *index)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"'{NAME}' is not a local folder and cannot be downloaded from the hub" in line
    push = ["-m", "simvtp", "export", str(exported.run_dir), str(tmp_path / "m"), "--push", NAME]
    done = with_hub("http://127.0.0.1:9", tmp_path, *push, HF_TOKEN="hf_secret")
    assert done.returncode == 2
    assert f"is not uploaded to {NAME}: the hub cannot be reached or refuses it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_folder_comes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a folder `runs` here, runs/x is a path, and the hub is not asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(CheckpointError, match="there is no run or exported model 'runs/x'"):
        simvtp.load("runs/x")
