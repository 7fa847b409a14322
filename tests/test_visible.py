"""Foreign text: nothing in it that a terminal, a log or a figure would obey is left, and nothing else changes."""

from __future__ import annotations

import io
import re
import unicodedata
from typing import Any
from xml.dom.minidom import parseString

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.visible import VisibleStream, visible, visible_values
from tests.foreign_text import FOREIGN, OBEYED


@given(FOREIGN)
def test_nothing_that_is_obeyed_is_left(text: str) -> None:
    for single_line, allowed in ((False, "\n\t"), (True, "")):
        shown = visible(text, single_line=single_line)
        assert not set(OBEYED.findall(shown)) - set(allowed)
        assert visible(shown, single_line=single_line) == shown
        shown.encode()
        parseString(f"<a>{shown.replace('&', '').replace('<', '')}</a>")


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp")) | st.sampled_from("\n\t\u200c\u200d\xad")))
def test_letters_marks_and_joiners_stay(text: str) -> None:
    assert visible(text) == text


def test_every_control_and_reordering_mark_of_unicode_is_shown() -> None:
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for char in map(chr, range(0x110000)):
        is_obeyed = (
            unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in bidirectional
        )
        if is_obeyed:
            assert re.fullmatch(r"\\(x..|u....|[nrt])", visible(char, single_line=True)), hex(ord(char))


def test_escapes_are_those_of_python() -> None:
    text = "\x1b[2J\r\x9b\u202e\U000e0041\udc80\t\n"
    assert visible(text, single_line=True) == r"\x1b[2J\r\x9b\u202e\U000e0041\udc80\t\n"
    assert visible(text) == r"\x1b[2J\r\x9b\u202e\U000e0041\udc80" + "\t\n"


JSON_VALUES = st.recursive(FOREIGN | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(FOREIGN, v))


@given(JSON_VALUES)
def test_all_texts_of_a_json_value_are_shown(value: Any) -> None:
    def texts(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [text for item in node.items() for part in item for text in texts(part)]
        return [text for item in node for text in texts(item)] if isinstance(node, list) else [str(node)]

    shown = visible_values(value)
    assert all(not OBEYED.search(text) for text in texts(shown))
    assert not isinstance(value, list) or len(shown) == len(value)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(io.StringIO(), "\n 50%\n100%\n" + r"\x1b[2Jgone"), (Terminal(), "\r 50%\x1b[A\r100%\n" + r"\x1b[2Jgone")],
)
def test_bars_of_libraries_still_move_in_a_terminal(stream: io.StringIO, expected: str) -> None:
    output = VisibleStream(stream)
    output.writelines(["\r 50%", "\x1b[A", "\r100%", "\n", "\x1b[2Jgone"])
    assert stream.getvalue() == expected
    assert output.isatty() is stream.isatty()


@given(FOREIGN)
def test_a_stream_obeys_nothing(text: str) -> None:
    stream = io.StringIO()
    print(text, file=VisibleStream(stream))
    assert not set(OBEYED.findall(stream.getvalue())) - {"\n", "\t"}
