"""Which parts of a benchmark question are held out, and the search for a scene that allows the question."""

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
    """Properties of question `index` of a task: half use held-out (object, place) pairs, a quarter a held-out form."""

    index: int
    is_unseen: bool
    is_yes: bool
    form: int

    @classmethod
    def from_index(cls, index: int) -> QuestionPlan:
        """The plan repeats every sixteen questions, so that any two of its properties are crossed."""
        bits = index % 16
        form = HELD_OUT_QUESTION_FORM if bits >> 2 == 0 else bits >> 2 & 1
        return cls(index=index, is_unseen=bits & 1 == 0, is_yes=bits >> 1 & 1 == 0, form=form)

    @property
    def tags(self) -> QuestionTags:
        """The properties as fields of a benchmark record: `seen` or `heldout`."""
        form = "heldout" if self.form == HELD_OUT_QUESTION_FORM else "seen"
        return {"combination": "heldout" if self.is_unseen else "seen", "form": form}


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRequest:
    """Identifies the scene of a question."""

    world: SyntheticWorld
    task: str
    index: int
    distribution: SceneDistribution


def find_scene(request: SceneRequest, is_suitable: Callable[[Scene], bool]) -> Scene:
    """The first suitable scene of the question's sequence; QuantityError where the world is too small for the task."""
    world = request.world
    for attempt in range(_MAX_ATTEMPTS):
        candidate = sample_scene(
            world, f"benchmark {request.task}", request.index + (attempt << 32), distribution=request.distribution
        )
        if is_suitable(candidate):
            return candidate
    raise QuantityError(
        f"{request.task}: wanted a scene with at least two possible answers. Got none in {_MAX_ATTEMPTS} scenes of a "
        f"world with max_objects={world.max_objects}, objects={world.objects}, kinds={world.kinds}. "
        "Raise max_objects or objects."
    )
