"""Which question an answer answers, told by what both sides say of themselves, not by the order of lines.

An answer that names a picture and a question answers every question of that picture in those words: POPE's splits share
some, and RefCOCO asks some twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from firstsight.errors import DataError
from firstsight.evaluate.given import refusing
from firstsight.evaluate.given.answers import Given
from firstsight.evaluate.given.known import Known, is_box, near
from firstsight.evaluate.given.wording import asked, fold, holds, said
from firstsight.evaluate.question import Question

_TRUSTED = 0.9
"""Least share of answers whose prompt or picture must agree with the question that has their id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """Each question's answer, and what is left over."""

    answers: tuple[Given | None, ...]
    """In the order of the questions; None where nothing answers."""
    others: tuple[Given, ...]
    """Answers to questions that the references do not hold."""
    duplicates: int
    """Answers that say again what another one to the same question said."""
    shared: int
    """Questions answered by what was given in another split to the same words about the same picture."""
    contested: tuple[int, ...]
    """Places of questions left unanswered: several answers name their picture and words, and so does another box."""
    ways: Mapping[str, int]
    """By what answers were joined, and how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where an answer belongs."""

    questions: tuple[int, ...]
    way: str
    """How that was found; empty where it is not clear which of them is meant."""
    each: bool = False
    """Several answers go to one question each: the file names only the object that all of them ask for."""


def join(given: Sequence[Given], questions: Sequence[Question], named: Mapping[str, Given]) -> Joined:
    """Each question's answer. `named`: what a model's question file says of the answers' ids.

    Raises DataError where an answer fits several questions, a question got two answers, or nothing fits.
    """
    known = Known(questions)
    _refuse_other_file(given, named)
    answers = [_with(one, named.get(one.id), known) for one in given]
    places = _places(answers, known)
    if not any(places):
        places = _by_words(answers, known)
    if not any(places):
        raise DataError(refusing.nothing(given, questions, named))
    unclear = [(one, place.questions) for one, place in zip(answers, places, strict=True) if place and not place.way]
    if unclear:
        raise DataError(refusing.unclear(unclear, questions))
    return _dealt(answers, places, known)


def _refuse_other_file(given: Sequence[Given], named: Mapping[str, Given]) -> None:
    """A question file of other numbering would send answers to other pictures wherever questions are worded alike."""
    pairs = [(one, named[one.id]) for one in given if one.prompt and one.id in named and named[one.id].prompt]
    wrong = [pair for pair in pairs if not _alike(*pair)]
    if len(wrong) > (1 - _TRUSTED) * len(pairs):
        raise DataError(refusing.other_file(wrong[0], len(wrong), of=len(pairs)))


def _alike(one: Given, source: Given) -> bool:
    told, meant = fold(one.prompt), fold(source.prompt)
    return holds(told, meant) or holds(meant, told)


def _with(one: Given, source: Given | None, known: Known) -> Given:
    """An answer with what the model's question file says of its id; its split may also stand in its file's name."""
    split = source.split if source and source.split in known.splits else one.split
    if split not in known.splits:
        split = _told(one.file.rpartition("/")[2], known) or _told(one.file, known)
    if source is None or not (not one.prompt or not source.prompt or _alike(one, source)):
        return one if split == one.split else replace(one, split=split)
    return replace(one, image=source.image or one.image, prompt=one.prompt or source.prompt, split=split)


def _told(file: str, known: Known) -> str:
    named = [name for name in known.splits if name in file.lower()]
    return named[0] if len(named) == 1 else ""


def _places(answers: Sequence[Given], known: Known) -> list[_Place | None]:
    """By id where ids are the benchmark's own, else by picture and words, else by true box and words."""
    by_id = [_by_id(one, known) for one in answers]
    checked = [agrees for _, agrees in by_id if agrees is not None]
    trusted = not checked or sum(checked) >= _TRUSTED * len(checked)
    own = trusted and any(place for place, _ in by_id)
    places: list[_Place | None] = []
    for one, (place, _) in zip(answers, by_id, strict=True):
        places.append((place if trusted else None) or _by_picture(one, known, own=own) or _by_box(one, known))
    return places


def _by_id(one: Given, known: Known) -> tuple[_Place | None, bool | None]:
    """The questions with an answer's id, and whether what else it says agrees; None where it says nothing else."""
    found = known.within(known.ids.get(one.id, ()), one.split) if one.id else []
    if not found:
        return None, None
    fitting: Sequence[int] = [at for at in found if known.agrees(one, at)]
    if not fitting:
        return None, False
    if len(fitting) > 1 and one.prompt:
        fitting = asked(one.prompt, _about(fitting, known)) or fitting
    return _placed(fitting, known, "question id"), True if known.speaks(one, fitting[0]) else None


def _about(found: Sequence[int], known: Known) -> dict[str, list[int]]:
    about: dict[str, list[int]] = {}
    for at in found:
        about.setdefault(known.words[at], []).append(at)
    return about


