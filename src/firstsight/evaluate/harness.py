"""A checkpoint and its benchmarks in, one kept row a question and one score a task out."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.data.digests import write_whole
from firstsight.errors import DataError, ModelError
from firstsight.evaluate import cache, tasks
from firstsight.evaluate.asking import LIMIT, Item, Paper, Sight, Terms, paper, put, refuse
from firstsight.evaluate.cache import Key
from firstsight.evaluate.pictures import Pictures
from firstsight.evaluate.question import QUESTION_BLIND, Style, Task, load
from firstsight.evaluate.speakers.boxes import writing
from firstsight.evaluate.speakers.opening import speaker
from firstsight.evaluate.speakers.speaker import Asked, Speaker
from firstsight.evaluate.summary import Guesses, Row, summarise, summed
from firstsight.evaluate.texts import lm_evals, told
from firstsight.recipe.mix import Benchmarks
from firstsight.recipe.stages import Evaluate
from firstsight.site import Progress, Site, Tell

SHEETS = "sheets"
"""The folder of raw answers beside what they add up to; a step of a study takes it away when all are there."""

_TOLD = 128
"""Answers between reports of progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What is asked, and how."""

    tasks: tuple[str, ...]
    sight: Sight
    style: Style


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All that judging leaves: rows in the order of tasks and questions, seeing before blind, and scores.json."""

    rows: tuple[Row, ...]
    scores: dict[str, Any]


