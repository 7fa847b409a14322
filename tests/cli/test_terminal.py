"""Text and tables in the terminal."""

from __future__ import annotations

import pytest

from firstsight.cli import terminal
from firstsight.workspace.doctor import Finding


def test_lines_are_printed_without_markup_and_unbroken(capsys: pytest.CaptureFixture[str]) -> None:
    line = "[red]not a colour[/] " * 20
    terminal.print_lines([line])
    assert capsys.readouterr().out == line + "\n"


def test_a_table_aligns_the_first_column_left_and_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table([("name", "count"), ("[a]", "1"), ("total", "1,000")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["name   count", "[a]        1", "total  1,000"]


def test_an_error_is_one_message_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_error("site.toml: [machine] is wrong")
    out, err = capsys.readouterr()
    assert out == "" and err == "error: site.toml: [machine] is wrong\n"


def test_a_finding_is_its_topic_state_value_and_advice(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_findings([Finding(topic="disk", value="1 GB free", state="note", advice="Make room.")])
    assert capsys.readouterr().out.split() == ["disk", "note", "1", "GB", "free", "Make", "room."]
