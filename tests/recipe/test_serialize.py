"""Canonical JSON: every spec survives it, and tags name spec classes, whatever these are called."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.graph import build_graph
from firstsight.plan.step import Step
from firstsight.recipe.analysis import Bars, DecisionAccuracy, Grid
from firstsight.recipe.mixture import External, Mixture, ShareSpan, SyntheticInterleaved, SyntheticMultitask
from firstsight.recipe.model import LinearRope
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.recipe.scales.models import clip_large_336, dinov3_large_384, llama32_1b
from firstsight.recipe.schedule import Matched, Rewarm, SameCurve
from firstsight.recipe.serialize import SPEC_CLASSES, canonical_json, from_json, to_json
from firstsight.recipe.stages import Donor, PublicModel, RowShape
from firstsight.studies.when import when
from firstsight.units import Share, Tokens
from firstsight.workspace.study_functions import find_study_function, shipped_studies

STUDIES = (when(get_scale("smoke")), find_study_function("encoders").build("1b", seeds=1, options={}))
WORLD = STUDIES[0].arms[0].evaluate.benchmarks.world  # type: ignore[union-attr]
EXAMPLES = (
    *STUDIES,
    *(step.spec for study in STUDIES for step in build_graph(study).steps),
    STUDIES[0].with_last_checkpoints(average=4),
    Matched(trunk_share=Share(4, 5), min_lr=0.0),
    SameCurve(),
    Mixture(components=STUDIES[0].arms[0].pretrain.text.components, share_unit="rows"),
    ShareSpan(end=Share(1), share=Share(1, 2)),
    LinearRope(base=1e4, factor=2.0),
    DecisionAccuracy(axis="size"),
    Bars(x="encoder"),
    Grid(x="start", y="schedule"),
    SyntheticInterleaved(world=WORLD, documents=9, max_images=2),
    SyntheticMultitask(
        world=WORLD, images=9, turns=2, captions=Share(1, 2), words=Share(1, 6), boxes=Share(1, 3), dialogues=Share(0)
    ),
    clip_large_336(External(name="clip", form="encoder", tokens=Tokens(0))),
    dinov3_large_384(External(name="dinov3", form="encoder", tokens=Tokens(0))),
    PublicModel(weights=External(name="whole", form="model", tokens=Tokens(0))),
    Donor(
        model=llama32_1b(),
        tokenizer=External(name="words", form="tokenizer", tokens=Tokens(0)),
        row_shape=RowShape(batch_size=1, length=8),
        tokens=Tokens(80),
        schedule=Rewarm(peak_lr=1.0, min_lr=0.1, warmup=Share(1, 10)),
        checkpoints=((Share(1), External(name="public", form="checkpoint", tokens=Tokens(0))),),
    ),
)
"""Values that contain every class of spec."""
GOLDEN_TAGS = Path(__file__).parents[1] / "golden" / "tags.txt"


def specs_in(value: Any) -> Iterator[Any]:
    """Every dataclass in a value, itself included."""
    if is_dataclass(value):
        yield value
        for field in fields(value):
            yield from specs_in(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from specs_in(item)


REFUSED = {("ladder", "79m"), *product(("captions", "ladder", "paper", "scale"), ("evening",))}
"""Studies that need smaller sizes, or captions of another kind, than the scale has."""


@pytest.mark.parametrize(
    ("name", "scale"), [case for case in product(shipped_studies(), SCALES) if case not in REFUSED]
)
def test_every_spec_of_every_shipped_study_survives_the_round_trip(name: str, scale: str) -> None:
    study = find_study_function(name).build(scale, seeds=1, options={})
    assert from_json(to_json(study)) == study
    for spec in {canonical_json(to_json(spec)): spec for spec in specs_in(study)}.values():
        copy = from_json(to_json(spec))
        assert copy == spec and type(copy) is type(spec)
        assert canonical_json(to_json(copy)) == canonical_json(to_json(spec))


def test_only_specs_have_a_canonical_form() -> None:
    with pytest.raises(QuantityError, match="a spec contains"):
        to_json(lambda: 1)
    with pytest.raises(UnknownName):
        from_json({"type": "Surprise"})


def test_tags_are_unique_and_frozen() -> None:
    """Stored checkpoints and addresses contain them: a tag is added, never changed or removed."""
    classes = [
        value
        for name, module in list(sys.modules.items())
        if name.startswith("firstsight.recipe.")
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == name and "TAG" in vars(value)
    ]
    assert set(classes) == set(SPEC_CLASSES.values())
    assert len({spec_class.TAG for spec_class in classes} | {"share"}) == len(classes) + 1
    assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", tag) for tag in SPEC_CLASSES)
    text = "".join(f"{tag}\n" for tag in sorted(SPEC_CLASSES))
    if os.environ.get("FIRSTSIGHT_GOLDEN") == "write":
        GOLDEN_TAGS.write_text(text)
    assert text == GOLDEN_TAGS.read_text()


@pytest.mark.parametrize("tag", sorted(SPEC_CLASSES))
def test_a_renamed_class_keeps_its_json_and_its_addresses(tag: str) -> None:
    """Each class is renamed in a copy of its module's source, and its JSON and addresses are computed again."""
    spec_class = SPEC_CLASSES[tag]
    module = sys.modules[spec_class.__module__]
    source = Path(str(module.__file__)).read_text()
    copy = ModuleType(f"{module.__name__}_copy")
    sys.modules[copy.__name__] = copy
    try:
        exec(compile(re.sub(rf"\b{spec_class.__name__}\b", "Renamed", source), copy.__name__, "exec"), vars(copy))
    finally:
        del sys.modules[copy.__name__]
    spec = next(spec for spec in specs_in(EXAMPLES) if type(spec) is spec_class)
    renamed_class = vars(copy)["Renamed"]
    assert tag == renamed_class.TAG and renamed_class.__name__ == "Renamed"
    renamed = object.__new__(renamed_class)
    for field in fields(spec):
        object.__setattr__(renamed, field.name, getattr(spec, field.name))
    assert canonical_json(to_json(renamed)) == canonical_json(to_json(spec))
    assert Step(kind="k", spec=renamed, version=1).address[-12:] == Step(kind="k", spec=spec, version=1).address[-12:]


def test_later_fields_are_in_json_only_where_they_have_another_value() -> None:
    """So the golden addresses of recipes without them stay."""
    arm = STUDIES[0].with_last_checkpoints(average=4, each=2).arms[-1]
    for plain, changed, names in (
        (STUDIES[0].arms[-1].evaluate, arm.evaluate, {"average", "each_of_last"}),
        (STUDIES[0].arms[-1].stages[-1], arm.stages[-1], {"last_checkpoints"}),
    ):
        assert to_json(changed).keys() - to_json(plain).keys() == names
        assert from_json(to_json(plain)) == plain and from_json(to_json(changed)) == changed
