"""The command `firstsight`: its subcommands, and the exit codes and messages of errors."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

from firstsight import __version__
from firstsight.cli import terminal
from firstsight.cli.checkpoint import ask, donors, export, fetch, import_weights, sources, verify
from firstsight.cli.evaluate import answers, evaluate
from firstsight.cli.prepare import prepare
from firstsight.cli.score import score
from firstsight.cli.study import explain, next_, noise, plan, power, preview, report, run
from firstsight.cli.study_options import RUNS, StoreOption, requested_study, with_study
from firstsight.errors import FirstsightError, RequestError, describe_error
from firstsight.launch import launched, leading
from firstsight.workspace.doctor import machine_findings, missing_package
from firstsight.workspace.workspace import Workspace

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
OUTPUT_CLOSED = 141
"""The exit code where the reader of the output ended first, as `head` does: a shell's for SIGPIPE."""

RESUMED = ("run", "prepare", "preview", "evaluate", "fetch")
"""Commands that continue where they were stopped, as `next --run` and `doctor --repair` do."""
NUMBER_ERROR = re.compile(r"Invalid value for '(--[\w-]+)': Input should be a valid (integer|number)")

STUDY_COMMANDS = (plan, run, next_, report, preview, power, noise)
"""Commands whose first argument is the study."""
STUDY_OPTION_COMMANDS = (explain, ask, evaluate, answers)
"""Commands about arms and addresses; their study is an option."""


def doctor(
    *,
    out: StoreOption = RUNS,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Check the results under DIR instead.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="With --store: compute damaged results again.")] = False,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="With --repair: steps run in parallel.")] = None,
) -> None:
    """Show what this machine has, what is missing, and what to do; with --store, whether stored results are intact.

    Example: firstsight doctor --store runs --repair
    """
    if store is not None:
        check = Workspace(store).doctor(repair=repair, jobs=jobs, on_progress=terminal.TerminalProgress())
        terminal.print_lines(check.lines())
        raise typer.Exit(0 if check.ok else 1)
    if repair:
        raise RequestError("--repair: wanted the folder of results with --store DIR. Got none.")
    findings = list(machine_findings(out))
    terminal.print_findings(findings)
    raise typer.Exit(int(any(finding.state == "missing" for finding in findings)))


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """When should a language model first see? Plan, run and read the study.

    Begin with: firstsight plan when --scale cpu, then: firstsight run when --scale cpu
    """


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """All commands; the one in `arguments` has the options that its study adds."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    for function in (*STUDY_COMMANDS, *STUDY_OPTION_COMMANDS):
        name, as_option = function.__name__.rstrip("_"), function in STUDY_OPTION_COMMANDS
        study = requested_study(arguments[1:], as_option=as_option) if arguments[:1] == [name] else None
        app.command(name)(with_study(function, study, as_option=as_option))
    commands = {"prepare": prepare, "donors": donors, "import": import_weights, "export": export, "score": score}
    commands |= {"sources": sources, "fetch": fetch, "doctor": doctor}
    for name, function in commands.items():
        app.command(name)(function)
    data = typer.Typer(no_args_is_help=True, help="About prepared data and sample ledgers.")
    data.command("verify")(verify)
    app.add_typer(data, name="data")
    return app


def main() -> None:
    """The console script; SIGTERM and SIGUSR1 stop it as Ctrl-C does."""
    handler = _interrupt_handler()
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
    terminal.prepare_streams()
    code = _launched_command(sys.argv[1:])
    for number in STOP_SIGNALS:  # a late second signal must not replace the exit code of the first
        signal.signal(number, signal.SIG_IGN if code == terminal.STOPPED else signal.SIG_DFL)
    try:
        sys.stdout.flush()
    except OSError:  # what could not be written was reported
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(code)


def _launched_command(arguments: list[str]) -> int:
    """`command`, in rank 0 where torchrun has started several processes; the others train with it."""
    launch = launched()
    if launch is None or not launch.rank:
        with leading(launch):
            return command(arguments)
    from firstsight.train.ranks import serve_launched

    try:
        serve_launched(launch)
    except KeyboardInterrupt:
        return terminal.STOPPED
    return 0


def _interrupt_handler() -> Callable[[int, FrameType | None], None]:
    """A handler of signals that raises KeyboardInterrupt, once in a second: `timeout` and `uv run` send them twice."""
    last = -math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if monotonic() - last > 1:
            last = monotonic()
            signal.default_int_handler(number, frame)

    return interrupt


def command(arguments: list[str]) -> int:
    """Execute a command line; the exit code: 0 done, 1 a step or the disk failed, 2 the request is wrong, 130 stopped.

    141 and no message where the reader of the output has ended.
    """
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        if arguments == ["--version"]:
            terminal.print_lines([f"firstsight {__version__}"])
            return 0
        code = build(arguments)(arguments or ["--help"], standalone_mode=False, prog_name="firstsight") or 0
    except KeyboardInterrupt:
        code = terminal.STOPPED
    except terminal.OutputClosed:
        return OUTPUT_CLOSED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich and typer end the process, with the code 1
            return OUTPUT_CLOSED
        raise
    except (TyperException, typer.Abort, FirstsightError, ModuleNotFoundError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        message, code = _describe(error, arguments)
        terminal.print_error(message)
        return code
    if code == terminal.STOPPED:  # typer turns Ctrl-C into this code
        terminal.print_error(f"stopped. {_kept_sentence(arguments)}")
    return code


def _kept_sentence(arguments: Sequence[str]) -> str:
    if arguments[:1] and (arguments[0] in RESUMED or {"--run", "--repair"} & set(arguments)):
        return "What was finished or saved is kept; the same command continues from there."
    return "Stored results are as they were; the same command starts again."


def _describe(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    match error:
        case TyperException():
            return _describe_usage(error.format_message(), arguments), error.exit_code
        case FirstsightError():
            return str(error), 2 if isinstance(error, RequestError) else 1
        case ModuleNotFoundError() if (package_error := missing_package(error)) is not None:
            return str(package_error), 2
        case OSError():
            return describe_error(error, place="the output"), 1
        case MemoryError():
            return describe_error(error), 1
        case typer.Abort():  # typer's EOFError: a file that ends too early
            return describe_error(error.__cause__ or error), 1
        case _:
            raise error


def _describe_usage(message: str, arguments: Sequence[str]) -> str:
    """An error of the parser; of an option that wants a number, with the text that it got."""
    wrong = NUMBER_ERROR.match(message)
    if wrong is None:
        return message
    option, kind = wrong.groups()
    inline = (word.partition("=")[2] for word in arguments if word.startswith(f"{option}="))
    text = dict(pairwise(arguments)).get(option) or next(inline, "")
    return f"{option}: wanted a {'whole ' * (kind == 'integer')}number. Got {text!r}."
