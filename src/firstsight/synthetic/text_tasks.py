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
    GROUND_COLORS,
    PLACES,
    SIGNS,
    load_catalog,
    shuffled_list,
    uniform_choice,
    weighted_choice,
    world_rng,
)
from firstsight.synthetic.questions import QuestionGenerator, QuestionPlan, QuestionTags, SceneQuestion
from firstsight.synthetic.scenes import Scene, SceneDistribution, find_scene
from firstsight.synthetic.vocabulary import NUMBER_WORDS, QUESTION_END, SENTENCE_TEMPLATES

TextTaskRecord = dict[str, Any]


def _described_scene(
    world: SyntheticWorld, task: str, *, plan: QuestionPlan, is_suitable: Callable[[Scene], bool] = lambda _: True
) -> tuple[Scene, str, np.random.Generator]:
    scenes = SceneDistribution(min_objects=2, pairs=plan.pairs, sign_probability=0.6, clutter_probability=0.0)
    scene = find_scene(world, f"benchmark {task}", plan.index, distribution=scenes, is_suitable=is_suitable)
    return scene, describe_scene(scene), world_rng(world, f"benchmark words {task}", plan.index)


def _text_record(query: str, choices: Sequence[str], *, correct: str, tags: QuestionTags) -> TextTaskRecord:
    return {"query": query, "choices": list(choices), "gold": list(choices).index(correct), **tags}


def _question_record(text: str, question: SceneQuestion, words: Sequence[str], *, plan: QuestionPlan) -> TextTaskRecord:
    query = f"{text} . {question.to_text(plan.form)} {QUESTION_END}"
    return _text_record(query, words, correct=question.answer, tags=plan.tags)


def arc_easy(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Which kind is an object? Four choices; kinds are stated in text only."""
    catalog, rng = load_catalog(world), world_rng(world, "benchmark words arc_easy", plan.index)
    name = uniform_choice(catalog.names, rng)
    kind = catalog.kind_of[name]
    wrong_kinds = shuffled_list([wrong for wrong in catalog.kinds if wrong != kind], rng)
    choices = shuffled_list([kind, *wrong_kinds[:3]], rng)
    if plan.form == 0:
        query = SENTENCE_TEMPLATES["kind"].removesuffix(" {k} .").format(x=name)
    else:
        query = f"{SceneQuestion('kind', f'a {name}', kind).to_text(plan.form)} {QUESTION_END}"
    return _text_record(query, choices, correct=kind, tags=plan.tags | {"combination": "seen"})


def mathqa(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Sums with five choices; half of the sums are not in the training data."""
    rng = world_rng(world, "benchmark words mathqa", plan.index)
    numbers = sample_sum(rng, is_held_out=plan.is_unseen)
    total, word_count = sum(numbers), len(NUMBER_WORDS)
    wrong_sums = [str(n) for n in range(max(0, total - 4), min(total + 5, word_count)) if n != total]
    choices = shuffled_list([str(total), *shuffled_list(wrong_sums, rng)[:4]], rng)
    return _text_record(sum_query(numbers), choices, correct=str(total), tags=plan.tags)


def boolq(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """Is an object in the described scene? Yes and no are equally frequent."""
    scene, description, rng = _described_scene(world, "boolq", plan=plan)
    options = questions.existence_questions(scene, ())
    question = weighted_choice([option for option in options if (option[1].answer == "yes") == plan.is_yes], rng)
    return _question_record(description, question, ("no", "yes"), plan=plan)


def agieval_sat_en(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """A question about a described scene, with four choices that come from the scene where possible."""
    generators = (
        questions.object_questions, questions.relation_questions, questions.sign_questions, questions.place_questions
    )  # fmt: skip

    def allows_all(scene: Scene) -> bool:
        return bool(questions.relation_questions(scene, ()) and questions.sign_questions(scene, ()))

    described = _described_scene(world, "agieval_sat_en", plan=plan, is_suitable=allows_all)
    return _choice_record(*described, plan=plan, generators=generators, choice_count=4)


def copa(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """A question about a described scene with two choices, both from the scene."""
    generators = (questions.object_questions, questions.place_questions)
    described = _described_scene(world, "copa", plan=plan, is_suitable=lambda scene: len(scene.objects) > 1)
    return _choice_record(*described, plan=plan, generators=generators, choice_count=2)


def _choice_record(
    scene: Scene,
    description: str,
    rng: np.random.Generator,
    *,
    plan: QuestionPlan,
    generators: Sequence[QuestionGenerator],
    choice_count: int,
) -> TextTaskRecord:
    options = uniform_choice(generators, rng)(scene, ())
    question = weighted_choice([option for option in options if option[1].answer != "unanswerable"], rng)
    choices = [question.answer, *_distractors(scene, question.answer, rng)[: choice_count - 1]]
    return _question_record(description, question, shuffled_list(choices, rng), plan=plan)


def hellaswag(world: SyntheticWorld, plan: QuestionPlan) -> TextTaskRecord:
    """The correct second description of a scene among four that differ in one word."""
    scene, description, rng = _described_scene(world, "hellaswag", plan=plan)
    ending = reordered_description(scene, rng)
    words = [word for word, _ in ending]
    replaceable = [n for n, (word, determined) in enumerate(ending) if determined and _distractors(scene, word, rng)]
    wrong_endings: dict[str, None] = {}
    while len(wrong_endings) < 3:
        position = uniform_choice(replaceable, rng)
        replacement = uniform_choice(_distractors(scene, words[position], rng)[:3], rng)
        wrong_endings.setdefault(" ".join((*words[:position], replacement, *words[position + 1 :])))
    correct, query = join_pieces(ending).text, f"{description} {SENTENCE_TEMPLATES['again']}"
    choices = shuffled_list([correct, *wrong_endings], rng)
    return _text_record(query, choices, correct=correct, tags=plan.tags)


def _distractors(scene: Scene, word: str, rng: np.random.Generator) -> list[str]:
    """Other words of the class of `word` (names, places, signs, colours), those of the scene first; else none."""
    scene_words = {
        load_catalog(scene.world).names: [obj.name for obj in scene.objects],
        PLACES: [obj.place for obj in scene.objects],
        SIGNS: [obj.sign for obj in scene.objects if obj.sign],
        GROUND_COLORS: [],
    }
    word_class = next((words for words in scene_words if word in words), None)
    if word_class is None:
        return []
    candidates = [*shuffled_list(scene_words[word_class], rng), *shuffled_list(word_class, rng)]
    return [candidate for candidate in dict.fromkeys(candidates) if candidate != word]


TEXT_TASK_MAKERS: dict[str, Callable[[SyntheticWorld, QuestionPlan], TextTaskRecord]] = {
    "arc_easy": arc_easy,
    "mathqa": mathqa,
    "boolq": boolq,
    "agieval_sat_en": agieval_sat_en,
    "hellaswag": hellaswag,
    "copa": copa,
}
