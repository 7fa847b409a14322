"""Run the command in this process, and a study file to run it with."""

from __future__ import annotations

import pytest

from firstsight.cli.app import command

STUDY_FILE = '''
"""A study of one arm."""
from dataclasses import replace
from typing import Literal

from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.study import Study, over_seeds
from firstsight.units import Share, Tokens


def late(scale: Scale, at: Share = Share(9, 10), *, length: Tokens = Tokens(4096), again: bool = False,
         order: Literal["first", "last"] = "first", label: str = "late", copies: int = 1) -> Study:
    arm = replace(branch_at(scale, at), name=f"{label}-{order}-{length}-{again}-{copies}")
    return Study(name="late", scale=scale.name, question="Is late enough?", arms=over_seeds([arm], range(scale.seeds)))


def _not_this(scale: Scale) -> Study:
    raise AssertionError
'''


def run_command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, each on one line with single spaces."""
    code = command([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), " ".join(err.split())


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The message of a command that must be refused with exit code 2, in one message and without a traceback."""
    code, _, err = run_command(capsys, *words)
    assert code == 2, err
    assert err.startswith("error: ") and err.count("error: ") == 1 and "Traceback" not in err
    return err
