"""What all evaluation questions share: which of them are held out, and scenes that allow the question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic.scenes import Scene, SceneDistribution, sample_scene
from firstsight.synthetic.vocabulary import HELD_OUT_QUESTION_FORM

QuestionTags = dict[str, str]
_MAX_ATTEMPTS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionPlan:
    """What question `nth` of a task is by plan: even numbers use unseen combinations, a quarter an unseen form."""

    index: int
    is_unseen: bool
    is_yes: bool
    form: int

    @classmethod
    def from_index(cls, index: int) -> QuestionPlan:
        """The plan repeats every sixteen questions, so that any two of its parts are crossed."""
        bits = index % 16
        form = HELD_OUT_QUESTION_FORM if bits >> 2 == 0 else bits >> 2 & 1
        return cls(index=index, is_unseen=bits & 1 == 0, is_yes=bits >> 1 & 1 == 0, form=form)

    @property
    def tags(self) -> QuestionTags:
        """How a record says it."""
        form = "heldout" if self.form == HELD_OUT_QUESTION_FORM else "seen"
        return {"combination": "heldout" if self.is_unseen else "seen", "form": form}


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRequest:
    """Which scene a question needs."""

    world: SyntheticWorld
    task: str
    index: int
    distribution: SceneDistribution


def find_scene(request: SceneRequest, is_suitable: Callable[[Scene], bool]) -> Scene:
    """The first scene of this question that allows it; QuantityError where the world is too small for the task."""
    world = request.world
    for attempt in range(_MAX_ATTEMPTS):
        candidate = sample_scene(
            world, f"benchmark {request.task}", request.index + (attempt << 32), distribution=request.distribution
        )
        if is_suitable(candidate):
            return candidate
    raise QuantityError(
        f"{request.task}: wanted a scene that leaves something to ask. Got none in {_MAX_ATTEMPTS} scenes of a world with "
        f"crowd={world.max_objects}, objects={world.objects}, kinds={world.kinds}. Raise crowd or objects."
    )