def evaluate(spec: Evaluate, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Handler: judge `inputs["checkpoint"]` on `inputs["benchmarks"]`; leaves answers.jsonl and scores.json.

    The bytes are a function of checkpoint and benchmarks. Raises DataError, ModelError or UnknownName.
    """
    style: Style = "bare" if isinstance(spec.benchmarks, Benchmarks) else "paper"
    asking = Asking(tasks=(*spec.vision, *spec.text), sight="both", style=style)
    sheets = out / SHEETS
    verdict = judge(inputs["checkpoint"], inputs["benchmarks"], asking=asking, site=site, tell=tell, sheets=sheets)
    write(verdict, out)
    shutil.rmtree(sheets)


def write(verdict: Verdict, out: Path) -> None:
    """answers.jsonl, one line a question and condition, and scores.json."""
    lines = "".join(json.dumps(row.line(), ensure_ascii=False) + "\n" for row in verdict.rows)
    write_whole(out / "answers.jsonl", lines)
    write_whole(out / "scores.json", json.dumps(verdict.scores, indent=1) + "\n")


def record(verdict: Verdict, home: Path, note: Mapping[str, Any]) -> None:
    """Add a verdict to what was judged of a checkpoint before: answers.jsonl, scores.json and, of `note`, judged.json.

    Tasks that were judged before are replaced; what another version scored is left out, its answers stay in `sheets`.
    """
    with cache.held(home / "lock", wait=True):
        before = _before(home, verdict.scores["versions"]["scores"])
        facts = before.scores.get("tasks", {}) | verdict.scores["tasks"]
        versions = before.scores.get("versions", {}) | verdict.scores["versions"]
        scores = summed(facts, {name: versions[name] for name in facts})
        fresh: dict[str, list[str]] = {name: [] for name in verdict.scores["tasks"]}
        for row in verdict.rows:
            fresh[row.task.name].append(json.dumps(row.line(), ensure_ascii=False))
        lines = before.lines | fresh
        write_whole(home / "answers.jsonl", "".join(f"{line}\n" for name in facts for line in lines[name]))
        write_whole(home / "scores.json", json.dumps(scores, indent=1) + "\n")
        judged = {**note, "tasks": before.note.get("tasks", {}) | dict.fromkeys(fresh, note["benchmarks"])}
        write_whole(home / "judged.json", json.dumps(judged, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Before:
    """What was recorded of a checkpoint; all empty where nothing was, or by another version."""

    scores: dict[str, Any]
    lines: dict[str, list[str]]
    note: dict[str, Any]


def _before(home: Path, version: int) -> _Before:
    scores, note = (json.loads(file.read_text()) if file.is_file() else {} for file in _recorded(home))
    if not scores or scores["versions"]["scores"] != version:
        return _Before(scores={}, lines={}, note={})
    lines: dict[str, list[str]] = {name: [] for name in scores["tasks"]}
    for line in (home / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        lines[json.loads(line)["task"]].append(line)
    return _Before(scores=scores, lines=lines, note=note)


def _recorded(home: Path) -> tuple[Path, Path]:
    return home / "scores.json", home / "judged.json"


def judge(
    checkpoint: Path, benchmarks: Path, *, asking: Asking, site: Site, tell: Tell, sheets: Path | None = None
) -> Verdict:
    """Ask a checkpoint every question of the tasks' folders in `benchmarks` and check its answers.

    Answers that lie in the folder `sheets` are not asked for again, and the others go there as they come; where all of
    them lie there, the checkpoint is not even loaded. A task's other condition is told, too, where it lies there whole.
    Raises ModelError when a text model is to look at pictures, DataError for missing files and pictures, before
    anything is asked, and RequestError for words outside a small vocabulary.
    """
    judged = [tasks.task(name, benchmarks) for name in asking.tasks]
    own = [task for task in judged if not lm_evals(task, asking.style)]
    who = functools.cache(lambda: speaker(checkpoint, site=site))
    with _there(benchmarks, own) as there:
        terms = Terms(style=asking.style, pictures=there, writing=writing(checkpoint))
        papers = {task.name: paper(task, benchmarks, terms=terms, sheets=sheets) for task in own}
        known = {name: one.sheet.read() for name, one in papers.items()}
        items = [item for one in papers.values() for item in one.items(asking.sight)]
        left = [item for item in items if item.key not in known[item.task.name]]
        if left:
            pictures = _pictures(left, benchmarks, there)
            _refuse_looking(who(), left, checkpoint)
            refuse(who(), left)
            keep = _Keeping(papers=papers, known=known, left=left, tell=tell, total=len(items))
            keep.all(put(who(), left, pictures, limit=LIMIT[asking.style]))
    rows: list[Row] = []
    for task in judged:
        if task.name in papers:
            rows += papers[task.name].rows(known[task.name])
        else:
            rows += told(task, benchmarks, who=who, sheets=sheets, tell=tell)
    scores = summarise(rows, _guesses(own, benchmarks))
    for name, one in papers.items():
        scores["tasks"][name] |= one.facts
    return Verdict(rows=tuple(rows), scores=scores)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Keeping:
    """What happens to answers as they come."""

    papers: Mapping[str, Paper]
    known: Mapping[str, dict[Key, str]]
    left: Sequence[Item]
    tell: Tell
    total: int

    def all(self, answers: Iterable[tuple[int, str]]) -> None:
        """Each goes into its sheet at once; an error on the way says how many are kept."""
        done = before = self.total - len(self.left)
        try:
            with ExitStack() as opened:
                names = dict.fromkeys(item.task.name for item in self.left)
                keep = {name: opened.enter_context(self.papers[name].sheet.writing()) for name in names}
                for done, (at, answer) in enumerate(answers, start=before + 1):
                    item = self.left[at]
                    keep[item.task.name](item.key, answer)
                    self.known[item.task.name][item.key] = answer
                    if (done - before) % _TOLD == 0 or done == self.total:
                        self.tell(Progress(done=done, total=self.total, unit="answers"))
        except (DataError, ModelError) as error:
            if done == before or self.papers[self.left[0].task.name].sheet.file is None:
                raise
            raise type(error)(f"{error} {done:,} of {self.total:,} answers are kept; ask again to go on.") from error


def ask(checkpoint: Path, picture: Path, question: str, *, site: Site) -> str:
    """What the checkpoint answers about one picture.

    Raises DataError for a picture that is none, RequestError that names words outside a small vocabulary.
    """
    who = speaker(checkpoint, site=site)
    who.refuse_unknown([question], where="the question")
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise DataError(f"{picture}: wanted a picture. Got {error.strerror}. Name a PNG, JPEG or WebP file.") from error
    [seen] = who.see([(str(picture), data)])
    [answer] = who.say([Asked(text=question, picture=seen)], limit=LIMIT["paper"])
    return answer


@contextmanager
def _there(benchmarks: Path, judged: Sequence[Task]) -> Generator[Pictures | None, None, None]:
    """The pictures as they lie there, for vision tasks; None where there are none: blind questions need none."""
    try:
        pictures = Pictures(benchmarks) if any(task.kind == "vision" for task in judged) else None
    except DataError:  # told when somebody is to look at them
        pictures = None
    try:
        yield pictures
    finally:
        if pictures is not None:
            pictures.close()


def _pictures(left: Sequence[Item], benchmarks: Path, there: Pictures | None) -> Pictures | None:
    """The benchmarks' pictures, where any are looked at; DataError that counts those that are missing."""
    wanted: dict[str, list[str]] = {}
    for item in left:
        if item.looks:
            wanted.setdefault(item.folder, []).append(item.picture)
    if not wanted:
        return None
    pictures = Pictures(benchmarks) if there is None else there  # the former says why none are there
    for folder, names in wanted.items():
        pictures.require(names, folder)
    return pictures


def _refuse_looking(who: Speaker, left: Sequence[Item], checkpoint: Path) -> None:
    if not who.sees and any(item.looks for item in left):
        raise ModelError(f"{checkpoint}: a text model has no eyes. Got vision tasks. Ask them blind, or text alone.")


def _guesses(judged: Sequence[Task], benchmarks: Path) -> Guesses:
    """The answers of the guesser that ignores the question, where the benchmark's folder has them."""
    files = {task.name: task.home(benchmarks) / QUESTION_BLIND for task in judged}
    found = {name: load(file) for name, file in files.items() if file.is_file()}
    return {name: {str(key): str(value) for key, value in given.items()} for name, given in found.items()}
