"""Names and captions of others cannot steer a terminal."""

import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.__main__ import main
from simvtp.console import log_to_terminal, printable
from simvtp.errors import DataError

EVIL = "clip\x1b[2J\x1b]0;title\x07\u202egpj.4pm\r\u2066"
OBEYED = ("Cc", "Cf", "Zl", "Zp", "Cs")


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    kept = "\n\t\u200c\u200d\u00ad"
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in OBEYED and c not in kept]
    assert printable(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs", "M"])))
def test_words_of_any_script_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_messages_show_the_name_with_escapes() -> None:
    assert str(DataError(f"no file {EVIL}")) == f"no file {printable(EVIL)}"
    assert "\\x1b[2J" in str(DataError(EVIL))


def test_log_lines_show_the_name_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        log_to_terminal(logging.WARNING, "%(message)s")
        logging.getLogger("simvtp.test").warning("skipped %s", EVIL)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert capsys.readouterr().err == f"skipped {printable(EVIL)}\n"


def test_a_check_prints_an_evil_id_with_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "clips.csv"
    (tmp_path / "b.mp4").write_bytes(b"no film")
    rows = ("videoid,path,caption", f'"{EVIL}",absent.mp4,a cat', "b,b.mp4,a dog")
    table.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="")
    assert main(["data", "check", str(table)]) != 0
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "\\x1b[2J" in shown