def _by_picture(one: Given, known: Known, *, own: bool) -> _Place | None:
    """By the picture that an answer names; unless ids are the benchmark's `own`, the id may be it, as in LLaVA's."""
    names = [(one.image, "picture and question")]
    names += [] if own else [(one.id, "question id as the picture's, and question")]
    if known.uniform and one.image in known.ids:  # NoCaps' results name pictures by number, its pictures are files.
        return _placed(known.ids[one.image], known, "picture")
    for name, way in names:
        about = known.pictures.get(known.name(name)) if name else None
        if about is None:
            continue
        if not one.prompt or known.uniform:
            every = [at for found in about.values() for at in found]
            # An answer with an id that nobody knows, and no words, answers something else about this picture.
            foreign = len(about) > 1 and bool(one.id) and name != one.id
            return None if foreign else _placed(every, known, "picture")
        if found := asked(one.prompt, about):
            return _Place(questions=tuple(found), way=way)
    return None


def _by_box(one: Given, known: Known) -> _Place | None:
    """By the true box that an answer repeats: with a sentence one question, without any all that ask for this box."""
    if not one.box:
        return None
    if one.prompt:
        found = asked(one.prompt, known.boxes.get(near(one.box), {}))
        return _Place(questions=tuple(found), way="sentence and true box") if found else None
    found = known.boxed(one.box)
    return _Place(questions=tuple(found), way="true box", each=True) if found else None


def _placed(found: Sequence[int], known: Known, way: str) -> _Place:
    """One identity; or one object, named without the words that ask for it; or nothing clear."""
    each = not known.same(found) and is_box(known.questions[found[0]]) and known.one_truth(found)
    return _Place(questions=tuple(found), way=way if each or known.same(found) else "", each=each)


def _by_words(answers: Sequence[Given], known: Known) -> list[_Place | None]:
    """For files that name neither ids nor pictures: questions asked only once, or a whole file in POPE's own form."""
    if any(one.image for one in answers) or not all(one.prompt for one in answers):
        return [None] * len(answers)
    about = known.by_words()
    found = [said(one.prompt, about) for one in answers]
    if all(len(some) <= 1 for some in found):
        return [_Place(questions=tuple(some), way="question") if some else None for some in found]
    # An id that nobody knows is of another file, which may have as many questions in the same words.
    return [None] * len(answers) if any(one.id for one in answers) else _verbatim(answers, known)


def _verbatim(answers: Sequence[Given], known: Known) -> list[_Place | None]:
    """POPE's own form says nothing but the question: a file is taken that repeats a split's, each in its place."""
    places: list[_Place | None] = [None] * len(answers)
    files: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(answers):
        files[one.file].append(number)
    splits = {split: [at for at, one in enumerate(known.questions) if one.split == split] for split in known.splits}
    for numbers in files.values():
        words = [fold(answers[number].prompt) for number in numbers]
        for own in splits.values() or [list(range(len(known.words)))]:
            if [known.words[at] for at in own] == words:
                for number, at in zip(numbers, own, strict=True):
                    places[number] = _Place(questions=(at,), way="its file's questions, all repeated in their order")
    return places


def _dealt(answers: Sequence[Given], places: Sequence[_Place | None], known: Known) -> Joined:
    """Hand answers to their own split's questions, then to other splits' of the same identity that have none."""
    offers: dict[int, list[Given]] = defaultdict(list)
    spare: dict[int, list[Given]] = defaultdict(list)
    groups: dict[tuple[int, ...], list[Given]] = defaultdict(list)
    for one, place in zip(answers, places, strict=True):
        if place is None:
            continue
        inside = known.within(place.questions, one.split)
        groups[tuple(inside)].append(one)
        turn = (len(groups[tuple(inside)]) - 1) % max(len(inside), 1)
        for at in inside[turn : turn + 1] if place.each else inside:
            offers[at].append(one)
        for at in set(known.alike(place.questions[0])) - set(inside) if known.splits else ():
            spare[at].append(one)
    contested = tuple(sorted(at for at, own in offers.items() if _contested(at, own, known)))
    settled = {at: _settled(at, own, known) for at, own in offers.items() if at not in set(contested)}
    borrowed = {at: own[0] for at, own in spare.items() if at not in settled and len({one.answer for one in own}) == 1}
    every = settled | borrowed
    return Joined(
        answers=tuple(every.get(at) for at in range(len(known.questions))),
        others=tuple(one for one, place in zip(answers, places, strict=True) if place is None),
        duplicates=sum(max(0, len(own) - len(group)) for group, own in groups.items() if group),
        shared=len(borrowed),
        contested=contested,
        ways=Counter(place.way for place in places if place),
    )


def _contested(at: int, own: Sequence[Given], known: Known) -> bool:
    """Whether its different answers may be meant for another question with its words and another truth."""
    return len({one.answer for one in own}) > 1 and not known.one_truth(known.twins(at))


def _settled(at: int, own: Sequence[Given], known: Known) -> Given:
    """The answer that all agree on; or, of several to one sentence that is asked as often, the one in this turn."""
    if len({one.answer for one in own}) == 1:
        return own[0]
    twins = known.twins(at)
    if len(own) != len(twins):
        raise DataError(refusing.twice(own, known.questions[at]))
    return own[twins.index(at)]
