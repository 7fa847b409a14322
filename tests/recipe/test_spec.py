"""Fields of recipe classes are checked when they are made."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import Any, ClassVar, get_origin, get_type_hints

import pytest
from beartype.door import is_bearable

from firstsight.errors import FieldError
from firstsight.recipe.mixture import ShareSpan
from firstsight.recipe.scales import get_scale
from firstsight.recipe.serialize import SPEC_CLASSES, canonical_json, to_json
from firstsight.recipe.spec import matches
from firstsight.recipe.stages import ModuleTraining, RowShape
from firstsight.units import Share

ARM = get_scale("smoke").base
STAGE = ARM.stages[0]
VALUES: tuple[Any, ...] = (
    *(-1, 1.5, "rows", "carried", None, (), (1,), ("a",), {}, Share(1, 2), RowShape(batch_size=1, length=2)),
    *(ARM, ARM.stages, ARM.pretrain, STAGE, STAGE.mix, STAGE.mix.text, STAGE.mix.text.components, STAGE.model.vision),
    *((ShareSpan(end=Share(1), share=Share(0)),), STAGE.schedule, STAGE.tokenizer),
)


@pytest.mark.parametrize("spec_class", SPEC_CLASSES.values())
def test_values_match_a_type_as_beartype_says(spec_class: type) -> None:
    """But an int is a number too, where a float is wanted."""
    for field in fields(spec_class):
        kind = get_type_hints(spec_class)[field.name]
        assert get_origin(kind) is not ClassVar
        for value in VALUES:
            expected = is_bearable(value, kind) or (type(value) is int and is_bearable(1.5, kind))
            assert matches(value, kind) == expected, (field.name, value)


@pytest.mark.parametrize("spec_class", SPEC_CLASSES.values())
def test_every_class_of_a_recipe_lists_its_fields_for_an_unknown_one(spec_class: type) -> None:
    with pytest.raises(FieldError) as error:
        spec_class(no_such_field=1)
    assert str(error.value) == (
        f"{spec_class.__name__} has no field 'no_such_field'. "
        f"Its fields: {', '.join(field.name for field in fields(spec_class) if field.init)}."
    )


def test_true_is_no_number() -> None:
    assert not matches(True, int) and not matches(True, float) and matches(True, bool) and not matches(1, bool)
    with pytest.raises(FieldError, match=r"RowShape.length: wanted a whole number. Got True."):
        RowShape(batch_size=1, length=True)


def test_a_checked_value_is_replaced_compared_and_pickled_like_any_dataclass() -> None:
    assert replace(ARM, seed=3) != ARM and hash(replace(STAGE, seed=3)) != hash(STAGE)
    assert pickle.loads(pickle.dumps(ARM)) == ARM
    assert (
        RowShape.__name__ == "RowShape" and repr(RowShape(batch_size=1, length=2)) == "RowShape(batch_size=1, length=2)"
    )


def test_a_whole_number_in_a_float_field_has_the_address_of_the_equal_float() -> None:
    whole, real = ModuleTraining(lr_scale=1, weight_decay=0), ModuleTraining(lr_scale=1.0, weight_decay=0.0)
    assert canonical_json(to_json(whole)) == canonical_json(to_json(real))
