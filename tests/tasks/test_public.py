"""Retrieval, image-text retrieval and multiple choice on small benchmarks of the official form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override, replace_key
from simvtp.config.recipes import get_recipe
from simvtp.errors import ConfigError, DataError
from simvtp.evaluation.answers import answer_ranks
from simvtp.experiment import run
from simvtp.methods import build_model
from simvtp.models.weights.pretrained import import_weights
from simvtp.resolve import finalise
from simvtp.runs.results import Result
from simvtp.tasks import TASKS, open_task, open_zero_shot
from simvtp.tasks.imagetext import ImageText
from simvtp.tasks.published_choice import SimilarityChoice, published_choices
from simvtp.tasks.retrieval import Retrieval
from tests.small import small_experiment, small_mac_settings
from tests.tasks.annotated import (
    clips_of,
    halves,
    save_middle_frame,
    write_activitynet,
    write_didemo,
    write_karpathy,
    write_lsmdc_mc,
    write_msrvtt_mc,
)
from tests.tasks.task_helpers import context_of, silent


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Experiment:
    """A finished pre-training on the embedded data set."""
    experiment = small_experiment(tmp_path_factory.mktemp("pretrained"), shapes_cache)
    run(experiment, say=silent, until="pretrain")
    return experiment


def public(pretrained: Experiment, root: Path, dataset: str, *more: str) -> Experiment:
    """That model on a benchmark below `root`."""
    settings = (
        f"data.dataset={dataset}",
        f"data.root={root}",
        f"finetune.init={pretrained.run_dir}",
        "finetune.evaluations=1",
        *more,
    )
    return small_experiment(root / "runs", Path(pretrained.runtime.cache), *settings)


class Listener(nn.Module):
    """Encoder that records its inputs; its features are mean colour and number of pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.clips: list[Tensor] = []
        self.texts: list[Tensor] = []

    def embed_video(self, clips: Tensor) -> Tensor:
        self.clips += clips.unbind()
        return clips.float().mean(dim=(1, 2, 3))

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.texts += [ids[seen] for ids, seen in zip(input_ids, attention_mask, strict=True)]
        return torch.stack(
            [
                input_ids.float().sum(dim=1),
                attention_mask.float().sum(dim=1),
                torch.ones(len(input_ids)),
            ],
            dim=1,
        )


# ---- paragraphs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["didemo", "activitynet"])
def test_whole_paragraphs_are_embedded_and_trained_on(
    tmp_path: Path, pretrained: Experiment, name: str
) -> None:
    train, val, test = (clips_of(pretrained, split) for split in ("train", "val", "test"))
    if name == "didemo":
        write_didemo(tmp_path, {"train": train[:16], "val": val, "test": test})
    else:
        write_activitynet(tmp_path, [*train, *val], test)
    experiment = finalise(
        public(pretrained, tmp_path, name, "model.text_length=40", "model.max_text_positions=64")
    )
    context = context_of(experiment)
    task = open_task(context)
    listener = Listener()
    scored = task.score(listener, "test", "zero-shot", "")
    first, back = (one.result for one in scored)
    paragraphs = sorted(" ".join(halves(clip)) for clip in test)
    assert sorted(context.tokenizer.decode(ids) for ids in listener.texts) == paragraphs
    assert (first.queries, first.gallery, back.queries, back.gallery) == (8, 8, 8, 8)
    batch = next(task.loader(experiment.finetune.train, "finetune").batches(0))
    trained = {" ".join(halves(clip)) for clip in (*train, *val)}
    assert {context.tokenizer.decode(ids) for ids in batch.input_ids} <= trained
    assert max(int(ids.ne(0).sum()) for ids in batch.input_ids) > 12, "more than the first sentence"
    results = run(experiment, say=silent)
    assert [result.key for result in results] == [
        f"test/{setting}/{way}" for setting in ("zero-shot", "finetuned") for way in ("t2v", "v2t")
    ]
    assert {result.protocol.dataset for result in results} == {name}


# ---- pictures ------------------------------------------------------------------------------------


def test_flickr30k_from_pictures_to_figures(tmp_path: Path, pretrained: Experiment) -> None:
    """PNG and JPEG files.

    Five captions a picture, all of them queries; the best of a picture's captions counts.
    """
    test = clips_of(pretrained, "test")[:6]
    write_karpathy(
        tmp_path,
        {
            "train": clips_of(pretrained, "train")[:16],
            "val": clips_of(pretrained, "val"),
            "test": test,
        },
    )
    with pytest.raises(ConfigError, match="does not open: set data.reader=pyav"):
        finalise(public(pretrained, tmp_path, "flickr30k"))
    settings = (
        "data.reader=pyav",
        "finetune.task=imagetext",
        "evaluate.rerank=3",
        "evaluate.dual_softmax=true",
        "finetune.task.encoder=shared",
    )
    experiment = finalise(public(pretrained, tmp_path, "flickr30k", *settings))
    results = {result.key: result for result in run(experiment, say=silent)}
    ways = [
        f"{how}/{way}"
        for how in ("", "-dual-softmax", "-re-ranked-top-3")
        for way in ("t2i", "i2t")
    ]
    assert list(results) == [
        f"test/{setting}{way}" for setting in ("zero-shot", "finetuned") for way in ways
    ]
    first, back = results["test/finetuned/t2i"], results["test/finetuned/i2t"]
    assert (first.queries, first.gallery, back.queries, back.gallery) == (30, 6, 6, 30)
    assert back.chance["R1"] == pytest.approx(100 / 6) and back.chance["MnR"] == pytest.approx(
        31 / 6
    )
    assert {result.protocol.task for result in results.values()} == {
        "image_text"
    } and first.protocol.frames == 1
    assert all(
        result.seconds["second_stage_s"] > 0
        for key, result in results.items()
        if "re-ranked" in key
    )


