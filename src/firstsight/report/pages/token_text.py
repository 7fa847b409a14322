"""The text of single tokens: bytes joined into characters, special tokens by name."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer as HFTokenizer

from firstsight.data.tokenizer import PAD_TOKEN, Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""A single byte in vocabularies with byte fallback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenText:
    """The text of one token. A character of several tokens is the text of the first; the others are continuations."""

    text: str
    is_special: bool = False
    is_continuation: bool = False
    is_invalid_utf8: bool = False
    """Its bytes are not valid UTF-8, because the text was cut inside a character."""


class TokenDecoder:
    """Texts of the tokens of one tokenizer: byte-level, with byte fallback, or of whole words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        text = tokenizer.path.read_text(encoding="utf-8")
        self._tokenizer, tokenizer_file = HFTokenizer.from_str(text), json.loads(text)
        special, added = tokenizer.special_ids, tokenizer_file.get("added_tokens") or []
        self._special_names = {
            special.pad: PAD_TOKEN,
            special.human: "<|/h|>",
            special.answer: "<|/a|>",
            special.end: tokenizer.end_token,
            **{token["id"]: token["content"] for token in added if token["special"]},
        }
        self._added_texts = {token["id"]: token["content"] for token in added if not token["special"]}
        decoder_types = _decoder_types(tokenizer_file.get("decoder"))
        self._byte_letters = dict(_byte_alphabet()) if "ByteLevel" in decoder_types else None
        self._has_byte_fallback = "ByteFallback" in decoder_types
        self.needs_spacing = not decoder_types & {"ByteLevel", "Metaspace", "Replace"}
        """Tokens contain no white space, so the page puts space between them."""

    def token_texts(self, ids: Sequence[int]) -> list[TokenText]:
        """One entry for each of `ids`, in order."""
        texts: list[TokenText] = []
        for is_special, run in groupby(ids, self._special_names.__contains__):
            read_run = self._special_texts if is_special else self._decode_run
            texts += read_run(run)
        return texts

    def _special_texts(self, run: Iterable[int]) -> Iterator[TokenText]:
        return (TokenText(text=self._special_names[token_id], is_special=True) for token_id in run)

    def _decode_run(self, run: Iterable[int]) -> Iterator[TokenText]:
        """Texts of tokens that are not special; a token that ends inside a character is joined with the next."""
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
        if token_id in self._added_texts:
            return self._added_texts[token_id].encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return f"[token {token_id}]".encode()
        if self._byte_letters is not None:
            return b"".join(self._byte_letters.get(letter, letter.encode()) for letter in token)
        if self._has_byte_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1])
        return (token if self.needs_spacing else token.replace("\u2581", " ")).encode()


def _join_bytes(parts: Sequence[bytes]) -> Iterator[TokenText]:
    """The joint text of several tokens, given to the first; the others are continuations."""
    data = b"".join(parts)
    text = data.decode(errors="backslashreplace")
    is_invalid = text.encode() != data
    for index in range(len(parts)):
        yield TokenText(text="" if index else text, is_continuation=index > 0, is_invalid_utf8=is_invalid)


def _decoder_types(decoder: Any) -> set[str]:
    return {decoder["type"]}.union(*map(_decoder_types, decoder.get("decoders", []))) if decoder else set()


def _byte_alphabet() -> Iterator[tuple[str, bytes]]:
    """Letters of byte-level vocabularies: visible Latin-1 bytes are themselves, others are letters from U+0100 on."""
    next_code = 0x100
    for byte in range(256):
        is_visible = 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
        yield chr(byte if is_visible else next_code), bytes([byte])
        next_code += not is_visible
