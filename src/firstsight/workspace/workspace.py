"""`Workspace`: everything that firstsight does with a study, from Python; the commands call the same methods.

Importing this module loads no torch, numpy or polars: a method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from firstsight.errors import RequestError
from firstsight.limits import apply_limits
from firstsight.plan.scheduler import RunSummary
from firstsight.plan.step import FieldDifference
from firstsight.recipe.study import Study
from firstsight.site import Site
from firstsight.workspace import resolve, sources
from firstsight.workspace.execute import run_graph
from firstsight.workspace.executors import check_executor
from firstsight.workspace.prepare import PreparedSource, request_preparation
from firstsight.workspace.progress import ProgressDisplay, progress_display
from firstsight.workspace.study_graph import StoredStudy, prepare_study
from firstsight.workspace.study_plan import StudyPlan, plan_study

if TYPE_CHECKING:
    from firstsight.hub.export import ExportDtype, ExportResult
    from firstsight.report.figures import StudyChart
    from firstsight.report.results import RunState
    from firstsight.workspace.decisions.next_runs import NextRuns
    from firstsight.workspace.doctor_store import StoreCheck
    from firstsight.workspace.evaluation import CheckpointEvaluation
    from firstsight.workspace.results import StudyResults

OnProgress = Callable[[str], object] | ProgressDisplay | None
"""A function that gets lines of text (`print`), a display of the caller's own, or nothing."""


