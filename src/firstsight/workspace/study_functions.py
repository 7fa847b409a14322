"""Studies by name: the shipped ones, and functions in the user's own files."""

from __future__ import annotations

import dis
import inspect
import re
import runpy
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from math import isfinite
from os import PathLike
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from firstsight.errors import FirstsightError, QuantityError, RequestError, UnknownName
from firstsight.limits import check_file_size
from firstsight.recipe.scales import Scale, get_scale
from firstsight.recipe.scales.donors import donor_scale, public_run
from firstsight.recipe.spec import describe, matches
from firstsight.recipe.study import Study
from firstsight.studies import shipped_function, shipped_studies
from firstsight.units import Share, Tokens, parse_share, parse_tokens
from firstsight.workspace.doctor import missing_package

MAX_STUDY_SEEDS = 1000
"""A plan of more arms would take minutes before its first line."""
LIBRARIES = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)
"""Folders of code that is not the user's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyParameter:
    """A typed parameter of a study's function."""

    name: str
    kind: Any
    """Share, Tokens, int, float, str, bool or a Literal of strings."""
    default: Any
    """`inspect.Parameter.empty` where there is none."""

    @property
    def option(self) -> str:
        """The name as an option: --images-share for `images_share`."""
        return "--" + self.name.replace("_", "-")

    def parse(self, text: Any) -> Any:
        """The value of an option, from text or as a value; QuantityError or UnknownName for an invalid one."""
        if not isinstance(text, str) or self.kind is str:
            if not matches(text, self.kind):
                raise QuantityError(f"{self.option}: wanted {describe(self.kind)}. Got {text!r}.")
            return text
        if get_origin(self.kind) is Literal:
            if text not in get_args(self.kind):
                raise UnknownName(f"choice of {self.option}", text, get_args(self.kind))
            return text
        try:
            return {Share: parse_share, Tokens: parse_tokens, int: int, float: _parse_number}[self.kind](text)
        except QuantityError as error:
            raise QuantityError(f"{self.option}: {error}") from None
        except ValueError:
            raise QuantityError(f"{self.option}: wanted {describe(self.kind)}. Got {text!r}.") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFunction:
    """A function that returns a study."""

    name: str
    """As on the command line: when, or my_study.py:late."""
    function: Callable[..., Study]
    parameters: tuple[StudyParameter, ...]
    """All but the first, which is the scale."""

    def build(
        self,
        scale: str | None,
        *,
        donor: str | None = None,
        seeds: int | None = None,
        average: int = 1,
        last: int = 0,
        options: Mapping[str, Any],
    ) -> Study:
        """The study at a scale (default: cpu, or the paper's size of the donor), with `seeds` seeds of every arm
        (default: the scale's).

        With `donor` its arms branch from that public run in place of the scale's trunk. `average` and `last` are those
        of `firstsight.study`, `options` values, or text as on the command line.
        RequestError for a mistake in them or in the function.
        """
        for name, value, example in (("scale", scale, "cpu"), ("donor", donor, "pythia-1.4b")):
            if not matches(value, str | None):
                raise RequestError(f"{name}: wanted the name of one, such as {example!r}. Got {value!r}.")
        if donor is None:
            size = get_scale(scale or "cpu")
        else:
            size = donor_scale(public_run(donor), get_scale(scale) if scale else None)
        if seeds is not None:
            if not matches(seeds, int) or not 1 <= seeds <= MAX_STUDY_SEEDS:
                raise QuantityError(f"--seeds: wanted a whole number from 1 to {MAX_STUDY_SEEDS}. Got {seeds!r}.")
            size = replace(size, seeds=seeds)
        values = self._parse(options)
        with _user_code(self.name):
            study: object = self.function(size, **values)
        if not isinstance(study, Study):
            raise RequestError(f"{self.name} must return a Study. Got {type(study).__name__}.")
        for name, number, refused, wanted in (
            ("average", average, 0, "at least 1"),
            ("last", last, 1, "0, or 2 and more"),
        ):
            if not matches(number, int) or number < 0 or number == refused:
                raise QuantityError(f"--{name}: wanted a whole number, {wanted}. Got {number!r}.")
        study = study.with_last_checkpoints(average=average, each=last)
        _check_checkpoints(study, max(average, last), option="--average" if average >= last else "--last")
        return study

    def _parse(self, options: Mapping[str, Any]) -> dict[str, Any]:
        parameters = {parameter.name: parameter for parameter in self.parameters}
        for name in options:
            if name not in parameters:
                raise UnknownName(f"option of {self.name}", name, parameters)
        for parameter in self.parameters:
            if parameter.default is inspect.Parameter.empty and parameter.name not in options:
                wanted = f"wanted {describe(parameter.kind)} as {parameter.name}. Got none"
                raise RequestError(f"{self.name}: {wanted}. Give {parameter.option}.")
        return {name: parameters[name].parse(value) for name, value in options.items()}


