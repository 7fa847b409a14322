"""The tree of errors, and names that are nearly right."""

from __future__ import annotations

import re

from firstsight import errors
from firstsight.errors import FirstsightError, UnknownName


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    depths = {name: len(indent) // 4 for indent, name in re.findall(r"^([│├└─ ]*)(\w+)", errors.__doc__, re.M)[1:]}
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert depths == {item.__name__: item.__mro__.index(FirstsightError) for item in classes}


def test_nearest_names_are_suggested_and_all_are_listed_without_one() -> None:
    known = ["start-020", "start-040", "trunk"]
    nearest = "no arm is called 'start-02'. Nearest: start-020, start-040."
    assert str(UnknownName("arm", "start-02", known)) == f"{nearest} All: start-020, start-040, trunk."
    assert str(UnknownName("arm", "start-02", [*known, *map(str, range(6))])) == nearest
    assert str(UnknownName("arm", "start-02", known[:2])) == nearest
    assert str(UnknownName("arm", "zzz", known)) == "no arm is called 'zzz'. Known: start-020, start-040, trunk."
