"""Vision tasks: what is asked about which scenes, one task for each of the paper's, and `kinds`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from firstsight.data.world import questions as ask
from firstsight.data.world.draw import Box, Studio
from firstsight.data.world.exam.blind import blind_box, blind_word
from firstsight.data.world.exam.turns import Sought, Tags, Turn, shown_for
from firstsight.data.world.questions import Asking, Question, Weighed
from firstsight.data.world.scene import Law, Scene
from firstsight.data.world.things import choose, stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question about one picture, and the answer of a guesser that sees the picture but not the question."""

    number: int
    scene: Scene
    boxes: tuple[Box, ...]
    question: Question
    text: str
    tags: Tags
    blind: str

    @property
    def stem(self) -> str:
        """The picture's name without its ending."""
        return f"world_{self.number:012d}"

    @property
    def image(self) -> str:
        """The picture's name in images.tar."""
        return f"{self.stem}.png"

    @property
    def box(self) -> Box:
        """The box of the thing asked about, in pixels."""
        names = [thing.name for thing in self.scene.things]
        return self.boxes[names.index(self.question.about)]


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionTask:
    """What is asked, of which scenes, and the overlap that a box needs (0 for words)."""

    name: str
    """Of its folder; behind a space, the split."""
    asking: Asking
    signs: float = 0.5
    clutter: float = 0.25
    fewest: int = 2
    overlap: float = 0.0
    balanced: bool = False
    """Yes and no in equal numbers."""


_VQA = ask.blend((0.5, ask.things), (0.25, ask.ground), (0.25, ask.count))
_ABSENT: dict[str, Callable[[Scene], list[Weighed]]] = {
    "random": ask.absent_random,
    "popular": ask.absent_popular,
    "adversarial": ask.absent_alike,
}


def _pope(split: str) -> VisionTask:
    asking: Asking = lambda scene, _: ask.presence(scene, _ABSENT[split](scene))  # noqa: E731
    return VisionTask(name=f"pope {split}", asking=asking, balanced=True)


VISION_TASKS: tuple[VisionTask, ...] = (
    VisionTask(name="vqav2", asking=_VQA),
    VisionTask(name="gqa", asking=ask.relations),
    VisionTask(name="textvqa", asking=ask.signs, signs=0.8),
    VisionTask(name="vizwiz", asking=ask.places),
    VisionTask(name="refcoco", asking=ask.where_boxes, clutter=0.0, overlap=0.5),
    VisionTask(name="ocid_ref", asking=ask.where_boxes, clutter=1.0, fewest=3, overlap=0.25),
    *(_pope(split) for split in _ABSENT),
    VisionTask(name="kinds", asking=ask.untold_kinds),
)


def size(task: VisionTask, questions: int) -> int:
    """Questions of a task; a split of POPE has a third, rounded down so that yes and no are even."""
    return max(4, questions // 12 * 4) if task.balanced else questions


def asked_of(task: VisionTask, drawn: Studio, *, number: int, nth: int) -> Asked:
    """Question `nth` of a task, about picture `number` of all; a pure function of its arguments."""
    turn = Turn.of(nth)
    law = Law(fewest=task.fewest, unseen=turn.unseen, signs=task.signs, clutter=task.clutter)
    allows: Callable[[Scene], bool] = lambda scene: open_to(task.asking(scene, drawn.boxes(scene)))  # noqa: E731
    shown = shown_for(Sought(world=drawn.world, task=task.name, nth=nth, law=law), allows)
    boxes = drawn.boxes(shown)
    options = task.asking(shown, boxes)
    if task.balanced:
        options = [one for one in options if (one[1].answer == "yes") == turn.yes]
    question = choose(options, stream(drawn.world, f"benchmark words {task.name}", nth))
    return Asked(
        number=number,
        scene=shown,
        boxes=boxes,
        question=question,
        text=question.say(turn.form),
        tags=turn.tags,
        blind=blind_answer(task, shown, boxes),
    )


def blind_answer(task: VisionTask, shown: Scene, boxes: tuple[Box, ...]) -> str:
    """What the question-blind guesser says to any question of `task` about this picture."""
    return blind_box(shown, boxes, task.overlap) if task.overlap else blind_word(task.asking(shown, boxes))


def open_to(options: list[Weighed]) -> bool:
    """Whether a scene leaves something to ask: at least two answers are possible."""
    return len({question.answer for _, question in options}) > 1
