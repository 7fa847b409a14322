"""Held-out parts of questions: all combinations occur, and a world without a suitable scene is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from firstsight import synthetic
from firstsight.errors import QuantityError
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.synthetic.held_out import QuestionPlan
from tests.synthetic.world_reader import SITE, WORLD


def test_the_properties_of_questions_are_crossed() -> None:
    plans = [QuestionPlan.from_index(index) for index in range(64)]
    counts = Counter((plan.is_unseen, plan.is_yes, plan.form == 2) for plan in plans)
    for unseen, yes in product((0, 1), repeat=2):
        assert counts[unseen, yes, False] == 12 and counts[unseen, yes, True] == 4  # type: ignore[index]


def test_a_world_that_is_too_small_is_refused(tmp_path: Path) -> None:
    spec = SyntheticBenchmarks(world=replace(WORLD, max_objects=1), questions=4)
    with pytest.raises(QuantityError, match="Raise max_objects"):
        synthetic.write_benchmarks(spec, inputs={}, out=tmp_path, site=SITE, on_progress=lambda _: None)