def test_a_picture_is_seen_as_often_as_a_tube_is_long(
    tmp_path: Path, pretrained: Experiment
) -> None:
    clips = {split: clips_of(pretrained, split)[:5] for split in ("train", "val", "test")}
    write_karpathy(tmp_path, clips)
    tuned = finalise(
        public(
            pretrained,
            tmp_path,
            "flickr30k",
            "data.reader=pyav",
            "evaluate.segments=3",
            "finetune.train.batch_size=5",
        )
    )
    context = context_of(tuned)
    task = open_task(context)  # of a data set of pictures
    assert isinstance(task, ImageText) and isinstance(open_zero_shot(context), ImageText)
    listener = Listener()
    task.score(listener, "test", "zero-shot", "")
    assert [tuple(clip.shape) for clip in listener.clips] == [(2, 32, 32, 3)] * 5
    assert (
        all(torch.equal(clip[0], clip[1]) for clip in listener.clips) and len(listener.texts) == 25
    )
    batch = next(task.loader(tuned.finetune.train, "finetune").batches(0))
    assert batch.clips.shape == (5, 2, 32, 32, 3) and torch.equal(
        batch.clips[:, 0], batch.clips[:, 1]
    )


def test_of_videos_the_picture_is_the_middle_frame(tmp_path: Path, pretrained: Experiment) -> None:
    context = context_of(pretrained)
    task = TASKS["imagetext"](context)
    listener = Listener()
    task.score(listener, "test", "zero-shot", "")
    for clip, seen in zip(clips_of(pretrained, "test"), listener.clips, strict=True):
        save_middle_frame(clip, tmp_path / f"{clip.id}.png")
        picture = torch.from_numpy(np.array(Image.open(tmp_path / f"{clip.id}.png")))
        assert int((seen[0].int() - picture.int()).abs().max()) <= 2, (
            "two decoders may round differently"
        )
        assert torch.equal(seen[0], seen[1])


def test_zero_shot_pictures_are_embedded_by_the_pretrained_weights(pretrained: Experiment) -> None:
    context = context_of(pretrained)
    model = build_model(context.experiment.model, pretrained.losses.wanted, 0)
    import_weights(model, pretrained.run_dir / "checkpoints" / "pretrain.safetensors")
    task = ImageText(context)
    found = task._embed(model, "test")
    short = build_model(task.context.experiment.model, pretrained.losses.wanted, 0)
    short.load_state_dict(model.state_dict())
    views = torch.cat(
        [clips for clips, _ in task.context.view_loader(task.clips["test"]).batches()]
    )
    with torch.inference_mode():
        torch.testing.assert_close(found.videos.float(), short.eval().embed_video(views))


def test_a_method_of_two_towers_finds_pictures_too(tmp_path: Path, shapes_cache: Path) -> None:
    settings = small_mac_settings(
        tmp_path,
        shapes_cache,
        "finetune.task=imagetext",
        "finetune.evaluations=1",
        "model.text_depth=1",
    )
    results = run(finalise(override(get_recipe("tiny_mac"), settings)), say=silent)
    assert [result.key for result in results] == [
        f"test/{setting}/{way}" for setting in ("zero-shot", "finetuned") for way in ("t2i", "i2t")
    ]


# ---- published choices ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory, pretrained: Experiment) -> Path:
    """A folder with both benchmarks of multiple choice."""
    root = tmp_path_factory.mktemp("choices")
    train, val, test = (clips_of(pretrained, split) for split in ("train", "val", "test"))
    (root / "msrvtt").mkdir()
    (root / "lsmdc").mkdir()
    write_msrvtt_mc(root / "msrvtt", train[:16], val, test)
    write_lsmdc_mc(root / "lsmdc", {"train": train[:16], "val": val, "test": test})
    return root


PLACES = [("msrvtt_mc", "msrvtt"), ("lsmdc_mc", "lsmdc")]


