"""The template environment: escaping, missing names, and data inside scripts."""

from __future__ import annotations

import base64
import json
from hashlib import sha256

import pytest
from jinja2 import UndefinedError

from firstsight.report.format import csp_hash, inline_json, read_assets, render_template
from tests.report.html_page import Page
from tests.report.study_builder import WrittenStudy


def test_json_is_safe_inside_a_script_element(finished_study: WrittenStudy) -> None:
    hostile = {"a": "</script><!--<script>", "b": ["\u2028&"]}
    assert json.loads(inline_json(hostile)) == hostile
    assert not set("<>&") & set(inline_json(hostile))
    page = Page(finished_study[1].read_text())
    assert json.loads(page.scripts[1]).keys() == {
        *("stable", "single", "soft", "tasks", "pareto", "forgetting", "heat", "schedules", "losses"),
    }


def test_missing_names_are_errors() -> None:
    with pytest.raises(UndefinedError):
        render_template("preview.html")


def test_assets_are_joined_and_hashed() -> None:
    css = read_assets("page.css", "answers.css")
    assert css == read_assets("page.css") + read_assets("answers.css")
    assert csp_hash("a") == f"sha256-{base64.b64encode(sha256(b'a').digest()).decode()}"
