"""Small tokenizers of two families for tests of preview.html."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers

from firstsight.data.tokenizer import CHAT_TOKENS, END_OF_TEXT, PAD_TOKEN, Tokenizer, load_tokenizer

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img/src=x/onerror=alert(1)>',
    "\u202egnp.exe\u202c",
    "'quoted'&amp;",
    "bell\x07\x1b[31m",
    "</style></span>",
)
WORDS = [END_OF_TEXT, *CHAT_TOKENS, PAD_TOKEN, "<unk>", *(f"w{number}" for number in range(40)), *HOSTILE]
WORD_IDS = {word: number for number, word in enumerate(WORDS)}


@cache
def word_level() -> Tokenizer:
    """A vocabulary of WORDS."""
    tokenizer = Fast(models.WordLevel(WORD_IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([END_OF_TEXT, *CHAT_TOKENS, PAD_TOKEN])
    return saved(tokenizer)


@cache
def byte_level() -> Tokenizer:
    """Byte-level BPE with 300 tokens."""
    tokenizer = Fast(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["the cat sat on the mat\n\n", "the hat \U0001f642 caf\u00e9", "     deep  blanks"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(["   "])
    return saved(tokenizer)


def saved(tokenizer: Fast) -> Tokenizer:
    """The tokenizer, written to a temporary folder and loaded again."""
    folder = Path(mkdtemp())
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)
