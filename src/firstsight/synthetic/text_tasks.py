"""Text tasks in llm-foundry's form: a query, choices, and the number of the right one.

A query is a complete context: where an answer is due it ends with the word that ends a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic import questions as ask
from firstsight.synthetic.captions import describe_scene, join_pieces, reordered_description, sample_sum, sum_query
from firstsight.synthetic.catalog import (
    GROUNDS,
    PLACES,
    SIGNS,
    catalog,
    shuffled_list,
    uniform_choice,
    weighted_choice,
    world_rng,
)
from firstsight.synthetic.held_out import QuestionPlan, QuestionTags, SceneRequest, find_scene
from firstsight.synthetic.questions import SceneQuestion, WeightedQuestion
from firstsight.synthetic.scenes import Scene, SceneDistribution
from firstsight.synthetic.vocabulary import NUMBER_WORDS, QUESTION_END, SENTENCE_TEMPLATES

TextTaskRecord = dict[str, Any]


def _described_scene(
    world: SyntheticWorld, task: str, *, plan: QuestionPlan, is_suitable: Callable[[Scene], bool] = lambda _: True
) -> tuple[Scene, str, np.random.Generator]:
    """A scene, its telling, and random numbers for the question."""
    distribution = SceneDistribution(
        min_objects=2, is_unseen=plan.is_unseen, sign_probability=0.6, clutter_probability=0.0
    )
    scene = find_scene(SceneRequest(world=world, task=task, index=plan.index, distribution=distribution), is_suitable)
    rng = world_rng(world, f"benchmark words {task}", plan.index)
    return scene, describe_scene(scene), rng


def _allows_all_questions(scene: Scene) -> bool:
    """Whether everything can be asked of a scene."""
    return bool(ask.relation_questions(scene, ()) and ask.sign_questions(scene, ()))


def _text_record(query: str, choices: Sequence[str], *, correct: str, tags: QuestionTags) -> TextTaskRecord:
    return {"query": query, "choices": list(choices), "gold": list(choices).index(correct), **tags}


def _query_text(description: str, question: SceneQuestion, form: int) -> str:
    return f"{description} . {question.to_text(form)} {QUESTION_END}"


def _mark_seen(tags: QuestionTags, *keys: str) -> QuestionTags:
    """`tags` where nothing is held out by `keys`."""
    return {**tags, **dict.fromkeys(keys, "seen")}


def arc_easy(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Which kind is it? Four kinds; facts that only text tells."""
    world_catalog, rng = catalog(world), world_rng(world, "benchmark words arc_easy", plan.index)
    name = uniform_choice(world_catalog.names, rng)
    kind = world_catalog.kind_of[name]
    choices = shuffled_list(
        [kind, *shuffled_list([candidate for candidate in world_catalog.kinds if candidate != kind], rng)[:3]], rng
    )
    if plan.form == 0:
        query = SENTENCE_TEMPLATES["kind"].replace("{x}", name).removesuffix(" {k} .")
    else:
        query = f"{SceneQuestion(type='kind', subject=f'a {name}', answer=kind).to_text(plan.form)} {QUESTION_END}"
    return _text_record(query, choices, correct=kind, tags=_mark_seen(plan.tags, "combination"))


