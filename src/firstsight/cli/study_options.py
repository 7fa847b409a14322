"""STUDY and the options that it brings: a shipped name, or a function in the user's own file.

The function is looked up before the command line is read, so that its typed parameters are real options, with help
texts, and a mistyped one is refused with the nearest names.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from firstsight import studies
from firstsight.cli.doctor import missing
from firstsight.errors import QuantityError, RequestError, UnknownName
from firstsight.recipe.scales import SCALES, Scale, scale_named
from firstsight.recipe.study import Study
from firstsight.units import Share, Tokens, parse_share, parse_tokens

BROKEN = (SyntaxError, ImportError, NameError, AttributeError, TypeError, ValueError, LookupError, ArithmeticError)
"""What a mistake in a user's own file raises; the message names the file and the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One typed parameter of a study's function, as a command's option."""

    name: str
    kind: Any
    """Share, Tokens, int, str, bool or a Literal of words."""
    default: Any
    """`inspect.Parameter.empty` where the option must be given."""

    @property
    def option(self) -> str:
        """As it is typed: `images_share` is --images-share."""
        return "--" + self.name.replace("_", "-")

    def read(self, text: Any) -> Any:
        """The value that was typed, in its own unit; QuantityError or UnknownName for what cannot be."""
        if not isinstance(text, str) or self.kind is str:
            return text
        if get_origin(self.kind) is Literal:
            if text not in get_args(self.kind):
                raise UnknownName(f"choice of {self.option}", text, get_args(self.kind))
            return text
        reader = {Share: parse_share, Tokens: parse_tokens, int: _whole}[self.kind]
        try:
            return reader(text)
        except QuantityError as error:
            raise QuantityError(f"{self.option}: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A function that returns a study, and where it stands."""

    name: str
    function: Callable[..., Study]
    parameters: tuple[Parameter, ...]
    """All but the first, which is the scale."""

    def build(self, scale: str, *, seeds: int | None, options: Mapping[str, Any]) -> Study:
        """The study at that scale, with as many seeds as asked."""
        size = scale_named(scale)
        if seeds is not None:
            if seeds < 1:
                raise QuantityError(f"--seeds: wanted at least 1. Got {seeds}.")
            size = replace(size, seeds=seeds)
        try:
            study: object = self.function(size, **options)
        except BROKEN as error:
            raise RequestError(f"{self.name}: {type(error).__name__}: {error}. --debug shows where.") from error
        if not isinstance(study, Study):
            raise RequestError(f"{self.name} must return a Study. Got {type(study).__name__}.")
        return study


def shipped() -> list[str]:
    """The names of the studies that come with firstsight, as they are typed."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(studies.__path__))


def find_recipe(word: str) -> Recipe:
    """The study that `word` names: when, my_study.py, or my_study.py:late. UnknownName or RequestError otherwise."""
    path, _, function = word.partition(".py:")
    if word.endswith(".py") or function:
        return _from_file(Path(path if word.endswith(".py") else f"{path}.py"), function)
    if word not in shipped():
        raise UnknownName("study", word, shipped())
    module = import_module(f"firstsight.studies.{word.replace('-', '_')}")
    return _recipe(word, getattr(module, word.replace("-", "_")))


def _from_file(path: Path, function: str) -> Recipe:
    if not path.is_file():
        raise RequestError(f"no study file lies at {path}. Give a shipped name ({', '.join(shipped())}) or a .py file.")
    module = _load(path)
    found = {name: value for name, value in vars(module).items() if _gives_study(value, module.__name__)}
    if function and function not in found:
        raise UnknownName(f"function of {path} that returns a Study", function, found)
    if not function and len(found) != 1:
        raise RequestError(
            f"{path} must hold one function annotated '-> Study'. "
            f"Found {len(found)}{': ' + ', '.join(found) if found else ''}. "
            + (f"Name one: {path}:{next(iter(found))}." if found else "Annotate it: def mine(scale: Scale) -> Study.")
        )
    name = function or next(iter(found))
    return _recipe(f"{path}:{name}", found[name])


def _load(path: Path) -> ModuleType:
    """Run the user's file once, as a module of its own."""
    name = "firstsight_study_" + re.sub(r"\W", "_", path.stem)
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RequestError(f"{path} is not a Python file that can be loaded.")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        told = missing(error)
        raise told or RequestError(f"{path} does not load: {error}. Install it, or mend the name.") from error
    except BROKEN as error:
        raise RequestError(f"{path} does not load: {type(error).__name__}: {error}. --debug shows where.") from error
    return module


def _gives_study(value: object, module: str) -> bool:
    return (
        inspect.isfunction(value)
        and value.__module__ == module
        and not value.__name__.startswith("_")
        and value.__annotations__.get("return") in (Study, "Study")
    )


def _recipe(name: str, function: Callable[..., Study]) -> Recipe:
    hints = get_type_hints(function)
    first, *rest = inspect.signature(function).parameters.values()
    if hints.get(first.name) is not Scale:
        raise RequestError(f"the first parameter of {name} must be 'scale: Scale'. Got {first}.")
    return Recipe(
        name=name, function=function, parameters=tuple(_parameter(name, hints, parameter) for parameter in rest)
    )


def _parameter(study: str, hints: Mapping[str, Any], parameter: inspect.Parameter) -> Parameter:
    kind = hints.get(parameter.name)
    if kind not in (Share, Tokens, int, str, bool) and get_origin(kind) is not Literal:
        raise RequestError(
            f"{study}: the parameter {parameter.name!r} cannot become an option. "
            f"Wanted Share, Tokens, int, str, bool or a Literal of words. Got {kind}."
        )
    return Parameter(name=parameter.name, kind=kind, default=parameter.default)


def _whole(text: str) -> int:
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise QuantityError(f"wanted a whole number. Got {text!r}.") from None


WORD = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A shipped study, or the path of a .py file: mine.py, mine.py:late."),
]
NAMED = Annotated[str, typer.Option("--study", metavar="STUDY", help="The study that the names are taken from.")]
SCALE = Annotated[str, typer.Option("--scale", help=f"The size: {', '.join(SCALES)}.")]
SEEDS = Annotated[
    int | None, typer.Option("--seeds", metavar="N", help="Seeds of every arm; each scale has its own number.")
]
FLAGS = ("--help", "--debug", "--blind", "--no-blind")


