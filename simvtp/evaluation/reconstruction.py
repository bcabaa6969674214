"""Pictures of a pre-training model's reconstructions: hidden tubes and hidden words.

A model that predicts normalised tubes (method notes 1.5) says how the pixels of a tube differ, not
how bright the tube is or how strong its contrast. To show it, a brightness and contrast must come
from somewhere, and that choice decides how good the picture looks. So both are drawn, and labelled:

* as predicted: every hidden tube gets the average brightness and contrast of the clip's *visible*
  tubes, for each colour channel. Nothing hidden is used.
* with the true patch statistics: every hidden tube gets its *own* mean and deviation, which the
  model did not predict. This is how reconstructions are usually published. Even a prediction of
  nothing looks like a coarse version of the clip then.

Each gives the peak signal-to-noise ratio over the hidden pixels, and that of flat tubes (a
prediction of nothing).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import ModelConfig
from simvtp.config.train_config import MVMTarget
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.examples.sheets import (
    Panel,
    Sheet,
    SheetLine,
    Word,
    draw_animation,
    draw_sheet,
    save_animation,
)
from simvtp.models.common.embeddings import cut_tubes

HIDDEN_COLOUR = (0.86, 0.88, 0.905)  # a light grey, unlike natural pictures
STD_EPSILON = 1e-6  # as in the loss
# targets from which no picture follows
NO_PIXELS: dict[MVMTarget, str] = {
    "hog": "histograms of gradients",
    "difference": "the change from frame to frame",
}


class PieceDecoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, ids: list[int]) -> str: ...


def draw_reconstructions(
    model: nn.Module,
    batch: Batch,
    masks: Masks,
    tokenizer: PieceDecoder,
    out_dir: Path,
    mvm_target: MVMTarget,
) -> list[Path]:
    """Draws the reconstructions of `model`: a PNG and an animated GIF for each sample.

    Args:
        model: a `SimVTP`. Without the mvm (or mlm) objective, the reconstructed frames (or words)
            are left out.
        batch: a few samples on the model's device (two or more, if the model has the vtm
            objective).
        masks: of the samples.
        tokenizer: turns ids into text.
        out_dir: created if needed; files are `reconstruction_<number>_<sample id>.png` and `.gif`.
        mvm_target: target that the model was trained on. With "raw" it predicts pixels, and there
            is one reconstructed row; with targets that are no pixels there is none, and the
            footnote says so.

    Returns:
        The files, sample by sample, PNG first.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    with evaluating(model):
        outputs = {
            name: value.float().cpu()
            for name, value in model(batch, masks).items()
            if name in ("video_prediction", "word_logits")
        }
    tubes = cut_tubes(batch.clips.cpu(), config).float() / 255
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for row, name in enumerate(batch.sample_ids):
        prediction = outputs["video_prediction"][row] if "video_prediction" in outputs else None
        logits = outputs["word_logits"][row] if "word_logits" in outputs else None
        hidden = masks.masked[row].cpu()
        lines, words_hidden = _caption_lines(batch, masks, row, logits, tokenizer)
        ratio = len(hidden) / config.tubes
        tubes_hidden = f"{len(hidden)} of {config.tubes} tubes hidden ({100 * ratio:.0f} %)"
        sheet = Sheet(
            title=name,
            subtitle=f"{tubes_hidden}  ·  {words_hidden}",
            panels=_panels(tubes[row], hidden, prediction, config, mvm_target),
            lines=lines,
            footnote=_footnote(prediction is not None, logits is not None, mvm_target),
            frame_numbers=tuple(f"frame {i + 1}" for i in range(config.frames)),
        )
        stem = out_dir / f"reconstruction_{row:02d}_{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:60]}"
        png, gif = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".gif")
        draw_sheet(sheet).save(png)
        save_animation(draw_animation(sheet), gif)
        paths += [png, gif]
    return paths


# ---- frames --------------------------------------------------------------------------------------


def join_tubes(tubes: Tensor, config: ModelConfig) -> Tensor:
    """Returns the inverse of `cut_tubes` for one clip: [N, P] -> [T, H, W, 3]."""
    t, h, w = config.grid
    patches = tubes.view(t, h, w, config.tubelet_size, config.patch_size, config.patch_size, 3)
    shape = config.frames, config.image_size, config.image_size, 3
    return patches.permute(0, 3, 1, 4, 2, 5, 6).reshape(shape)


