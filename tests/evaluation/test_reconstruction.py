"""Pictures of what a model fills in.

The arithmetic, the words, the layout, and the files of a real (untrained) model.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simvtp.batch import Batch
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.config.train_config import MVMTarget
from simvtp.evaluation import reconstruction
from simvtp.evaluation.examples import sheets
from simvtp.evaluation.examples.sheets import Word
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.common.masking import draw_masks
from simvtp.models.simvtp.simvtp_model import SimVTP
from tests.reference.masks import full_view

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "ball",
    "roll",
    "##s",
    "past",
    "the",
    "cube",
]
CAPTIONS = (["a", "red", "ball", "roll", "##s", "past", "the", "cube"], ["the", "cube"])
LENGTH = 12
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


class Vocabulary:
    def decode(self, ids: list[int]) -> str:
        return " ".join(WORDS[i] for i in ids)


def make_config(**changes: Any) -> SimVTPConfig:
    sizes: dict[str, Any] = {
        "image_size": 16,
        "frames": 4,
        "patch_size": 4,
        "dim": 32,
        "depth": 1,
        "heads": 2,
        "decoder_dim": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "vocab_size": len(WORDS),
        "text_length": LENGTH,
        "max_text_positions": 16,
    }
    return SimVTPConfig(**sizes | changes)


def make_batch(config: SimVTPConfig) -> Batch:
    ids, word_ids = torch.zeros(2, LENGTH, dtype=torch.int64), torch.full((2, LENGTH), -1)
    for row, pieces in enumerate(CAPTIONS):
        ids[row, : len(pieces) + 2] = torch.tensor([2, *map(WORDS.index, pieces), 3])
        word_ids[row, 1 : len(pieces) + 1] = (
            torch.tensor([not p.startswith("##") for p in pieces]).cumsum(0) - 1
        )
    clips = torch.randint(
        0,
        256,
        (2, config.frames, config.image_size, config.image_size, 3),
        dtype=torch.uint8,
        generator=torch.manual_seed(0),
    )
    return Batch(clips, ids, ids > 0, word_ids, ("../video 1", "video2"))


def hide(batch: Batch, config: SimVTPConfig, **changes: Any) -> Any:
    return draw_masks(
        batch,
        config,
        MaskConfig(**{"video_ratio": 0.75, **changes}),
        mask_id=4,
        seed=0,
        step=0,
        first_sample=0,
    )


# ---- frames --------------------------------------------------------------------------------------


@PROPERTY
@given(
    slots=st.integers(1, 3),
    side=st.integers(1, 3),
    patch=st.sampled_from([1, 2, 4]),
    tubelet=st.integers(1, 3),
)
def test_joined_tubes_are_the_clip(slots: int, side: int, patch: int, tubelet: int) -> None:
    config = make_config(
        frames=slots * tubelet, tubelet_size=tubelet, patch_size=patch, image_size=side * patch
    )
    clips = torch.randint(
        0, 256, (2, config.frames, config.image_size, config.image_size, 3), dtype=torch.uint8
    )
    tubes = cut_tubes(clips, config)
    for row in range(2):
        assert torch.equal(reconstruction.join_tubes(tubes[row], config), clips[row])


def test_true_statistics_invert_the_target() -> None:
    truth = torch.rand(5, 2 * 4 * 4 * 3, dtype=torch.float64)
    truth[0] = 0.25  # a flat tube
    values = truth.view(5, 32, 3)
    target = (values - values.mean(dim=1, keepdim=True)) / (
        values.var(dim=1, keepdim=True, unbiased=True).sqrt() + 1e-6
    )
    torch.testing.assert_close(reconstruction.with_true_statistics(target.flatten(1), truth), truth)


def clip_panels(
    target: str = "normalized", content: str = "perfect"
) -> tuple[tuple[sheets.Panel, ...], torch.Tensor, SimVTPConfig]:
    """Panels of one clip whose prediction is the target itself, or nothing.

    And which pixels are hidden, bool [T, H, W].
    """
    config = make_config()
    batch = make_batch(config)
    hidden = hide(batch, config).masked[0]
    tubes = cut_tubes(batch.clips, config)[0].float() / 255
    values = tubes[hidden].unflatten(-1, (-1, 3))
    perfect = (
        (values - values.mean(-2, keepdim=True)) / (values.std(-2, keepdim=True) + 1e-6)
    ).flatten(-2)
    if target == "raw":
        perfect = tubes[hidden]
    prediction = {"perfect": perfect, "nothing": torch.zeros_like(perfect)}[content]
    where = torch.zeros_like(tubes).index_fill(0, hidden, 1)
    return (
        reconstruction._panels(tubes, hidden, prediction, config, target),  # type: ignore[arg-type]
        reconstruction.join_tubes(where, config)[..., 0].bool(),
        config,
    )


def test_rows_of_a_perfect_prediction() -> None:
    panels, hidden, _ = clip_panels()
    original, masked, predicted, rebuilt = (
        torch.from_numpy(panel.frames).int() for panel in panels
    )
    assert torch.equal(original, make_batch(make_config()).clips[0].int())
    for shown in (masked, predicted, rebuilt):
        assert torch.equal(shown[~hidden], original[~hidden]), "visible tubes are copied"
    assert len(masked[hidden].unique(dim=0)) == 1, "hidden tubes are one flat colour"
    assert torch.equal(rebuilt, original), (
        "with the true statistics, a perfect prediction is the clip"
    )
    assert not torch.equal(predicted, original), "without them, it is not"
    assert ["as predicted" in p.title for p in panels] == [False, False, True, False]
    assert "true patch statistics" in panels[3].title


def test_as_predicted_uses_nothing_hidden() -> None:
    """A prediction of nothing is one colour, the mean of the visible tubes.

    With true statistics it still shows each tube's mean.
    """
    panels, hidden, _ = clip_panels(content="nothing")
    original, _, predicted, rebuilt = (torch.from_numpy(panel.frames).float() for panel in panels)
    assert len(predicted[hidden].unique(dim=0)) == 1
    assert float((predicted[hidden][0] - original[~hidden].mean(dim=0)).abs().max()) <= 0.51
    assert len(rebuilt[hidden].unique(dim=0)) > 10
    quality = [line for panel in panels[2:] for line in panel.note.split("\n") if "dB" in line]
    assert quality[0].removeprefix("PSNR ") == quality[1].removeprefix(
        "(flat tubes: "
    ).removesuffix(")")


def test_raw_pixels_need_no_statistics() -> None:
    panels, _, _ = clip_panels(target="raw")
    assert [p.title for p in panels] == ["Original", "Masked", "Rebuilt, as predicted"]
    assert np.array_equal(panels[2].frames, panels[0].frames)


# ---- captions ------------------------------------------------------------------------------------


def test_words_are_marked_right_and_wrong() -> None:
    config = make_config()
    batch = make_batch(config)
    masks = hide(batch, config, text_ratio=0.9)  # 7 of 8 pieces
    labels, positions = masks.word_labels[0], masks.word_positions[0]
    guess = labels.clamp(min=0).clone()
    guess[0] = WORDS.index("##s")  # the first hidden piece is guessed wrong
    logits = torch.nn.functional.one_hot(guess, len(WORDS)).float()
    lines, phrase = reconstruction._caption_lines(batch, masks, 0, logits, Vocabulary())
    caption, masked, filled = lines
    pieces = [p.removeprefix("##") for p in CAPTIONS[0]]
    assert [w.text for w in caption.words] == pieces and [w.glued for w in caption.words].count(
        True
    ) == 1
    hidden = {int(p) - 1 for p, label in zip(positions, labels, strict=True) if label >= 0}
    assert {i for i, w in enumerate(masked.words) if w.style == "mask"} == hidden
    first = min(hidden)
    assert filled.words[first : first + 2] == (
        Word("##s", "wrong"),
        Word(f"({CAPTIONS[0][first]})", "truth"),
    )
    assert sum(w.style == "right" for w in filled.words) == 6
    assert phrase == "7 of 8 word pieces hidden, 6 of them filled in right"


def test_lines_without_a_word_head_or_hidden_words() -> None:
    config = make_config()
    batch = make_batch(config)
    lines, phrase = reconstruction._caption_lines(batch, hide(batch, config), 1, None, Vocabulary())
    assert [line.label for line in lines] == [
        "Caption",
        "Masked",
    ] and phrase == "2 of 2 word pieces hidden"
    lines, phrase = reconstruction._caption_lines(
        batch, full_view(batch, config), 1, torch.zeros(1, len(WORDS)), Vocabulary()
    )
    assert [line.label for line in lines] == [
        "Caption",
        "Masked",
    ] and phrase == "0 of 2 word pieces hidden"


# ---- layout --------------------------------------------------------------------------------------


@PROPERTY
@given(st.lists(st.text("abcdefgh", min_size=1, max_size=40), max_size=30), st.integers(60, 400))
def test_wrapped_text_keeps_its_words_and_its_width(words: list[str], width: int) -> None:
    font = sheets.sheet_font(13)
    lines = sheets.wrap_text(" ".join(words), font, width)
    assert "".join(lines).replace(" ", "") == "".join(words)
    assert all(font.getlength(line) <= width for line in lines)


@PROPERTY
@given(
    st.lists(
        st.builds(
            Word,
            st.text("abcdefgh#", min_size=1, max_size=12),
            st.sampled_from(["plain", "mask", "right", "wrong", "truth"]),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_words_do_not_overlap(words: list[Word]) -> None:
    font, width = sheets.sheet_font(15), 500
    placed = list(sheets._flow_words(tuple(words), font, width))
    assert [word for _, _, word in placed] == words
    for (x, line, word), (next_x, next_line, following) in itertools.pairwise(placed):
        end = x + font.getlength(word.text) + (8 if sheets._STYLES[word.style][1] else 0)
        if next_line == line:
            assert next_x >= end - 1e-6 and (following.glued or next_x > end)
        else:
            assert (
                next_line == line + 1
                and next_x == 0
                and not following.glued
                and following.style != "truth"
            )


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (4, [0, 1, 2, 3]), (6, [0, 1, 2, 3, 4, 5]), (16, [0, 3, 6, 9, 12, 15])],
)
def test_frames_of_the_still_picture(count: int, expected: list[int]) -> None:
    assert sheets.chosen_frames(count) == expected


def test_a_page_is_as_high_as_its_text_and_keeps_its_margins() -> None:
    frames = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    line = sheets.SheetLine("Caption", tuple(Word(f"word{i}", "right") for i in range(600)))
    sheet = sheets.Sheet(
        "title",
        "subtitle",
        (sheets.Panel("Original", "a note", frames),),
        (line,),
        "footnote",
        ("frame 1",),
    )
    image = sheets.draw_sheet(sheet)
    inked = np.argwhere((np.asarray(image) != 255).any(axis=2))
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0)
    assert image.height > 1500
    assert min(top, left, image.height - 1 - bottom, image.width - 1 - right) >= 12


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objectives", "target", "rows"),
    [
        (("mvm", "mlm", "vtc", "vtm"), "normalized", 4),
        (("mlm",), "normalized", 2),
        (("mvm",), "normalized", 4),
        (("mvm",), "raw", 3),
        (("mvm", "mlm"), "hog", 2),
        (("mvm",), "difference", 2),
    ],
)
def test_files_of_a_real_model(
    objectives: tuple[str, ...], target: MVMTarget, rows: int, tmp_path: Path
) -> None:
    config = make_config()
    model = SimVTP(config, objectives)
    model.initialise(0)
    model.train()
    batch = make_batch(config)
    paths = reconstruction.draw_reconstructions(
        model, batch, hide(batch, config), Vocabulary(), tmp_path / "figures", target
    )
    assert [p.relative_to(tmp_path / "figures").as_posix() for p in paths] == [
        "reconstruction_00_..-video-1.png",
        "reconstruction_00_..-video-1.gif",
        "reconstruction_01_video2.png",
        "reconstruction_01_video2.gif",
    ]
    assert model.training
    for png, gif in zip(paths[::2], paths[1::2], strict=True):
        with Image.open(png) as image:
            assert rows * 144 < image.height < rows * 144 + 600 and image.width >= 640
        with Image.open(gif) as image:
            assert image.n_frames == config.frames and image.info["loop"] == 0
            assert image.width >= rows * 192


def test_pictures_do_not_depend_on_the_mode_of_the_model(tmp_path: Path) -> None:
    """Dropout is off while drawing."""
    config = make_config(text_dropout=0.5)
    model = SimVTP(config, ("mvm", "mlm"))
    model.initialise(0)
    batch = make_batch(config)
    first = reconstruction.draw_reconstructions(
        model.train(), batch, hide(batch, config), Vocabulary(), tmp_path / "a", "normalized"
    )
    second = reconstruction.draw_reconstructions(
        model.eval(), batch, hide(batch, config), Vocabulary(), tmp_path / "b", "normalized"
    )
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
