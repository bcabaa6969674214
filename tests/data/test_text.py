"""The tokenizer: offline, whole on ASCII, fixed length, words kept apart."""

import random
import string
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data.text.tokenizer import LONGEST_WORD, VOCABULARY, Tokenizer, load_tokenizer
from simvtp.errors import UserError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("builtin")


def test_vocabulary_is_small_unique_and_starts_with_the_special_tokens() -> None:
    words = VOCABULARY.read_text(encoding="utf-8").splitlines()
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(words) == len(set(words)) < 3000
    assert not [word for word in words if word != word.strip() or not word]


@given(text=st.text(alphabet=string.printable, max_size=200), length=st.integers(3, 40))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_ascii_text_is_coded_without_unknown_pieces(
    tokenizer: Tokenizer, text: str, length: int
) -> None:
    batch = tokenizer.encode([text], length)
    ids, mask, words = batch.input_ids[0], batch.attention_mask[0], batch.word_ids[0]
    assert (
        ids.dtype == words.dtype == torch.int64 and mask.dtype == torch.bool and len(ids) == length
    )
    assert 1 not in ids
    tokens = int(mask.sum())
    assert mask[:tokens].all() and (ids[tokens:] == tokenizer.pad_id).all()
    assert ids[0] == tokenizer.cls_id and ids[tokens - 1] == tokenizer.sep_id
    assert set(ids[1 : tokens - 1].tolist()).isdisjoint(
        {tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id}
    )
    inner = words[1 : tokens - 1]
    assert (
        words[0] == words[tokens - 1] == -1 and (words[tokens:] == -1).all() and (inner >= 0).all()
    )
    assert not len(inner) or (
        inner[0] == 0 and ((inner[1:] - inner[:-1] == 0) | (inner[1:] - inner[:-1] == 1)).all()
    )


def test_pieces_of_one_word_share_its_number(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(["a qqq dog"], 10)
    assert batch.word_ids[0].tolist() == [-1, 0, 1, 1, 1, 2, -1, -1, -1, -1]
    assert tokenizer.decode(batch.input_ids[0]) == "a qqq dog"


def test_special_tokens_in_a_caption_are_plain_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["the [MASK] and the [SEP]"], 24).input_ids[0].tolist()
    assert tokenizer.mask_id not in ids and ids.count(tokenizer.sep_id) == 1


def test_a_very_long_word_and_an_empty_batch(tokenizer: Tokenizer) -> None:
    assert 1 not in tokenizer.encode(["x" * 500], 64).input_ids
    assert tokenizer.encode([], 8).input_ids.shape == (0, 8)


def test_mask_is_shown_when_decoding(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["a red star spins"], 8).input_ids[0]
    ids[2] = tokenizer.mask_id
    assert tokenizer.decode(ids) == "a [MASK] star spins"


def test_a_local_folder_loads_and_codes_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    (tmp_path / "vocab.txt").write_text(VOCABULARY.read_text(encoding="utf-8"), encoding="utf-8")
    transformers.BertTokenizerFast.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    other = load_tokenizer(str(tmp_path / "saved"))
    text = ["A man is playing the guitar, isn't he?"]
    assert other.vocab_size == tokenizer.vocab_size
    assert torch.equal(other.encode(text, 24).input_ids, tokenizer.encode(text, 24).input_ids)


def test_a_name_that_cannot_be_loaded_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # no retries on a machine without network
    with pytest.raises(UserError, match=r"data.tokenizer=nobody/nothing: cannot be loaded"):
        load_tokenizer("nobody/nothing")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_the_builtin_tokenizer_codes_as_the_one_of_transformers_does(tokenizer: Tokenizer) -> None:
    import transformers

    words = VOCABULARY.read_text(encoding="utf-8").splitlines()
    peer = transformers.BertTokenizerFast(
        vocab={word: number for number, word in enumerate(words)}, do_lower_case=True
    )
    peer.backend_tokenizer.model.max_input_chars_per_word = LONGEST_WORD
    draw = random.Random(0)
    signs = [
        *string.printable,
        *"éüßÑ中文日😀‑–’“\u200b\u0301",
        *words[:300],
        "[MASK]",
        "[SEP]",
        "[PAD]",
        *" " * 30,
    ]
    for length in (3, 8, 24, 40):
        texts = ["".join(draw.choices(signs, k=draw.randint(0, 40))) for _ in range(100)]
        ours = tokenizer.encode(texts, length)
        theirs = peer(
            texts,
            truncation=True,
            max_length=length,
            padding="max_length",
            split_special_tokens=True,
        ).encodings
        assert ours.input_ids.tolist() == [coded.ids for coded in theirs]
        assert ours.attention_mask.tolist() == [
            [bool(value) for value in coded.attention_mask] for coded in theirs
        ]
        assert ours.word_ids.tolist() == [
            [-1 if word is None else word for word in coded.word_ids] for coded in theirs
        ]
        hidden = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id}
        for row in ours.input_ids:
            assert tokenizer.decode(row) == peer.decode(
                [i for i in row.tolist() if i not in hidden], skip_special_tokens=False
            )
