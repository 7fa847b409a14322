"""Text tasks in llm-foundry's form: a query, choices, and the number of the right one.

A query is a complete context: where an answer is due it ends with the word that ends a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firstsight.data.world import questions as ask
from firstsight.data.world.exam.turns import Sought, Tags, Turn, shown_for
from firstsight.data.world.questions import Question, Weighed
from firstsight.data.world.scene import Law, Scene
from firstsight.data.world.tellings import again, joined, sum_of, sum_query, telling
from firstsight.data.world.things import GROUNDS, PLACES, SIGNS, catalogue, choose, pick, shuffled, stream
from firstsight.data.world.words import HUMAN_ENDS, NUMBERS, SENTENCES
from firstsight.recipe.mix import World

Row = dict[str, Any]


def _told(
    world: World, task: str, *, turn: Turn, allows: Callable[[Scene], bool] = lambda _: True
) -> tuple[Scene, str, np.random.Generator]:
    """A scene, its telling, and random numbers for the question."""
    law = Law(fewest=2, unseen=turn.unseen, signs=0.6, clutter=0.0)
    shown = shown_for(Sought(world=world, task=task, nth=turn.nth, law=law), allows)
    rng = stream(world, f"benchmark words {task}", turn.nth)
    return shown, telling(shown), rng


def _rich(shown: Scene) -> bool:
    """Whether everything can be asked of a scene."""
    return bool(ask.relations(shown, ()) and ask.signs(shown, ()))


def _row(query: str, choices: Sequence[str], *, right: str, tags: Tags) -> Row:
    return {"query": query, "choices": list(choices), "gold": list(choices).index(right), **tags}


def _turn_of(told: str, question: Question, form: int) -> str:
    return f"{told} . {question.say(form)} {HUMAN_ENDS}"


def _seen(tags: Tags, *keys: str) -> Tags:
    """`tags` where nothing is held out by `keys`."""
    return {**tags, **dict.fromkeys(keys, "seen")}


def arc_easy(world: World, turn: Turn) -> Row:
    """Which kind is it? Four kinds; facts that only text tells."""
    known, rng = catalogue(world), stream(world, "benchmark words arc_easy", turn.nth)
    name = pick(known.names, rng)
    kind = known.kind_of[name]
    choices = shuffled([kind, *shuffled([k for k in known.kinds if k != kind], rng)[:3]], rng)
    if turn.form == 0:
        query = SENTENCES["kind"].replace("{x}", name).removesuffix(" {k} .")
    else:
        query = f"{Question(type='kind', about=f'a {name}', answer=kind).say(turn.form)} {HUMAN_ENDS}"
    return _row(query, choices, right=kind, tags=_seen(turn.tags, "combination"))


def mathqa(world: World, turn: Turn) -> Row:
    """Sums, five choices; half of the sums appear nowhere in training."""
    rng = stream(world, "benchmark words mathqa", turn.nth)
    numbers = sum_of(rng, held_out=turn.unseen)
    right = sum(numbers)
    near = [str(n) for n in range(right - 4, right + 5) if 0 <= n < len(NUMBERS) and n != right]
    choices = shuffled([str(right), *shuffled(near, rng)[:4]], rng)
    return _row(sum_query(numbers), choices, right=str(right), tags=_seen(turn.tags, "form"))


def boolq(world: World, turn: Turn) -> Row:
    """Is it in the told scene? Yes and no in equal numbers."""
    shown, told, rng = _told(world, "boolq", turn=turn)
    question = choose([one for one in ask.whether(shown, ()) if (one[1].answer == "yes") == turn.yes], rng)
    return _row(_turn_of(told, question, turn.form), ("no", "yes"), right=question.answer, tags=turn.tags)


def agieval_sat_en(world: World, turn: Turn) -> Row:
    """A question about a told scene, four choices, from the scene where it has them."""
    shown, told, rng = _told(world, "agieval_sat_en", turn=turn, allows=_rich)
    law = pick((ask.things, ask.relations, ask.signs, ask.places), rng)
    question = choose(_answerable(law(shown, ())), rng)
    choices = [question.answer, *_others(shown, question.answer, rng)[:3]]
    return _row(_turn_of(told, question, turn.form), shuffled(choices, rng), right=question.answer, tags=turn.tags)


def copa(world: World, turn: Turn) -> Row:
    """Which of two? Both stand in the told scene."""
    shown, told, rng = _told(world, "copa", turn=turn, allows=lambda s: len(s.things) > 1)
    law = pick((ask.things, ask.places), rng)
    question = choose(_answerable(law(shown, ())), rng)
    choices = [question.answer, _others(shown, question.answer, rng)[0]]
    return _row(_turn_of(told, question, turn.form), shuffled(choices, rng), right=question.answer, tags=turn.tags)


def hellaswag(world: World, turn: Turn) -> Row:
    """The right second telling of a scene among four that differ in one word."""
    shown, told, rng = _told(world, "hellaswag", turn=turn)
    ending = again(shown, rng)
    words = [word for word, _ in ending]
    open_ = [n for n, (word, determined) in enumerate(ending) if determined and _others(shown, word, rng)]
    wrong: dict[str, None] = {}
    while len(wrong) < 3:
        place = pick(open_, rng)
        other = pick(_others(shown, words[place], rng)[:3], rng)
        wrong.setdefault(" ".join((*words[:place], other, *words[place + 1 :])))
    right = joined(ending).text
    choices = shuffled([right, *wrong], rng)
    return _row(f"{told} {SENTENCES['again']}", choices, right=right, tags=_seen(turn.tags, "form"))


def _answerable(law: Sequence[Weighed]) -> list[Weighed]:
    return [one for one in law if one[1].answer != "unanswerable"]


def _others(shown: Scene, word: str, rng: np.random.Generator) -> list[str]:
    """Other words of the sort of `word`, those of the scene first; none for words that are no such thing."""
    names = catalogue(shown.world).names
    here = {
        names: [thing.name for thing in shown.things],
        PLACES: [thing.place for thing in shown.things],
        SIGNS: [thing.sign for thing in shown.things if thing.sign],
        GROUNDS: [],
    }
    sort = next((sort for sort in here if word in sort), None)
    if sort is None:
        return []
    told = [other for other in shuffled(here[sort], rng) if other != word]
    return told + [other for other in shuffled(sort, rng) if other != word and other not in told]


TEXT_TASKS: dict[str, Callable[[World, Turn], Row]] = {
    "arc_easy": arc_easy,
    "mathqa": mathqa,
    "boolq": boolq,
    "agieval_sat_en": agieval_sat_en,
    "hellaswag": hellaswag,
    "copa": copa,
}
