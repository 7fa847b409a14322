"""Cleaning of answers: what a chat template or a reasoning model writes around the answer is removed, and counted.

Special tokens, role labels, a repeated prompt and reasoning are no part of an answer, but official scorers compare them
as words: every answer that ends in `</s>` is wrong on VQAv2, and "ASSISTANT:No" is a yes on POPE.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class _LazyPattern:
    """A pattern that is compiled at its first use: most files have nothing to clean, and compiling takes 15 ms."""

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self._arguments = (pattern, flags)

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(*self._arguments)


_BAR = "[|\uff5c]"
"""DeepSeek writes its tokens with full-width bars."""
_COLON = "[:\uff1a]"
_REASONING_NAMES = "think|thinking|thought|thoughts|reasoning|reason|scratchpad|begin_of_thought"
_OPEN = rf"(?:<\|?(?:{_REASONING_NAMES})\|?>|\[THINK\]|\u25c1think\u25b7)"
_CLOSE = (
    rf"(?:</(?:{_REASONING_NAMES})>|<\|(?:/(?:{_REASONING_NAMES})|end_of_thought)\|>|\[/THINK\]|\u25c1/think\u25b7)"
)
_REASONING = _LazyPattern(rf"^.*{_CLOSE}", re.IGNORECASE | re.DOTALL)
"""Up to the last end of reasoning. Some templates put its start into the prompt, so that an answer has only the end."""
_CUT_REASONING = _LazyPattern(rf"{_OPEN}.*$", re.IGNORECASE | re.DOTALL)
"""Reasoning without an end: the answer was cut at its greatest length."""
_FINAL_CHANNEL = _LazyPattern(
    r"^.*<\|channel\|>\s*final\s*(?:<\|[^<>|]*\|>)?\s*<\|message\|>", re.IGNORECASE | re.DOTALL
)
"""The template of gpt-oss: the answer is in its last channel."""
_CUT_CHANNEL = _LazyPattern(r"<\|channel\|>\s*(?:analysis|commentary)\b.*$", re.IGNORECASE | re.DOTALL)
_ANSWER_TAG = _LazyPattern(r"<answer>\s*(.*?)\s*(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
"""The answer of models that are trained to write <think> and <answer>."""

_BOX_NOTATION = r"/?(?:box|object_ref|quad|ref|det|grounding|point|poly|loc)"
"""Tokens that give a box its unit."""
_TOKEN = _LazyPattern(
    r"</?s>|</?(?:bos|eos|pad|unk|sep|cls|eot|eod|eoa|eoc|eom|eoh|soa|image|img|video|IMG_CONTEXT|im_start|im_end)>"
    r"|<(?:begin|start|end)_of_[a-z_]{1,20}>|\[(?:BOS|EOS|PAD|UNK|SEP|CLS)\]|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>"
    rf"|<{_BAR}(?!{_BOX_NOTATION})[^<>|\uff5c\s]{{1,40}}{_BAR}>|\s*#{{3}}\s*$",
    re.IGNORECASE,
)
_ROLE = "assistant|model|chatbot|gpt"
_HEADER = rf"<\|im_start\|>|<start_of_turn>|<\|start_header_id\|>|<\|start\|>|<\|start_of_role\|>|<\|im_{_ROLE}\|>"
_ROLE_HEADER = _LazyPattern(rf"(?:{_HEADER})\s*(?:{_ROLE})?\s*(?=<|\n|$)", re.IGNORECASE)
"""The start of a turn with its role: <|im_start|>assistant, <start_of_turn>model, Llama 3's header."""
_USER = _LazyPattern(
    rf"(?:{_HEADER})\s*user\b|<{_BAR}user{_BAR}>|<\|im_user\|>|\[INST\]|\b(?-i:USER|Human)\s*{_COLON}|(?:^|\n)user\s*\n",
    re.IGNORECASE,
)
"""The start of the user's turn."""
_ASSISTANT = _LazyPattern(
    rf"(?:{_HEADER})\s*(?:{_ROLE})\b(?:<\|end_header_id\|>|<\|end_of_role\|>|<\|message\|>)?|<{_BAR}assistant{_BAR}>|\[/INST\]"
    rf"|\b(?:{_ROLE})\s*{_COLON}|\n(?:{_ROLE})\s*\n",
    re.IGNORECASE,
)
"""The start of the model's turn."""
_SYSTEM = _LazyPattern(rf"(?:(?:{_HEADER})?\s*system\b|<{_BAR}system{_BAR}>|A chat between|You are )", re.IGNORECASE)
_END = _LazyPattern(
    r"</s>|<(?:eos|eot|eod|eoa|eoc|eom|im_end)>|\[EOS\]|<end_of_(?:turn|utterance|sentence|text)>"
    r"|<\|(?:im_end|eot_id|eom_id|eos|eot|end|endoftext|end_of_text|end_of_turn|end_of_sentence|return|call|/a"
    r"|END_OF_TURN_TOKEN)\|>|<[|\uff5c]end\u2581of\u2581sentence[|\uff5c]>"
    r"|\s*#{2,}\s*(?:User|Human|Instruction)\b",
    re.IGNORECASE,
)
"""What ends an answer; a model that goes on writes the user's next turn."""
_ANSWER_LABEL = (
    rf"(?:(?:{_ROLE})(?:'s)?\s+(?:answer|response)|(?:the\s+)?(?:final|short|correct)?\s*answer|assistant|chatbot|gpt)"
)
_ROLE_LABEL = _LazyPattern(
    rf"\s*(?:[#*_>\s]*{_ANSWER_LABEL}(?:\s+is)?[*_\s]*{_COLON}[*_]*|[#*]+\s*(?:response|output|answer|assistant)\s*{_COLON}"
    rf"|(?:#+\s*)?(?:{_ROLE}|answer)\s*\n)\s*",
    re.IGNORECASE,
)
"""ASSISTANT: and Answer:, glued or not, in bold or as a headline; a role on a line of its own, which is what is left
of Llama 3's and Gemma's headers without their special tokens."""
_LETTER_LABEL = _LazyPattern(rf"\s*A\s*{_COLON}\s*")
"""A: after Q:, except where it names a choice."""
_MAY_NEED_CLEANING = re.compile(
    rf"<(?!{_BOX_NOTATION}|\|{_BOX_NOTATION}|\d)|\[[/A-Z]|\u25c1|#{{2}}|\b(?-i:USER|Human)\s*{_COLON}|(?:^|\n)user\s*\n"
    rf"|^\s*[#*_>\s]*(?:A\s*{_COLON}|(?:the|final|short|correct|answer|response|output|{_ROLE})\b)",
    re.IGNORECASE,
)
"""Whether an answer has any of the above; most have none, and are passed quickly."""


