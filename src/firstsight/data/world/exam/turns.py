"""What all evaluation questions share: which of them are held out, and scenes that allow the question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from firstsight.data.world.scene import Law, Scene, scene
from firstsight.data.world.words import HELD_OUT_FORM
from firstsight.errors import QuantityError
from firstsight.recipe.mix import World

Tags = dict[str, str]
_PATIENCE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What question `nth` of a task is by plan: even numbers use unseen combinations, a quarter an unseen form."""

    nth: int
    unseen: bool
    yes: bool
    form: int

    @classmethod
    def of(cls, nth: int) -> Turn:
        """The plan repeats every sixteen questions, so that any two of its parts are crossed."""
        bits = nth % 16
        form = HELD_OUT_FORM if bits >> 2 == 0 else bits >> 2 & 1
        return cls(nth=nth, unseen=bits & 1 == 0, yes=bits >> 1 & 1 == 0, form=form)

    @property
    def tags(self) -> Tags:
        """How a record says it."""
        form = "heldout" if self.form == HELD_OUT_FORM else "seen"
        return {"combination": "heldout" if self.unseen else "seen", "form": form}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sought:
    """Which scene a question needs."""

    world: World
    task: str
    nth: int
    law: Law


def shown_for(sought: Sought, allows: Callable[[Scene], bool]) -> Scene:
    """The first scene of this question that allows it; QuantityError where the world is too small for the task."""
    world = sought.world
    for attempt in range(_PATIENCE):
        shown = scene(world, f"benchmark {sought.task}", sought.nth + (attempt << 32), law=sought.law)
        if allows(shown):
            return shown
    raise QuantityError(
        f"{sought.task}: wanted a scene that leaves something to ask. Got none in {_PATIENCE} scenes of a world with "
        f"crowd={world.crowd}, objects={world.objects}, kinds={world.kinds}. Raise crowd or objects."
    )
