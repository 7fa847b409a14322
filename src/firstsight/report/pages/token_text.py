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

from firstsight.data.tokenizer import PAD_TOKEN, Tokenizer
from firstsight.report.pages.answer_text import is_invisible

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How vocabularies with byte fallback write a single byte."""
BLANK_HTML = {" ": Markup("<i> </i>"), "\n": Markup("<i class=n>↵</i>\n"), "\t": Markup("<i class=n>⇥</i>\t")}
CODE_POINT_HTML = Markup("<i class=u>U+{:04X}</i>").format
"""What cannot be seen, or would turn its neighbours round, is written out: controls, bidi marks, strange spaces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenText:
    """One token on the page. A letter that several tokens share stands with the first; the others are `joined`."""

    text: str
    is_special: bool
    is_continuation: bool
    is_invalid_utf8: bool
    """Its bytes are no letter: the tokens around it were cut."""


class TokenDecoder:
    """Reads tokens of one tokenizer, whatever family it is of."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        text = tokenizer.path.read_text(encoding="utf-8")
        self._tokenizer, tokenizer_file = Fast.from_str(text), json.loads(text)
        special = tokenizer.special_ids
        self._special_names = {
            special.pad: PAD_TOKEN,
            special.human: "<|/h|>",
            special.answer: "<|/a|>",
            special.end: tokenizer.end_token,
        }
        added_tokens = tokenizer_file.get("added_tokens") or []
        self._special_names |= {token["id"]: token["content"] for token in added_tokens if token["special"]}
        self._added_texts = {token["id"]: token["content"] for token in added_tokens if not token["special"]}
        self._byte_letters = (
            dict(_byte_alphabet()) if "ByteLevel" in _decoder_types(tokenizer_file.get("decoder")) else None
        )
        self._has_byte_fallback = "ByteFallback" in _decoder_types(tokenizer_file.get("decoder"))
        self.needs_spacing = not _decoder_types(tokenizer_file.get("decoder")) & {"ByteLevel", "Metaspace", "Replace"}
        """Tokens hold no white space: the page sets them apart."""

    def special_name(self, token_id: int) -> str:
        """A special token by its name."""
        return self._special_names.get(token_id, f"token {token_id}")

    def token_texts(self, ids: Sequence[int]) -> list[TokenText]:
        """One entry for each of `ids`, in order."""
        texts: list[TokenText] = []
        run: list[int] = []
        for token_id in ids:
            if token_id in self._special_names:
                texts += self._decode_run(run)
                texts.append(
                    TokenText(
                        text=self.special_name(token_id), is_special=True, is_continuation=False, is_invalid_utf8=False
                    )
                )
                run = []
            else:
                run.append(token_id)
        return texts + list(self._decode_run(run))

    def _decode_run(self, run: Sequence[int]) -> Iterator[TokenText]:
        """Tokens without special ones among them, joined wherever one ends inside a letter."""
        utf8_decoder = codecs.getincrementaldecoder("utf-8")("strict")
        pending: list[bytes] = []
        for data in map(self._token_bytes, run):
            pending.append(data)
            try:
                utf8_decoder.decode(data)
            except UnicodeDecodeError:
                utf8_decoder.reset()
            if not utf8_decoder.getstate()[0]:
                yield from _join_bytes(pending)
                pending = []
        yield from _join_bytes(pending)

    def _token_bytes(self, token_id: int) -> bytes:
        """What a token stands for, as bytes of UTF-8."""
        if token_id in self._added_texts:
            return self._added_texts[token_id].encode()
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return f"[token {token_id}]".encode()
        if self._byte_letters is not None:
            return b"".join(self._byte_letters.get(letter, letter.encode()) for letter in piece)
        if self._has_byte_fallback and (byte := BYTE_TOKEN.fullmatch(piece)):
            return bytes.fromhex(byte[1])
        return (piece if self.needs_spacing else piece.replace("\u2581", " ")).encode()


def _join_bytes(pieces: Sequence[bytes]) -> Iterator[TokenText]:
    """The text of tokens that only together are letters, at the first of them."""
    if not pieces:
        return
    data = b"".join(pieces)
    try:
        text, is_invalid_utf8 = data.decode(), False
    except UnicodeDecodeError:
        text, is_invalid_utf8 = data.decode(errors="backslashreplace"), True
    yield TokenText(text=text, is_special=False, is_continuation=False, is_invalid_utf8=is_invalid_utf8)
    for _ in pieces[1:]:
        yield TokenText(text="", is_special=False, is_continuation=True, is_invalid_utf8=is_invalid_utf8)


def _decoder_types(decoder: Any) -> set[str]:
    """The types of a tokenizer file's decoder and of all that it is made of."""
    if not decoder:
        return set()
    return {decoder["type"]}.union(*map(_decoder_types, decoder.get("decoders", [])))


def _byte_alphabet() -> Iterator[tuple[str, bytes]]:
    """Byte-level vocabularies write visible Latin-1 bytes as themselves, the others as the letters from U+0100 on."""
    next_code = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD):
            yield chr(byte), bytes([byte])
        else:
            yield chr(next_code), bytes([byte])
            next_code += 1


def visible_html(text: str) -> Markup:
    """`text` as safe HTML in which every blank can be seen and no letter can act on its neighbours."""
    return Markup("").join(map(_visible_character, text))


def _visible_character(letter: str) -> Markup:
    if letter in BLANK_HTML:
        return BLANK_HTML[letter]
    return CODE_POINT_HTML(ord(letter)) if is_invisible(letter) else escape(letter)


def single_line_text(text: str) -> str:
    """`text` on one line without letters that cannot be seen: names of files and records."""
    return "".join(f"[U+{ord(letter):04X}]" if letter != " " and is_invisible(letter) else letter for letter in text)