@pytest.mark.parametrize(("name", "folder"), PLACES)
def test_published_choices_by_similarity_and_by_the_pair_encoder(
    pretrained: Experiment, choices: Path, name: str, folder: str
) -> None:
    found: dict[str, Result] = {}
    for task in ("retrieval", "choice"):
        experiment = finalise(public(pretrained, choices / folder, name, f"finetune.task={task}"))
        found |= {result.key: result for result in run(experiment, say=silent)}
    assert list(found) == [
        "test/zero-shot/choice/5-captions-by-similarity",
        "test/finetuned/choice/5-captions-by-similarity",
        "test/finetuned/choice/5-captions",
    ]
    for result in found.values():
        assert (result.queries, result.gallery, result.protocol.dataset) == (8, 5, name)
        assert result.chance["accuracy"] == 20.0


@pytest.mark.parametrize(("name", "folder"), PLACES)
def test_the_sentence_that_fits_is_right_wherever_it_stands(
    pretrained: Experiment, choices: Path, name: str, folder: str
) -> None:
    # A model that knows the caption of each clip by its colours gets all, one that knows those of
    # others gets none.
    context = context_of(public(pretrained, choices / folder, name))
    task = open_zero_shot(context)
    assert isinstance(task, SimilarityChoice)
    asked = published_choices(context)["test"]
    assert [int(place) for place in asked.right] == [n % 5 for n in range(8)]
    texts = [clip.captions[0] for clip in clips_of(pretrained, "test")]
    assert [
        several[place] for several, place in zip(asked.sentences, asked.right.tolist(), strict=True)
    ] == texts

    class Knowing(Listener):
        def __init__(self, known: Sequence[str]) -> None:
            super().__init__()
            self.known = {
                context.tokenizer.decode(ids): n
                for n, ids in enumerate(context.tokenizer.encode(known, 24).input_ids)
            }

        def embed_video(self, clips: Tensor) -> Tensor:
            first = len(self.clips)
            super().embed_video(clips)
            return torch.eye(8)[first : len(self.clips)]

        def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.eye(8)[[self.known[context.tokenizer.decode(ids)] for ids in input_ids]]

    for known, accuracy in ((texts, 100.0), (texts[1:] + texts[:1], 0.0)):
        [scored] = task.report(Knowing(known), "test", "zero-shot", "", None)
        assert scored.result.metrics["accuracy"] == accuracy


def test_training_on_a_benchmark_of_choices_sees_captions_of_other_clips_than_the_test(
    pretrained: Experiment, choices: Path
) -> None:
    for name, folder in PLACES:
        experiment = public(pretrained, choices / folder, name)
        task = open_task(context_of(experiment))
        assert isinstance(task, Retrieval) and task.samples == 16
        tested = {clip.id for clip in task.clips["test"]}
        loader = task.loader(experiment.finetune.train, "finetune")
        names = {
            name
            for _, batch in zip(range(2), loader.batches(0), strict=False)
            for name in batch.sample_ids
        }
        assert len(names) == 16 and not names & tested


def test_what_published_choices_cannot_be_asked(
    tmp_path: Path, pretrained: Experiment, choices: Path
) -> None:
    root = choices / "msrvtt"
    for more, words in (
        (
            ("evaluate.rerank=3",),
            "are for galleries, but msrvtt_mc has a few sentences for each clip",
        ),
        (("finetune.selection=test",), "have choices and no captions; choose val"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_task(context_of(public(pretrained, root, "msrvtt_mc", *more)))
    with pytest.raises(DataError, match="the val split of msrvtt_mc has no published choice"):
        open_zero_shot(context_of(public(pretrained, root, "msrvtt_mc", "evaluate.split=val")))
    (tmp_path / "videos").symlink_to(root / "videos")
    (tmp_path / "MSR_MC_test.csv").write_bytes((root / "MSR_MC_test.csv").read_bytes())
    bare = public(pretrained, tmp_path, "msrvtt_mc")
    for task in ("retrieval", "choice"):
        with pytest.raises(
            DataError,
            match=(
                r"no captions to train on .*zero-shot choice only.*evaluate\.zero_shot with "
                r"finetune\.enabled"
            ),
        ):
            open_task(context_of(replace_key(bare, "finetune.task", task)))
    alone = replace(bare, finetune=replace(bare.finetune, enabled=False))
    assert [result.key for result in run(finalise(alone), say=silent)] == [
        "test/zero-shot/choice/5-captions-by-similarity"
    ]


def test_choices_with_fewer_sentences(pretrained: Experiment, choices: Path) -> None:
    asked = published_choices(context_of(public(pretrained, choices / "msrvtt", "msrvtt_mc")))[
        "test"
    ]
    few = replace(
        asked,
        sentences=[several[:3] for several in asked.sentences[:3]] + list(asked.sentences[3:]),
    )
    assert few.present.sum(dim=1).tolist() == [3, 3, 3, 5, 5, 5, 5, 5]
    scores = torch.zeros(8, 5)
    scores[torch.arange(8), few.right] = 1
    scores[0, 3] = 9  # is not there
    assert answer_ranks(scores, few.right, few.present).tolist() == [1] * 8