def _check_checkpoints(study: Study, count: int, *, option: str) -> None:
    """QuantityError where the last stage of an arm is too short for its last `count` checkpoints."""
    for arm in study.arms if count > 1 else ():
        end, earlier, *_ = (*arm.stages[-1].checkpoint_tokens, 0) if arm.stages else (count, count - 1)
        if count > (most := (end - 1) // (end - earlier) + 1):
            spacing = f"they are {end - earlier:,} tokens apart, and the last stage of {arm.label} has {end:,}"
            raise QuantityError(f"{option}: wanted at most {most} checkpoints: {spacing}. Got {count}.")


def _parse_number(text: str) -> float:
    """A finite number, as 3e-4; ValueError otherwise."""
    if not isfinite(number := float(text)):
        raise ValueError
    return number


def study(
    source: str | PathLike[str] | Callable[..., Study],
    *,
    scale: str | None = None,
    donor: str | None = None,
    seeds: int | None = None,
    average: int = 1,
    last: int = 0,
    **options: Any,
) -> Study:
    """A study at a scale (default: cpu), with `seeds` seeds of every arm (default: the scale's).

    With `donor`, such as pythia-1.4b, its arms branch from that public run (`firstsight donors`); its scale is then by
    default the paper's of that size. With `average` an arm is scored by the mean of the weights of that many of its
    last checkpoints; the `last` ones are evaluated besides, each by itself, for the spread of its scores over them
    (`Study.with_last_checkpoints`).

    `source` is the name of a shipped study (when), a file (mine.py, mine.py:late), or a function like those in such a
    file: its first parameter is `scale: Scale`, and its others are the `options`, as values or as on the command line
    (Share(9, 10) or "90%"). RequestError for a mistake in any of them, with the line of the user's file.
    """
    name = getattr(source, "__name__", str(source))
    function = _study_function(name, source) if callable(source) else find_study_function(name)
    return function.build(scale, donor=donor, seeds=seeds, average=average, last=last, options=options)


def find_study_function(name: str) -> StudyFunction:
    """The study with a name: when, my_study.py, or my_study.py:late; when_controls is when-controls.

    UnknownName or RequestError otherwise.
    """
    path, _, function = name.partition(".py:")
    if name.endswith(".py") or function:
        return _from_file(Path(path if name.endswith(".py") else f"{path}.py"), function)
    name = name.replace("_", "-")
    if name not in shipped_studies():
        raise UnknownName("study", name, shipped_studies())
    return _study_function(name, shipped_function(name))


def _from_file(path: Path, function: str) -> StudyFunction:
    if not path.is_file():
        shipped = ", ".join(shipped_studies())
        raise RequestError(f"{path}: there is no such study file. Give a shipped name ({shipped}) or a .py file.")
    check_file_size(path, "settings")
    functions = _study_functions(path)
    if function and function not in functions:
        raise UnknownName(f"function of {path} that returns a Study", function, functions)
    if not function and len(functions) != 1:
        names, first = ", ".join(functions) or "none", next(iter(functions), "")
        advice = f"Name one: {path}:{first}." if first else "Annotate it: def mine(scale: Scale) -> Study."
        raise RequestError(f"{path} must contain one function annotated '-> Study'. Found {names}. {advice}")
    name = function or next(iter(functions))
    return _study_function(f"{path}:{name}", functions[name])


def _study_functions(path: Path) -> dict[str, Callable[..., Study]]:
    """The functions of a user's file that are annotated to return a Study, by name; executes the file."""
    module = "firstsight_study_" + re.sub(r"\W", "_", path.stem)
    with _user_code(str(path)):
        values = runpy.run_path(str(path), run_name=module)
    functions = {name: value for name, value in values.items() if inspect.isfunction(value)}
    return {
        name: function
        for name, function in functions.items()
        if function.__module__ == module and not function.__name__.startswith("_")
        if function.__annotations__.get("return") in (Study, "Study")
    }


@contextmanager
def _user_code(name: str) -> Iterator[None]:
    """Errors of a user's code are RequestError, with its line, and where it is known what would be legal there.

    So are its sys.exit() and all else that it raises; Ctrl-C while it is executed still stops the command.
    """
    try:
        yield
    except FirstsightError as error:
        if frame := _user_frame(error):
            error.args = (f"{_location(*frame)}: {error}",)
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not _is_raised_by_statement(error):
            raise
        if isinstance(error, ModuleNotFoundError) and (package_error := missing_package(error)):
            raise package_error from error
        message = _message(error)
        frame, text = _user_frame(error), f"{type(error).__name__}: {message}" if message else type(error).__name__
        location = _location(*frame) if frame else name
        if isinstance(error, SyntaxError) and error.lineno:
            location, text = f"{error.filename}:{error.lineno}", f"SyntaxError: {error.msg}"
        advice = "".join((_legal_names(error, frame), _wrong_arguments(error, frame)))
        if not isinstance(error, Exception):
            advice = " A study file returns a Study and ends no program. Remove that line."
        raise RequestError(f"{location}: {text}.{advice}") from error


def _is_raised_by_statement(error: BaseException) -> bool:
    """Whether a `raise` raised it, not a signal between two instructions."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def _message(error: BaseException) -> str:
    """The text of an error of a class of the user's own, which may itself fail."""
    with suppress(Exception):
        return str(error)
    return "its message cannot be read"


def _user_frame(error: BaseException) -> tuple[FrameType, int] | None:
    """The innermost frame and line of an error that are neither of this package nor of Python or its packages."""
    frames = [(frame, line) for frame, line in walk_tb(error.__traceback__) if _is_user_frame(frame)]
    return frames[-1] if frames else None


def _is_user_frame(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    is_generated = file == "<string>" and frame.f_code.co_name == "__init__"  # of a dataclass
    return not is_generated and not file.startswith((*LIBRARIES, "<frozen", "<@"))


def _location(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_filename}:{line}"


def _legal_names(error: BaseException, frame: tuple[FrameType, int] | None) -> str:
    """A sentence with the attributes of an object or the parameters of a function, where a wrong one was named."""
    if isinstance(error, AttributeError) and is_dataclass(error.obj):
        return f" Its fields: {', '.join(field.name for field in fields(error.obj))}."
    call = re.match(r"(\w+)\(\) (?:got|missing|takes)", _message(error))
    function = frame[0].f_globals.get(call[1]) if frame and call else None
    return (
        f" Its parameters: {', '.join(inspect.signature(function).parameters)}." if inspect.isfunction(function) else ""
    )


def _wrong_arguments(error: BaseException, frame: tuple[FrameType, int] | None) -> str:
    """A sentence for each argument of the function that a user called whose value has another type."""
    frames = [item for item, _ in walk_tb(error.__traceback__)]
    callee = next((item for item in frames if frame and item.f_back is frame[0]), None)
    function = callee.f_globals.get(callee.f_code.co_name) if callee else None
    if callee is None or not inspect.isfunction(function):
        return ""
    kinds = {name: kind for name, kind in get_type_hints(function).items() if name in callee.f_locals}
    wrong = {name: kind for name, kind in kinds.items() if not matches(callee.f_locals[name], kind)}
    return "".join(f" {function.__name__} wants {describe(kind)} as {name}." for name, kind in wrong.items())


def _study_function(name: str, function: Callable[..., Study]) -> StudyFunction:
    with _user_code(name):
        hints = get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())
    scale = parameters.pop(0) if parameters else None
    if scale is None or hints.get(scale.name) is not Scale:
        raise RequestError(f"the first parameter of {name} must be 'scale: Scale'. Got {scale}.")
    options = [StudyParameter(name=item.name, kind=hints.get(item.name), default=item.default) for item in parameters]
    for option in options:
        if option.kind not in (Share, Tokens, int, float, str, bool) and get_origin(option.kind) is not Literal:
            types = f"Share, Tokens, int, float, str, bool or a Literal of words. Got {option.kind}"
            raise RequestError(f"{name}: the parameter {option.name!r} cannot become an option. Wanted {types}.")
    return StudyFunction(name=name, function=function, parameters=tuple(options))
