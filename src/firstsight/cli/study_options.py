"""The argument STUDY and the options that a study adds: each parameter of its function is an option of the command.

The function is found before the command line is parsed, so that its parameters have help texts and a mistyped one is
refused with the nearest names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from firstsight.errors import RequestError
from firstsight.recipe.scales import SCALES
from firstsight.units import Share, Tokens
from firstsight.visible import visible
from firstsight.workspace.study_functions import StudyFunction, StudyParameter, find_study_function, shipped_studies

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of results; created if missing.")]
StoreOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of results.")]
"""Of commands that make no such folder."""
RUNS = Path("runs")

STUDY_ARGUMENT = Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study, mine.py or mine.py:FUNCTION.")]
STUDY_OPTION = Annotated[str, typer.Option("--study", metavar="STUDY", help="The study that contains the arms.")]
SCALE_OPTION = Annotated[
    str | None, typer.Option("--scale", metavar="NAME", help=f"The size: {', '.join(SCALES)}; default: cpu.")
]
DONOR_OPTION = Annotated[
    str | None,
    typer.Option("--donor", metavar="RUN", help="Branch from this public run (firstsight donors), at its own size."),
]
SEEDS_OPTION = Annotated[int | None, typer.Option("--seeds", metavar="N", help="Seeds per arm; default: the scale's.")]
AVERAGE_OPTION = Annotated[
    int, typer.Option("--average", metavar="K", help="Score the mean weights of each arm's last K checkpoints.")
]
LAST_OPTION = Annotated[
    int, typer.Option("--last", metavar="K", help="Also evaluate each of the last K checkpoints, for noise.")
]
SHARED_OPTIONS: Mapping[str, tuple[object, object]] = {
    "scale": (SCALE_OPTION, None),
    "donor": (DONOR_OPTION, None),
    "seeds": (SEEDS_OPTION, None),
    "average": (AVERAGE_OPTION, 1),
    "last": (LAST_OPTION, 0),
}
"""(annotation, default) of the options of every study, by the name of the parameter of `StudyFunction.build`."""
METAVARS = {Share: "SHARE", Tokens: "TOKENS", int: "N", float: "NUMBER", str: "TEXT"}
FLAGS = ("--help", "--debug", "--blind", "--no-blind", "--until-decided", "--run", "--watch", "--pdf")
"""Options without a value."""


def with_study(command: Callable[..., None], study: StudyFunction | None, *, as_option: bool) -> Callable[..., None]:
    """`command`, whose first parameter is a Study, as a function that typer can read, with the study's own options.

    `as_option`: the study is the option --study (default: the study `when`), not the first argument.
    """
    own_options = [_option(parameter, study) for parameter in study.parameters] if study else []
    _, *arguments = inspect.signature(command, eval_str=True).parameters.values()
    reserved = {"study", *SHARED_OPTIONS, *(parameter.name for parameter in arguments)}
    clash = ", ".join(sorted(reserved & {option.name for option in own_options}))
    if study is not None and clash:
        raise RequestError(f"{study.name}: {clash} is an option of the command. Rename the parameter.")

    def call(**values: Any) -> None:
        _, shared = values.pop("study"), {name: values.pop(name) for name in SHARED_OPTIONS}
        assert study is not None  # typer refuses a call without a study
        options = {parameter.name: values.pop(parameter.name) for parameter in study.parameters}
        command(study.build(**shared, options=options), **values)

    annotation, default = (STUDY_OPTION, "when") if as_option else (STUDY_ARGUMENT, inspect.Parameter.empty)
    parameters = [_keyword("study", annotation, default)]
    parameters += [_keyword(name, *option) for name, option in SHARED_OPTIONS.items()]
    parameters += [*(parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in arguments), *own_options]
    call.__doc__, call.__name__ = command.__doc__, command.__name__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)
    return call


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _option(parameter: StudyParameter, study: StudyFunction) -> inspect.Parameter:
    """One parameter of a study's function; shares and budgets are strings, which the parameter parses."""
    title = visible(study.name, single_line=True)
    text, panel = f"An option of {title}.", f"Options of {title}"
    name, default, kind = parameter.option, parameter.default, parameter.kind
    if kind is bool:
        flag = typer.Option(f"{name}/--no-{name[2:]}", help=text, rich_help_panel=panel)
        return _keyword(parameter.name, Annotated[bool, flag], default)
    metavar = METAVARS.get(kind) or visible("|".join(map(str, get_args(kind))), single_line=True)
    option = typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel)
    default = default if default is inspect.Parameter.empty else str(default)
    return _keyword(parameter.name, Annotated[str, option], default)


def requested_study(arguments: Sequence[str], *, as_option: bool) -> StudyFunction | None:
    """The study that the arguments after a command's name mention; None where they mention none."""
    if as_option:
        inline = next((word.partition("=")[2] for word in arguments if word.startswith("--study=")), "when")
        return find_study_function(dict(pairwise(arguments)).get("--study", inline))
    names = [word for word in arguments if word in shipped_studies() or word.endswith(".py") or ".py:" in word]
    names = names or list(_positional(arguments))
    return find_study_function(names[0]) if names else None


def _positional(arguments: Sequence[str]) -> Iterator[str]:
    is_value = False
    for word in arguments:
        if not is_value and not word.startswith("-"):
            yield word
        is_value = not is_value and word.startswith("--") and "=" not in word and word not in FLAGS
