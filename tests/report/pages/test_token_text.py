"""Texts of single tokens: together they are the text, and cut characters are marked."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models

from firstsight.data.tokenizer import END_OF_TEXT
from firstsight.report.pages.token_text import TokenDecoder
from tests.report.pages.small_tokenizers import byte_level, saved, word_level

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT)
@settings(max_examples=150, deadline=None)
def test_byte_level_tokens_join_to_the_text(text: str) -> None:
    tokenizer = byte_level()
    [ids] = tokenizer.encode([text])
    tokens = TokenDecoder(tokenizer).token_texts(ids)
    assert len(tokens) == len(ids)
    assert "".join(token.text for token in tokens) == text
    assert not any(token.is_invalid_utf8 or token.is_special for token in tokens)


@given(TEXT, st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_only_cut_characters_are_marked(text: str, start: int, stop: int) -> None:
    tokenizer = byte_level()
    [ids] = tokenizer.encode([text])
    tokens = TokenDecoder(tokenizer).token_texts(ids[start:stop])
    assert len(tokens) == len(ids[start:stop])
    assert "".join(token.text for token in tokens if not token.is_invalid_utf8) in text
    assert sum(token.is_invalid_utf8 for token in tokens) <= 6


def test_tokens_of_one_character_are_joined() -> None:
    tokenizer = byte_level()
    [ids] = tokenizer.encode(["\U0001f680"])
    tokens = TokenDecoder(tokenizer).token_texts(ids)
    assert len(ids) > 1
    assert [token.text for token in tokens] == ["\U0001f680"] + [""] * (len(ids) - 1)
    assert [token.is_continuation for token in tokens] == [False] + [True] * (len(ids) - 1)


def test_cut_character_is_shown_as_bytes() -> None:
    tokenizer = byte_level()
    [ids] = tokenizer.encode(["\u4f60"])
    [first, *_] = TokenDecoder(tokenizer).token_texts(ids[:1])
    assert (first.text, first.is_invalid_utf8) == ("\\xe4", True)


def test_special_tokens_have_names_in_every_vocabulary() -> None:
    tokenizer = byte_level()
    special = tokenizer.special_ids
    tokens = TokenDecoder(tokenizer).token_texts([special.end, special.human, special.answer])
    assert [(token.text, token.is_special) for token in tokens] == [
        (END_OF_TEXT, True),
        ("<|/h|>", True),
        ("<|/a|>", True),
    ]


def test_byte_fallback_is_decoded() -> None:
    names = [END_OF_TEXT, "<unk>", "\u2581the", "\u2581", "cat", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Fast(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([END_OF_TEXT])
    decoder = TokenDecoder(saved(tokenizer))
    ids = [2, 3, 4, *(5 + byte for byte in "é".encode())]
    assert [token.text for token in decoder.token_texts(ids)] == [" the", " ", "cat", "é", ""]
    assert not decoder.needs_spacing
    assert TokenDecoder(word_level()).needs_spacing