def mathqa(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Sums, five choices; half of the sums appear nowhere in training."""
    rng = world_rng(world, "benchmark words mathqa", plan.index)
    numbers = sample_sum(rng, is_held_out=plan.is_unseen)
    total = sum(numbers)
    nearby_sums = [
        str(number) for number in range(total - 4, total + 5) if 0 <= number < len(NUMBER_WORDS) and number != total
    ]
    choices = shuffled_list([str(total), *shuffled_list(nearby_sums, rng)[:4]], rng)
    return _text_record(sum_query(numbers), choices, correct=str(total), tags=_mark_seen(plan.tags, "form"))


def boolq(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Is it in the told scene? Yes and no in equal numbers."""
    scene, description, rng = _described_scene(world, "boolq", plan=plan)
    question = weighted_choice(
        [
            candidate
            for candidate in ask.existence_questions(scene, ())
            if (candidate[1].answer == "yes") == plan.is_yes
        ],
        rng,
    )
    return _text_record(
        _query_text(description, question, plan.form), ("no", "yes"), correct=question.answer, tags=plan.tags
    )


def agieval_sat_en(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """A question about a told scene, four choices, from the scene where it has them."""
    scene, description, rng = _described_scene(world, "agieval_sat_en", plan=plan, is_suitable=_allows_all_questions)
    make_questions = uniform_choice(
        (ask.object_questions, ask.relation_questions, ask.sign_questions, ask.place_questions), rng
    )
    question = weighted_choice(_answerable(make_questions(scene, ())), rng)
    choices = [question.answer, *_distractors(scene, question.answer, rng)[:3]]
    return _text_record(
        _query_text(description, question, plan.form),
        shuffled_list(choices, rng),
        correct=question.answer,
        tags=plan.tags,
    )


def copa(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Which of two? Both stand in the told scene."""
    scene, description, rng = _described_scene(
        world, "copa", plan=plan, is_suitable=lambda candidate_scene: len(candidate_scene.objects) > 1
    )
    make_questions = uniform_choice((ask.object_questions, ask.place_questions), rng)
    question = weighted_choice(_answerable(make_questions(scene, ())), rng)
    choices = [question.answer, _distractors(scene, question.answer, rng)[0]]
    return _text_record(
        _query_text(description, question, plan.form),
        shuffled_list(choices, rng),
        correct=question.answer,
        tags=plan.tags,
    )


def hellaswag(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """The right second telling of a scene among four that differ in one word."""
    scene, description, rng = _described_scene(world, "hellaswag", plan=plan)
    ending = reordered_description(scene, rng)
    words = [ending_word for ending_word, _ in ending]
    replaceable = [
        index
        for index, (ending_word, determined) in enumerate(ending)
        if determined and _distractors(scene, ending_word, rng)
    ]
    wrong_endings: dict[str, None] = {}
    while len(wrong_endings) < 3:
        position = uniform_choice(replaceable, rng)
        replacement = uniform_choice(_distractors(scene, words[position], rng)[:3], rng)
        wrong_endings.setdefault(" ".join((*words[:position], replacement, *words[position + 1 :])))
    correct = join_pieces(ending).text
    choices = shuffled_list([correct, *wrong_endings], rng)
    return _text_record(
        f"{description} {SENTENCE_TEMPLATES['again']}", choices, correct=correct, tags=_mark_seen(plan.tags, "form")
    )


def _answerable(candidates: Sequence[WeightedQuestion]) -> list[WeightedQuestion]:
    return [candidate for candidate in candidates if candidate[1].answer != "unanswerable"]


def _distractors(scene: Scene, word: str, rng: np.random.Generator) -> list[str]:
    """Other words of the sort of `word`, those of the scene first; none for words that are no such thing."""
    object_names = catalog(scene.world).names
    scene_words = {
        object_names: [scene_object.name for scene_object in scene.objects],
        PLACES: [scene_object.place for scene_object in scene.objects],
        SIGNS: [scene_object.sign for scene_object in scene.objects if scene_object.sign],
        GROUNDS: [],
    }
    word_class = next((word_class for word_class in scene_words if word in word_class), None)
    if word_class is None:
        return []
    scene_distractors = [candidate for candidate in shuffled_list(scene_words[word_class], rng) if candidate != word]
    return scene_distractors + [
        candidate
        for candidate in shuffled_list(word_class, rng)
        if candidate != word and candidate not in scene_distractors
    ]


TEXT_TASK_MAKERS: dict[str, Callable[[SyntheticWorld, QuestionPlan], TextTaskRecord]] = {
    "arc_easy": arc_easy,
    "mathqa": mathqa,
    "boolq": boolq,
    "agieval_sat_en": agieval_sat_en,
    "hellaswag": hellaswag,
    "copa": copa,
}