def about_study(command: Callable[..., None], recipe: Recipe | None, *, named: bool) -> Callable[..., None]:
    """`command`, whose first parameter is a Study, as a function of words that typer can read.

    `named`: the study is the option --study (default: when) and not the first argument.
    """
    own = [] if recipe is None else [_option(parameter, recipe) for parameter in recipe.parameters]
    first, *theirs = inspect.signature(command, eval_str=True).parameters.values()
    clash = {mine.name for mine in own} & {"study", "scale", "seeds", *(one.name for one in theirs)}
    if recipe is not None and clash:
        raise RequestError(
            f"{recipe.name}: {', '.join(sorted(clash))} is an option of the command. Rename the parameter."
        )

    def called(**given: Any) -> None:
        given.pop(first.name)
        scale, seeds = given.pop("scale"), given.pop("seeds")
        assert recipe is not None  # typer has asked for the study before it calls
        options = {one.name: one.read(given.pop(one.name)) for one in recipe.parameters}
        study = recipe.build(scale, seeds=seeds, options=options)
        _call(command, study, given)

    parameters = [*_asked(named), *(one.replace(kind=one.KEYWORD_ONLY) for one in theirs), *own]
    called.__doc__, called.__name__ = command.__doc__, command.__name__
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    called.__signature__ = inspect.Signature(parameters)
    return called


def ask_for(request: type[Any], command: Callable[..., None], *, about: bool) -> None:
    """Let `command` take the fields of `request`: a field there is an option here. `about` a study comes first."""
    hints = get_type_hints(request, include_extras=True)
    study = inspect.Parameter("study", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Study)
    asked = [
        _keyword(field.name, hints[field.name], inspect.Parameter.empty if field.default is MISSING else field.default)
        for field in fields(request)
    ]
    parameters = [study, *asked] if about else asked
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__signature__ = inspect.Signature(parameters)  # typer reads it


def recipe_in(words: Sequence[str], *, named: bool) -> Recipe | None:
    """The study that the words after a command's name speak of; None where they name none."""
    if named:
        given = dict(pairwise(words))
        inline = next((word.partition("=")[2] for word in words if word.startswith("--study=")), "when")
        return find_recipe(given.get("--study", inline))
    candidates = list(_positional(words))
    likely = [word for word in words if word in shipped() or word.endswith(".py") or ".py:" in word]
    return find_recipe((likely or candidates)[0]) if likely or candidates else None


def _positional(words: Sequence[str]) -> Iterator[str]:
    """Words that are neither an option nor, as far as can be known yet, the value of one."""
    value = False
    for word in words:
        if not value and not word.startswith("-"):
            yield word
        value = not value and word.startswith("--") and "=" not in word and word not in FLAGS


def _asked(named: bool) -> list[inspect.Parameter]:
    study = _keyword("study", NAMED, "when") if named else _keyword("study", WORD, inspect.Parameter.empty)
    return [study, _keyword("scale", SCALE, "cpu"), _keyword("seeds", SEEDS, None)]


def _option(parameter: Parameter, recipe: Recipe) -> inspect.Parameter:
    """One parameter of the study's function; shares and budgets are read as words and parsed by `units`."""
    flag = parameter.kind is bool
    shape = typer.Option(
        f"{parameter.option}/--no-{parameter.option[2:]}" if flag else parameter.option,
        metavar=None if flag else _metavar(parameter),
        help=f"An option of {recipe.name}.",
        rich_help_panel=f"Options of {recipe.name}",
    )
    default = parameter.default
    if default is not inspect.Parameter.empty and not flag:
        default = str(default)
    return _keyword(parameter.name, Annotated[bool if flag else str, shape], default)


def _metavar(parameter: Parameter) -> str:
    if get_origin(parameter.kind) is Literal:
        return "|".join(map(str, parameter.kind.__args__))
    return {"Share": "SHARE", "Tokens": "TOKENS", "int": "N", "str": "TEXT"}[parameter.kind.__name__]


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _call(command: Callable[..., None], study: Study, given: dict[str, Any]) -> None:
    """Pass positional parameters by place and the others by name."""
    _, *theirs = inspect.signature(command).parameters.values()
    places = [given.pop(one.name) for one in theirs if one.kind is one.POSITIONAL_OR_KEYWORD]
    command(study, *places, **given)
