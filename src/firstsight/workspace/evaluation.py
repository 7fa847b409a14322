"""Evaluate one checkpoint on tasks of the study or of a folder of benchmarks, also against its text-only model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firstsight.errors import RequestError, UnknownName
from firstsight.evaluate.answer_cache import evaluation_folder
from firstsight.plan.store import Store
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.study import Study
from firstsight.workspace.execute import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.resolve import find_checkpoint, find_text_model, silence_transformers
from firstsight.workspace.results import benchmarks_folder
from firstsight.workspace.sources import as_request_error, current_site

if TYPE_CHECKING:
    from firstsight.evaluate.harness import EvalConfig
    from firstsight.evaluate.results import EvalResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmarks:
    """A folder of benchmarks, and the kind (vision or text) of each task in it."""

    path: Path
    prompt_style: Literal["bare", "paper"]
    task_kinds: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointEvaluation:
    """The scores of one checkpoint, as in scores.json, and the folder where they and the answers are stored."""

    scores: Mapping[str, Any]
    has_paper_prompts: bool
    folder: Path


def evaluate_named(
    checkpoint: str,
    *,
    study: Study,
    out: Path,
    benchmarks: Path | None = None,
    tasks: str = "",
    blind: bool = False,
    text_model: str | bool = False,
    display: ProgressDisplay = NO_DISPLAY,
) -> CheckpointEvaluation:
    """Evaluate a checkpoint (a name as in `find_checkpoint`) and store its answers under `out`; stored ones are reused.

    `benchmarks` is a folder with one for each task, by default the study's; `tasks` are names with commas between them,
    by default all that the checkpoint supports. `blind`: only without images. `text_model` names a text-only model to
    compare with; True is the one from which the checkpoint's image training started.
    """
    folder = find_checkpoint(checkpoint, study=study, out=out)
    baseline = _text_baseline(checkpoint, text_model, study=study, out=out)
    bench = find_benchmark_tasks(benchmarks, study=study, out=out, display=display)
    names = select_tasks(tasks, bench, with_vision=blind or is_vision_language(folder))
    Store(out)  # raises for a folder of other files before anything is computed
    silence_transformers()
    from firstsight.evaluate import harness
    from firstsight.evaluate.results import add_text_only_scores, merge_result

    def store(result: EvalResult, folder: Path, name: str) -> None:
        record = {"checkpoint": str(folder.absolute()), "word": name, "benchmarks": str(bench.path.absolute())}
        merge_result(result, evaluation_folder(out, folder), record)

    def evaluate(folder: Path, name: str, config: EvalConfig) -> EvalResult:
        cache, site = evaluation_folder(out, folder) / harness.ANSWER_CACHE_FOLDER, current_site()
        with as_request_error(), display.task(name) as on_progress:
            result = harness.evaluate_checkpoint(
                folder, bench.path, config=config, site=site, on_progress=on_progress, answers_folder=cache
            )
        store(result, folder, name)
        return result

    mode = "blind" if blind else "both"
    config = harness.EvalConfig(tasks=names, image_mode=mode, prompt_style=bench.prompt_style)
    result = evaluate(folder, checkpoint, config)
    if baseline is not None:
        name = text_model if isinstance(text_model, str) else f"text model of {checkpoint}"
        text_only = evaluate(baseline, name, replace(config, image_mode="blind")).answers
        result = replace(result, scores=add_text_only_scores(result.scores, result.answers, text_only=text_only))
        store(result, folder, checkpoint)
    is_paper, folder = bench.prompt_style == "paper", evaluation_folder(out, folder)
    return CheckpointEvaluation(scores=result.scores, has_paper_prompts=is_paper, folder=folder)


def _text_baseline(checkpoint: str, text_model: str | bool, *, study: Study, out: Path) -> Path | None:
    if not text_model or isinstance(text_model, bool):
        return find_text_model(checkpoint, study=study, out=out) if text_model else None
    folder = find_checkpoint(text_model, study=study, out=out)
    if is_vision_language(folder):
        raise RequestError(
            f"--text-model {text_model}: wanted a text model. Got a vision-language model. Name another."
        )
    return folder


def is_vision_language(folder: Path) -> bool:
    """Whether a checkpoint's spec.json or config.json describes a vision-language model; RequestError if damaged."""
    from firstsight.evaluate.task import load_json

    spec, config = folder / "spec.json", folder / "config.json"
    path = spec if spec.is_file() else config
    with as_request_error():
        value = load_json(path)
    if not isinstance(value, dict):
        raise RequestError(f"{path}: wanted an object. Got {str(value)[:40]}. Copy the folder again.")
    if path == spec:
        return value.get("kind") == "vlm"
    return bool({"vision_config", "image_token_id", "image_token_index"} & value.keys())


def find_benchmark_tasks(
    path: Path | None, *, study: Study, out: Path, display: ProgressDisplay = NO_DISPLAY
) -> Benchmarks:
    """The tasks in a folder of benchmarks, or in the study's if `path` is None; RequestError where there are none."""
    if path is None:
        spec = max((arm.evaluate for arm in study.arms), key=lambda spec: len(spec.vision_tasks) + len(spec.text_tasks))
        kinds = dict.fromkeys(spec.vision_tasks, "vision") | dict.fromkeys(spec.text_tasks, "text")
        style = "bare" if isinstance(spec.benchmarks, SyntheticBenchmarks) else "paper"
        folder = benchmarks_folder(study, Store(out), display=display)
        return Benchmarks(path=folder, prompt_style=style, task_kinds=kinds)
    from firstsight.evaluate.tasks import TASKS, get_task

    if not path.is_dir():
        raise RequestError(f"--benchmarks {path}: wanted a folder with one for each task. Got none. Make or mount it.")
    user_tasks = sorted(file.parent.name for file in path.glob("*/task.json"))
    names = [name for name in (*TASKS, *user_tasks) if (path / name).is_dir()]
    if not names:
        present = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise RequestError(f"--benchmarks {path}: wanted folders called {', '.join(TASKS)}. Got {present}.")
    with as_request_error():
        kinds = {name: get_task(name, path).kind for name in names}
    return Benchmarks(path=path, prompt_style="paper", task_kinds=kinds)


def select_tasks(names: str, benchmarks: Benchmarks, *, with_vision: bool) -> tuple[str, ...]:
    """The named tasks; all without names, the vision tasks only for `with_vision`.

    A variant of a task (pope_p, which scores P(yes)) is only selected by its name.
    """
    from firstsight.evaluate.tasks import TASKS

    kinds = benchmarks.task_kinds
    known = (*kinds, *(name for name, task in TASKS.items() if task.variant_of in kinds))
    selected = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in selected:
        if name not in known and name in TASKS:
            raise RequestError(
                f"--tasks {name}: wanted a folder {name} of its files in {benchmarks.path}. Got none; available "
                f"there: {', '.join(known)}. Add the folder, or drop the task."
            )
        if name not in known:
            raise UnknownName("task", name, known)
    return selected or tuple(name for name, kind in kinds.items() if with_vision or kind == "text")
