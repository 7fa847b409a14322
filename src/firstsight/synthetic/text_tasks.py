"""Text tasks in llm-foundry's format: a query, choices, and the index of the correct one.

A query is a complete context: before an answer it ends with the token that ends a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic import questions
from firstsight.synthetic.captions import describe_scene, join_pieces, reordered_description, sample_sum, sum_query
from firstsight.synthetic.catalog import (
    GROUNDS,
    PLACES,
    SIGNS,
    load_catalog,
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
    """(scene, its description, random generator for the question)."""
    distribution = SceneDistribution(
        min_objects=2, is_unseen=plan.is_unseen, sign_probability=0.6, clutter_probability=0.0
    )
    scene = find_scene(SceneRequest(world=world, task=task, index=plan.index, distribution=distribution), is_suitable)
    rng = world_rng(world, f"benchmark words {task}", plan.index)
    return scene, describe_scene(scene), rng


def _allows_all_questions(scene: Scene) -> bool:
    """Whether a scene allows questions about relations and signs."""
    return bool(questions.relation_questions(scene, ()) and questions.sign_questions(scene, ()))


def _text_record(query: str, choices: Sequence[str], *, correct: str, tags: QuestionTags) -> TextTaskRecord:
    return {"query": query, "choices": list(choices), "gold": list(choices).index(correct), **tags}


def _question_record(
    description: str, question: SceneQuestion, choices: Sequence[str], *, plan: QuestionPlan
) -> TextTaskRecord:
    query = f"{description} . {question.to_text(plan.form)} {QUESTION_END}"
    return _text_record(query, choices, correct=question.answer, tags=plan.tags)


def _mark_seen(tags: QuestionTags, *keys: str) -> QuestionTags:
    """`tags` with `keys` set to `seen`, for tasks that do not hold these out."""
    return {**tags, **dict.fromkeys(keys, "seen")}


def arc_easy(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Which kind is an object? Four choices; kinds are stated in text only."""
    catalog, rng = load_catalog(world), world_rng(world, "benchmark words arc_easy", plan.index)
    name = uniform_choice(catalog.names, rng)
    kind = catalog.kind_of[name]
    choices = shuffled_list(
        [kind, *shuffled_list([candidate for candidate in catalog.kinds if candidate != kind], rng)[:3]], rng
    )
    if plan.form == 0:
        query = SENTENCE_TEMPLATES["kind"].replace("{x}", name).removesuffix(" {k} .")
    else:
        query = f"{SceneQuestion('kind', f'a {name}', kind).to_text(plan.form)} {QUESTION_END}"
    return _text_record(query, choices, correct=kind, tags=_mark_seen(plan.tags, "combination"))


def mathqa(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Sums with five choices; half of the sums are not in the training data."""
    rng = world_rng(world, "benchmark words mathqa", plan.index)
    numbers = sample_sum(rng, is_held_out=plan.is_unseen)
    total = sum(numbers)
    nearby_sums = [
        str(number) for number in range(total - 4, total + 5) if 0 <= number < len(NUMBER_WORDS) and number != total
    ]
    choices = shuffled_list([str(total), *shuffled_list(nearby_sums, rng)[:4]], rng)
    return _text_record(sum_query(numbers), choices, correct=str(total), tags=_mark_seen(plan.tags, "form"))


def boolq(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Is an object in the described scene? Yes and no are equally frequent."""
    scene, description, rng = _described_scene(world, "boolq", plan=plan)
    candidates = questions.existence_questions(scene, ())
    question = weighted_choice([pair for pair in candidates if (pair[1].answer == "yes") == plan.is_yes], rng)
    return _question_record(description, question, ("no", "yes"), plan=plan)


def agieval_sat_en(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """A question about a described scene, with four choices that come from the scene where possible."""
    scene, description, rng = _described_scene(world, "agieval_sat_en", plan=plan, is_suitable=_allows_all_questions)
    make_questions = uniform_choice(
        (questions.object_questions, questions.relation_questions, questions.sign_questions, questions.place_questions),
        rng,
    )
    question = weighted_choice(_answerable(make_questions(scene, ())), rng)
    choices = [question.answer, *_distractors(scene, question.answer, rng)[:3]]
    return _question_record(description, question, shuffled_list(choices, rng), plan=plan)


def copa(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """A question about a described scene with two choices, both from the scene."""
    scene, description, rng = _described_scene(
        world, "copa", plan=plan, is_suitable=lambda scene: len(scene.objects) > 1
    )
    make_questions = uniform_choice((questions.object_questions, questions.place_questions), rng)
    question = weighted_choice(_answerable(make_questions(scene, ())), rng)
    choices = [question.answer, _distractors(scene, question.answer, rng)[0]]
    return _question_record(description, question, shuffled_list(choices, rng), plan=plan)


def hellaswag(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """The correct second description of a scene among four that differ in one word."""
    scene, description, rng = _described_scene(world, "hellaswag", plan=plan)
    ending = reordered_description(scene, rng)
    words = [word for word, _ in ending]
    replaceable = [
        index for index, (word, determined) in enumerate(ending) if determined and _distractors(scene, word, rng)
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
    """Other words of the class of `word` (names, places, signs, colours), those of the scene first; else none."""
    object_names = load_catalog(scene.world).names
    scene_words = {
        object_names: [obj.name for obj in scene.objects],
        PLACES: [obj.place for obj in scene.objects],
        SIGNS: [obj.sign for obj in scene.objects if obj.sign],
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
