"""What a user can type. Each command here asks, and leaves the work to the room that knows it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from firstsight.cli.answers import answers
from firstsight.cli.doctor import missing
from firstsight.cli.evaluate import evaluate
from firstsight.cli.export import export
from firstsight.cli.import_ import import_weights
from firstsight.cli.power import power
from firstsight.cli.prepare import prepare
from firstsight.cli.score import score
from firstsight.cli.study_options import about_study, recipe_in
from firstsight.errors import FirstsightError, RequestError
from firstsight.recipe.study import Study

OUT = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results lie; made if it is not there.")]
RUNS = Path("runs")
AGAIN = "stopped. The same command goes on from what is done."
STOPPED = 130
"""The exit code of a command that Ctrl-C or SIGTERM ended."""
BUILT_IN = ("smoke", "cpu")
"""Scales that bring their own data and run on a laptop."""


def plan(
    study: Study,
    *,
    device: Annotated[
        str | None, typer.Option(help="What the bill is made out on; cpu at the built-in scales, else h100.")
    ] = None,
    utilisation: Annotated[float, typer.Option(help="Part of the device's peak that training reaches.")] = 0.4,
    out: OUT = RUNS,
) -> None:
    """What would run, what is shared, and what it costs, before anything runs.

    Example: firstsight plan when --scale 1b --device h100
    """
    from firstsight.cli import terminal
    from firstsight.plan import estimate, graph
    from firstsight.workspace.run import site
    from firstsight.workspace.source_ids import known_graph

    steps = known_graph(study, site())
    published = out / "steps"
    stored = {folder.name for folder in published.iterdir()} if published.is_dir() else ()
    priced = estimate.estimate_cost(steps, estimate.device_spec(device or _usual(study), utilisation=utilisation))
    terminal.lines([study.question, "", *graph.render_tree(steps, stored), ""])
    terminal.branches(study)
    terminal.mixes(study)
    terminal.bill(priced)
    terminal.provisional(steps)
    terminal.lines(priced.shortages)


def _usual(study: Study) -> str:
    """What a study of that scale runs on."""
    return "cpu" if study.scale in BUILT_IN else "h100"


def run(
    study: Study,
    *,
    out: OUT = RUNS,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Steps side by side; as many as cores if not given.")
    ] = None,
    executor: Annotated[str, typer.Option(help="What runs the steps: local.")] = "local",
) -> None:
    """Run what is missing, skip what exists, then write the report.

    Stop it at any time; the same command goes on where it stopped. Example: firstsight run when --scale cpu
    """
    from firstsight.workspace.run import run_study

    raise typer.Exit(run_study(study, out=out, jobs=jobs, executor=executor))


def explain(
    study: Study,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="An arm, a step or an address.")],
    *,
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another one.")],
    out: OUT = RUNS,
) -> None:
    """The fields in which two arms, steps or addresses differ.

    Arms are start-080 or start-080.s2; an address may be cut short: midtrain-010-images-3f2a, or only 3f2a.
    Example: firstsight explain start-020 start-080 --scale 1b
    """
    from firstsight.cli import terminal
    from firstsight.workspace.resolve import differences

    found = differences(first, second, study=study, out=out)
    terminal.differences(found, first=first, second=second)


def report(study: Study, *, out: OUT = RUNS) -> None:
    """Write the report anew from what is stored, also of a study that is not finished.

    Example: firstsight report when --scale cpu
    """
    from firstsight.workspace.results import write_report

    write_report(study, out)


def preview(
    study: Study,
    *,
    arm: Annotated[str, typer.Option(metavar="ARM", help="start-080 or start-080.s1; the first that sees.")] = "",
    stage: Annotated[
        str, typer.Option(metavar="STAGE", help="pretrain, midtrain, finetune; midtrain if not given.")
    ] = "",
    rows: Annotated[int, typer.Option(metavar="N", help="How many rows to show.")] = 24,
    first: Annotated[int, typer.Option(metavar="ROW", help="Of the stage's rows, the first to show.")] = 0,
    out: OUT = RUNS,
) -> None:
    """A page of the rows that a model would see in a stage: pictures, text, borders, loss, source.

    Makes what is missing of the data and trains nothing. Example: firstsight preview when --arm start-080
    """
    from firstsight.cli.preview import Asked, write_preview

    write_preview(study, Asked(arm=arm, stage=stage, first=first, rows=rows), out=out)


def ask(
    study: Study,
    checkpoint: Annotated[str, typer.Argument(help="A folder, an address under --out, or an arm: start-080.s1.")],
    *,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    question: Annotated[str, typer.Argument(help="In the words that the model knows.")],
    out: OUT = RUNS,
) -> None:
    """One answer about one picture.

    Example: firstsight ask start-080.s1 scene.png "what is left of the cat ?"
    """
    from firstsight.workspace.resolve import answer

    typer.echo(answer(checkpoint, study=study, image=image, question=question, out=out))


def verify(
    ledgers: Annotated[
        list[Path],
        typer.Argument(metavar="LEDGER…", help="Folders of checkpoints: segments of a trunk, then a branch."),
    ],
) -> None:
    """Prove from ledgers that no row was trained on twice or passed over, and that a branch's text goes on unbroken.

    Example: firstsight data verify runs/steps/pretrain-020-3f2a runs/steps/midtrain-010-9c4d
    """
    from firstsight.cli.verify import print_ledger_check

    raise typer.Exit(print_ledger_check(ledgers))


def doctor(*, out: OUT = RUNS) -> None:
    """What this machine has, what is missing, and what to do."""
    from firstsight.cli import terminal
    from firstsight.cli.doctor import examine

    found = list(examine(out))
    terminal.findings((one.what, one.state, one.found, one.advice) for one in found)
    raise typer.Exit(1 if any(one.state == "missing" for one in found) else 0)


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """When should a language model first see? Plan, run and read the study.

    Begin with: firstsight plan when --scale cpu, then: firstsight run when --scale cpu
    """


STUDIES: dict[str, Callable[..., None]] = {
    "plan": plan,
    "run": run,
    "report": report,
    "preview": preview,
    "power": power,
}
"""Commands whose first word is the study."""

NAMES: dict[str, Callable[..., None]] = {"explain": explain, "ask": ask, "evaluate": evaluate, "answers": answers}
"""Commands about arms and addresses; the study that names them is an option."""


def build(words: Sequence[str] = ()) -> typer.Typer:
    """All commands, the one in `words` with the options that its study adds."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    for named, group in ((False, STUDIES), (True, NAMES)):
        for name, function in group.items():
            recipe = recipe_in(words[1:], named=named) if words[:1] == [name] else None
            app.command(name)(about_study(function, recipe, named=named))
    app.command("prepare")(prepare)
    app.command("export")(export)
    app.command("import")(import_weights)
    app.command("score")(score)
    app.command("doctor")(doctor)
    data = typer.Typer(no_args_is_help=True, help="About prepared data and what was trained on.")
    data.command("verify")(verify)
    app.add_typer(data, name="data")
    return app


