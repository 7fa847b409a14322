"""VQA accuracies against transcriptions of the four official scorers, and against published numbers.

Oracles: GT-Vision-Lab/VQA's vqaEval.py (2021 and, for the paper's harness, as TRI-ML/vlm-evaluation runs it), M4C's
evaluator (TextVQA) and VizWiz's vqaEval.py, each written down here one mark and one annotator at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate.metrics import METRICS
from firstsight.evaluate.metrics.vqa import (
    normalise_textvqa_answer,
    normalise_vizwiz_annotations,
    normalise_vqa_answer,
    paper_vqa_accuracy,
    strict_vqa_accuracy,
    textvqa_accuracy,
    vizwiz_accuracy,
    vqa_accuracy,
)
from firstsight.evaluate.task import Question, benchmark_files
from firstsight.evaluate.tasks import TASKS

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")

LISTED = """\
'ow'sat 'ow's'at 'ows'at 'ow's'at aint ain't arent aren't cant can't couldn'tve couldn't've couldnt couldn't
couldnt've couldn't've couldve could've didnt didn't doesnt doesn't dont don't hadn'tve hadn't've hadnt hadn't
hadnt've hadn't've hasnt hasn't havent haven't he'dve he'd've hed he'd hed've he'd've hes he's howd how'd
howll how'll hows how's I'dve I'd've Id've I'd've Im I'm isnt isn't it'dve it'd've itd it'd itd've it'd've
itll it'll Ive I've let's let's maam ma'am mightn'tve mightn't've mightnt mightn't mightnt've mightn't've
mightve might've mustnt mustn't mustve must've neednt needn't notve not've oclock o'clock oughtnt oughtn't
ow's'at 'ow's'at shant shan't she'dve she'd've she's she's shed've she'd've shouldn'tve shouldn't've shouldnt
shouldn't shouldnt've shouldn't've shouldve should've somebody'd somebodyd somebody'dve somebody'd've
somebodyd've somebody'd've somebodyll somebody'll somebodys somebody's someone'dve someone'd've someoned
someone'd someoned've someone'd've someonell someone'll someones someone's something'dve something'd've
somethingd something'd somethingd've something'd've somethingll something'll thats that's there'dve there'd've
thered there'd thered've there'd've therere there're theres there's they'dve they'd've theyd they'd theyd've
they'd've theyll they'll theyre they're theyve they've twas 'twas wasnt wasn't we'dve we'd've wed've we'd've
werent weren't weve we've whatll what'll whatre what're whats what's whatve what've whens when's whered
where'd wheres where's whereve where've who'dve who'd've whod who'd whod've who'd've wholl who'll whos who's
whove who've whyll why'll whyre why're whys why's wont won't wouldn'tve wouldn't've wouldnt wouldn't
wouldnt've wouldn't've wouldve would've y'all'dve y'all'd've y'alld've y'all'd've y'allll y'all'll yall y'all
yall'd've y'all'd've yall'll y'all'll you'dve you'd've youd you'd youd've you'd've youll you'll youre you're
youve you've
"""
TABLE = LISTED.split()
CONTRACTIONS: dict[str, str] = dict(zip(TABLE[::2], TABLE[1::2], strict=True))
STRAIGHT = ("aint", "arent", "cant", "couldnt", "couldve", "weve", "wheres", "whove")
BENT: dict[str, str] = {
    short if short in ("couldn'tve", "hadn'tve") else short.replace("'", "’"): (
        whole if short in STRAIGHT else whole.replace("'", "’")
    )
    for short, whole in CONTRACTIONS.items()
}
COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": 0} | {word: number for number, word in enumerate(COUNTED.split())}


def strip_marks(text: str) -> str:
    """The scorers' processPunctuation: one mark after the annotation, each by the original text."""
    out = text
    for mark in [
        ";",
        "/",
        "[",
        "]",
        '"',
        "{",
        "}",
        "(",
        ")",
        "=",
        "+",
        "\\",
        "_",
        "-",
        ">",
        "<",
        "@",
        "`",
        ",",
        "?",
        "!",
    ]:
        if mark + " " in text or " " + mark in text or re.search(r"(\d)(\,)(\d)", text) is not None:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    # re.UNICODE, which is 32, is passed where `sub` takes the count.
    return re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out, count=int(re.UNICODE))


def normalise_words(text: str, table: Mapping[str, str] = CONTRACTIONS) -> str:
    """The scorers' processDigitArticle."""
    out = [str(NUMBERS.get(word, word)) for word in text.lower().split()]
    out = [word for word in out if word not in ("a", "an", "the")]
    return " ".join(table.get(word, word) for word in out)


