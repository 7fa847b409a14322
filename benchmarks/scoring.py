"""How fast answers are scored: VQAv2 answers beside the challenge's own loop, and captions.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --answers 200000 --plain 10000 --captions 5000

The plain way is the official scorer's loop, written down here as it stands there: every annotator's answer is processed
for every question, one punctuation mark after the other, and compared with all others. It scores the first `--plain`
answers, ours those and then all; both sums must be equal.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence

import numpy as np

from firstsight.evaluate.metrics import METRICS, vqa
from timing import fastest

_MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
_COMMA, _STOP = re.compile(r"(\d)(\,)(\d)"), re.compile(r"(?!<=\d)(\.)(?!\d)")
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_ENDINGS = ("", "", "", "", "s", ".", "!", " of it", ", maybe", "-like", "'s", " 2.5")
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def words(count: int) -> list[str]:
    """Made-up words of five letters, none of which means anything to a scorer."""
    draw = np.random.default_rng(1)
    shape = (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS)
    return ["".join(letters[draw.integers(len(letters))] for letters in shape) for _ in range(count)]


def asked(count: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Answers and ten annotators each, as frequent and as much at one as VQAv2's (a third of the questions are)."""
    draw = np.random.default_rng(0)
    known = ["yes", "no", "2", "the dog", *words(30_000)]
    common = np.minimum(draw.zipf(1.3, (count, 3)), len(known)) - 1
    endings = draw.integers(len(_ENDINGS), size=(count, 3))
    picks = np.where(draw.random((count, 1)) < 0.35, 0, draw.choice(3, size=(count, 10), p=(0.6, 0.25, 0.15)))
    rows = zip(common, endings, strict=True)
    given = [[known[word] + _ENDINGS[end] for word, end in zip(*row, strict=True)] for row in rows]
    answers = [said[place] for said, place in zip(given, draw.choice(3, size=count, p=(0.7, 0.2, 0.1)), strict=True)]
    return answers, [tuple(said[place] for place in row) for said, row in zip(given, picks, strict=True)]


def _unmarked(text: str) -> str:
    out = text
    for mark in _MARKS:
        near = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if near or re.search(_COMMA, text) is not None else " ")
    return _STOP.sub("", out, count=int(re.UNICODE))


def _worded(text: str) -> str:
    out = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(word for word in out if word not in ["a", "an", "the"])


def plain(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> list[float]:
    """The official loop; the contraction table is left out, since no word of these answers is in it."""
    scores = []
    for answer, truth in zip(answers, truths, strict=True):
        said = answer.replace("\n", " ").replace("\t", " ").strip()
        items = [{"answer": other.strip(), "answer_id": number} for number, other in enumerate(truth)]
        if len({item["answer"] for item in items}) > 1:
            for item in items:
                item["answer"] = _worded(_unmarked(str(item["answer"])))
            said = _worded(_unmarked(said))
        shares = []
        for item in items:
            others = [other for other in items if other != item]
            shares.append(min(1, float(len([other for other in others if other["answer"] == said])) / 3))
        scores.append(sum(shares) / len(shares))
    return scores


def fresh() -> None:
    """Forget what earlier runs have brought into form."""
    for form in (vqa.normalise_vqa_answer, vqa.normalise_textvqa_answer, vqa.strip_punctuation):
        form.cache_clear()


def main() -> None:
    ask = argparse.ArgumentParser(description="How fast answers are scored")
    ask.add_argument("--answers", type=int, default=200_000)
    ask.add_argument("--plain", type=int, default=10_000, help="how many of them the plain loop scores, too")
    ask.add_argument("--captions", type=int, default=5_000)
    ask.add_argument("--repeats", type=int, default=3)
    given = ask.parse_args()
    answers, truths = asked(given.answers)
    some, few = answers[: given.plain], truths[: given.plain]

    def ours(answers: Sequence[str], truths: Sequence[tuple[str, ...]], name: str) -> Sequence[float]:
        fresh()
        return METRICS[name].compute(answers, truths)

    if abs(sum(plain(some, few)) - sum(ours(some, few, "vqa_strict"))) > 1e-6:
        raise SystemExit("the plain loop and ours differ")
    slow, quick = fastest([lambda: plain(some, few), lambda: ours(some, few, "vqa_strict")], given.repeats)
    print(f"vqa_strict {given.plain:8,} answers {quick:6.2f} s, plain loop {slow:6.2f} s: {slow / quick:.1f} x")
    for name in ("vqa", "vqa_strict", "textvqa", "vizwiz"):
        begin = time.process_time()
        mean = sum(ours(answers, truths, name)) / len(answers)
        print(f"{name:7} {given.answers:8,} answers {time.process_time() - begin:6.2f} s of one core, mean {mean:.4f}")
    listed = words(2_000)
    draw = np.random.default_rng(2)
    said = [
        " ".join(listed[place] for place in row) + "." for row in draw.integers(2_000, size=(given.captions * 6, 11))
    ]
    begin = time.process_time()
    METRICS["cider"].compute(said[::6], [tuple(said[at + 1 : at + 6]) for at in range(0, len(said), 6)])
    print(
        f"cider   {given.captions:8,} captions, five references each {time.process_time() - begin:6.2f} s of one core"
    )


if __name__ == "__main__":
    main()
