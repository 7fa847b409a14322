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

VISION_CONFIG_KEYS = {"vision_config", "image_token_id", "image_token_index"}
"""Keys of which a vision-language model's transformers configuration has at least one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmarks:
    """A folder of benchmarks and the tasks in it."""

    path: Path
    prompt_style: Literal["bare", "paper"]
    task_kinds: Mapping[str, str]
    """vision or text, by task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """Which checkpoint to evaluate on what."""

    checkpoint: str
    """A name as in `find_checkpoint`."""
    benchmarks: Path | None = None
    """A folder with one for each task; the study's if None."""
    tasks: str = ""
    """Names with commas between them; all that the checkpoint supports if empty."""
    blind: bool = False
    """Only without images."""
    text_only: bool = False
    """Also evaluate the text-only model from which the checkpoint's image training started."""
    text_model: str = ""
    """The name of that model, where the study does not record it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointEvaluation:
    """The scores of one checkpoint."""

    scores: Mapping[str, Any]
    """As in scores.json."""
    has_paper_prompts: bool
    folder: Path
    """Where answers and scores are stored."""


def evaluate_named(
    request: EvaluationRequest, *, study: Study, out: Path, display: ProgressDisplay = NO_DISPLAY
) -> CheckpointEvaluation:
    """Evaluate a checkpoint and store its answers under `out`; stored answers are reused."""
    folder = find_checkpoint(request.checkpoint, study=study, out=out)
    baseline = _text_baseline(request, study=study, out=out)
    bench = find_benchmark_tasks(request.benchmarks, study=study, out=out, display=display)
    tasks = select_tasks(request.tasks, bench, with_vision=request.blind or is_vision_language(folder))
    Store(out)  # raises for a folder of other files before anything is computed
    silence_transformers()
    from firstsight.evaluate import harness
    from firstsight.evaluate.results import add_text_only_scores, merge_result

    def evaluate(folder: Path, config: EvalConfig, name: str) -> EvalResult:
        cache = evaluation_folder(out, folder) / harness.ANSWER_CACHE_FOLDER
        with as_request_error(), display.task(name) as on_progress:
            result = harness.evaluate_checkpoint(
                folder, bench.path, config=config, site=current_site(), on_progress=on_progress, answers_folder=cache
            )
        return store(result, folder, name)

    def store(result: EvalResult, folder: Path, name: str) -> EvalResult:
        record = {"checkpoint": str(folder.absolute()), "word": name, "benchmarks": str(bench.path.absolute())}
        merge_result(result, evaluation_folder(out, folder), record)
        return result

    config = harness.EvalConfig(
        tasks=tasks, image_mode="blind" if request.blind else "both", prompt_style=bench.prompt_style
    )
    result = evaluate(folder, config, request.checkpoint)
    if baseline is not None:
        name = request.text_model or f"text model of {request.checkpoint}"
        text_result = evaluate(baseline, replace(config, image_mode="blind"), name)
        scores = add_text_only_scores(result.scores, result.answers, text_only=text_result.answers)
        result = store(replace(result, scores=scores), folder, request.checkpoint)
    return CheckpointEvaluation(
        scores=result.scores, has_paper_prompts=bench.prompt_style == "paper", folder=evaluation_folder(out, folder)
    )


def _text_baseline(request: EvaluationRequest, *, study: Study, out: Path) -> Path | None:
    """The text-only model to compare with, if the request asks for one."""
    if not request.text_model:
        return find_text_model(request.checkpoint, study=study, out=out) if request.text_only else None
    folder = find_checkpoint(request.text_model, study=study, out=out)
    if is_vision_language(folder):
        raise RequestError(
            f"--text-model {request.text_model}: wanted a text model. Got a vision-language model. Name another."
        )
    return folder


def is_vision_language(folder: Path) -> bool:
    """Whether a checkpoint's spec.json or config.json describes a vision-language model."""
    spec = folder / "spec.json"
    if spec.is_file():
        return _read_object(spec).get("kind") == "vlm"
    return bool(VISION_CONFIG_KEYS & _read_object(folder / "config.json").keys())


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; RequestError for a damaged one."""
    from firstsight.evaluate.task import load_json

    with as_request_error():
        value = load_json(path)
    if not isinstance(value, dict):
        raise RequestError(f"{path}: wanted an object. Got {str(value)[:40]}. Copy the folder again.")
    return value


def find_benchmark_tasks(
    path: Path | None, *, study: Study, out: Path, display: ProgressDisplay = NO_DISPLAY
) -> Benchmarks:
    """The tasks in a folder of benchmarks, or in the study's if `path` is None; RequestError where there are none."""
    if path is None:
        return _study_benchmarks(study, out, display)
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


def _study_benchmarks(study: Study, out: Path, display: ProgressDisplay) -> Benchmarks:
    spec = max((arm.evaluate for arm in study.arms), key=lambda spec: len(spec.vision_tasks) + len(spec.text_tasks))
    return Benchmarks(
        path=benchmarks_folder(study, Store(out), display=display),
        prompt_style="bare" if isinstance(spec.benchmarks, SyntheticBenchmarks) else "paper",
        task_kinds=dict.fromkeys(spec.vision_tasks, "vision") | dict.fromkeys(spec.text_tasks, "text"),
    )


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
