"""A model of a run answers about films as its own test does, from Python and from the terminal."""

from __future__ import annotations

import doctest
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import simvtp
import simvtp.library.prediction.task_model
from simvtp.__main__ import main
from simvtp.config.experiment_config import Experiment
from simvtp.data.datasets import open_dataset
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.errors import DataError, UserError
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.experiment import run
from simvtp.methods.exported_model import from_pretrained
from simvtp.tasks import open_task
from tests.small import small_experiment
from tests.tasks.task_helpers import context_of, downstream, silent

SHORT = ("finetune.train.max_steps=1", "evaluate.segments=2", "evaluate.crops=1")
KINDS = {
    "open": ("finetune.task=qa",),
    "choice": ("finetune.task=qa", "finetune.task.questions=choice"),
    "count": ("finetune.task=qa", "finetune.task.questions=count"),
    "captions": ("finetune.task=choice", "finetune.task.candidates=3"),
    "action": ("finetune.task=action", "evaluate.view_merging=softmax"),
    "grounding": ("finetune.task=grounding", "finetune.task.segments=4"),
}
COLOUR = "what color is the ring ?"


@dataclass(frozen=True)
class Answering:
    """A finished run, its model, and what its own test has scored."""

    kind: str
    experiment: Experiment
    run_dir: Path
    model: simvtp.TaskModel
    scored: Scored

    @property
    def films(self) -> list[str]:
        """Film of each item of the test."""
        task = open_task(context_of(self.experiment))
        videos = getattr(task, "videos", None)
        paths = videos or {clip.id: clip.path for clip in task.clips["test"]}
        return [str(paths[name]) for name in self.scored.predictions.queries.videos]


@pytest.fixture(scope="module", params=list(KINDS))
def answering(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shapes_cache: Path,
    pretrained: Path,
) -> Answering:
    root = tmp_path_factory.mktemp(request.param)
    experiment = downstream(root, shapes_cache, pretrained, *KINDS[request.param], *SHORT)
    run_dir = finished(experiment)
    model = simvtp.load_predictor(run_dir)
    assert isinstance(model, simvtp.TaskModel)
    task = open_task(context_of(experiment))
    module = from_pretrained(run_dir, "finetune")
    [scored] = task.score(module, "test", "finetuned", "")
    return Answering(request.param, experiment, run_dir, model, scored)


def finished(experiment: Experiment) -> Path:
    """Runs an experiment and returns its run directory."""
    run(experiment, say=silent)
    [results] = Path(experiment.runtime.root).glob("*/results.json")
    return results.parent


def question_of(kind: str, text: str = COLOUR) -> str:
    return text if kind in ("open", "choice", "count", "grounding") else ""


def choices_of(kind: str) -> tuple[str, ...]:
    return ("red", "blue", "green") if kind in ("choice", "captions") else ()


def test_answers_are_those_of_the_run_s_own_test(answering: Answering) -> None:
    kind, expected = answering.kind, answering.scored.predictions
    films, texts = answering.films, list(expected.queries.texts)
    if kind in ("choice", "captions"):  # each item has candidates of its own
        for number, film in enumerate(films[:4]):
            names = expected.candidates.names[number]
            asked = question_of(kind, texts[number])
            [found] = answering.model.predict([film], asked, names, k=100)
            scores = dict(zip(names, expected.scores[number].softmax(0).tolist(), strict=False))
            assert {a.text: a.score for a in found.answers} == pytest.approx(scores, abs=1e-5)
        return
    found = answering.model.predict(films, texts if texts[0] else "", k=100)
    assert [one.video for one in found] == films
    for number, one in enumerate(found):
        scores = [answer.score for answer in one.answers]
        assert one.measure == "count" or scores == sorted(scores, reverse=True)
        if kind == "grounding":
            spans, overlaps = expected.predictions[number]
            np.testing.assert_allclose([a.span_s for a in one.answers], spans, atol=1e-4)
            np.testing.assert_allclose(scores, overlaps, atol=1e-5)
        elif kind == "count":
            assert scores == pytest.approx([float(expected.predicted[number])], abs=1e-4)
            assert one.answers[0].text == str(int(expected.rounded[number]))
        else:
            names = expected.candidates.names[number]
            likely = expected.scores[number].softmax(0).tolist()
            wanted = dict(zip(names, likely, strict=True))
            assert {a.text: a.score for a in one.answers} == pytest.approx(wanted, abs=1e-5)
            assert sum(scores) == pytest.approx(1, abs=1e-6)


def test_arrays_are_answered_as_films_are(answering: Answering) -> None:
    model, kind = answering.model, answering.kind
    films = list(dict.fromkeys(answering.films))[:3]
    reader = get_reader("pyav")
    arrays = [
        read_frames(Path(film), range(probe(Path(film), reader).frames), reader) for film in films
    ]
    mixed = [films[0], torch.from_numpy(arrays[1]), Path(films[2])]
    asked = {"question": question_of(kind), "choices": choices_of(kind)}
    if kind == "grounding":
        with pytest.raises(DataError, match="clip 1 does not say its frames per second"):
            model.predict(mixed, **asked)
        return
    ours, theirs = model.predict(mixed, **asked), model.predict(films, **asked)
    assert [one.video for one in ours] == [films[0], "clip 1", films[2]]
    for one, other in zip(ours, theirs, strict=True):
        assert [a.text for a in one.answers] == [a.text for a in other.answers]
        assert [a.score for a in one.answers] == pytest.approx(
            [a.score for a in other.answers], abs=1e-5
        )


