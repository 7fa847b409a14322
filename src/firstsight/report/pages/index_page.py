"""The page of a combined study: its parts with question, answer, figure and verdicts, and links to their reports."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from firstsight.files import write_atomic
from firstsight.recipe.study import Study
from firstsight.report.claims import ClaimResult, family_sentence
from firstsight.report.format import read_assets, render_template
from firstsight.report.results import RunInfo

FIGURE_FILES = ("main.svg", "stable.svg", "schedules.svg")
"""The figure of a part is the first of these that its report has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """A part of a combined study, and its report."""

    study: Study
    answer: str
    claims: Sequence[ClaimResult]
    next_runs: Mapping[str, str]
    """As in `RunInfo`."""
    page: Path
    """report.html, beside the folder of its figures."""

    @property
    def figure(self) -> str:
        """The report's figure as the source of an image; empty without one."""
        files = (self.page.parent / "figures" / name for name in FIGURE_FILES)
        file = next((file for file in files if file.is_file()), None)
        return f"data:image/svg+xml;base64,{b64encode(file.read_bytes()).decode()}" if file else ""


def write(entries: Sequence[IndexEntry], *, study: Study, run: RunInfo, folder: Path) -> Path:
    """Write report.html into `folder`; returns its path. Equal input gives equal bytes."""
    results = [(entry.study.name, result) for entry in entries for result in entry.claims]
    verdicts = [result.verdict for _, result in results]
    page = render_template(
        "index.html",
        css=read_assets("page.css", "index.css"),
        study=study,
        entries=[(entry, os.path.relpath(entry.page, folder)) for entry in entries],
        verdicts={name: verdicts.count(name) for name in dict.fromkeys(verdicts)},
        family=family_sentence({f"{name}.{result.claim.name}": result for name, result in results}),
        run=run,
    )
    write_atomic(folder / "report.html", page)
    return folder / "report.html"
