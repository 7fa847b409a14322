"""The commands about a study: plan, run, next, report, explain, preview, power, noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from firstsight.cli import terminal
from firstsight.cli.study_options import RUNS, OutOption, StoreOption
from firstsight.cli.terminal import TerminalProgress
from firstsight.errors import RequestError, StoreError
from firstsight.recipe.study import Study
from firstsight.workspace.execute import with_processes
from firstsight.workspace.executors import check_executor
from firstsight.workspace.workspace import Workspace

if TYPE_CHECKING:
    from firstsight.workspace.decisions.next_runs import NextRuns
    from firstsight.workspace.results import StudyResults


def plan(
    study: Study,
    *,
    device: Annotated[str | None, typer.Option(help="Device to estimate; default: the scale's.")] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="Part of the device's peak that training reaches; default: the scale's.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the learning rates into this file: .svg or .png.")
    ] = None,
    out: StoreOption = RUNS,
) -> None:
    """Show what would run, what arms share, and what it costs. Runs nothing.

    Example: firstsight plan when --scale 1b --device h100
    """
    workspace = Workspace(out)
    lines = list(workspace.plan(study, device=device, utilisation=utilisation).lines())
    if figure is not None:
        workspace.learning_rates(study, figure)
        lines.append(f"learning rates: {figure}")
    terminal.print_lines(lines)


def run(
    study: Study,
    *,
    out: OutOption = RUNS,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Steps run in parallel; default: all cores.")] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", help="Processes of every training step; default: the site's.")
    ] = None,
    executor: Annotated[str, typer.Option(help="What runs the steps: local, slurm or ray.")] = "local",
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Add seeds until all claims are decided.")
    ] = False,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --until-decided: the most time, as 8h.")
    ] = None,
) -> None:
    """Run every step that is not stored yet, then write the report.

    Stop it at any time; the same command resumes it. --until-decided continues a study that is stored.
    Example: firstsight run when --scale cpu
    """
    check_executor(executor)
    if until_decided != (budget is not None):
        raise RequestError(
            "--until-decided and --budget belong together. Got one of them. Write --until-decided --budget 8h."
        )
    if budget is not None and executor != "local":
        raise RequestError(f"--until-decided: wanted --executor local. Got {executor}. Run it on one machine.")
    workspace = Workspace(out)
    if processes is not None:
        workspace = Workspace(out, with_processes(workspace.site, processes))
    if budget is not None:
        _decide(workspace, study, budget=budget, max_runs=None, jobs=jobs)
    summary = workspace.run(study, jobs=jobs, executor=executor, on_progress=TerminalProgress())
    terminal.print_lines(summary.lines())  # before the report, which may fail too where the disk is full
    results = workspace.results(study, summary=summary)
    _write_report(results)
    terminal.print_lines(workspace.conclusion(study, results=results, jobs=jobs))
    _exit_for_damage(results)
    raise typer.Exit(0 if summary.ok else terminal.STOPPED if summary.is_stopped else 1)


def next_(
    study: Study,
    *,
    budget: Annotated[str, typer.Option(metavar="TIME", help="The most time on this machine: 2h, 90min.")] = "2h",
    run: Annotated[bool, typer.Option("--run", help="Run the first line of the table, then write the report.")] = False,
    out: StoreOption = RUNS,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Steps run in parallel; default: all cores.")] = None,
) -> None:
    """Show which arms and seeds to run next, so that the open claims are decided at the least cost.

    Example: firstsight next when --budget 2h
    """
    workspace = Workspace(out)
    if run:
        _decide(workspace, study, budget=budget, max_runs=1, jobs=jobs)
    _print_look(workspace.next(study, budget=budget, jobs=jobs))


def _decide(workspace: Workspace, study: Study, *, budget: str, max_runs: int | None, jobs: int | None) -> NoReturn:
    """Run what would decide the claims, print each look, write the report and exit."""
    view, is_ok = TerminalProgress(), True
    looks = workspace.run_until_decided(study, budget=budget, max_runs=max_runs, jobs=jobs, on_progress=view)
    for look in looks:
        if look.summary is not None:
            terminal.print_lines(look.summary.lines())
            is_ok = look.summary.ok
        _print_look(look)
    results = workspace.results(study)
    _write_report(results)
    terminal.print_lines([results.answer])
    raise typer.Exit(0 if is_ok else 1)


def _print_look(look: NextRuns) -> None:
    terminal.print_lines(look.lines())
    if look.options:
        terminal.print_table(look.table(), wrapped=look.table()[0][-1])


def report(
    study: Study,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again while the study runs, until it is done.")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it as PDF too, with an installed Chromium.")] = False,
    out: StoreOption = RUNS,
) -> None:
    """Write the report again from what is stored, also of an unfinished study.

    --watch follows a run of this or another process; the page in a browser follows by itself.
    Example: firstsight report when --scale cpu
    """
    workspace = Workspace(out)
    for state, page in workspace.watch(study) if watch else ():
        terminal.print_lines([f"{page}: {state}"])
    results = workspace.results(study)
    page = _write_report(results)
    if pdf:
        from firstsight.report.pdf import print_pdf

        terminal.print_lines([f"pdf: {print_pdf(page)}"])
    _exit_for_damage(results)


def _exit_for_damage(results: StudyResults) -> None:
    """Exit with 1 where a stored result of the study is damaged."""
    if any(arm.damage for arm in results.arms):
        raise typer.Exit(1)


def _write_report(results: StudyResults) -> Path:
    page = results.write_report()
    terminal.print_lines([*results.problem_lines(), f"report: {page}"])
    return page


def explain(
    study: Study,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="An arm, a step or an address.")],
    *,
    second: Annotated[str, typer.Argument(metavar="SECOND", help="A second arm, step or address.")],
    out: StoreOption = RUNS,
) -> None:
    """Show the fields in which two arms, steps or addresses differ.

    Arms are start-080 or start-080.s2; an address may be abbreviated: midtrain-010-images-3f2a, or only 3f2a.
    Example: firstsight explain start-020 start-080 --scale 1b
    """
    differences = Workspace(out).explain(study, first, second)
    head = f"{first} | {second}" if differences else f"{first} and {second} are the same."
    terminal.print_lines([head, *map(str, differences)])


def preview(
    study: Study,
    *,
    arm: Annotated[str, typer.Option(metavar="ARM", help="start-080.s1; default: the first with images.")] = "",
    stage: Annotated[str, typer.Option(metavar="STAGE", help="pretrain, midtrain (default) or finetune.")] = "",
    rows: Annotated[int, typer.Option(metavar="N", help="How many rows to show.")] = 24,
    first: Annotated[int, typer.Option(metavar="ROW", help="The first row of the stage to show.")] = 0,
    out: OutOption = RUNS,
) -> None:
    """Write a page of the rows that a stage trains on: images, text, document borders, loss, source.

    Prepares the data that is missing and trains nothing. Example: firstsight preview when --arm start-080
    """
    view = TerminalProgress()
    page = Workspace(out).preview(study, arm=arm, stage=stage, rows=rows, first=first, on_progress=view)
    terminal.print_lines([f"preview: {page}"])


def power(
    study: Study,
    *,
    effect: Annotated[float, typer.Option(metavar="POINTS", help="The difference to detect, in points.")],
    kind: Annotated[str, typer.Option(metavar="KIND", help="The stable score: vision or text.")] = "vision",
    power: Annotated[float, typer.Option(metavar="SHARE", help="The probability of detecting it.")] = 0.8,
    out: StoreOption = RUNS,
) -> None:
    """How many seeds or questions are needed to detect a difference between two arms, from a study's stored results.

    Before two seeds are stored, from the noise that the scale assumes, where it does.
    Example: firstsight power when --effect 2
    """
    workspace = Workspace(out)
    try:
        results = workspace.results(study)
    except StoreError:
        if (assumed := workspace.assumed_power(study, effect, kind=kind, power=power)) is None:
            raise
        terminal.print_lines(assumed[0])
        terminal.print_table(assumed[1])
        return
    lines, table = results.power(effect, kind=kind, power=power)
    terminal.print_lines([*results.problem_lines(), *lines])
    terminal.print_table(table)
    _exit_for_damage(results)


def noise(study: Study, *, out: StoreOption = RUNS) -> None:
    """How far arms differ on each task, how much of it is noise of seeds and questions, and which tasks decide.

    Example: firstsight noise when --scale cpu
    """
    results = Workspace(out).results(study)
    result = results.noise
    terminal.print_table(result.table())
    terminal.print_lines([*result.lines(), *results.problem_lines()])
    for table in (result.arm_table(), result.difference_table()):
        if table:
            terminal.print_table(table, title="")
    _exit_for_damage(results)