class _Cleaned(NamedTuple):
    text: str
    removed: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanedAnswers:
    """Answers without what is no answer, and how often what was removed."""

    texts: tuple[str, ...]
    counts: dict[str, int]
    """The number of answers by what was removed from them."""
    notes: tuple[str, ...]
    """The same as lines for readers, with an example each."""


def clean_answers(answers: Sequence[str], *, has_choices: bool = False) -> CleanedAnswers:
    """Answers without special tokens, role labels, repeated prompts and reasoning; other answers are unchanged.

    `has_choices`: answers are letters of choices, so that "A:" is no label.
    """
    suspects = {answer for answer in set(answers) if _MAY_NEED_CLEANING.search(answer)}
    cleaned = {answer: clean_answer(answer, has_choices=has_choices) for answer in suspects}
    if not any(result.removed for result in cleaned.values()):
        return CleanedAnswers(texts=tuple(answers), counts={}, notes=())
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for answer in answers:
        if answer in cleaned and cleaned[answer].removed:
            text, removed = cleaned[answer]
            counts.update([*removed, *([_EMPTIED] if not text else [])])
            for kind in removed:
                examples.setdefault(kind, f"{_shorten(answer)} is read as {_shorten(text)}")
    notes = [f"{kind} removed from {counts[kind]:,} answers: {examples[kind]}" for kind in _KINDS if counts[kind]]
    if emptied := counts.pop(_EMPTIED, 0):
        notes.append(f"{emptied:,} answers are empty without what was removed")
    texts = tuple(cleaned[answer].text if answer in cleaned else answer for answer in answers)
    return CleanedAnswers(
        texts=texts, counts={kind: counts[kind] for kind in _KINDS if counts[kind]}, notes=tuple(notes)
    )