def main() -> None:
    """The console script."""
    raise SystemExit(command(sys.argv[1:]))


def command(words: list[str]) -> int:
    """Do what `words` ask for; the exit code: 0 done, 1 a step failed, 2 the request is wrong, 130 stopped."""
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words == ["--version"]:
        from firstsight import __version__

        print(f"firstsight {__version__}")  # noqa: T201
        return 0
    try:
        code = build(words)(words or ["--help"], standalone_mode=False, prog_name="firstsight") or 0
        return _say(AGAIN, STOPPED) if code == STOPPED else code  # typer turns Ctrl-C into this code
    except KeyboardInterrupt:
        return _say(AGAIN, STOPPED)
    except (TyperException, FirstsightError, ModuleNotFoundError, OSError) as error:
        if debug:
            traceback.print_exc()
        return _say(*_told(error))


def _told(error: Exception) -> tuple[str, int]:
    """The message and the exit code that an error stands for; what nobody foresaw goes on as it is."""
    match error:
        case TyperException():
            return error.format_message(), error.exit_code
        case FirstsightError():
            return str(error), 2 if isinstance(error, RequestError) else 1
        case ModuleNotFoundError() if (lacking := missing(error)) is not None:
            return str(lacking), 2
        case OSError(filename=str(name)):
            return f"{name}: {error.strerror}. Choose another place with --out, or make room.", 1
        case _:
            raise error


def _say(message: str, code: int) -> int:
    from firstsight.cli.terminal import complain

    complain(message)
    return code
