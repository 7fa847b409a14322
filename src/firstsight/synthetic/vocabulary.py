"""The closed vocabulary of the synthetic world: all sentence templates, and the word-level tokenizer of their words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from firstsight.files import write_atomic
from firstsight.recipe.mixture import SyntheticVocabulary, SyntheticWorld
from firstsight.site import Progress, ProgressCallback, Site
from firstsight.synthetic.catalog import GROUND_COLORS, PLACES, SIGNS, load_catalog

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|unk|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
"""Ids 0 to 7."""
QUESTION_END, ANSWER_END = "<|/h|>", "<|/a|>"
"""Text documents put these tokens after a question and its answer, as dialogues do."""

QUESTION_FORMS: dict[str, tuple[str, str]] = {
    "thing": ("what is {x}", "which thing is {x}"),
    "ground": ("what colour is the ground", "which colour is the ground"),
    "count": ("how many things", "what number of things"),
    "sign": ("what word is on the {x}", "which word is on the {x}"),
    "box": ("box of the {x}", "what is the box of the {x}"),
    "there": ("is there a {x}", "there is a {x}"),
    "where": ("where is the {x}", "which place is the {x}"),
    "kind": ("what kind of thing is {x}", "which kind of thing is {x}"),
}
"""Two forms of every question type, in training and in evaluation.

The subject is the last word, right before the end token and without a question mark: four layers learn within minutes
to use the previous token, but not the one before it.
"""

CAPTION_REQUESTS = ("what is the picture", "what is the photo")
"""The questions of multitask data whose answer is a caption; like all of its text, in words of the templates."""

SENTENCE_TEMPLATES: dict[str, str] = {
    "item": "{x} {place}",
    "with": "with {sign}",
    "ground": "ground {ground}",
    "again": ". again",
    "boxed": "{x} box {box}",
    "photo": "photo of a {x}",
    "picture": "nice picture {n}",
    "and": "and",
    "kind": "a {x} is a {k} .",
    "same": "a {x} and a {y} are same kind .",
    "other": "a {x} and a {y} are other kind .",
    "is kind": "is a {x} a {k}",
    "two": "{} plus {} is {} .",
    "three": "{} plus {} plus {} is {} .",
}
"""All other sentences; the parts of a description are joined by commas."""

NUMBER_WORDS = tuple(str(n) for n in range(28))
EDGE_WORDS = tuple(f"{n / 12:.2f}" for n in range(13))
"""Edges of boxes, in twelfths of the image."""
ANSWER_WORDS = ("yes", "no", "unanswerable")
RELATION_OFFSETS = {"right-of": (1, 0), "left-of": (-1, 0), "below": (0, 1), "above": (0, -1)}
"""Offset of the answer from the object in the question: (columns, rows)."""


def vocabulary_words(world: SyntheticWorld) -> tuple[str, ...]:
    """All words of the world, special tokens first, without repeats."""
    catalog = load_catalog(world)
    forms = [form for forms in QUESTION_FORMS.values() for form in forms] + list(SENTENCE_TEMPLATES.values())
    words = [word for form in forms for word in form.split() if "{" not in word] + [",", "."]
    words += [*RELATION_OFFSETS, *PLACES, *GROUND_COLORS, *ANSWER_WORDS, *NUMBER_WORDS, *EDGE_WORDS, *SIGNS]
    return tuple(dict.fromkeys((*SPECIAL_TOKENS, *words, *catalog.kinds, *catalog.names)))


def word_tokenizer(world: SyntheticWorld) -> Tokenizer:
    """One token a word. Lower-cases, removes question marks and splits off commas and full stops, so that typed
    questions are read as well.
    """
    ids = {word: token_id for token_id, word in enumerate(vocabulary_words(world))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<|unk|>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("?", "")])
    split = pre_tokenizers.Split(Regex(r",|\.$"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL_TOKENS])
    return tokenizer


def write_vocabulary(
    spec: SyntheticVocabulary, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes tokenizer.json."""
    tokenizer = word_tokenizer(spec.world)
    write_atomic(out / "tokenizer.json", tokenizer.to_str(pretty=True))
    on_progress(Progress(done=tokenizer.get_vocab_size(), total=tokenizer.get_vocab_size(), unit="words"))
