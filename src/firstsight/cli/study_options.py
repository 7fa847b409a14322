"""The argument STUDY and the options that a study adds: each parameter of its function is an option of the command.

The function is found before the command line is parsed, so that its parameters have help texts and a mistyped one is
refused with the nearest names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from firstsight.errors import RequestError
from firstsight.recipe.scales import SCALES
from firstsight.workspace.study_functions import StudyFunction, StudyParameter, find_study_function, shipped_studies

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of results; made if necessary.")]
RUNS = Path("runs")

STUDY_ARGUMENT = Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study, or mine.py, or mine.py:late.")]
STUDY_OPTION = Annotated[str, typer.Option("--study", metavar="STUDY", help="The study that the names belong to.")]
SCALE_OPTION = Annotated[str, typer.Option("--scale", help=f"The size: {', '.join(SCALES)}.")]
SEEDS_OPTION = Annotated[int | None, typer.Option("--seeds", metavar="N", help="Of every arm; default: the scale's.")]
FLAGS = ("--help", "--debug", "--blind", "--no-blind")
"""Options without a value."""


def with_study(command: Callable[..., None], study: StudyFunction | None, *, as_option: bool) -> Callable[..., None]:
    """`command`, whose first parameter is a Study, as a function that typer can read, with the study's own options.

    `as_option`: the study is the option --study (default: when), not the first argument.
    """
    own_options = [_option(parameter, study) for parameter in study.parameters] if study else []
    first, *others = inspect.signature(command, eval_str=True).parameters.values()
    reserved = {"study", "scale", "seeds", *(parameter.name for parameter in others)}
    clash = reserved & {option.name for option in own_options}
    if study is not None and clash:
        raise RequestError(
            f"{study.name}: {', '.join(sorted(clash))} is an option of the command. Rename the parameter."
        )

    def call(**values: Any) -> None:
        values.pop(first.name)
        scale, seeds = values.pop("scale"), values.pop("seeds")
        assert study is not None  # typer refuses a call without a study
        options = {parameter.name: parameter.parse(values.pop(parameter.name)) for parameter in study.parameters}
        positional = [values.pop(option.name) for option in others if option.kind is option.POSITIONAL_OR_KEYWORD]
        command(study.build(scale, seeds=seeds, options=options), *positional, **values)

    annotation, default = (STUDY_OPTION, "when") if as_option else (STUDY_ARGUMENT, inspect.Parameter.empty)
    shared = [_keyword("study", annotation, default), _keyword("scale", SCALE_OPTION, "cpu")]
    shared.append(_keyword("seeds", SEEDS_OPTION, None))
    parameters = [*shared, *(parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in others), *own_options]
    call.__doc__, call.__name__ = command.__doc__, command.__name__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)
    return call


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _option(parameter: StudyParameter, study: StudyFunction) -> inspect.Parameter:
    """One parameter of a study's function; shares and budgets are strings, which the parameter parses."""
    is_flag, default = parameter.kind is bool, parameter.default
    option = typer.Option(
        f"{parameter.option}/--no-{parameter.option[2:]}" if is_flag else parameter.option,
        metavar=None if is_flag else _metavar(parameter.kind),
        help=f"An option of {study.name}.",
        rich_help_panel=f"Options of {study.name}",
    )
    if default is not inspect.Parameter.empty and not is_flag:
        default = str(default)
    return _keyword(parameter.name, Annotated[bool if is_flag else str, option], default)


def _metavar(kind: Any) -> str:
    if get_origin(kind) is None:
        return {"Share": "SHARE", "Tokens": "TOKENS", "int": "N", "str": "TEXT"}[kind.__name__]
    return "|".join(map(str, get_args(kind)))


def requested_study(arguments: Sequence[str], *, as_option: bool) -> StudyFunction | None:
    """The study that the arguments after a command's name mention; None where they mention none."""
    if as_option:
        inline = next((word.partition("=")[2] for word in arguments if word.startswith("--study=")), "when")
        return find_study_function(dict(pairwise(arguments)).get("--study", inline))
    names = [word for word in arguments if word in shipped_studies() or word.endswith(".py") or ".py:" in word]
    names = names or list(_positional(arguments))
    return find_study_function(names[0]) if names else None


def _positional(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that are neither an option nor the value of one, before the options are known."""
    is_value = False
    for word in arguments:
        if not is_value and not word.startswith("-"):
            yield word
        is_value = not is_value and word.startswith("--") and "=" not in word and word not in FLAGS
