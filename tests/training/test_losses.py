"""Losses against their formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config.train_config import LossConfig
from simvtp.training.losses import (
    contrastive_loss,
    masked_pixel_loss,
    matching_accuracy,
    matching_loss,
    normalise_tubes,
    tokens_per_rank,
    word_loss,
)
from simvtp.training.objectives import PretrainObjective, RetrievalObjective
from tests.training.training_runs import draw, make_batch, make_model


def test_tubes_are_normalised_per_tube_and_channel() -> None:
    pixels = torch.rand(2, 3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = normalise_tubes(pixels)
    for b in range(2):
        for m in range(3):
            for channel in range(3):
                values = pixels[b, m, channel::3]
                mean = values.mean()
                variance = ((values - mean) ** 2).sum() / (len(values) - 1)
                expected = (values - mean) / (variance.sqrt() + 1e-6)
                torch.testing.assert_close(
                    found[b, m, channel::3], expected, rtol=1e-12, atol=1e-12
                )


def test_a_flat_tube_becomes_zero_not_nan() -> None:
    assert torch.equal(normalise_tubes(torch.full((1, 2, 12), 0.25)), torch.zeros(1, 2, 12))


def test_bytes_are_normalised_as_their_shares_of_1_and_every_flat_tube_is_exactly_zero() -> None:
    pixels = torch.randint(
        0, 256, (2, 3, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(
        normalise_tubes(pixels, torch.float64),
        normalise_tubes(pixels.double() / 255),
        rtol=1e-12,
        atol=1e-12,
    )
    flat = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 1536)
    assert torch.equal(normalise_tubes(flat), torch.zeros(256, 1536))


def test_pixel_loss_is_the_mean_square_in_full_precision() -> None:
    a, b = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 4)
    torch.testing.assert_close(masked_pixel_loss(a, b), (a**2).mean())
    assert masked_pixel_loss(a.bfloat16(), b).dtype == torch.float32


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.integers(0, 99))
def test_word_loss_is_the_mean_over_scored_words_however_the_batch_is_cut(
    scored: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, 7, dtype=torch.float64, generator=generator)
    words = torch.randint(0, 7, (4, 3), generator=generator)
    labels = torch.where(torch.arange(3) < torch.tensor(scored)[:, None], words, -100)
    logs = logits.log_softmax(dim=-1)
    each = [-logs[b, k, labels[b, k]] for b in range(4) for k in range(3) if labels[b, k] >= 0]
    expected = torch.stack(each).mean() if each else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(word_loss(logits, labels), expected)
    share = tokens_per_rank([labels[:2], labels[2:]])
    parts = [word_loss(logits[i : i + 2], labels[i : i + 2], share) for i in (0, 2)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, expected)


def test_contrastive_loss_is_the_sum_of_both_directions_whatever_the_lengths() -> None:
    generator = torch.Generator().manual_seed(1)
    video, text = (
        torch.randn(5, 8, dtype=torch.float64, generator=generator),
        torch.randn(5, 8, dtype=torch.float64, generator=generator),
    )
    expected = 0.0
    similarity = [[float(v @ t / v.norm() / t.norm()) / 0.05 for t in text] for v in video]
    for i in range(5):
        row, column = similarity[i], [similarity[j][i] for j in range(5)]
        for candidates in (row, column):
            expected += (math.log(sum(math.exp(c) for c in candidates)) - similarity[i][i]) / 5
    assert float(contrastive_loss(video, text, 0.05)) == pytest.approx(expected, rel=1e-12)
    assert float(contrastive_loss(3 * video, 0.1 * text, 0.05, gather=True)) == pytest.approx(
        expected, rel=1e-12
    )


def test_contrastive_loss_stays_in_full_precision_under_autocast() -> None:
    generator = torch.Generator().manual_seed(1)
    video, text = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(video, text, 0.05)
    assert torch.equal(found, contrastive_loss(video, text, 0.05))


def test_matching_loss_wants_class_one_for_the_first_half() -> None:
    right = torch.tensor([[-9.0, 9.0]] * 3 + [[9.0, -9.0]] * 3)
    assert matching_loss(right) < 1e-6
    assert matching_loss(-right) == pytest.approx(18.0, rel=1e-6)


def test_weights_scale_the_losses_and_not_the_report() -> None:
    batch = make_batch(0)
    masks = draw(batch, 0, 0)
    model = make_model().eval()
    plain, report = PretrainObjective(LossConfig())(model(batch, masks))
    scaled, same = PretrainObjective(LossConfig(mvm=0.5, mlm=2.0, vtc=3.0, vtm=0.25))(
        model(batch, masks)
    )
    assert set(plain) == {"mvm", "mlm", "vtc", "vtm"}
    assert set(report) == {
        "loss/mvm",
        "loss/mlm",
        "loss/vtc",
        "loss/vtm",
        "acc/mlm",
        "acc/vtc",
        "acc/vtm",
    }
    for name, factor in (("mvm", 0.5), ("mlm", 2.0), ("vtc", 3.0), ("vtm", 0.25)):
        torch.testing.assert_close(scaled[name], plain[name] * factor)
    for name in report:
        assert (
            torch.equal(report[name], same[name])
            and report[name].ndim == 0
            and not report[name].requires_grad
        )


def test_an_objective_with_weight_zero_needs_no_outputs() -> None:
    batch = make_batch(0)
    outputs = make_model(("mvm",)).eval()(batch, draw(batch, 0, 0))
    losses, report = PretrainObjective(LossConfig(mlm=0, vtc=0, vtm=0))(outputs)
    assert set(losses) == {"mvm"} and set(report) == {"loss/mvm"}
    with pytest.raises(KeyError):
        PretrainObjective(LossConfig())(outputs)


def test_accuracies_count_right_answers() -> None:
    match = torch.tensor(
        [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    )  # right, wrong, right, right
    labels = torch.tensor([[1, 2], [0, -100]])
    words = torch.nn.functional.one_hot(
        torch.tensor([[1, 0], [0, 0]]), 3
    ).float()  # right, wrong, right, not scored
    feature = torch.eye(2)
    outputs = {
        "match_logits": match,
        "word_logits": words,
        "word_labels": labels,
        "video_feature": feature,
        "text_feature": feature.flip(0),
    }
    _, report = PretrainObjective(LossConfig(mvm=0))(outputs)
    assert float(report["acc/vtm"]) == 0.75
    assert float(report["acc/mlm"]) == pytest.approx(2 / 3)
    assert float(report["acc/vtc"]) == 0.0
    _, report = RetrievalObjective()({"video_feature": feature, "text_feature": feature})
    assert float(report["acc/vtc"]) == 1.0


@given(seed=st.integers(0, 1000), count=st.integers(1, 9))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_true_and_false_pairs_weigh_the_same_with_one_and_two_directions(
    seed: int, count: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3 * count, 2, generator=generator, dtype=torch.float64)
    true, clips, texts = logits.log_softmax(dim=1).split(count)
    expected = -true[:, 1].mean() / 2 - (clips[:, 0].mean() + texts[:, 0].mean()) / 4
    pairs, wrong_texts = logits[: 2 * count], logits[2 * count :]
    torch.testing.assert_close(matching_loss(pairs, wrong_texts), expected, check_dtype=False)
    right = [part.argmax(dim=1) == label for part, label in ((true, 1), (clips, 0), (texts, 0))]
    shares = [float(hits.float().mean()) for hits in right]
    accuracy = float(matching_accuracy(pairs, wrong_texts))
    assert accuracy == pytest.approx(shares[0] / 2 + (shares[1] + shares[2]) / 4)
    # two directions with the same false pairs are one direction
    assert float(matching_loss(pairs, pairs[count:])) == pytest.approx(float(matching_loss(pairs)))
    assert float(matching_accuracy(pairs, pairs[count:])) == pytest.approx(
        float(matching_accuracy(pairs))
    )


def test_mlm_of_released_is_a_mean_of_the_means_of_micro_batches() -> None:
    """Two micro-batches with one and with five masked words; without any, 0 and not NaN."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, 11, generator=generator, dtype=torch.float64)
    labels = torch.full((2, 3, 3), -100)
    labels[0, 0, 0] = 4
    labels[1].view(-1)[:5] = torch.tensor([1, 2, 3, 4, 5])
    by_part = [
        torch.nn.functional.cross_entropy(logits[i].view(-1, 11), labels[i].view(-1))
        for i in range(2)
    ]
    everywhere = torch.nn.functional.cross_entropy(logits.view(-1, 11), labels.view(-1))
    for mean, expected in (("ranks", (by_part[0] + by_part[1]) / 2), ("words", everywhere)):
        config = LossConfig(mvm=0, vtc=0, vtm=0, mlm_mean=mean)  # type: ignore[arg-type]
        objective = PretrainObjective(config)
        shared = None if mean == "ranks" else {"mlm": torch.tensor(3.0)}  # 6 words in 2 parts
        parts = [
            objective({"word_logits": logits[i], "word_labels": labels[i]}, shared)[0]["mlm"]
            for i in range(2)
        ]
        torch.testing.assert_close((parts[0] + parts[1]) / 2, expected, rtol=1e-6, atol=1e-6)
    nothing = {"word_logits": logits[0], "word_labels": torch.full_like(labels[0], -100)}
    objective = PretrainObjective(LossConfig(mvm=0, vtc=0, vtm=0, mlm_mean="ranks"))
    assert objective(nothing)[0]["mlm"] == 0
