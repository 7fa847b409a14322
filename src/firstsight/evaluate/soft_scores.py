"""Continuous scores of answers, from the model's distribution over answers instead of its likeliest answer.

The soft score of a question is what a sampled answer is expected to score, as far as that can be computed::

    generated words     sum over the reference answers of P(reference) times the score of that reference
    a letter            P(the right letter)
    multiple choice     P(the right choice), as a softmax over the choices' log-likelihoods
    a box               mean intersection over union with the true box of SAMPLE_COUNT sampled answers
    captions            2 ** -(bits per byte of the likeliest caption), which is no expectation: no caption is likely

P(reference) is the probability of the whole answer, its end included. The metrics of words ignore case, so a reference
counts in lower case and capitalised. Other answers that a metric accepts ("yes, it is") do not count: the score of
words is a lower bound of the expected score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

from firstsight.evaluate.metrics.boxes import IOU25, IOU50, iou, parse_box
from firstsight.evaluate.metrics.captions import CIDER
from firstsight.evaluate.metrics.exact_match import LETTER_MATCH
from firstsight.evaluate.models.interface import RawAnswer
from firstsight.evaluate.result_files import SoftScore, round_score
from firstsight.evaluate.task import Question, Task

SAMPLE_COUNT = 4
"""Sampled boxes of a question. Their streams of random numbers depend on task and question alone, so that models are
compared on common random numbers."""
_BOX_METRICS = (IOU25, IOU50)


def reference_forms(task: Task, question: Question) -> tuple[str, ...]:
    """The distinct texts whose likelihood a question's soft score needs; none for boxes and choices."""
    if task.answer_type == "choice" or task.metric in _BOX_METRICS:
        return ()
    texts = _annotator_texts(task, question)
    if task.metric not in (CIDER, LETTER_MATCH):
        texts = [form for text in texts for form in (text, f"{text[:1].upper()}{text[1:]}")]
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def sample_keys(task: Task, question: Question) -> tuple[int, ...]:
    """The keys of the samples that a question's soft score needs: of boxes alone."""
    if task.metric not in _BOX_METRICS:
        return ()
    names = (f"{task.name}/{question.id}/{number}" for number in range(SAMPLE_COUNT))
    return tuple(int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") for name in names)


def soft_score(task: Task, question: Question, answer: RawAnswer) -> SoftScore | None:
    """The soft score of one question; None where the answer comes without probabilities or samples."""
    if task.answer_type == "choice":
        return _choice_score(task, question, answer.log_likelihoods) if answer.log_likelihoods else None
    if task.metric in _BOX_METRICS:
        return SoftScore(score=_expected_overlap(answer.samples, question)) if answer.samples else None
    return _reference_score(task, question, answer) if answer.log_likelihoods else None


def _choice_score(task: Task, question: Question, log_likelihoods: Sequence[float | None]) -> SoftScore:
    """The expected score of a choice that is drawn from the softmax; the metric takes choices by index or by text."""
    is_index = isinstance(question.truth, int)
    inputs = [str(index) if is_index else choice for index, choice in enumerate(question.choices)]
    weights = task.metric.compute(inputs, [question.truth] * len(inputs))
    total = _log_sum(log_likelihoods)
    pairs = zip(weights, log_likelihoods, strict=True)
    known = [(weight, value) for weight, value in pairs if value is not None and value > -math.inf]
    score = math.fsum(weight * math.exp(value - total) for weight, value in known)
    return SoftScore(score=round_score(min(score, 1.0)))


def _expected_overlap(samples: Sequence[str], question: Question) -> float:
    assert isinstance(question.truth, tuple)
    left, top, right, bottom = (float(edge) for edge in question.truth)
    boxes = map(parse_box, samples)
    overlaps = [iou(box, (left, top, right, bottom)) if box else 0.0 for box in boxes]
    return round_score(sum(overlaps) / len(overlaps))


def _reference_score(task: Task, question: Question, answer: RawAnswer) -> SoftScore:
    forms, texts = reference_forms(task, question), _annotator_texts(task, question)
    log_likelihoods = dict(zip(forms, answer.log_likelihoods, strict=True))
    by_text = {text: _log_sum([log_likelihoods[form] for form in forms if _equal(form, text)]) for text in set(texts)}
    bits = {text: -value / math.log(2) / len(text.encode()) for text, value in by_text.items() if value > -math.inf}
    known_bits = [bits[text] for text in texts if text in bits]
    best_bits = min(known_bits, default=None)
    if task.metric == CIDER:
        score = 0.0 if best_bits is None else 2**-best_bits
    else:
        weights = task.metric.compute(forms, [question.truth] * len(forms))
        values = zip(weights, log_likelihoods.values(), strict=True)
        score = math.fsum(weight * math.exp(value) for weight, value in values if value is not None)
    return SoftScore(
        score=round_score(min(score, 1.0)),
        mean=round_score(sum(math.exp(by_text[text]) for text in texts) / len(texts)),
        best=round_score(math.exp(max(by_text.values()))),
        bits_per_byte=round_score(sum(known_bits) / len(known_bits)) if known_bits else None,
        best_bits_per_byte=None if best_bits is None else round_score(best_bits),
    )


def _annotator_texts(task: Task, question: Question) -> list[str]:
    """The reference answers, one for each annotator; a letter is the first value of its truth."""
    truth = question.truth
    if not isinstance(truth, tuple):
        return [str(truth)]
    texts = truth[:1] if task.metric == LETTER_MATCH else truth
    return [str(text) for text in texts]


def _equal(form: str, text: str) -> bool:
    return form in (text, f"{text[:1].upper()}{text[1:]}")


def _log_sum(values: Sequence[float | None]) -> float:
    """The logarithm of summed probabilities; minus infinity for no probability."""
    known = [value for value in values if value is not None and value > -math.inf]
    if not known:
        return -math.inf
    largest = max(known)
    return largest + math.log(sum(math.exp(value - largest) for value in known))