def join_lines(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def leave_one_out(text: str, annotations: Sequence[str]) -> float:
    shares = [
        min(1.0, sum(annotation == text for b, annotation in enumerate(annotations) if b != a) / 3)
        for a, _ in enumerate(annotations)
    ]
    return sum(shares) / len(shares)


def official_vqa(answer: str, truth: Sequence[str]) -> float:
    text, annotations = join_lines(answer), [join_lines(annotation) for annotation in truth]
    if len(set(annotations)) > 1:
        text, annotations = (
            normalise_words(strip_marks(text)),
            [normalise_words(strip_marks(annotation)) for annotation in annotations],
        )
    return leave_one_out(text, annotations)


def official_paper(answer: str, truth: Sequence[str]) -> float:
    return leave_one_out(
        normalise_words(strip_marks(join_lines(answer))), [strip_marks(annotation) for annotation in truth]
    )


def evalai(text: str) -> str:
    bare = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise_words(strip_marks(join_lines(bare)))


def official_textvqa(answer: str, truth: Sequence[str]) -> float:
    return leave_one_out(evalai(answer), [evalai(annotation) for annotation in truth])


def official_vizwiz(answer: str, truth: Sequence[str]) -> float:
    return leave_one_out(normalise_words(strip_marks(join_lines(answer)), BENT), truth)


Scorer = Callable[[str, tuple[str, ...]], float]
SCORERS: list[tuple[Scorer, Callable[[str, Sequence[str]], float]]] = [
    (strict_vqa_accuracy, official_vqa),
    (paper_vqa_accuracy, official_paper),
    (textvqa_accuracy, official_textvqa),
    (vizwiz_accuracy, official_vizwiz),
]
for_all_metrics = pytest.mark.parametrize(("metric", "official"), SCORERS)

ODD = "the a an . , 1,000 2.5 U.S. x's (yes) yes! YES no. - / 😀 ½ ² ٣,٤ é İ ’ a-b 10:30"
PIECES = st.sampled_from(
    [
        *TABLE,
        *NUMBERS,
        *ODD.split(),
        "\n",
        "\t",
    ]
)
JOINED = st.builds(
    lambda join, parts: join.join(parts), st.sampled_from(["", " ", "  ", "-"]), st.lists(PIECES, max_size=5)
)
TEXTS = st.one_of(JOINED, st.text(max_size=20), st.text(" .,;:/[]\"'{}()=+\\_-><@`?!ab01\n\t", max_size=15))


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """An answer and two to ten annotations, some of them equal."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=3))
    truth = draw(st.lists(st.sampled_from(texts), min_size=2, max_size=10))
    answer = draw(st.one_of(TEXTS, st.sampled_from(texts), st.sampled_from(texts).map(str.upper)))
    return answer, tuple(truth)


@for_all_metrics
@given(cases())
def test_any_answer_scores_as_in_the_official_scorer(
    metric: Scorer, official: Callable[[str, Sequence[str]], float], case: tuple[str, tuple[str, ...]]
) -> None:
    answer, truth = case
    assert metric(answer, truth) == pytest.approx(official(answer, truth), abs=1e-12)


@given(cases())
def test_normalised_accuracy_is_the_challenges_where_annotators_differ(case: tuple[str, tuple[str, ...]]) -> None:
    answer, truth = case
    if len({join_lines(annotation) for annotation in truth}) > 1:
        assert vqa_accuracy(answer, truth) == pytest.approx(official_vqa(answer, truth), abs=1e-12)
    else:
        normalised = [normalise_words(strip_marks(join_lines(text))) for text in (answer, *truth)]
        assert vqa_accuracy(answer, truth) == pytest.approx(leave_one_out(normalised[0], normalised[1:]), abs=1e-12)


@given(TEXTS)
def test_normalisations_are_those_of_the_official_scorers(text: str) -> None:
    assert normalise_vqa_answer(text) == normalise_words(strip_marks(join_lines(text)))
    assert normalise_textvqa_answer(text) == evalai(text)


def test_vizwiz_annotations_are_compared_as_they_are() -> None:
    assert vizwiz_accuracy("top-left", ("top-left",) * 10) == 0
    assert vizwiz_accuracy("The Cat", ("cat",) * 10) == 1
    # Its table has typographic apostrophes, so a missing one is restored differently.
    assert vizwiz_accuracy("dont know", ("don’t know",) * 10) == 1


def test_vizwiz_annotations_of_another_origin_are_normalised_by_file() -> None:
    """Most annotations decide for all: one odd question stays as it is, a file of odd ones is normalised."""
    odd, usual = ("top-left",) * 10, ("cat",) * 10
    assert normalise_vizwiz_annotations([odd, usual, usual]) == [odd, usual, usual]
    assert normalise_vizwiz_annotations([odd, odd, usual]) == [("top left",) * 10] * 2 + [usual]
    assert normalise_vizwiz_annotations([("The Dog",) * 9 + ("dog",)]) == [("dog",) * 10]
    assert normalise_vizwiz_annotations([]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Cat.", "cat"),
        ("the dog, the cat", "dog cat"),
        ("Two", "2"),
        ("none", "0"),
        ("10,000", "10000"),
        ("10,000 (ten-thousand)", "10000 tenthousand"),
        ("2.5", "2.5"),
        ("U.S.", "us"),
        ("dont know", "don't know"),
        ("10:30", "10:30"),
        ("red/white", "red white"),
        ("red/ white", "red white"),
        ("well-done!", "well done"),
        ("anthem", "anthem"),
        ("." * 40, "." * 8),
    ],
)
def test_normalised_answers(text: str, expected: str) -> None:
    assert normalise_vqa_answer(text) == expected


def test_only_the_challenge_compares_unanimous_annotations_exactly() -> None:
    truth = ("yes",) * 10
    assert [metric("Yes", truth) for metric, _ in SCORERS] == [0, 1, 1, 1]
    assert vqa_accuracy("Yes", truth) == 1
    assert strict_vqa_accuracy("Yes", (*truth[1:], "no")) == 1
    assert strict_vqa_accuracy("the dog", ("the dog",) * 10) == vqa_accuracy("the dog", ("the dog",) * 10) == 1
    assert paper_vqa_accuracy("the dog", ("the dog",) * 10) == 0


@pytest.mark.parametrize(("num_equal", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
@for_all_metrics
def test_accuracy_of_ten_annotators(metric: Scorer, official: object, num_equal: int, expected: float) -> None:
    # One match: nine of ten subsets hold it, each worth 1/3 -> 0.3; two -> 0.6; three -> 0.9; four or more -> 1.
    truth = ("yes",) * num_equal + tuple(f"annotation {n}" for n in range(10 - num_equal))
    assert metric("yes", truth) == pytest.approx(expected)


@for_all_metrics
@given(cases(), st.randoms())
def test_accuracy_is_between_0_and_1_and_independent_of_the_order(
    metric: Scorer, official: object, case: tuple[str, tuple[str, ...]], shuffle: object
) -> None:
    answer, truth = case
    mixed = list(truth)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    assert 0 <= metric(answer, truth) <= 1
    assert metric(answer, truth) == metric(answer, tuple(mixed))


@for_all_metrics
def test_a_single_reference_is_right_or_wrong(metric: Scorer, official: object) -> None:
    assert metric("the cat", ("cat",)) == 1
    assert metric("dog", ("cat",)) == 0


@lru_cache
def published(task: str) -> tuple[Question, ...]:
    return TASKS[task].read_questions(benchmark_files(SHARED / "openflamingo_vqa_val" / task))


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "questions", "answer", "expected"),
    [("textvqa", 5000, "yes", 5.46), ("vizwiz", 4319, "unanswerable", 52.12)],
)
def test_published_scores_of_constant_answers(task: str, questions: int, answer: str, expected: float) -> None:
    read = published(task)
    assert len(read) == questions
    assert TASKS[task].metric is METRICS[task]
    scores = METRICS[task].compute([answer] * len(read), [question.truth for question in read])
    assert 100 * sum(scores) / len(scores) == pytest.approx(expected, abs=0.005)


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(
    ("metric", "official", "task"),
    [
        (textvqa_accuracy, official_textvqa, "textvqa"),
        (vizwiz_accuracy, official_vizwiz, "vizwiz"),
        (strict_vqa_accuracy, official_vqa, "textvqa"),
    ],
)
def test_annotators_score_each_other_as_in_the_official_scorer(
    metric: Scorer, official: Callable[[str, Sequence[str]], float], task: str
) -> None:
    read = published(task)[::31]
    for number, question in enumerate(read):
        truth = question.truth
        assert isinstance(truth, tuple)
        answer, *annotations = (str(annotation) for annotation in truth[number % 5 :])
        text = answer.title() + "." * (number % 3)
        assert metric(text, tuple(annotations)) == pytest.approx(official(text, annotations), abs=1e-12)
