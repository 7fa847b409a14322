"""Vision tasks: scenes and questions of each benchmark, and the answers of the question-blind guesser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from firstsight.synthetic import questions
from firstsight.synthetic.catalog import weighted_choice, world_rng
from firstsight.synthetic.questions import (
    QuestionGenerator,
    QuestionPlan,
    QuestionTags,
    SceneQuestion,
    WeightedQuestion,
)
from firstsight.synthetic.rendering import PixelBox, Renderer
from firstsight.synthetic.scenes import Scene, SceneDistribution, find_scene
from firstsight.synthetic.vocabulary import EDGE_WORDS


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionQuestion:
    """One question about one image, and the answer of the guesser that uses the image but not the question."""

    task: VisionTask
    index: int
    """Among the task's questions."""
    number: int
    """Of the image in images.tar."""
    scene: Scene
    boxes: tuple[PixelBox, ...]
    question: SceneQuestion
    text: str
    tags: QuestionTags
    blind_answer: str

    @property
    def answer(self) -> str:
        return self.question.answer

    @property
    def split(self) -> str:
        """POPE's split; empty for other tasks."""
        return self.task.name.partition(" ")[2]

    @property
    def id(self) -> str:
        """The question's key in question_blind.json: the id that the reader of the task gives it."""
        if self.split:
            return f"{self.split}-{self.index + 1}"
        return self.image if self.task.name == "vizwiz" else str(self.number)

    @property
    def stem(self) -> str:
        """The image's file name without its extension."""
        return f"world_{self.number:012d}"

    @property
    def image(self) -> str:
        """The image's file name in images.tar."""
        return f"{self.stem}.png"

    @property
    def box(self) -> PixelBox:
        """The box of the object in the question, in pixels."""
        names = [obj.name for obj in self.scene.objects]
        return self.boxes[names.index(self.question.subject)]


@dataclass(frozen=True, slots=True)
class VisionTask:
    """Questions and scenes of one task; `min_iou` is the overlap of a correct box, 0 where answers are words."""

    name: str
    """The task's folder name, and after a space the split."""
    generate_questions: QuestionGenerator
    sign_probability: float = 0.5
    clutter_probability: float = 0.25
    min_objects: int = 2
    min_iou: float = 0.0
    is_balanced: bool = False
    """Whether yes and no are equally frequent."""


_VQA_GENERATOR = questions.mix_generators(
    (0.5, questions.object_questions), (0.25, questions.ground_questions), (0.25, questions.count_questions)
)
_GQA_GENERATOR = questions.mix_generators((0.5, questions.relation_questions), (0.5, questions.verification_questions))
_ABSENT_GENERATORS: dict[str, Callable[[Scene], list[WeightedQuestion]]] = {
    "random": questions.random_absent_questions,
    "popular": questions.popular_absent_questions,
    "adversarial": questions.adversarial_absent_questions,
}


def _pope_task(split: str) -> VisionTask:
    def generate_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
        return questions.presence_questions(scene, _ABSENT_GENERATORS[split](scene))

    return VisionTask(f"pope {split}", generate_questions, is_balanced=True)


SYNTHETIC_VISION_TASKS: tuple[VisionTask, ...] = (
    VisionTask("vqav2", _VQA_GENERATOR),
    VisionTask("gqa", _GQA_GENERATOR),
    VisionTask("textvqa", questions.sign_questions, sign_probability=0.8),
    VisionTask("vizwiz", questions.place_questions),
    VisionTask("refcoco", questions.box_questions, clutter_probability=0.0, min_iou=0.5),
    VisionTask("ocid_ref", questions.box_questions, clutter_probability=1.0, min_objects=3, min_iou=0.25),
    *(_pope_task(split) for split in _ABSENT_GENERATORS),
    VisionTask("kinds", questions.held_out_kind_questions),
)


def question_count(task: VisionTask, questions_per_task: int) -> int:
    """Questions of a task; each split of POPE has a third, rounded down to a multiple of 4 to balance yes and no."""
    return max(4, questions_per_task // 12 * 4) if task.is_balanced else questions_per_task


def make_vision_question(task: VisionTask, renderer: Renderer, *, number: int, index: int) -> VisionQuestion:
    """Question `index` of a task, about image `number` of images.tar; a pure function of its arguments."""
    plan = QuestionPlan.from_index(index)
    distribution = SceneDistribution(
        min_objects=task.min_objects,
        pairs=plan.pairs,
        sign_probability=task.sign_probability,
        clutter_probability=task.clutter_probability,
    )

    def has_several_answers(scene: Scene) -> bool:
        options = task.generate_questions(scene, renderer.boxes(scene))
        return len({question.answer for _, question in options}) > 1

    world = renderer.world
    scene = find_scene(
        world, f"benchmark {task.name}", index, distribution=distribution, is_suitable=has_several_answers
    )
    boxes = renderer.boxes(scene)
    options = task.generate_questions(scene, boxes)
    if task.is_balanced:
        options = [option for option in options if (option[1].answer == "yes") == plan.is_yes]
    question = weighted_choice(options, world_rng(world, f"benchmark words {task.name}", index))
    return VisionQuestion(
        task=task,
        index=index,
        number=number,
        scene=scene,
        boxes=boxes,
        question=question,
        text=question.to_text(plan.form),
        tags=plan.tags,
        blind_answer=question_blind_answer(task, scene, boxes),
    )


def question_blind_answer(task: VisionTask, scene: Scene, boxes: tuple[PixelBox, ...]) -> str:
    """The question-blind guesser's answer to any question of `task` about this image."""
    if task.min_iou:
        return most_overlapping_box(scene, boxes, task.min_iou)
    return most_likely_answer(task.generate_questions(scene, boxes))


def most_likely_answer(options: Sequence[WeightedQuestion]) -> str:
    """The answer with the highest probability over all questions of a scene; ties go to the first in the alphabet."""
    answer_weights: dict[str, float] = {}
    for weight, question in options:
        answer_weights[question.answer] = answer_weights.get(question.answer, 0.0) + weight
    return min(answer_weights, key=lambda answer: (-round(answer_weights[answer], 9), answer))


def most_overlapping_box(scene: Scene, boxes: Sequence[PixelBox], min_iou: float) -> str:
    """The box in words that overlaps the most objects by at least `min_iou`; ties go to the largest sum of overlaps."""
    candidates = _candidate_boxes()
    edge_spacing = scene.world.image_size / (len(EDGE_WORDS) - 1)
    ious = np.stack([_iou(candidates * edge_spacing, np.array(box, float)) for box in boxes])
    scores = (ious >= min_iou).sum(0) + ious.sum(0) / 100
    return " ".join(EDGE_WORDS[edge_index] for edge_index in candidates[int(scores.argmax())].astype(int))


@lru_cache(maxsize=1)
def _candidate_boxes() -> Float[np.ndarray, "n 4"]:
    spans = [(start, end) for start in range(len(EDGE_WORDS)) for end in range(start + 1, len(EDGE_WORDS))]
    return np.array([(left, top, right, bottom) for left, right in spans for top, bottom in spans], float)


def _iou(boxes: Float[np.ndarray, "n 4"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " n"]:
    intersection = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(1)
    return intersection / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - intersection)
