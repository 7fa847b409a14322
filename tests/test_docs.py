"""The architecture page names what exists: its tree the packages and modules, its text functions and classes."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "firstsight"
PAGE = (ROOT / "docs" / "why" / "architecture.md").read_text()


def resolve(name: str) -> object:
    """The module, class, function or method with a dotted name below firstsight."""
    module, *attributes = "firstsight", *name.split(".")
    while attributes and hasattr(import_module(module), "__path__") and find_spec(f"{module}.{attributes[0]}"):
        module, *attributes = f"{module}.{attributes[0]}", *attributes[1:]
    value: object = import_module(module)
    for attribute in attributes:
        value = getattr(value, attribute)
    return value


def test_names_in_the_text_exist() -> None:
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir()}
    names = {name for name in re.findall(r"`(\w+(?:\.\w+)+)`", PAGE) if name.partition(".")[0] in packages}
    names -= {"report.html"}
    assert len(names) > 40
    for name in names:
        resolve(name)


def test_the_tree_has_every_package_and_only_modules_that_exist() -> None:
    tree = PAGE.split("src/firstsight/\n", 1)[1].split("```", 1)[0]
    top_level, package = set[str](), ""
    for line in filter(None, tree.splitlines()):
        indent, names = re.match(r"( +)(\S+(?: \S+)*)", line).groups()  # type: ignore[union-attr]
        if indent == "  ":
            package = names
            top_level.add(names.rstrip("/"))
            continue
        for name in names.split():
            path = SOURCE / package / name
            assert path.is_dir() if name.endswith("/") else path.with_suffix(".py").is_file(), line
    files = {path.name for path in SOURCE.iterdir() if path.name not in ("py.typed", "__pycache__")}
    assert top_level == files - {"__init__.py", "__main__.py"}
