"""`firstsight evaluate`: one checkpoint on any tasks, beside what it scores blind and what its text model does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from firstsight.cli.study_options import ask_for
from firstsight.errors import RequestError, UnknownName
from firstsight.evaluate.answer_cache import evaluation_folder
from firstsight.plan.store import Store
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.study import Study

if TYPE_CHECKING:
    from firstsight.evaluate.harness import EvalConfig, EvalResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A request as it was typed; a field here is an option there."""

    checkpoint: Annotated[
        str, typer.Argument(help="A folder, of transformers too, an address under --out, or an arm: start-080.s1.")
    ]
    benchmarks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder with one for each task; the study's if not given.")
    ] = None
    tasks: Annotated[str, typer.Option(metavar="TASK,…", help="Which tasks; all that are there if not given.")] = ""
    blind: Annotated[bool, typer.Option("--blind", help="Ask without the picture only.")] = False
    text_only: Annotated[
        bool, typer.Option("--text-only", help="Ask the text model that the checkpoint came from, too.")
    ] = False
    text_model: Annotated[
        str, typer.Option(metavar="CHECKPOINT", help="Which one that is, where the study does not tell.")
    ] = ""
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results lie; made if it is not there.")] = (
        Path("runs")
    )


def evaluate(study: Study, **given: Any) -> None:
    """Judge one checkpoint on some tasks, with its pictures and without.

    Answers are kept as they come: stopped, the same command goes on, and a second time nothing is asked.
    Example: firstsight evaluate start-080.s1 --tasks pope,vqav2
    """
    show_scores(study, Wanted(**given))


