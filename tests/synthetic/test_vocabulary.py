"""The vocabulary: every word of every source is a token, and typed text is normalized."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tokenizers import Tokenizer

from firstsight.synthetic.vocabulary import vocabulary_words, word_tokenizer
from tests.synthetic.world_reader import DOCUMENTS, WORLD, read_dialogues


def test_every_word_is_one_known_token(sources_folder: Path) -> None:
    tokenizer = word_tokenizer(WORLD)
    tokenizer.encode_special_tokens = True
    assert tokenizer.get_vocab_size() == len(vocabulary_words(WORLD)) < 300
    texts = [document.text for document in DOCUMENTS]
    texts += [text for _, *turn in read_dialogues(sources_folder / "dialogues") for text in turn]
    for quality in ("rich", "noisy"):
        with tarfile.open(sources_folder / quality / "00000.tar") as tar:
            captions = [name for name in tar.getnames() if name.endswith(".txt")]
            texts += [tar.extractfile(name).read().decode() for name in captions]  # type: ignore[union-attr]
    for text in texts:
        assert tokenizer.encode(text).tokens == text.split()


def test_the_tokenizer_normalizes_typed_text(sources_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(sources_folder / "vocabulary/tokenizer.json"))
    assert tokenizer.encode("What is top-left?").tokens == ["what", "is", "top-left"]
    assert tokenizer.encode("0.08 spaceship.").tokens == ["0.08", "<|unk|>", "."]
    assert tokenizer.decode(tokenizer.encode("is there a cow ?").ids) == "is there a cow"
    assert tokenizer.token_to_id("<|endoftext|>") == 0
