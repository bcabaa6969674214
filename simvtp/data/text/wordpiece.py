"""The builtin WordPiece tokenizer, made by the library `tokenizers`.

That library does the work inside transformers' fast tokenizers: a test holds that the ids are those
of `transformers.BertTokenizerFast` on the same vocabulary. transformers itself takes most of a
second of processor time to import, at each start of each experiment, so only tokenizers from
elsewhere need it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simvtp.runs.atomic_files import write_atomically

WORDS_FILE = "vocab.txt"  # names that transformers looks for
CONFIG_FILE = "tokenizer_config.json"
ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class WordPiece:
    """Lower-case WordPiece over `words`, which must hold all five special tokens.

    Not safe to use from two threads at once.
    """

    def __init__(self, words: Sequence[str], longest_word: int) -> None:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

        numbers = {word: number for number, word in enumerate(words)}
        self._words = tuple(words)
        self.cls_token_id, self.sep_token_id = numbers[ROLES["cls"]], numbers[ROLES["sep"]]
        self.mask_token_id, self.pad_token_id = numbers[ROLES["mask"]], numbers[ROLES["pad"]]
        model: Any = models.WordPiece(
            numbers, unk_token=ROLES["unk"], max_input_chars_per_word=longest_word
        )
        coder: Any = Tokenizer(model)
        coder.normalizer = normalizers.BertNormalizer(lowercase=True)
        coder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        coder.decoder = decoders.WordPiece(prefix="##")
        coder.post_processor = processors.TemplateProcessing(
            single=f"{ROLES['cls']} $A {ROLES['sep']}",
            special_tokens=[(ROLES[role], numbers[ROLES[role]]) for role in ("cls", "sep")],
        )
        coder.add_special_tokens(list(ROLES.values()))
        coder.encode_special_tokens = True  # written in a caption they are plain text
        self._coder = coder

    def __len__(self) -> int:
        return int(self._coder.get_vocab_size(with_added_tokens=True))

    def encodings(self, captions: Sequence[str], length: int) -> Sequence[Any]:
        """Returns one encoding a caption, truncated or padded to `length` pieces.

        Each has `ids`, `attention_mask` and `word_ids`.
        """
        self._coder.enable_truncation(length)
        self._coder.enable_padding(length=length, pad_id=self.pad_token_id, pad_token=ROLES["pad"])
        found: Sequence[Any] = self._coder.encode_batch(list(captions))
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._coder.decode(list(ids), skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Writes vocab.txt and a config with which transformers makes a BERT tokenizer of it."""
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            **{f"{role}_token": text for role, text in ROLES.items()},
        }
        write_atomically(folder / WORDS_FILE, "\n".join(self._words) + "\n")
        write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=1) + "\n")