class Workspace:
    """A folder of results, and the machine with the user's data.

    root: the folder, made by the first run. site: the machine's settings, or the path of a site file; by default
    $FIRSTSIGHT_SITE, ./site.toml or ~/.config/firstsight/site.toml, read again by every method.
    A `checkpoint` below is a folder, an arm of the study (start-080.s1), a stored address, or a hub name.
    All errors that a user can correct are `firstsight.errors.FirstsightError`.
    """

    def __init__(self, root: str | PathLike[str] = "runs", site: Site | str | PathLike[str] | None = None) -> None:
        self.root = Path(root)
        self._site = site if site is None or isinstance(site, Site) else Path(site)

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @property
    def site(self) -> Site:
        """The machine's settings and the paths of the user's data."""
        if not isinstance(self._site, Site):
            return sources.current_site(self._site)
        apply_limits(self._site.limits)
        return self._site

    def plan(self, study: Study, *, device: str | None = None, utilisation: float | None = None) -> StudyPlan:
        """What would run, what arms share, and what it costs on a device (h100, a100 ..., cpu); nothing is run.

        `utilisation` is the part of the device's peak that training reaches. Default: what the scale assumes.
        """
        return plan_study(self.stored(study), device=device, utilisation=utilisation)

    def learning_rates(self, study: Study, path: str | PathLike[str] | None = None) -> StudyChart:
        """A chart of the learning rates of all arms by the plan, with the published ones; needs no run.

        It is also written to `path`, .svg or .png, where one is given; RequestError for another suffix.
        """
        from firstsight.workspace.results import learning_rates

        return learning_rates(self.stored(study), None if path is None else Path(path))

    def run(
        self, study: Study, *, jobs: int | None = None, executor: str = "local", on_progress: OnProgress = None
    ) -> RunSummary:
        """Run every step that is not stored yet, `jobs` at once (default: one a core, or one on a GPU).

        `executor`: local (processes of this machine), slurm or ray. MissingPackage where its package is not installed.
        A failed step stops only the steps that need it; `RunSummary.ok` is False then, and `RunSummary.check` raises.
        After KeyboardInterrupt, or if the process is killed, the same call resumes.
        """
        check_executor(executor)
        display = progress_display(on_progress)
        stored = self.stored(study)
        store, graph = prepare_study(stored, jobs=jobs, display=display)
        return run_graph(graph, store, site=stored.site, jobs=jobs, executor=executor, display=display)

    def next(self, study: Study, *, budget: str | float = "2h", jobs: int | None = None) -> NextRuns:
        """Which arms and seeds to run next, so that the open claims are decided at the least cost; nothing is run.

        The `budget` is a time on this machine, in seconds or as text: 2h, 90min. RequestError for a study without
        claims, without stored scores of at least two seeds, and for a budget smaller than one run.
        """
        from firstsight.workspace.decisions.next_runs import check_budget, parse_budget, plan_next

        seconds = parse_budget(budget)
        state = plan_next(self.stored(study), budget=seconds, jobs=jobs)
        check_budget(state, seconds)
        return state

    def run_until_decided(
        self,
        study: Study,
        *,
        budget: str | float,
        max_runs: int | None = None,
        jobs: int | None = None,
        on_progress: OnProgress = None,
    ) -> Iterator[NextRuns]:
        """Look at the claims, run what `next` recommends, and so on, until all are decided or the budget is used.

        Gives each look, after at most `max_runs` runs; nothing is run before the first one is taken. From then on the
        claims of this study are tested by the sequential rule and it has the added seeds, in every method: the record
        is stored under `decisions`. The same call resumes. Errors as of `next`.
        """
        from firstsight.workspace.decisions.next_runs import parse_budget, run_until_decided

        options = {"budget": parse_budget(budget), "max_runs": max_runs, "jobs": jobs}
        return run_until_decided(self.stored(study), **options, display=progress_display(on_progress))

    def results(self, study: Study, *, summary: RunSummary | None = None) -> StudyResults:
        """The scores, figures and claims of a study, finished or not. StoreError where nothing is stored.

        The `summary` of a run says what failed in it; without one, what failed last.
        """
        from firstsight.workspace.results import StudyResults

        return StudyResults(self.stored(study), summary)

    def assumed_power(
        self, study: Study, effect: float, *, kind: str = "vision", power: float = 0.8
    ) -> tuple[list[str], list[tuple[str, ...]]] | None:
        """`StudyResults.power` before anything has run, by the noise that the scale of the study assumes; None where it
        assumes none."""
        from firstsight.workspace.results import assumed_power

        return assumed_power(study, effect, kind=kind, power=power)

    def conclusion(self, study: Study, *, results: StudyResults | None = None, jobs: int | None = None) -> list[str]:
        """The answer of a study, which of its claims are decided, and what it would cost to decide the next one.

        Three sentences, or one without claims that its arms can test. `results` spares reading them again.
        """
        from firstsight.workspace.decisions.conclusion import conclusion_lines

        return list(conclusion_lines(self.stored(study), results or self.results(study), jobs=jobs))

    def report(self, study: Study, *, summary: RunSummary | None = None) -> Path:
        """Write report.html of a study, finished or not; its path. The `summary` of a run says what failed in it."""
        return self.results(study, summary=summary).write_report()

    def watch(self, study: Study) -> Iterator[tuple[RunState, Path]]:
        """Write report.html again and again while a study runs, here or elsewhere: the state of the run and the page.

        The page in a browser follows by itself. Ends when every arm has scores. StoreError where nothing is stored.
        """
        from firstsight.workspace.results import watch_report

        return watch_report(lambda: self.stored(study))

    def doctor(self, *, repair: bool = False, jobs: int | None = None, on_progress: OnProgress = None) -> StoreCheck:
        """Read every stored result and compare it with what was published; StoreError where nothing is stored.

        `repair`: damaged results are moved to `damaged`, and exactly these steps are run again, `jobs` at once.
        """
        from firstsight.workspace.doctor_store import check_store, repair_store

        display = progress_display(on_progress)
        if repair:
            return repair_store(self.root, site=self.site, jobs=jobs, display=display)
        return check_store(self.root, display=display)

    def explain(self, study: Study, first: str, second: str) -> tuple[FieldDifference, ...]:
        """The fields in which two arms, steps or addresses differ, and nothing else."""
        return resolve.compare(first, second, self.stored(study))

    def preview(
        self,
        study: Study,
        *,
        arm: str = "",
        stage: str = "",
        rows: int = 24,
        first: int = 0,
        on_progress: OnProgress = None,
    ) -> Path:
        """Write a page of `rows` rows that a stage trains on, from row `first` on; its path. Nothing is trained.

        By default the mid-training (`stage`: pretrain, midtrain or finetune) of the first `arm` with images.
        """
        from firstsight.workspace.preview import write_preview

        display = progress_display(on_progress)
        return write_preview(self.stored(study), arm=arm, stage=stage, first=first, count=rows, display=display)

    def prepare(
        self,
        source: str,
        *,
        tokenizer: str = "gpt-neox-20b",
        form: str = "",
        synthetic: str = "",
        seed: int | None = None,
        against: Sequence[str] = (),
        jobs: int | None = None,
        on_progress: OnProgress = None,
    ) -> PreparedSource:
        """Check, count, tokenize and index data: a name of the site file, a path or a URL. It resumes.

        `form` is text, captions, interleaved or dialogues, where it is not known; `synthetic` the share of synthetic
        captions, which `seed` selects; `against` are benchmarks that `PreparedSource.audit` looks for.
        Raises DataError for data with too many invalid records.
        """
        options = {"tokenizer": tokenizer, "form": form, "synthetic": synthetic}
        requests = request_preparation([source], self.site, **options, seed=seed, against=against, jobs=jobs)
        return requests[0].prepare(self.root, display=progress_display(on_progress))

    def checkpoint(self, study: Study, name: str) -> Path:
        """The folder of a checkpoint. RequestError where it is not stored."""
        return resolve.find_checkpoint(name, self.stored(study))

    def ask(self, study: Study, checkpoint: str, *, image: str | PathLike[str], question: str) -> str:
        """The answer of a checkpoint to a question about an image file."""
        return resolve.answer(checkpoint, self.stored(study), image=Path(image), question=question)

    def export(
        self, study: Study, checkpoint: str, out: str | PathLike[str], *, dtype: ExportDtype = "float32"
    ) -> ExportResult:
        """Write a checkpoint for transformers: weights, tokenizer, processor, chat template and model card."""
        from firstsight.hub.export import export_checkpoint

        with sources.as_request_error():
            return export_checkpoint(self.checkpoint(study, checkpoint), Path(out), dtype=dtype)

    def evaluate(
        self,
        study: Study,
        checkpoint: str,
        *,
        benchmarks: str | PathLike[str] | None = None,
        tasks: str = "",
        blind: bool = False,
        text_model: str | bool = False,
        on_progress: OnProgress = None,
    ) -> CheckpointEvaluation:
        """Evaluate a checkpoint on tasks with the images and without; stored answers are reused.

        `benchmarks` is a folder with one for each task (default: the study's), `tasks` are names with commas between
        them (default: all). `blind`: only without images. `text_model`: a text-only model to compare with; True is the
        one from which the checkpoint's image training started.
        """
        from firstsight.workspace.evaluation import evaluate_named

        return evaluate_named(
            checkpoint,
            stored=self.stored(study),
            benchmarks=None if benchmarks is None else Path(benchmarks),
            tasks=tasks,
            blind=blind,
            text_model=text_model,
            display=progress_display(on_progress),
        )

    def answers(
        self,
        study: Study,
        checkpoint: str,
        *,
        other: str = "",
        task: str = "",
        rows: int = 400,
        benchmarks: str | PathLike[str] | None = None,
    ) -> Path:
        """Write a page of at most `rows` questions with images, answers and scores; its path.

        With an `other` checkpoint, the questions on which the two differ come first.
        """
        from firstsight.workspace.evaluation import StoredAnswers

        folder = None if benchmarks is None else Path(benchmarks)
        return StoredAnswers(self.stored(study), checkpoint, other=other, task=task, benchmarks=folder).write(rows)

    def stored(self, study: Study) -> StoredStudy:
        """A study with this workspace's folder and site, and the arms that were added to decide its claims.

        RequestError for another value, such as the name of a study.
        """
        given: object = study
        if not isinstance(given, Study):
            call = f"firstsight.study({getattr(given, '__name__', repr(given))})"
            raise RequestError(f"wanted a Study. Got {type(given).__name__}. Pass the result of {call}.")
        return StoredStudy.find(study, self.root, self.site)
