"""Vision tasks: what is asked about which scenes, one task for each of the paper's, and `kinds`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from firstsight.synthetic import questions as ask
from firstsight.synthetic.catalog import weighted_choice, world_rng
from firstsight.synthetic.guessers import most_likely_answer, most_overlapping_box
from firstsight.synthetic.held_out import QuestionPlan, QuestionTags, SceneRequest, find_scene
from firstsight.synthetic.questions import QuestionGenerator, SceneQuestion, WeightedQuestion
from firstsight.synthetic.rendering import PixelBox, Renderer
from firstsight.synthetic.scenes import Scene, SceneDistribution


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionQuestion:
    """One question about one picture, and the answer of a guesser that sees the picture but not the question."""

    number: int
    scene: Scene
    boxes: tuple[PixelBox, ...]
    question: SceneQuestion
    text: str
    tags: QuestionTags
    blind_answer: str

    @property
    def stem(self) -> str:
        """The picture's name without its ending."""
        return f"world_{self.number:012d}"

    @property
    def image(self) -> str:
        """The picture's name in images.tar."""
        return f"{self.stem}.png"

    @property
    def box(self) -> PixelBox:
        """The box of the thing asked about, in pixels."""
        names = [scene_object.name for scene_object in self.scene.objects]
        return self.boxes[names.index(self.question.subject)]


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionTask:
    """What is asked, of which scenes, and the overlap that a box needs (0 for words)."""

    name: str
    """Of its folder; behind a space, the split."""
    generate_questions: QuestionGenerator
    sign_probability: float = 0.5
    clutter_probability: float = 0.25
    min_objects: int = 2
    min_iou: float = 0.0
    is_balanced: bool = False
    """Yes and no in equal numbers."""


_VQA_GENERATOR = ask.mix_generators(
    (0.5, ask.object_questions), (0.25, ask.ground_questions), (0.25, ask.count_questions)
)
_ABSENT_GENERATORS: dict[str, Callable[[Scene], list[WeightedQuestion]]] = {
    "random": ask.random_absent_questions,
    "popular": ask.popular_absent_questions,
    "adversarial": ask.adversarial_absent_questions,
}


def _pope_task(split: str) -> VisionTask:
    generate_questions: QuestionGenerator = lambda scene, _: ask.presence_questions(
        scene, _ABSENT_GENERATORS[split](scene)
    )
    return VisionTask(name=f"pope {split}", generate_questions=generate_questions, is_balanced=True)


SYNTHETIC_VISION_TASKS: tuple[VisionTask, ...] = (
    VisionTask(name="vqav2", generate_questions=_VQA_GENERATOR),
    VisionTask(name="gqa", generate_questions=ask.relation_questions),
    VisionTask(name="textvqa", generate_questions=ask.sign_questions, sign_probability=0.8),
    VisionTask(name="vizwiz", generate_questions=ask.place_questions),
    VisionTask(name="refcoco", generate_questions=ask.box_questions, clutter_probability=0.0, min_iou=0.5),
    VisionTask(
        name="ocid_ref", generate_questions=ask.box_questions, clutter_probability=1.0, min_objects=3, min_iou=0.25
    ),
    *(_pope_task(split) for split in _ABSENT_GENERATORS),
    VisionTask(name="kinds", generate_questions=ask.held_out_kind_questions),
)


def question_count(task: VisionTask, questions_per_task: int) -> int:
    """Questions of a task; a split of POPE has a third, rounded down so that yes and no are even."""
    return max(4, questions_per_task // 12 * 4) if task.is_balanced else questions_per_task


def make_vision_question(task: VisionTask, renderer: Renderer, *, number: int, index: int) -> VisionQuestion:
    """Question `nth` of a task, about picture `number` of all; a pure function of its arguments."""
    plan = QuestionPlan.from_index(index)
    distribution = SceneDistribution(
        min_objects=task.min_objects,
        is_unseen=plan.is_unseen,
        sign_probability=task.sign_probability,
        clutter_probability=task.clutter_probability,
    )
    is_suitable: Callable[[Scene], bool] = lambda scene: has_several_answers(
        task.generate_questions(scene, renderer.boxes(scene))
    )
    chosen_scene = find_scene(
        SceneRequest(world=renderer.world, task=task.name, index=index, distribution=distribution), is_suitable
    )
    boxes = renderer.boxes(chosen_scene)
    options = task.generate_questions(chosen_scene, boxes)
    if task.is_balanced:
        options = [option for option in options if (option[1].answer == "yes") == plan.is_yes]
    question = weighted_choice(options, world_rng(renderer.world, f"benchmark words {task.name}", index))
    return VisionQuestion(
        number=number,
        scene=chosen_scene,
        boxes=boxes,
        question=question,
        text=question.to_text(plan.form),
        tags=plan.tags,
        blind_answer=question_blind_answer(task, chosen_scene, boxes),
    )


def question_blind_answer(task: VisionTask, scene: Scene, boxes: tuple[PixelBox, ...]) -> str:
    """What the question-blind guesser says to any question of `task` about this picture."""
    return (
        most_overlapping_box(scene, boxes, task.min_iou)
        if task.min_iou
        else most_likely_answer(task.generate_questions(scene, boxes))
    )


def has_several_answers(options: list[WeightedQuestion]) -> bool:
    """Whether a scene leaves something to ask: at least two answers are possible."""
    return len({question.answer for _, question in options}) > 1
