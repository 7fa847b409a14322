"""The table of the paper's text tasks agrees with lm-eval's own definitions."""

from __future__ import annotations

import pytest
import yaml

from firstsight.errors import MissingPackage, UnknownName
from firstsight.evaluate.lm_eval import tasks
from firstsight.evaluate.tasks import TASKS


class _Loader(yaml.SafeLoader):
    """YAML whose `!function` values are read as text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_tasks_are_the_built_in_text_tasks() -> None:
    assert set(tasks.LM_EVAL_TASKS) == {name for name, task in TASKS.items() if task.kind == "text"}


@pytest.mark.parametrize("name", tasks.LM_EVAL_TASKS)
def test_configuration_and_split_are_the_definitions(name: str) -> None:
    path, fields = tasks.find_definition(name), {}
    while path:
        definition = yaml.load(path.read_text(), _Loader)
        fields = definition | fields
        path = path.parent / definition["include"] if "include" in definition else None
    task = tasks.get_lm_eval_task(name)
    assert fields["task"] == name or name.startswith("bigbench_")
    assert (fields.get("dataset_name") or "") == task.config
    assert fields.get("test_split") == task.split or fields["validation_split"] == task.split
    assert tasks.definition_version(name).endswith(f", {name} {fields['metadata']['version']}")


def test_unknown_names_and_a_missing_package_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="Nearest: boolq"):
        tasks.get_lm_eval_task("bolq")
    assert tasks.query_version("boolq").endswith("boolq as query, choices and gold, 1")
    monkeypatch.setattr(tasks, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install"):
        tasks.find_definition("boolq")
