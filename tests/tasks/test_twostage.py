"""Retrieval in two stages and after dual-softmax, as parts of whole experiments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from simvtp.config.experiment_config import Experiment
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.errors import CheckpointError, ConfigError
from simvtp.experiment import run
from simvtp.experiment.finetune_command import downstream
from simvtp.methods import build_model
from simvtp.models.weights.pretrained import import_weights
from simvtp.resolve import finalise
from simvtp.runs.results import Result
from simvtp.runs.rundir import load_results
from simvtp.runs.scores import read_metric
from simvtp.tasks.twostage import CentreViews
from simvtp.tracking.address import mlflow_name
from tests.reference.matrix_ranks import ranks_of_matrix
from tests.small import small_experiment, small_settings
from tests.tasks.task_helpers import context_of, silent

PLAIN = ("test/zero-shot/t2v", "test/zero-shot/v2t", "test/finetuned/t2v", "test/finetuned/v2t")
VIDEOS = 8  # of the test split


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path
) -> tuple[Experiment, list[Result]]:
    experiment = small_experiment(tmp_path_factory.mktemp("plain"), shapes_cache)
    return experiment, run(experiment, say=silent)


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path
) -> tuple[Experiment, dict[str, Result], list[str]]:
    # The same with more figures; the list holds the whole gallery. (experiment, results by key,
    # lines said).
    more = (f"evaluate.rerank={VIDEOS}", "evaluate.dual_softmax=true")
    experiment, lines = small_experiment(tmp_path_factory.mktemp("asked"), shapes_cache, *more), []
    return experiment, {result.key: result for result in run(experiment, say=lines.append)}, lines


def pair_scores(experiment: Experiment, weights: Path) -> tuple[Tensor, Tensor]:
    # Log-odds [captions, videos] of every pair of the test split, one pair at a time, and the
    # owners of the captions.
    context = context_of(experiment)
    model = build_model(context.experiment.model, experiment.losses.wanted, 0)
    import_weights(model, weights)
    clips = context.dataset.splits["test"]
    views = torch.cat([frames for frames, _ in context.view_loader(clips).batches()])
    captions = [(number, caption) for number, clip in enumerate(clips) for caption in clip.captions]
    tokens = context.tokenizer.encode(
        [caption for _, caption in captions], experiment.model.text_length
    )
    model.eval()
    with torch.inference_mode():
        rows = [
            torch.cat([model.match(view[None], ids[None], mask[None]) for view in views])
            for ids, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)
        ]
    return torch.stack(rows), torch.tensor([number for number, _ in captions])


def same(result: Result) -> Result:
    """Without the digest of the weights, whose file names the experiment."""
    return replace(result, protocol=replace(result.protocol, checkpoint=""))


def test_a_list_of_the_whole_gallery_gives_the_ranking_by_the_matching_head(
    asked: tuple[Experiment, dict[str, Result], list[str]],
) -> None:
    """Whatever the first stage.

    Also that of the fine-tuned dual encoder, whose list the pre-trained pair encoder re-ranks.
    """
    experiment, results, _ = asked
    matrix, owners = pair_scores(
        experiment, experiment.run_dir / "checkpoints" / "pretrain.safetensors"
    )
    assert len(matrix.unique()) > VIDEOS
    for direction, ranks in zip(("t2v", "v2t"), ranks_of_matrix(matrix, owners), strict=True):
        for setting in ("zero-shot", "finetuned"):
            assert (
                list(results[f"test/{setting}-re-ranked-top-{VIDEOS}/{direction}"].ranks)
                == ranks.tolist()
            )


def test_further_figures_have_keys_protocols_and_times_of_their_own(
    asked: tuple[Experiment, dict[str, Result], list[str]],
) -> None:
    experiment, results, lines = asked
    further = [
        f"test/{setting}{how}/{direction}"
        for setting in ("zero-shot", "finetuned")
        for how in ("", "-dual-softmax", f"-re-ranked-top-{VIDEOS}")
        for direction in ("t2v", "v2t")
    ]
    assert list(results) == further, "the plain figures come first in each stage"
    assert all(mlflow_name(key) == key for key in results), "legal in the tracker as they are"
    assert len(
        {replace(result.protocol, seed=0, checkpoint="") for result in results.values()}
    ) == len(results)
    first, second = (
        results[f"test/{setting}/t2v"].protocol.checkpoint for setting in ("zero-shot", "finetuned")
    )
    assert first != second
    assert results[f"test/zero-shot-re-ranked-top-{VIDEOS}/t2v"].protocol.checkpoint == first
    assert (
        results[f"test/finetuned-re-ranked-top-{VIDEOS}/t2v"].protocol.checkpoint
        == f"{second}+{first}"
    )
    for key, result in results.items():
        assert set(result.seconds) == (
            {"first_stage_s", "second_stage_s"} if "re-ranked" in key else set()
        )
        assert all(0 < seconds < 60 for seconds in result.seconds.values())
        assert read_metric(experiment.run_dir, f"{key}/R1") == (
            result.metrics["R1"],
            result.chance["R1"],
        )
    assert load_results(experiment.run_dir) == list(results.values())
    assert sum("second_stage_s" in line and "per query" in line for line in lines) == 4


def test_what_is_not_asked_for_changes_nothing(
    plain: tuple[Experiment, list[Result]], asked: tuple[Experiment, dict[str, Result], list[str]]
) -> None:
    experiment, results = plain
    assert tuple(result.key for result in results) == PLAIN
    assert [same(result) for result in results] == [same(asked[1][key]) for key in PLAIN]
    for stage in ("pretrain", "finetune"):
        ours, theirs = (
            load_file(e.run_dir / "checkpoints" / f"{stage}.safetensors")
            for e in (experiment, asked[0])
        )
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[name], theirs[name]) for name in ours
        )
    assert experiment.fingerprint != asked[0].fingerprint
    record = json.loads((experiment.run_dir / "results.json").read_text())
    known = {"protocol", "metrics", "chance", "queries", "gallery", "ranks", "scores", "baselines"}
    assert all(set(values) == known for values in record)


def test_a_short_list_leaves_the_rest_where_it_was(
    tmp_path: Path, shapes_cache: Path, plain: tuple[Experiment, list[Result]]
) -> None:
    """Two-stage retrieval from given weights, without zero-shot figures."""
    settings = (
        f"finetune.init={plain[0].run_dir}",
        "evaluate.zero_shot=false",
        "evaluate.rerank=3",
    )
    experiment = finalise(small_experiment(tmp_path, shapes_cache, *settings))
    results = {result.key: result for result in run(experiment, say=silent)}
    assert list(results) == [
        f"test/finetuned{how}/{side}" for how in ("", "-re-ranked-top-3") for side in ("t2v", "v2t")
    ]
    for side in ("t2v", "v2t"):
        pairs = zip(
            results[f"test/finetuned/{side}"].ranks,
            results[f"test/finetuned-re-ranked-top-3/{side}"].ranks,
            strict=True,
        )
        assert all(after <= 3 if before <= 3 else after == before for before, after in pairs)


def test_weights_without_a_matching_head_re_rank_nothing(
    tmp_path: Path, shapes_cache: Path
) -> None:
    """Neither those of a pre-training without it nor those that were never trained."""
    other = small_experiment(tmp_path, shapes_cache, "losses.vtm=0")
    run(other, say=silent, until="pretrain")
    with pytest.raises(CheckpointError, match="not in this checkpoint.*match_head"):
        run(
            small_experiment(
                tmp_path, shapes_cache, f"finetune.init={other.run_dir}", "evaluate.rerank=3"
            ),
            say=silent,
            until="pretrain",
        )
    with pytest.raises(
        ConfigError,
        match=(
            r"evaluate\.rerank=3 needs a trained matching head, but the weights of "
            r"finetune\.init=initial"
        ),
    ):
        run(
            small_experiment(tmp_path, shapes_cache, "finetune.init=initial", "evaluate.rerank=3"),
            say=silent,
            until="pretrain",
        )


def test_another_task_from_a_run_with_re_ranking_asks_for_none(
    asked: tuple[Experiment, dict[str, Result], list[str]],
) -> None:
    init = str(asked[0].run_dir)
    action, retrieval = (downstream(task, init).evaluate for task in ("action", "retrieval"))
    assert (action.rerank, action.dual_softmax) == (0, False)
    assert (retrieval.rerank, retrieval.dual_softmax) == (VIDEOS, True)


def test_clips_of_the_second_stage_are_the_middle_views_whatever_fits(
    plain: tuple[Experiment, list[Result]],
) -> None:
    experiment = plain[0]
    context = context_of(
        replace(
            experiment, evaluate=replace(experiment.evaluate, segments=3, crops=2, batch_size=3)
        )
    )
    clips, model = context.dataset.splits["test"], experiment.model
    loader = ViewLoader(
        clips,
        data=experiment.data,
        model=model,
        runtime=experiment.runtime,
        segments=1,
        crops=1,
        batch_size=8,
    )
    expected = torch.cat([views for views, _ in loader.batches()])
    size = expected[0].numel()
    for kept in (0, 3 * size, VIDEOS * size):
        views = CentreViews(context, clips, cached_bytes=kept)
        for numbers in ([0, 1, 2], [5, 2, 7, 0], [6], list(range(VIDEOS))):
            assert torch.equal(views(torch.tensor(numbers)), expected[numbers])


def test_a_clip_that_does_not_decode_is_grey_in_the_second_stage_too(
    tmp_path: Path, plain: tuple[Experiment, list[Result]]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    context = context_of(plain[0])
    clips = [
        replace(clip, path=broken) if number == 1 else clip
        for number, clip in enumerate(context.dataset.splits["test"])
    ]
    for kept in (0, 2**20):
        grey = CentreViews(context, clips, cached_bytes=kept)(torch.tensor([1]))
        assert len(grey.unique()) == 1


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(
    tmp_path: Path, shapes_cache: Path, plain: tuple[Experiment, list[Result]]
) -> None:
    # Both share the scoring of both stages, in the zero-shot stage and after the fine-tuning.
    more = (f"finetune.init={plain[0].run_dir}", "evaluate.rerank=3", "evaluate.dual_softmax=true")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "simvtp",
        "run",
        "tiny",
    ]
    settings = small_settings(tmp_path / "two", shapes_cache, *more)
    done = subprocess.run(
        [*command, *settings],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    alone = finalise(small_experiment(tmp_path / "alone", shapes_cache, *more))
    run(alone, say=silent)
    together = load_results(tmp_path / "two" / alone.run_dir.name)
    ours, theirs = (
        {result.key: result for result in results}
        for results in (load_results(alone.run_dir), together)
    )
    assert list(ours) == list(theirs) and len(ours) == 12
    for key, result in theirs.items():
        if "zero-shot" in key:  # the very same weights
            assert replace(result, seconds={}) == replace(ours[key], seconds={})
        assert set(result.seconds) == set(ours[key].seconds)
        assert result.metrics["MnR"] == pytest.approx(ours[key].metrics["MnR"], abs=1), (
            "weights that differ in the last bits"
        )
