"""Tokens one by one, as a reader can check them: bytes joined into letters, special tokens by name, blanks in sight."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from tokenizers import Tokenizer as Fast

from firstsight.data.tokenizer import PAD, Tokenizer
from firstsight.report.answers.wording import unseen

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How vocabularies with byte fallback write a single byte."""
BLANKS = {" ": Markup("<i> </i>"), "\n": Markup("<i class=n>↵</i>\n"), "\t": Markup("<i class=n>⇥</i>\t")}
WRITTEN = Markup("<i class=u>U+{:04X}</i>").format
"""What cannot be seen, or would turn its neighbours round, is written out: controls, bidi marks, strange spaces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spelt:
    """One token on the page. A letter that several tokens share stands with the first; the others are `joined`."""

    text: str
    special: bool
    joined: bool
    broken: bool
    """Its bytes are no letter: the tokens around it were cut."""


class Speller:
    """Reads tokens of one tokenizer, whatever family it is of."""

    def __init__(self, words: Tokenizer) -> None:
        text = words.path.read_text(encoding="utf-8")
        self._fast, file = Fast.from_str(text), json.loads(text)
        special = words.special
        self._named = {special.pad: PAD, special.human: "<|/h|>", special.answer: "<|/a|>", special.end: words.end}
        added = file.get("added_tokens") or []
        self._named |= {token["id"]: token["content"] for token in added if token["special"]}
        self._plain = {token["id"]: token["content"] for token in added if not token["special"]}
        self._letters = dict(_alphabet()) if "ByteLevel" in _kinds(file.get("decoder")) else None
        self._fallback = "ByteFallback" in _kinds(file.get("decoder"))
        self.apart = not _kinds(file.get("decoder")) & {"ByteLevel", "Metaspace", "Replace"}
        """Tokens hold no white space: the page sets them apart."""

    def name(self, number: int) -> str:
        """A special token by its name."""
        return self._named.get(number, f"token {number}")

    def spell(self, ids: Sequence[int]) -> list[Spelt]:
        """One entry for each of `ids`, in order."""
        found: list[Spelt] = []
        run: list[int] = []
        for number in ids:
            if number in self._named:
                found += self._letters_of(run)
                found.append(Spelt(text=self.name(number), special=True, joined=False, broken=False))
                run = []
            else:
                run.append(number)
        return found + list(self._letters_of(run))

    def _letters_of(self, run: Sequence[int]) -> Iterator[Spelt]:
        """Tokens without special ones among them, joined wherever one ends inside a letter."""
        reader = codecs.getincrementaldecoder("utf-8")("strict")
        held: list[bytes] = []
        for data in map(self._bytes, run):
            held.append(data)
            try:
                reader.decode(data)
            except UnicodeDecodeError:
                reader.reset()
            if not reader.getstate()[0]:
                yield from _joined(held)
                held = []
        yield from _joined(held)

    def _bytes(self, number: int) -> bytes:
        """What a token stands for, as bytes of UTF-8."""
        if number in self._plain:
            return self._plain[number].encode()
        piece = self._fast.id_to_token(number)
        if piece is None:
            return f"[token {number}]".encode()
        if self._letters is not None:
            return b"".join(self._letters.get(letter, letter.encode()) for letter in piece)
        if self._fallback and (byte := BYTE.fullmatch(piece)):
            return bytes.fromhex(byte[1])
        return (piece if self.apart else piece.replace("\u2581", " ")).encode()


def _joined(held: Sequence[bytes]) -> Iterator[Spelt]:
    """The text of tokens that only together are letters, at the first of them."""
    if not held:
        return
    data = b"".join(held)
    try:
        text, broken = data.decode(), False
    except UnicodeDecodeError:
        text, broken = data.decode(errors="backslashreplace"), True
    yield Spelt(text=text, special=False, joined=False, broken=broken)
    for _ in held[1:]:
        yield Spelt(text="", special=False, joined=True, broken=broken)


def _kinds(part: Any) -> set[str]:
    """The types of a tokenizer file's decoder and of all that it is made of."""
    if not part:
        return set()
    return {part["type"]}.union(*map(_kinds, part.get("decoders", [])))


def _alphabet() -> Iterator[tuple[str, bytes]]:
    """Byte-level vocabularies write visible Latin-1 bytes as themselves, the others as the letters from U+0100 on."""
    later = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD):
            yield chr(byte), bytes([byte])
        else:
            yield chr(later), bytes([byte])
            later += 1


def marked(text: str) -> Markup:
    """`text` as safe HTML in which every blank can be seen and no letter can act on its neighbours."""
    return Markup("").join(map(_marked, text))


def _marked(letter: str) -> Markup:
    if letter in BLANKS:
        return BLANKS[letter]
    return WRITTEN(ord(letter)) if unseen(letter) else escape(letter)


def plain(text: str) -> str:
    """`text` on one line without letters that cannot be seen: names of files and records."""
    return "".join(f"[U+{ord(letter):04X}]" if letter != " " and unseen(letter) else letter for letter in text)
