"""Tokenizes captions to WordPiece ids.

`builtin` is a small vocabulary that ships with this package (`vocabulary.txt`, written for this
project: letters, common pieces, the words of the embedded data set and common words of video
captions). It needs no download and has a piece for every ASCII text. Other fast tokenizers are
loaded by transformers.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simvtp.config.model_config import ModelConfig
from simvtp.data.text.wordpiece import WORDS_FILE, WordPiece
from simvtp.errors import UserError

BUILTIN = "builtin"
VOCABULARY = Path(__file__).with_name("vocabulary.txt")
LONGEST_WORD = 10_000  # characters; the usual limit of 100 turns a longer word into [UNK]


@dataclass(frozen=True)
class TokenBatch:
    """Captions as ids.

    Attributes:
        input_ids: int64 [n, L], [CLS] first, [SEP] after the last piece, then [PAD].
        attention_mask: bool [n, L], True where there is a token.
        word_ids: int64 [n, L], number of the word (punctuation marks are words) that a piece
            belongs to; -1 for [CLS], [SEP], [PAD].
    """

    input_ids: Tensor
    attention_mask: Tensor
    word_ids: Tensor


def trim_padding(tokens: TokenBatch) -> TokenBatch:
    """Returns the captions without the positions that are padding in all of them."""
    longest = int(tokens.attention_mask.sum(dim=-1).max()) if len(tokens.input_ids) else 0
    return TokenBatch(
        tokens.input_ids[:, :longest],
        tokens.attention_mask[:, :longest],
        tokens.word_ids[:, :longest],
    )


def encode_captions(
    tokenizer: Tokenizer, captions: Sequence[str], model: ModelConfig
) -> TokenBatch:
    """Returns the ids of one local batch of captions, padded by `model.text_padding`.

    With `fixed`, L is `model.text_length`. With `longest` (released behaviour), L is the length of
    the longest caption of these, at most `model.max_text_positions`.
    """
    if model.text_padding == "fixed":
        return tokenizer.encode(captions, model.text_length)
    return trim_padding(tokenizer.encode(captions, model.max_text_positions))


class Tokenizer:
    """A fast WordPiece tokenizer with a fixed output length. Use `load_tokenizer` to get one."""

    def __init__(self, fast: Any, name: str) -> None:
        self.name = name
        self._fast = fast
        for role in ("cls", "sep", "mask", "pad"):
            if getattr(fast, f"{role}_token_id", None) is None:
                raise UserError(
                    f"data.tokenizer={name}: it has no [{role.upper()}] token; choose a BERT-style "
                    "WordPiece tokenizer."
                )
        self.cls_id: int = fast.cls_token_id
        self.sep_id: int = fast.sep_token_id
        self.mask_id: int = fast.mask_token_id
        self.pad_id: int = fast.pad_token_id

    @property
    def vocab_size(self) -> int:
        """Rows that a word embedding needs: one more than the largest id."""
        return len(self._fast)

    def encode(self, captions: Sequence[str], length: int) -> TokenBatch:
        """Returns the ids of `captions`, all of `length` positions.

        A caption that is too long is truncated and keeps its [SEP]. A caption is plain text:
        `[MASK]` written in it is read as brackets and a word, not as the special token.
        """
        if not captions:
            empty = torch.zeros(0, length, dtype=torch.int64)
            return TokenBatch(empty, empty.bool(), empty.clone())
        coded = self._fast.encodings(captions, length)
        return TokenBatch(
            input_ids=torch.tensor([c.ids for c in coded]),
            attention_mask=torch.tensor([c.attention_mask for c in coded], dtype=torch.bool),
            word_ids=torch.tensor([_word_numbers(c.word_ids) for c in coded]),
        )

    def save(self, folder: Path) -> None:
        """Writes the files of which `load_saved_tokenizer`, or transformers, makes it again."""
        self._fast.save(folder)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Returns the readable text of one row of ids.

        [CLS], [SEP] and [PAD] are left out, [MASK] and [UNK] are shown.
        """
        values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        hidden = {self.cls_id, self.sep_id, self.pad_id}
        return self._fast.decode([i for i in values if i not in hidden])


def _word_numbers(word_ids: Sequence[int | None]) -> list[int]:
    return [-1 if word is None else word for word in word_ids]


class _HubTokenizer:
    """A fast tokenizer of transformers with the interface of the builtin one."""

    def __init__(self, fast: Any) -> None:
        self._fast = fast
        for role in ("cls", "sep", "mask", "pad"):
            setattr(self, f"{role}_token_id", getattr(fast, f"{role}_token_id", None))

    def __len__(self) -> int:
        return len(self._fast)

    def encodings(self, captions: Sequence[str], length: int) -> Sequence[Any]:
        coded = self._fast(
            list(captions),
            truncation=True,
            max_length=length,
            padding="max_length",
            split_special_tokens=True,
        )
        found: Sequence[Any] = coded.encodings
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._fast.decode(list(ids), skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        self._fast.save_pretrained(str(folder))


def load_saved_tokenizer(folder: Path, name: str) -> Tokenizer:
    """Returns the tokenizer that `Tokenizer.save` wrote into a folder.

    Args:
        folder: with its files.
        name: that it had.

    Raises:
        UserError: they are not there, or transformers, which they need, is not.
    """
    if name != BUILTIN:
        found = load_tokenizer(str(folder))
        found.name = name
        return found
    try:
        words = (folder / WORDS_FILE).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{folder / WORDS_FILE} cannot be read ({error.strerror}).") from error
    return Tokenizer(WordPiece(words, LONGEST_WORD), name)


def load_tokenizer(name: str) -> Tokenizer:
    """Returns the tokenizer of that name.

    Args:
        name: `builtin`, a local folder, or a name on the hub (downloaded once, then cached).

    Raises:
        UserError: the folder or the download cannot be used, or it is not a fast BERT-style
            tokenizer.
    """
    # Batches are small; threads here only bring a warning at each fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        if name == BUILTIN:
            return Tokenizer(
                WordPiece(VOCABULARY.read_text(encoding="utf-8").splitlines(), LONGEST_WORD), name
            )
        import transformers
    except ImportError as error:
        raise UserError(
            f"the tokenizer needs the package transformers, which does not import ({error}): run "
            "`make install`."
        ) from error
    with _quiet():
        return Tokenizer(_HubTokenizer(_load_from_hub(transformers, name)), name)


def _load_from_hub(transformers: Any, name: str) -> Any:
    folder = Path(name).expanduser()
    load = transformers.AutoTokenizer.from_pretrained
    try:
        if folder.is_dir():
            fast = load(str(folder), local_files_only=True)
        else:
            try:
                # A cached copy needs no network, and no retries where there is none.
                fast = load(name, local_files_only=True)
            except OSError:
                fast = load(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"data.tokenizer={name}: cannot be loaded ({reason}); give a local folder that holds "
            "the tokenizer, connect to the hub, or use data.tokenizer=builtin."
        ) from error
    if not getattr(fast, "is_fast", False):
        raise UserError(
            f"data.tokenizer={name}: it is not a fast tokenizer, so it cannot tell the words of a "
            "caption apart."
        )
    return fast


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the libraries' advice while a tokenizer is loaded.

    Their errors are still shown.
    """
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