ask_for(Wanted, evaluate, about=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bench:
    """On what is judged."""

    place: Path
    style: Literal["bare", "paper"]
    tasks: Mapping[str, str]
    """All that are there, and their kinds."""


def show_scores(study: Study, wanted: Wanted) -> None:
    """Judge, keep, and print scores, baselines and means."""
    from firstsight.cli import terminal
    from firstsight.cli.score_tables import baselines, means, scores, which
    from firstsight.workspace.resolve import checkpoint, hush

    folder = checkpoint(wanted.checkpoint, study=study, out=wanted.out)
    origin = _origin(study, wanted)
    bench = _bench(study, wanted)
    names = _names(wanted.tasks, bench, sees=wanted.blind or _sees(folder))
    Store(wanted.out)  # refuses a folder that is not ours, before anything is asked
    hush()
    from firstsight.evaluate import harness
    from firstsight.evaluate.results import add_text_only_scores

    asking = harness.EvalConfig(tasks=names, image_mode="blind" if wanted.blind else "both", prompt_style=bench.style)
    verdict = _judged(folder, bench.place, asking, word=wanted.checkpoint, out=wanted.out)
    if origin is not None:
        blind = replace(asking, image_mode="blind")
        word = wanted.text_model or f"text model of {wanted.checkpoint}"
        theirs = _judged(origin, bench.place, blind, word=word, out=wanted.out)
        verdict = replace(
            verdict, scores=add_text_only_scores(verdict.scores, verdict.answers, text_only=theirs.answers)
        )
        _record(verdict, folder, bench.place, word=wanted.checkpoint, out=wanted.out)
    terminal.table(scores(verdict.scores["tasks"]))
    if beneath := baselines(verdict.scores["tasks"]):
        terminal.lines([""])
        terminal.table(beneath)
    told = which(verdict.scores["tasks"]) if bench.style == "paper" else ()
    terminal.lines(["", *told, *means(verdict.scores), f"kept: {evaluation_folder(wanted.out, folder)}"])


def _origin(study: Study, wanted: Wanted) -> Path | None:
    """The text model to compare with, where one is asked for."""
    from firstsight.workspace.resolve import checkpoint, text_model

    if not wanted.text_model:
        return text_model(wanted.checkpoint, study=study, out=wanted.out) if wanted.text_only else None
    folder = checkpoint(wanted.text_model, study=study, out=wanted.out)
    if _sees(folder):
        raise RequestError(f"--text-model {wanted.text_model}: wanted a text model. Got one that sees. Name another.")
    return folder


_SEEING = {"vision_config", "image_token_id", "image_token_index"}
"""What a transformers configuration of a model that sees says at least one of."""


def _sees(folder: Path) -> bool:
    """Whether a checkpoint has eyes, as its own description says."""
    own = folder / "spec.json"
    told = _described(own if own.is_file() else folder / "config.json")
    return told.get("kind") == "vlm" if own.is_file() else bool(_SEEING & told.keys())


def _described(file: Path) -> dict[str, Any]:
    """What a checkpoint's own description says; RequestError for a damaged one."""
    from firstsight.evaluate.task import load_json
    from firstsight.workspace.resolve import as_request

    with as_request():
        told = load_json(file)
    if not isinstance(told, dict):
        raise RequestError(f"{file}: wanted an object. Got {str(told)[:40]}. Copy the folder again.")
    return told


def _bench(study: Study, wanted: Wanted) -> _Bench:
    """The user's folder of benchmarks, or the study's."""
    from firstsight.evaluate.tasks import TASKS, get_task
    from firstsight.workspace.resolve import as_request
    from firstsight.workspace.run import benchmarks_of

    if wanted.benchmarks is None:
        spec = max((arm.evaluate for arm in study.arms), key=lambda one: len(one.vision_tasks) + len(one.text_tasks))
        place = benchmarks_of(study, Store(wanted.out))
        kinds = dict.fromkeys(spec.vision_tasks, "vision") | dict.fromkeys(spec.text_tasks, "text")
        return _Bench(
            place=place, style="bare" if isinstance(spec.benchmarks, SyntheticBenchmarks) else "paper", tasks=kinds
        )
    place = wanted.benchmarks
    if not place.is_dir():
        raise RequestError(f"--benchmarks {place}: wanted a folder with one for each task. Got none. Make or mount it.")
    own = sorted(note.parent.name for note in place.glob("*/task.json"))
    there = [name for name in (*TASKS, *own) if (place / name).is_dir()]
    if not there:
        held = ", ".join(sorted(path.name for path in place.iterdir())[:8]) or "nothing"
        raise RequestError(f"--benchmarks {place}: wanted folders called {', '.join(TASKS)}. Got {held}.")
    with as_request():
        kinds = {name: get_task(name, place).kind for name in there}
    return _Bench(place=place, style="paper", tasks=kinds)


def _names(words: str, bench: _Bench, *, sees: bool) -> tuple[str, ...]:
    """The tasks that were asked for; without any, all that the checkpoint has the eyes for.

    A variant of a task that is there (P(yes) of POPE) is asked where it is named, and not by itself.
    """
    from firstsight.evaluate.tasks import TASKS

    names = tuple(dict.fromkeys(name.strip() for name in words.split(",") if name.strip()))
    variants = [name for name, task in TASKS.items() if task.variant_of in bench.tasks]
    for name in names:
        if name in (*bench.tasks, *variants):
            continue
        if name in TASKS:
            there = ", ".join((*bench.tasks, *variants))
            raise RequestError(
                f"--tasks {name}: wanted a folder {name} of its files in {bench.place}. Got none; what can be asked "
                f"there is {there}. Add the folder, or drop the task."
            )
        raise UnknownName("task", name, (*bench.tasks, *variants))
    return names or tuple(name for name, kind in bench.tasks.items() if sees or kind == "text")


def _judged(folder: Path, benchmarks: Path, asking: EvalConfig, *, word: str, out: Path) -> EvalResult:
    """Ask what is not kept yet, with a bar, and keep the verdict."""
    from firstsight.cli import terminal
    from firstsight.cli.evaluate_progress import Watching
    from firstsight.evaluate import harness
    from firstsight.workspace.resolve import as_request
    from firstsight.workspace.run import site

    with as_request():
        sheets = evaluation_folder(out, folder) / harness.ANSWER_CACHE_FOLDER
        watching = Watching(terminal.console(), word)
        with watching.around():
            verdict = harness.evaluate_checkpoint(
                folder, benchmarks, config=asking, site=site(), on_progress=watching, answers_folder=sheets
            )
    _record(verdict, folder, benchmarks, word=word, out=out)
    return verdict


def _record(verdict: EvalResult, folder: Path, benchmarks: Path, *, word: str, out: Path) -> None:
    from firstsight.evaluate.results import merge_result

    note = {"checkpoint": str(folder.absolute()), "word": word, "benchmarks": str(benchmarks.absolute())}
    merge_result(verdict, evaluation_folder(out, folder), note)