def tube_statistics(tubes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and unbiased standard deviation of each tube and colour channel.

    Args:
        tubes: [..., P].

    Returns:
        Two tensors [..., 1, 3].
    """
    values = tubes.unflatten(-1, (-1, 3))
    deviation, mean = torch.std_mean(values, dim=-2, correction=1, keepdim=True)
    return mean, deviation


def with_true_statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Returns a normalised prediction [M, P] with mean and deviation of the true tubes [M, P].

    This is the inverse of the loss's target.
    """
    mean, deviation = tube_statistics(truth)
    return (prediction.unflatten(-1, (-1, 3)) * (deviation + STD_EPSILON) + mean).flatten(-2)


def with_visible_statistics(prediction: Tensor, visible: Tensor) -> Tensor:
    """Returns a normalised prediction [M, P] with statistics of the visible tubes [V, P].

    They are averages, the same for every tube.
    """
    mean, deviation = (statistic.mean(dim=0) for statistic in tube_statistics(visible))
    return (prediction.unflatten(-1, (-1, 3)) * (deviation + STD_EPSILON) + mean).flatten(-2)


def _panels(
    tubes: Tensor,
    hidden: Tensor,
    prediction: Tensor | None,
    config: ModelConfig,
    target: MVMTarget,
) -> tuple[Panel, ...]:
    """Returns the original, masked and reconstructed versions of one clip.

    Args:
        tubes: [N, P] in [0, 1].
        hidden: int64 [M].
        prediction: [M, P].
    """

    def panel(title: str, note: str, content: Tensor | None) -> Panel:
        filled = tubes if content is None else tubes.index_copy(0, hidden, content)
        frames = (join_tubes(filled, config).clamp(0, 1) * 255).round().to(torch.uint8)
        return Panel(title, note, frames.numpy())

    truth = tubes[hidden]
    grey = torch.tensor(HIDDEN_COLOUR).repeat(config.tube_values // 3).expand(len(hidden), -1)
    panels = [panel("Original", "", None), panel("Masked", "what the model sees", grey)]
    if prediction is None or not len(hidden) or target in NO_PIXELS:
        return tuple(panels)
    if target == "raw":
        note = f"pixels as the model gives them\n{_quality(prediction, truth)}"
        return *panels, panel("Rebuilt, as predicted", note, prediction)
    visible = tubes[torch.ones(len(tubes), dtype=torch.bool).index_fill(0, hidden, False)]
    nothing = torch.zeros_like(prediction)
    for title, note, content, flat in (
        (
            "Rebuilt, as predicted",
            "brightness and contrast from the visible tubes",
            with_visible_statistics(prediction, visible),
            with_visible_statistics(nothing, visible),
        ),
        (
            "Rebuilt, true patch statistics",
            "brightness and contrast of each hidden tube put back",
            with_true_statistics(prediction, truth),
            with_true_statistics(nothing, truth),
        ),
    ):
        quality = f"{_quality(content, truth)}\n(flat tubes: {_decibel(flat, truth)})"
        panels.append(panel(title, f"{note}\n{quality}", content))
    return tuple(panels)


def _decibel(content: Tensor, truth: Tensor) -> str:
    error = (content.clamp(0, 1) - truth).square().mean().clamp(min=1e-10)
    return f"{-10 * float(error.log10()):.1f} dB"


def _quality(content: Tensor, truth: Tensor) -> str:
    return f"PSNR {_decibel(content, truth)}"


def _footnote(predicted: bool, filled: bool, target: MVMTarget) -> str:
    parts = []
    rebuilt = predicted and target not in NO_PIXELS
    if predicted and not rebuilt:
        parts.append(
            f"No rebuilt frames: this model predicts {NO_PIXELS[target]} "
            f"(losses.mvm_target={target}), from which no pixels follow."
        )
    if rebuilt:
        parts.append(
            "Visible tubes are copied from the original. PSNR is taken over the hidden tubes."
        )
    if rebuilt and target == "normalized":
        parts.append(
            "The model predicts each tube normalised to mean 0 and deviation 1, so it says nothing "
            "about a tube's brightness and contrast. As predicted: all hidden tubes get the "
            "average of the visible ones. True patch statistics: each gets its own, taken from the "
            "answer, as reconstructions are usually published. Flat tubes: the same, with a "
            "prediction of nothing."
        )
    if filled:
        parts.append("Filled-in words: green = right, red = wrong, with the true word in brackets.")
    return " ".join(parts)


# ---- captions ------------------------------------------------------------------------------------


def _caption_lines(
    batch: Batch, masks: Masks, row: int, logits: Tensor | None, tokenizer: PieceDecoder
) -> tuple[tuple[SheetLine, ...], str]:
    """Returns the lines of one sample, and a phrase on how many word pieces are hidden.

    The lines are the caption, the masked and the filled-in caption.
    """
    word_ids, ids = batch.word_ids[row].tolist(), batch.input_ids[row].tolist()
    positions = [position for position, word in enumerate(word_ids) if word >= 0]
    used = masks.word_labels[row] >= 0
    hidden = masks.word_positions[row][used].tolist()
    guesses: dict[int, int] = {}
    if logits is not None:
        guesses = dict(zip(hidden, logits[used.cpu()].argmax(dim=1).tolist(), strict=True))
    plain, masked, filled = [], [], []
    for position in positions:
        word = _word(tokenizer, ids[position])
        plain.append(word)
        masked.append(Word("[MASK]", "mask") if position in hidden else word)
        if position not in guesses:
            filled.append(word)
        elif guesses[position] == ids[position]:
            filled.append(Word(word.text, "right", word.glued))
        else:
            filled.append(Word(_piece(tokenizer, guesses[position]), "wrong"))
            filled.append(Word(f"({_piece(tokenizer, ids[position])})", "truth"))
    lines = [SheetLine("Caption", tuple(plain)), SheetLine("Masked", tuple(masked))]
    phrase = f"{len(hidden)} of {len(positions)} word pieces hidden"
    if guesses:
        lines.append(SheetLine("Filled in", tuple(filled)))
        right = sum(guesses[position] == ids[position] for position in hidden)
        phrase += f", {right} of them filled in right"
    return tuple(lines), phrase


def _piece(tokenizer: PieceDecoder, piece: int) -> str:
    """Returns the text of one WordPiece, with its ## if it continues a word."""
    return tokenizer.decode([piece]).strip() or f"[{piece}]"


def _word(tokenizer: PieceDecoder, piece: int) -> Word:
    """Returns one WordPiece of the true caption; a continuation is glued to the piece before it."""
    text = _piece(tokenizer, piece)
    glued = text.startswith("##") and len(text) > 2
    return Word(text[2:] if glued else text, glued=glued)
