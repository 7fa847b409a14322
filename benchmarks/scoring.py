"""Speed of scoring: VQA answers, compared with the official VQAv2 scorer, and captions.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --answers 200000 --plain 10000 --captions 5000

The baseline is a copy of the official scorer's loop, which normalises the annotators' answers for each question and
punctuation mark, and compares each with the rest. It scores the first `--plain` answers. firstsight scores the same
answers, then all; the sums over the first must be equal.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence

import numpy as np

from firstsight.evaluate.metrics import METRICS, vqa
from timing import min_seconds

_MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
_COMMA, _STOP = re.compile(r"(\d)(\,)(\d)"), re.compile(r"(?!<=\d)(\.)(?!\d)")
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_ENDINGS = ("", "", "", "", "s", ".", "!", " of it", ", maybe", "-like", "'s", " 2.5")
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def random_words(count: int) -> list[str]:
    """Random words of five letters without special meaning to a scorer."""
    rng = np.random.default_rng(1)
    shape = (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS)
    return ["".join(letters[rng.integers(len(letters))] for letters in shape) for _ in range(count)]


def synthesise_answers(count: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Answers and ten annotations per question.

    Frequencies and agreement follow VQAv2, where annotators are unanimous on a third of the questions.
    """
    rng = np.random.default_rng(0)
    vocabulary = ["yes", "no", "2", "the dog", *random_words(30_000)]
    common = np.minimum(rng.zipf(1.3, (count, 3)), len(vocabulary)) - 1
    endings = rng.integers(len(_ENDINGS), size=(count, 3))
    picks = np.where(rng.random((count, 1)) < 0.35, 0, rng.choice(3, size=(count, 10), p=(0.6, 0.25, 0.15)))
    rows = zip(common, endings, strict=True)
    candidates = [[vocabulary[word] + _ENDINGS[end] for word, end in zip(*row, strict=True)] for row in rows]
    answers = [
        texts[index] for texts, index in zip(candidates, rng.choice(3, size=count, p=(0.7, 0.2, 0.1)), strict=True)
    ]
    return answers, [tuple(texts[index] for index in row) for texts, row in zip(candidates, picks, strict=True)]


def _strip_punctuation(text: str) -> str:
    out = text
    for mark in _MARKS:
        next_to_space = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if next_to_space or re.search(_COMMA, text) is not None else " ")
    return _STOP.sub("", out, count=int(re.UNICODE))


def _normalise_words(text: str) -> str:
    out = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(word for word in out if word not in ["a", "an", "the"])


def official_scores(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> list[float]:
    """The official loop, without the contraction table, which contains no word of these answers."""
    scores = []
    for answer, truth in zip(answers, truths, strict=True):
        prediction = answer.replace("\n", " ").replace("\t", " ").strip()
        items = [{"answer": other.strip(), "answer_id": number} for number, other in enumerate(truth)]
        if len({item["answer"] for item in items}) > 1:
            for item in items:
                item["answer"] = _normalise_words(_strip_punctuation(str(item["answer"])))
            prediction = _normalise_words(_strip_punctuation(prediction))
        shares = []
        for item in items:
            others = [other for other in items if other != item]
            shares.append(min(1, float(len([other for other in others if other["answer"] == prediction])) / 3))
        scores.append(sum(shares) / len(shares))
    return scores


def clear_caches() -> None:
    """Clear the caches of normalised answers."""
    for function in (vqa.normalise_vqa_answer, vqa.normalise_textvqa_answer, vqa.strip_punctuation):
        function.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of scoring answers")
    parser.add_argument("--answers", type=int, default=200_000)
    parser.add_argument("--plain", type=int, default=10_000, help="number of answers for the official loop")
    parser.add_argument("--captions", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    answers, truths = synthesise_answers(args.answers)
    subset = (answers[: args.plain], truths[: args.plain])

    def firstsight_scores(answers: Sequence[str], truths: Sequence[tuple[str, ...]], name: str) -> Sequence[float]:
        clear_caches()
        return METRICS[name].compute(answers, truths)

    if abs(sum(official_scores(*subset)) - sum(firstsight_scores(*subset, "vqa_strict"))) > 1e-6:
        raise SystemExit("scores differ from the official loop's")
    official_seconds, seconds = min_seconds(
        [lambda: official_scores(*subset), lambda: firstsight_scores(*subset, "vqa_strict")], args.repeats
    )
    print(
        f"vqa_strict {args.plain:8,} answers {seconds:6.2f} s, official loop {official_seconds:6.2f} s: "
        f"{official_seconds / seconds:.1f} x"
    )
    for name in ("vqa", "vqa_strict", "textvqa", "vizwiz"):
        start = time.process_time()
        mean = sum(firstsight_scores(answers, truths, name)) / len(answers)
        print(f"{name:7} {args.answers:8,} answers {time.process_time() - start:6.2f} s on 1 core, mean {mean:.4f}")
    vocabulary = random_words(2_000)
    rng = np.random.default_rng(2)
    captions = [
        " ".join(vocabulary[index] for index in row) + "." for row in rng.integers(2_000, size=(args.captions * 6, 11))
    ]
    start = time.process_time()
    METRICS["cider"].compute(
        captions[::6], [tuple(captions[first + 1 : first + 6]) for first in range(0, len(captions), 6)]
    )
    print(
        f"cider   {args.captions:8,} captions, 5 references per caption, {time.process_time() - start:6.2f} s on 1 core"
    )


if __name__ == "__main__":
    main()
