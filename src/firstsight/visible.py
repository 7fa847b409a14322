"""Text that others wrote, on its way to a terminal, a log or a figure: shown, never obeyed. Standard library only.

Names in archives, keys of JSON, answers of models and messages of libraries may contain control characters, which move
a terminal's cursor, change what a reader sees, or end a line. Here they become visible escapes, such as `\\x1b`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
_REORDERING = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_INVISIBLE = r"\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_NOT_TEXT = r"\ufffe\uffff\ud800-\udfff"
_HIDDEN = re.compile(f"[{_CONTROLS}{_REORDERING}{_INVISIBLE}{_NOT_TEXT}]")
"""Controls but tab and line feed; marks that reorder text; separators, zero widths and tags; what no encoding or XML
has. The joiners of Persian, Hindi and emoji (U+200C, U+200D) and the soft hyphen are text."""
_HIDDEN_IN_LINE = re.compile(rf"[\t\n]|{_HIDDEN.pattern}")
_CURSOR_MOVE = re.compile(r"(\r|(?:\x1b\[A)+\Z)?")
"""How a progress bar of tqdm begins: back to the start of its line; or, as a whole write, some lines up."""


def visible(text: str, *, single_line: bool = False) -> str:
    """`text` with escapes in place of control characters, reordering marks, invisible ones and lone surrogates.

    Tabs and line feeds stay, except with `single_line`. The result can be encoded in UTF-8 and is legal in XML.
    """
    return (_HIDDEN_IN_LINE if single_line else _HIDDEN).sub(_escape, text)


def visible_values(value: Any) -> Any:
    """A JSON value, every text in it `visible` on a single line."""
    if isinstance(value, str):
        return visible(value, single_line=True)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {visible(key, single_line=True): visible_values(item) for key, item in items}
    return [visible_values(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(match[0], f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class VisibleStream:
    """A text stream that writes `visible` text to another one.

    Bars of tqdm still move the cursor in a terminal; elsewhere each of their states is a line.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        """The stream behind this one."""

    def write(self, text: str) -> int:
        move = _CURSOR_MOVE.match(text)
        start = move[0] if move else ""
        shown = start if self.stream.isatty() else "\n" if start == "\r" else ""
        self.stream.write(shown + visible(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_output_visible(*, stdout: bool) -> None:
    """Let what this process and its libraries write to standard error, and to standard output, be `visible`."""
    if stdout:
        sys.stdout = cast(TextIO, VisibleStream(sys.stdout))
    sys.stderr = cast(TextIO, VisibleStream(sys.stderr))