def test_an_exported_model_answers_alike_without_the_data(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "nothing"))
    folder = simvtp.export(answering.run_dir, tmp_path / "model")
    model = simvtp.load_predictor(folder)
    assert isinstance(model, simvtp.TaskModel) and model.outputs == answering.model.outputs
    assert model.experiment.runtime.cache == ""
    films, kind = answering.films[:2], answering.kind
    asked = {"question": question_of(kind), "choices": choices_of(kind)}
    assert model.predict(films, **asked) == answering.model.predict(films, **asked)
    with pytest.raises(UserError, match=r"open it with simvtp\.load_predictor"):
        simvtp.load(folder)
    card = (folder / "README.md").read_text()
    metric = next(iter(answering.scored.result.metrics))
    assert metric in card and "load_predictor" in card


def test_a_film_that_does_not_decode_is_named(answering: Answering, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no film")
    kind = answering.kind
    with pytest.raises(DataError, match=r"bad\.mp4"):
        answering.model.predict(
            [answering.films[0], bad], question_of(kind), choices=choices_of(kind)
        )


def test_what_is_missing_or_too_much_is_said(answering: Answering) -> None:
    model, kind, films = answering.model, answering.kind, answering.films[:1]
    question, choices = question_of(kind), choices_of(kind)
    if question:
        word = "a sentence" if kind == "grounding" else "a question"
        with pytest.raises(UserError, match=f"give it {word} by question="):
            model.predict(films, choices=choices)
        with pytest.raises(DataError, match="2 questions for 1 films"):
            model.predict(films, [question] * 2, choices)
    else:
        with pytest.raises(UserError, match="takes no question"):
            model.predict(films, COLOUR, choices)
    if choices:
        with pytest.raises(UserError, match="two choices or more"):
            model.predict(films, question, choices[:1])
    else:
        with pytest.raises(UserError, match="takes no choices"):
            model.predict(films, question, ["a", "b"])
    with pytest.raises(UserError, match="k=0"):
        model.predict(films, question, choices, k=0)
    with pytest.raises(DataError, match="a list of one film or more"):
        model.predict([], question, choices)


def test_the_command_prints_a_table_or_json(
    answering: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, films = answering.kind, list(dict.fromkeys(answering.films))[:2]
    asked = ["--question", question_of(kind)] if question_of(kind) else []
    asked += [word for text in choices_of(kind) for word in ("--choice", text)]
    command = ["predict", str(answering.run_dir), *films, *asked, "-k", "2"]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = answering.model.predict(films, question_of(kind), choices_of(kind), k=2)
    assert [one["video"] for one in found] == films
    for one, other in zip(found, expected, strict=True):
        assert [a["text"] for a in one["answers"]] == [a.text for a in other.answers]
        assert len(one["answers"]) == (1 if kind == "count" else 2)
    assert main(command) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert expected[0].measure in head
    assert [line for line in lines if line.startswith("/")] == [
        f"{film}  {COLOUR}" if question_of(kind) else film for film in films
    ]
    assert sum(line.startswith("   1  ") for line in lines) == 2
    if asked:
        assert main(command[:3]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and "--" in error


def test_the_example_of_the_docstring_holds(answering: Answering) -> None:
    if answering.kind != "open":
        return
    scope = {
        "simvtp": simvtp,
        "films": answering.films,
        "qa_run": str(answering.run_dir),
    }
    module = simvtp.library.prediction.task_model
    runner = doctest.DocTestRunner()
    found = [t for t in doctest.DocTestFinder().find(module, extraglobs=scope) if t.examples]
    said = io.StringIO()
    assert found and all(runner.run(test, out=said.write).failed == 0 for test in found)


def test_names_of_answers_without_the_data_are_asked_for(
    tmp_path: Path, shapes_cache: Path, pretrained: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(shapes_cache, cache)
    experiment = downstream(tmp_path / "runs", cache, pretrained, "finetune.task=action", *SHORT)
    run_dir = finished(experiment)
    shutil.rmtree(cache)
    with pytest.raises(DataError, match=r"data\.dataset=shapes, which is not here"):
        simvtp.load_predictor(run_dir)


def test_a_model_of_features_chooses_among_texts(pretrained: Path, shapes_cache: Path) -> None:
    model = simvtp.load(pretrained, training="pretrain")
    test = open_dataset(model.experiment.data, model.experiment.runtime).splits["test"]
    films = [str(clip.path) for clip in test]
    texts = ["a red star rises", "a blue ring falls", "nothing"]
    cosines = (model.encode_video(films) @ model.encode_text(texts).T).tolist()
    for row, found in zip(cosines, model.predict(films, "", texts), strict=True):
        order = sorted(range(3), key=lambda n: -row[n])
        assert [(a.text, a.score) for a in found.answers] == [(texts[n], row[n]) for n in order]
    with pytest.raises(UserError, match="compares films with texts: give it two choices"):
        model.predict(films)
    with pytest.raises(UserError, match="takes no question"):
        model.predict(films, texts[0], texts)


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path, shapes_cache: Path) -> None:
    experiment = small_experiment(tmp_path, shapes_cache, "finetune.task=action")
    run(experiment, say=silent, until="pretrain")
    with pytest.raises(UserError, match="not finished"):
        simvtp.load_predictor(experiment.run_dir)