def clean_answer(answer: str, *, has_choices: bool = False) -> _Cleaned:
    """An answer without what is no answer, and the kinds of what was removed. Cleaning it again changes nothing."""
    text, before, removed = answer, None, set[str]()
    while text != before:
        before = text
        for kind, step in _STEPS.items():
            shorter = step(text)
            if shorter != text:
                removed.add(kind)
            text = shorter
        if not has_choices and (label := _LETTER_LABEL.compiled.match(text)):
            removed.add(LABELS)
            text = text[label.end() :]
    return _Cleaned(text.strip() if removed else answer, frozenset(removed))


def _without_reasoning(text: str) -> str:
    for pattern in (_REASONING, _FINAL_CHANNEL, _CUT_CHANNEL, _CUT_REASONING):
        text = pattern.compiled.sub("", text)
    return text


def _inside_answer_tag(text: str) -> str:
    tags = _ANSWER_TAG.compiled.findall(text)
    return tags[-1] if tags else text


def _after_prompt(text: str) -> str:
    """The model's turn of a decoded conversation, which begins with the user's turn or a system prompt."""
    user = _USER.compiled.search(text)
    if user is None:
        return text
    preamble = text[: user.start()]
    assistant = _ASSISTANT.compiled.search(text, user.end())
    is_start = not _without_tokens(preamble).strip() or _SYSTEM.compiled.match(_without_leading_tokens(preamble))
    return text[assistant.end() :] if assistant and is_start else text


def _first_turn(text: str) -> str:
    """Text before the first end token, or user's turn, that has an answer before it."""
    for pattern in (_END, _USER):
        for match in pattern.compiled.finditer(text):
            head, tail = text[: match.start()], text[match.end() :]
            if _without_tokens(_without_label(head)).strip():
                is_end = pattern is _END and not _without_tokens(tail).strip()
                text = text if is_end else head
                break
    return text


def _without_leading_tokens(text: str) -> str:
    return re.sub(r"^\s*(?:<s>|<bos>|<\|begin_of_text\|>)?\s*", "", text)


def _without_tokens(text: str) -> str:
    if "<" not in text and "[" not in text and "###" not in text:
        return text
    shorter = _TOKEN.compiled.sub(" ", _ROLE_HEADER.compiled.sub(" ", text))
    return text if shorter == text else shorter.strip()


def _without_label(text: str) -> str:
    label = _ROLE_LABEL.compiled.match(text)
    if label is None:
        return text
    rest = text[label.end() :]
    is_open = label[0].count("**") % 2 == 1  # **Answer: No**
    return rest.rstrip().removesuffix("**") if is_open else rest


REASONING, TAGS, PROMPTS, TURNS, TOKENS, LABELS = (
    "reasoning",
    "answer tags",
    "repeated prompts",
    "text after the end of the answer",
    "special tokens",
    "role labels",
)
"""What is removed, as notes name it."""
_STEPS: Mapping[str, Callable[[str], str]] = {
    REASONING: _without_reasoning,
    TAGS: _inside_answer_tag,
    PROMPTS: _after_prompt,
    TURNS: _first_turn,
    TOKENS: _without_tokens,
    LABELS: _without_label,
}
_KINDS = tuple(_STEPS)
_EMPTIED = "emptied"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:18]} ... {text[-18:]}")
