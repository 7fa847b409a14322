"""Nothing in `report` knows a study, an arm, an axis or a claim."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from firstsight import report
from firstsight.workspace.study_functions import find_study_function, shipped_studies

FOLDER = Path(report.__file__).parent
SOURCES = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".py", ".html", ".js", ".css", ".json"))
STUDIES = [
    find_study_function(name).build(scale, options={}, seeds=1)
    for name in shipped_studies()
    for scale in ("smoke", "1b")
]
PHRASES = re.compile(
    r"80 %|100 %|two points|images enter|text training|start-\d|re-?warm|\bin_sweep\b|schedule_label", re.IGNORECASE
)
VEGA_WORDS = {"start"}
"""Names that are also values of Vega: anchor = start."""
TERMS = {"seeds", "epochs", "stage", "stages", "schedules"}
"""Names of studies and of an axis that are also terms of every report: columns, sections, the chart of schedules."""
TEMPLATE_STRING = re.compile(r"""["']([^"'\n]*)["']""")


def _strings(path: Path) -> set[str]:
    """String constants of a module without docstrings, or quoted strings of another file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(TEMPLATE_STRING.findall(text))
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return {node.value for node in constants if isinstance(node.value, str)}


@pytest.mark.parametrize("path", SOURCES, ids=[path.relative_to(FOLDER).as_posix() for path in SOURCES])
def test_report_names_no_study_arm_axis_or_claim(path: Path) -> None:
    names = {study.name for study in STUDIES}
    for study in STUDIES:
        names |= {arm.name for arm in study.arms} | {arm.group for arm in study.arms if arm.group}
        names |= {axis.name for axis in study.axes} | {claim.name for claim in study.claims}
    assert {"when", "start-080", "start", "continued", "best", "trunk", "siglip"} <= names
    assert not (names - VEGA_WORDS - TERMS) & _strings(path)


@pytest.mark.parametrize("path", SOURCES, ids=[path.relative_to(FOLDER).as_posix() for path in SOURCES])
def test_report_has_no_phrase_about_a_study(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if PHRASES.search(line) and "Vega expression" not in line]
    vega_words = re.compile("|".join(f"[\"']{word}[\"']" for word in VEGA_WORDS))
    assert not [line for line in lines if vega_words.search(line) and "anchor" not in line.lower()]
